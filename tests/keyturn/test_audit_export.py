"""The audit trail as a file that proves itself: what happened, in its order, and no way to change it unseen."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import keyturn.jobs.audit as audit_module
from keyturn.audit_events import events_of
from keyturn.audit_export import (
    ExportInvalid,
    new_signing_key,
    public_key_of,
    read_signing_key,
    verify_export,
    write_export,
)
from keyturn.bulk.store import BulkStore, Run
from keyturn.errors import InvalidRequest
from keyturn.exposures.contracts import Exposure
from keyturn.exposures.store import ExposureStore
from keyturn.freezes.store import FreezeStore
from keyturn.jobs.store import JobStore
from keyturn.rotations.contracts import RotationEvent
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.store import WaiverStore
from tests.support.cases import facts, order

NOW = datetime.now(UTC)
SIGNING = read_signing_key(new_signing_key()[0])


OLD = NOW - timedelta(days=30)


async def exported(
    events: list[dict[str, Any]],
    *,
    previous: str | None = None,
    since: datetime | None = None,
    until: datetime = OLD,
    tenant_id: str = "default",
) -> list[bytes]:
    async def coming() -> AsyncIterator[dict[str, Any]]:
        for event in events:
            yield event

    parts: list[str] = []
    await write_export(
        coming(), parts.append, key=SIGNING, tenant_id=tenant_id, since=since, until=until, previous=previous
    )
    return "".join(parts).encode().splitlines(keepends=True)


EVENTS = [{"at": f"2026-11-0{day}", "event": "approved", "actor": "omar", "detail": {"n": day}} for day in range(1, 6)]


async def test_an_export_is_verified_and_the_next_one_continues_it() -> None:
    """By whoever has the public key; two files are one chain."""
    first = verify_export(await exported(EVENTS), public_key=public_key_of(SIGNING))
    assert (first.tenant_id, first.events, first.previous, first.complete) == ("default", 5, None, True)
    following = await exported(EVENTS[:1], previous=first.end, since=OLD, until=OLD + timedelta(days=1))
    second = verify_export(following)
    assert (second.events, second.previous) == (1, first.end)
    second.expect_continues(first)
    assert verify_export(await exported([])).events == 0


async def test_a_chain_has_no_gap_no_other_tenant_and_no_end_that_was_too_early() -> None:
    """Each would leave events in no file, although both files hold."""
    first = verify_export(await exported(EVENTS))
    later, after = OLD + timedelta(days=1), {"previous": first.end, "until": OLD + timedelta(days=9)}
    for changed, said in (
        ({"since": later}, "a time between them"),
        ({"since": OLD, "tenant_id": "other"}, "another tenant"),
        ({"since": OLD, "previous": None}, "names another one, or none"),
    ):
        given: dict[str, Any] = after | changed
        with pytest.raises(ExportInvalid, match=said):
            verify_export(await exported([], **given)).expect_continues(first)
    recent = verify_export(await exported(EVENTS, until=NOW))
    assert not recent.complete, "an event may be written a day after it happened"
    with pytest.raises(ExportInvalid, match="a time between them"):
        verify_export(await exported([], previous=recent.end, since=NOW)).expect_continues(recent)


def _replaced(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"omar"', b'"luna"') if b'"n": 3' in line else line for line in lines]


def _last(lines: list[bytes], **changed: Any) -> list[bytes]:
    return [*lines[:-1], json.dumps(json.loads(lines[-1]) | changed, sort_keys=True).encode() + b"\n"]


def _other_bits(lines: list[bytes]) -> list[bytes]:
    """The same signature in other characters: the last one before the padding has bits that mean nothing."""
    signature = json.loads(lines[-1])["signature"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = letters[letters.index(signature[-3]) ^ 1]
    return _last(lines, signature=f"{signature[:-3]}{other}==")


OTHER = public_key_of(read_signing_key(new_signing_key()[0]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_replaced, "line 5: a line before it was changed"),
        (lambda lines: [*lines[:3], *lines[4:]], "line 4: a line before it was changed, left out or moved"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2"),
        (lambda lines: lines[:-1], "the file is cut off"),
        (lambda lines: lines[:3], "the file is cut off"),
        (lambda lines: [*lines, lines[2]], "it follows the signed last line"),
        (lambda lines: [*lines, b"\n"], "it follows the signed last line"),
        (lambda lines: lines[1:], "it is no export"),
        (lambda lines: [*lines[:2], b"not json\n"], "line 3: it is no JSON"),
        (lambda lines: [b"[" * 100_000 + b"\n"], "line 1: it is no JSON"),
        (lambda lines: [b"[]\n"], "line 1: it is no JSON object"),
        (lambda _lines: [], "line 1: the file is cut off"),
        (lambda lines: [line.replace(b"\n", b"\r\n") for line in lines], "written anew by another program"),
        (lambda lines: [*lines[:-1], lines[-1].rstrip(b"\n")], "it was cut off"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"{", '{"é": 1, '.encode())], "written anew by another program"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"{", b'{"events": 99, ')], "last line was written anew"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b": ", b":  ")], "last line was written anew"),
        (lambda lines: _last(lines, more=1), "last line was written anew"),
        (lambda lines: _last(lines, events=4), "signature is of 4 events"),
        (lambda lines: _last(lines, public_key=OTHER), "its signature is not valid"),
        (lambda lines: _last(lines, public_key=5, signature=None), "its signature is not valid"),
        (_other_bits, "its signature is not valid"),
        (lambda lines: [lines[0].replace(b'"tenant_id"', b'"tenant"'), *lines[1:]], "it is no export"),
    ],
)
async def test_whatever_is_changed_is_found_and_its_line_named(
    change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    """Changed, left out, moved, cut off, continued, written anew, signed by somebody else."""
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
    monkeypatch.setattr(audit_module, "PAGE", 3)
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


async def test_what_people_decided_is_in_the_export_among_the_rest(engine: AsyncEngine, store: JobStore) -> None:
    """Waivers, freezes, exposures and runs, each with who, when and why; of another tenant, nothing."""
    before = NOW - timedelta(days=2)
    waiver = Waiver(
        waiver_id="waiver_1", tenant_id="default", account="svc-*", reason="vendor", granted_by="omar",
        granted_at=before, until=NOW + timedelta(days=9),
    )  # fmt: skip
    waivers, frozen = WaiverStore(engine), FreezeStore(engine)
    await waivers.add(waiver)
    await waivers.add(waiver.model_copy(update={"waiver_id": "waiver_2", "tenant_id": "other"}))
    await waivers.end("waiver_1", tenant_id="default", by="vera")
    named = {"tenant_id": "default", "by": "luna", "reason": "incident 4711"}
    freeze_id = await frozen.start(**named, cloud_account=None, until=None)
    await frozen.end(tenant_id="default", by="luna")
    exposure = Exposure(
        tenant_id="default", account_id=None, key_id="AKIA1", source="github", reported_by="scan", reported_at=before
    )
    await ExposureStore(engine).add(exposure)
    for account in ("svc-a", "svc-b"):  # keys of one ID, in two accounts
        await ExposureStore(engine).add(exposure.model_copy(update={"account_id": account}))
    run = Run(
        "run-1", "default", "decide_rotation", "/estate/keys.csv", "sha256:ab", (), None, "luna", "rule", None,
        "bulk:default:run-1", again=False, loaded=True, asks=0,
    )  # fmt: skip
    await BulkStore(engine).open(run)
    await BulkStore(engine).close_run("run-1", "cancelled")
    middle = RotationEvent(tenant_id="default", event="parked", actor="keyturn", at=NOW - timedelta(days=1))
    await store.record_event(middle, workflow_id="w", event_id="e-1")
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = [one async for one in events_of(engine, tenant_id="default", since=None, until=until)]
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    assert [(one["of"], one["event"], one["actor"]) for one in found[:5]] == [
        *[("exposure", "reported", "scan")] * 3,
        ("waiver", "granted", "omar"),
        ("rotation", "parked", "keyturn"),
    ]
    assert {(one["of"], one["id"], one["event"], one["actor"]) for one in found[5:]} == {
        ("waiver", "waiver_1", "ended", "vera"),
        ("freeze", freeze_id, "started", "luna"),
        ("freeze", freeze_id, "ended", "luna"),
        ("run", "run-1", "ordered", "luna"),
        ("run", "run-1", "ended", "keyturn"),
    }
    assert [one["detail"].get("account_id") for one in found[:3]] == [None, "svc-a", "svc-b"]
    assert found[3]["detail"]["reason"] == "vendor"
    since = NOW - timedelta(days=1, hours=1)
    later = [one async for one in events_of(engine, tenant_id="default", since=since, until=NOW - timedelta(hours=1))]
    assert [one["event"] for one in later] == ["parked"]
    assert len({one["event_id"] for one in found}) == len(found)


@pytest.mark.parametrize("text", ["", "hunter2hunter2", "AAAA", "é" * 44])  # pragma: allowlist secret
def test_a_key_that_is_none_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_signing_key(text)
    assert text == "" or text not in str(caught.value)
