"""The audit trail as a file that proves itself: what happened, in its order, and no way to change it unseen."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import keyturn.audit_export as export_module
from keyturn.audit_export import (
    ExportInvalid,
    events_of,
    new_signing_key,
    public_key_of,
    read_signing_key,
    verify_export,
    write_export,
)
from keyturn.errors import InvalidRequest
from keyturn.jobs.store import JobStore
from keyturn.rotations.contracts import RotationEvent
from tests.support.cases import facts, order

NOW = datetime.now(UTC)
SIGNING = read_signing_key(new_signing_key()[0])


async def exported(events: list[dict[str, Any]], *, previous: str | None = None) -> list[str]:
    async def coming() -> AsyncIterator[dict[str, Any]]:
        for event in events:
            yield event

    parts: list[str] = []
    await write_export(
        coming(), parts.append, key=SIGNING, tenant_id="default", since=None, until=NOW, previous=previous
    )
    return "".join(parts).splitlines(keepends=True)


EVENTS = [{"at": f"2026-11-0{day}", "event": "approved", "actor": "omar", "detail": {"n": day}} for day in range(1, 6)]


async def test_an_export_is_verified_and_the_next_one_continues_it() -> None:
    """By whoever has the public key; two files are one chain."""
    first = await exported(EVENTS)
    found = verify_export(first, public_key=public_key_of(SIGNING))
    assert (found.tenant_id, found.events, found.previous) == ("default", 5, None)
    second = verify_export(await exported(EVENTS[:1], previous=found.end))
    assert (second.events, second.previous) == (1, found.end)
    assert verify_export(await exported([])).events == 0


def _replaced(lines: list[str]) -> list[str]:
    return [line.replace('"omar"', '"luna"') if '"n": 3' in line else line for line in lines]


def _signed_by_another(lines: list[str]) -> list[str]:
    other = read_signing_key(new_signing_key()[0])
    last = json.loads(lines[-1])
    return [*lines[:-1], json.dumps(last | {"public_key": public_key_of(other)}) + "\n"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_replaced, "line 5: a line before it was changed"),
        (lambda lines: [*lines[:3], *lines[4:]], "line 4: a line before it was changed, left out or moved"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2"),
        (lambda lines: lines[:-1], "the file is cut off"),
        (lambda lines: lines[:3], "the file is cut off"),
        (lambda lines: [*lines, lines[2]], "it follows the signed last line"),
        (lambda lines: lines[1:], "it is no export"),
        (lambda lines: [*lines[:2], "not json\n"], "line 3: it is no JSON"),
        (lambda lines: ["[" * 100_000], "line 1: it is no JSON"),
        (lambda lines: ["[]"], "line 1: it is no JSON object"),
        (lambda _lines: [], "line 1: the file is cut off"),
        (_signed_by_another, "its signature is not valid"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"events": 5', '"events": 4')], "signature is of 4 events"),
    ],
)
async def test_whatever_is_changed_is_found_and_its_line_named(
    change: Callable[[list[str]], list[str]], said: str
) -> None:
    """Changed, left out, moved, cut off, continued, signed by somebody else."""
    with pytest.raises(ExportInvalid, match=said):
        verify_export(change(await exported(EVENTS)))


async def test_a_file_that_was_made_anew_is_signed_by_another_key() -> None:
    """Who can write the file can sign it again, but not with the key that its reader expects."""
    with pytest.raises(ExportInvalid, match="another key"):
        verify_export(await exported(EVENTS), public_key=new_signing_key()[1])


async def test_what_happened_to_rotations_and_jobs_is_in_its_order_page_by_page(
    store: JobStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one tenant, between two moments; events of the same moment are neither lost nor doubled."""
    monkeypatch.setattr(export_module, "PAGE", 3)
    moments = [NOW - timedelta(hours=hours) for hours in (5, 5, 5, 5, 4, 3, 3)]
    for number, at in enumerate(moments):
        event = RotationEvent(tenant_id="default", event=f"event_{number}", actor="omar", at=at)
        await store.record_event(event, workflow_id="rotate:default:a:k:P-7@1", event_id=f"{number}-{uuid.uuid4().hex}")
    other = RotationEvent(tenant_id="other", event="theirs", actor="vera", at=NOW - timedelta(hours=4))
    await store.record_event(other, workflow_id="rotate:other:a:k:P-7@1", event_id=uuid.uuid4().hex)
    made = await store.create_once(order(credential=facts(key_id="key_1")), idempotency_key="one", fence=1)
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = [one async for one in events_of(engine, tenant_id="default", since=None, until=until)]
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    assert sorted(one["event"] for one in found) == [*sorted(["created"]), *(f"event_{n}" for n in range(7))]
    assert (found[-1]["of"], found[-1]["id"], found[-1]["event"]) == ("job", made.job_id, "created")
    since = NOW - timedelta(hours=4, minutes=30)
    later = [one async for one in events_of(engine, tenant_id="default", since=since, until=NOW - timedelta(hours=1))]
    assert [one["event"] for one in later] == ["event_4", "event_5", "event_6"]


@pytest.mark.parametrize("text", ["", "hunter2hunter2", "AAAA", "é" * 44])  # pragma: allowlist secret
def test_a_key_that_is_none_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_signing_key(text)
    assert text == "" or text not in str(caught.value)
