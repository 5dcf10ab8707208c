"""Snapshots of Entra: a chain of pages that is resumed where it broke off."""

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.lab.simulator.entra import Entra
from keyturn.lab.simulator.entra_directory import Application
from keyturn.snapshots import attempts
from keyturn.snapshots.errors import SnapshotIncomplete
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetcher import Fetcher
from keyturn.snapshots.fetchers.entra import FETCHER, EntraCloud
from keyturn.snapshots.publish import Manifest
from tests.support.servers import fake_server


@dataclasses.dataclass
class Lab:
    entra: Entra
    applications: list[Application]
    fetcher: Fetcher
    waits: list[timedelta | None]


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """Two and a half pages of applications, with one secret each, and no wait between attempts."""
    entra, waits = Entra(), list[timedelta | None]()

    def no_delay(_: int, *, retry_after: timedelta | None, remaining: None) -> timedelta:
        waits.append(retry_after)
        return timedelta(0)

    monkeypatch.setattr(attempts, "retry_delay", no_delay)
    async with fake_server(entra.serve()) as address:
        monkeypatch.setenv("KEYTURN_GRAPH_URL", address)
        fetcher = dataclasses.replace(FETCHER, open=lambda: EntraCloud(_tokens(entra)))
        yield Lab(entra, [entra.directory.application() for _ in range(250)], fetcher, waits)


def _tokens(entra: Entra) -> Callable[[str], Awaitable[SecretStr]]:
    async def token(scope: str) -> SecretStr:
        return SecretStr(entra.token_for("graph"))

    return token


async def fetched(lab: Lab, folder: Path, **flags: Any) -> tuple[Manifest, dict[str, InventoryKey]]:
    made = await fetch_snapshot(lab.fetcher, folder / "keys.jsonl", **flags)
    rows = list(read(Inventory(folder / "keys.jsonl")))
    assert len(rows) == made.keys
    return made, {row.facts.key_id: row for row in rows if isinstance(row, InventoryKey)}


async def test_certificates_are_keys_too_and_one_of_a_later_day_is_there_already(lab: Lab, tmp_path: Path) -> None:
    """As `az ad app list` has them: who holds the private half signs in as the application."""
    today, of = datetime.now(UTC).replace(microsecond=0), lab.applications[0]
    of.certificates = [
        {
            "keyId": key_id,
            "type": "AsymmetricX509Cert",
            "usage": "Verify",
            "displayName": "CN=ci",
            "startDateTime": f"{today + timedelta(days=start):%Y-%m-%dT%H:%M:%SZ}",
            "endDateTime": f"{today + timedelta(days=end):%Y-%m-%dT%H:%M:%SZ}",
            "key": None,
        }
        for key_id, start, end in (("cert-1", -400, 100), ("cert-2", -800, -1), ("cert-3", 30, 395))
    ]
    made, found = await fetched(lab, tmp_path)
    assert (made.keys, made.younger) == (253, 0)
    certificates = {key_id: row for key_id, row in found.items() if key_id.startswith("cert-")}
    assert {row.account_id for row in certificates.values()} == {of.app_id}
    assert {key_id: row.idle for key_id, row in certificates.items()} == {
        "cert-1": None,
        "cert-2": "inactive",
        "cert-3": None,
    }
    assert certificates["cert-1"].facts.last_rotated_at == today - timedelta(days=400)
    assert certificates["cert-3"].facts.last_rotated_at == made.observed_at


async def test_the_secrets_of_all_applications_are_fetched_page_by_page(lab: Lab, tmp_path: Path) -> None:
    """With owner, use and end; nothing of a secret itself is in the file, not even the hint to it."""
    first, second, third = lab.applications[:3]
    first.owners = ["zoe@example.com", "ann@example.com"]
    second.owners, second.tags = ["zoe@example.com"], ["HideApp", "owner:payments"]
    directory = lab.entra.directory
    used = next(iter(first.passwords))
    directory.sign_ins[used] = datetime.now(UTC) - timedelta(days=3)
    ended = directory.password(third, None, days_ago=100, days=50)
    made, found = await fetched(lab, tmp_path)
    assert (made.keys, made.parts, dict(made.notes)) == (251, 1, {})
    assert set(found) == {key_id for one in lab.applications for key_id in one.passwords}
    assert [found[next(iter(one.passwords))].owner for one in (first, second, third)] == [
        "ann@example.com",
        "payments",
        None,
    ]
    assert found[used].account_id == first.app_id
    assert found[used].facts.last_used_at == directory.sign_ins[used]
    assert {key_id: row.idle for key_id, row in found.items() if row.idle} == {ended.key_id: "inactive"}
    assert lab.entra.calls == ["applications", "report", "applications", "applications"]
    text = (tmp_path / "keys.jsonl").read_text()
    assert "hint" not in text
    assert not any(one.secret in text for one in first.passwords.values())


async def test_a_chain_of_pages_goes_on_where_it_broke_off(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as of one that did not; a link of another host gets no token."""
    lab.entra.after_each = lambda: lab.entra.fail("applications", "forbidden") if len(lab.entra.calls) == 3 else None
    with pytest.raises(SnapshotIncomplete, match=r"1 of 1 tenants .*\n.*: applications: 403 Authorization_Req"):
        await fetched(lab, tmp_path)
    pages = sorted((tmp_path / "keys.jsonl.parts").glob("0*.jsonl"))
    assert len(pages) == 2
    head, _, rest = pages[1].read_text().partition("\n")
    pages[1].write_text(json.dumps(json.loads(head) | {"next_cursor": "https://evil.example/x"}) + "\n" + rest)
    lab.entra.calls.clear()
    with pytest.raises(SnapshotIncomplete, match="leads to another host"):
        await fetched(lab, tmp_path)
    assert lab.entra.calls == []
    pages[1].write_text(f"{head}\n{rest}")
    lab.entra.after_each = lambda: None
    made, _ = await fetched(lab, tmp_path)
    assert lab.entra.calls == ["applications", "report"]
    assert made.keys == 250
    resumed = (tmp_path / "keys.jsonl").read_bytes()
    monkeypatch.setattr("keyturn.snapshots.fetch.now", lambda: made.observed_at)
    await fetched(lab, tmp_path)
    assert (tmp_path / "keys.jsonl").read_bytes() == resumed


async def test_a_chain_whose_link_has_expired_is_read_from_its_beginning(lab: Lab, tmp_path: Path) -> None:
    lab.entra.after_each = lambda: lab.entra.fail("applications", "forbidden") if len(lab.entra.calls) == 3 else None
    with pytest.raises(SnapshotIncomplete):
        await fetched(lab, tmp_path)
    lab.entra.after_each = lambda: None
    page = sorted((tmp_path / "keys.jsonl.parts").glob("0*.jsonl"))[1]
    page.write_text(page.read_text().replace("skiptoken=200", "skiptoken=old"))
    lab.entra.calls.clear()
    made, found = await fetched(lab, tmp_path)
    assert made.keys == len(found) == 250
    assert lab.entra.calls.count("applications") == 4


async def test_throttling_is_waited_for_as_graph_asks(lab: Lab, tmp_path: Path) -> None:
    """And what passes by itself is tried again."""
    for how in ("throttled", "unavailable", "half_body", "answer_lost"):
        lab.entra.fail("applications", how)
    lab.entra.fail("report", "throttled")
    made, _ = await fetched(lab, tmp_path)
    assert made.keys == 250
    assert sorted(wait.total_seconds() for wait in lab.waits if wait is not None) == [17, 17]
    assert len(lab.waits) == 5


async def test_without_the_report_it_is_said_that_use_is_not_known(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is switched off is not asked for."""
    lab.entra.fail("report", "forbidden")
    made, _ = await fetched(lab, tmp_path)
    note = "the last use of secrets is not known: sign-in report: 403 Authorization_RequestDenied"
    assert dict(made.notes) == {note: 1}
    monkeypatch.setenv("KEYTURN_ENTRA_SIGN_IN_REPORT", "off")
    lab.entra.calls.clear()
    await fetched(lab, tmp_path)
    assert "report" not in lab.entra.calls
