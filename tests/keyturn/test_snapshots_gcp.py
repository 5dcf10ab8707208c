"""Snapshots of Google Cloud: projects of an organization, their service accounts, keys and the use of these."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.lab.simulator import gcp_monitoring
from keyturn.lab.simulator.gcp import GcpSimulator
from keyturn.lab.simulator.gcp_iam import Iam
from keyturn.snapshots import attempts
from keyturn.snapshots.errors import SnapshotIncomplete
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetchers import load_fetchers
from keyturn.snapshots.publish import Manifest
from tests.support.servers import fake_server

NOW = datetime.now(UTC).replace(microsecond=0)
PAY, WEB = "lab-pay", "lab-web"


@pytest.fixture
async def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GcpSimulator]:
    """Three projects of an organization, one of them with more service accounts than a page has."""
    simulator = GcpSimulator()
    simulator.others = {PAY: Iam(PAY), WEB: Iam(WEB)}
    for number in range(120):
        address = f"svc-{number:03d}@{PAY}.iam.gserviceaccount.com"
        simulator.others[PAY].accounts[address] = {}
        simulator.others[PAY].create_key(address, at=NOW - timedelta(days=number))
    async with fake_server(simulator.application()) as address:
        file = tmp_path / "executor.json"
        file.write_text(simulator.executor_file(address))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        for name in ("IAM", "POLICY_ANALYZER", "MONITORING", "ASSET"):
            monkeypatch.setenv(f"KEYTURN_GCP_{name}_URL", address)
        monkeypatch.setenv("KEYTURN_GCP_TOKEN_URL", f"{address}/token")
        monkeypatch.setenv("KEYTURN_GCP_SCOPE", "organizations/4711")
        yield simulator


async def fetched(folder: Path, **flags: Any) -> tuple[Manifest, dict[str, InventoryKey]]:
    made = await fetch_snapshot(load_fetchers()["gcp"], folder / "keys.jsonl", **flags)
    rows = list(read(Inventory(folder / "keys.jsonl")))
    assert len(rows) == made.keys
    return made, {row.facts.key_id: row for row in rows if isinstance(row, InventoryKey)}


async def test_the_keys_of_an_organization_are_fetched_project_by_project(google: GcpSimulator, tmp_path: Path) -> None:
    """A project that is being deleted is left out; the owner is the project's by its label."""
    google.labels[PAY] = {"owner": "payments"}
    google.closing.add(WEB)
    google.others[WEB].accounts["svc@x"] = {}
    google.others[WEB].create_key("svc@x")
    made, found = await fetched(tmp_path)
    assert (made.parts, made.missing, dict(made.notes)) == (2, {}, {})
    pay = {key_id: key for keys in google.others[PAY].accounts.values() for key_id, key in keys.items()}
    assert set(found) == set(pay) | set(google.iam.accounts[google.executor])
    for key_id, key in pay.items():
        row = found[key_id]
        assert (row.facts.last_rotated_at, row.owner, row.facts.source) == (
            key.created_at.replace(microsecond=0),
            "payments",
            "gcp-iam",
        )
        assert row.account_id in google.others[PAY].accounts
    assert google.calls.count("accounts.list") == 3
    assert google.calls.count("activities.query") == 2


@pytest.mark.parametrize("may_search", [True, False])
async def test_projects_that_are_named_have_their_owners_by_their_labels(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_search: bool
) -> None:
    """By other tags than `owner`, if the estate has others; where no one may search, the keys alone are there."""
    monkeypatch.delenv("KEYTURN_GCP_SCOPE")
    monkeypatch.setenv("KEYTURN_GCP_PROJECTS", f"{PAY} {WEB}")
    monkeypatch.setenv("KEYTURN_OWNER_TAGS", "Squad,owner")
    google.labels = {PAY: {"owner": "somebody", "squad": "payments"}, WEB: {"owner": "web-team"}}
    google.others[WEB].accounts["svc@x"] = {}
    of_web = google.others[WEB].create_key("svc@x")
    if not may_search:
        google.denied.add("assets.search")
    made, found = await fetched(tmp_path)
    owners = {row.owner for key_id, row in found.items() if key_id != of_web}
    assert (owners, found[of_web].owner) == (({"payments"}, "web-team") if may_search else ({None}, None))
    assert made.parts == 2


async def test_use_and_state_of_a_key_are_as_google_knows_them(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use is dated by days, as late as they allow; what was not observed is neither used nor unused."""
    monkeypatch.delenv("KEYTURN_GCP_SCOPE")
    monkeypatch.setenv("KEYTURN_GCP_PROJECTS", WEB)
    iam, user, off = google.others[WEB], f"svc@{WEB}.iam.gserviceaccount.com", f"off@{WEB}.iam.gserviceaccount.com"
    iam.accounts |= {user: {}, off: {}}
    iam.disabled_accounts.add(off)
    made_at = NOW - timedelta(days=100)
    used, never, unknown, stale, disabled, expired = (iam.create_key(user, at=made_at) for _ in range(6))
    asleep = iam.create_key(off, at=made_at)
    today = NOW.replace(hour=7, minute=0, second=0)
    iam.observe(user, used, ended=today, used_on=today - timedelta(days=30))
    iam.observe(user, never, ended=today)
    iam.observe(user, stale, ended=today - timedelta(days=20), used_on=today - timedelta(days=40))
    iam.accounts[user][disabled].disabled = True
    iam.accounts[user][disabled].disable_reason = "SERVICE_ACCOUNT_KEY_DISABLE_REASON_EXPOSED"
    iam.accounts[user][expired].expires_at = "2026-01-01T00:00:00Z"
    made, found = await fetched(tmp_path)
    facts = {key_id: row.facts for key_id, row in found.items()}
    last = facts[used].last_used_at
    assert last is not None
    assert timedelta(days=28) < made.observed_at - last < timedelta(days=30)
    assert [facts[one].never_used for one in (used, never, unknown, stale)] == [False, True, False, False]
    assert facts[never].last_used_at is facts[unknown].last_used_at is facts[stale].last_used_at is None
    idle = {key_id: row.idle for key_id, row in found.items() if row.idle}
    assert [key_id for key_id, one in facts.items() if one.compromised] == [disabled]
    assert idle == dict.fromkeys((disabled, expired, asleep), "inactive")


async def test_what_monitoring_counts_is_a_use_that_policy_analyzer_did_not_see(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later of the two counts, page by page; a key that either has seen was used."""
    monkeypatch.setattr(gcp_monitoring, "MOST_POINTS", 2)
    iam, user = google.iam, google.executor
    today = NOW.replace(hour=7, minute=0, second=0)
    both, workspace, before = (iam.create_key(user, at=NOW - timedelta(days=100)) for _ in range(3))
    for key_id, days in ((both, 2), (workspace, None), (before, 10)):
        iam.observe(user, key_id, ended=today, used_on=None if days is None else today - timedelta(days=days))
        for day in (20, 21, 30):
            iam.monitoring.count(key_id, at=NOW - timedelta(days=day, hours=1))
    iam.monitoring.samples[before] = [(NOW - timedelta(days=5, hours=1), 1)]
    google.denied.add(f"timeSeries.list {PAY}")
    made, found = await fetched(tmp_path)
    ages = {}
    for key_id in (both, workspace, before):
        last = found[key_id].facts.last_used_at
        assert last is not None
        ages[key_id] = (made.observed_at - last) // timedelta(days=1)
    assert ages[both] in {0, 1}
    assert (ages[workspace], ages[before]) == (20, 5)
    assert not any(found[key_id].facts.never_used for key_id in ages)
    note = "only the use of Cloud APIs is known: timeSeries.list: 403 PERMISSION_DENIED IAM_PERMISSION_DENIED"
    assert dict(made.notes) == {note: 1}


async def test_a_part_of_monitorings_counts_is_said_to_be_one(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google.iam.monitoring, "list_series", lambda *_: {"executionErrors": [{"code": 14}]})
    made, _ = await fetched(tmp_path)
    assert dict(made.notes) == {"only the use of Cloud APIs is known: timeSeries.list: the answer is not whole": 1}


async def test_where_use_may_not_be_asked_it_is_said_that_it_is_not_known(google: GcpSimulator, tmp_path: Path) -> None:
    """The keys are there all the same."""
    google.denied.add(f"activities.query {PAY}")
    made, found = await fetched(tmp_path)
    assert len(found) == 121
    note = "the last use of keys is not known: activities.query: 403 PERMISSION_DENIED IAM_PERMISSION_DENIED"
    assert dict(made.notes) == {note: 1}


@pytest.mark.parametrize("call", ["accounts.list", "keys.list"])
async def test_a_project_that_may_not_be_read_is_named(google: GcpSimulator, tmp_path: Path, call: str) -> None:
    """And no call of it is left running behind the failure."""
    google.denied.add(f"{call} {PAY}")
    with pytest.raises(SnapshotIncomplete, match=rf"1 of 3 projects could not be read:\n  {PAY}: .*: 403 PERMISSION"):
        await fetched(tmp_path)
    calls = len(google.calls)
    await asyncio.sleep(0.1)
    assert len(google.calls) == calls


async def test_projects_that_may_not_be_listed_are_a_failure_of_all(google: GcpSimulator, tmp_path: Path) -> None:
    google.denied.add("assets.search")
    with pytest.raises(SnapshotIncomplete, match=r"the projects could not be listed: searchAllResources: 403"):
        await fetched(tmp_path)


async def test_a_wait_that_google_asks_for_is_waited(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with Retry-After, and faults without one; the keys are the same."""
    waits = []

    def no_delay(_: int, *, retry_after: timedelta | None, remaining: None) -> timedelta:
        waits.append(retry_after)
        return timedelta(0)

    monkeypatch.setattr(attempts, "retry_delay", no_delay)
    google.faults += [("keys.list", "rate_limit"), ("keys.list", "unavailable"), ("accounts.list", "half_body")]
    google.faults += [("activities.query", "html"), ("assets.search", "answer_lost")]
    made, _ = await fetched(tmp_path)
    assert made.keys == 121
    assert sorted(wait.total_seconds() for wait in waits if wait is not None) == [30]
    assert len(waits) == 5


async def test_a_wait_of_a_day_is_not_waited(
    google: GcpSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project is named, and what was read of the others is kept."""
    monkeypatch.setattr(attempts, "LONGEST_WAIT", timedelta(seconds=29))
    google.faults += [("accounts.list", "rate_limit")]
    with pytest.raises(SnapshotIncomplete, match=r"1 of 3 projects .*\n.*429 RESOURCE_EXHAUSTED"):
        await fetched(tmp_path)
    assert (await fetched(tmp_path))[0].keys == 121


async def test_nothing_but_names_and_times_is_written(google: GcpSimulator, tmp_path: Path) -> None:
    await fetched(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "keys.jsonl").read_text().splitlines()]
    assert {name for row in rows for name in row} <= {
        *("account_id", "kind", "key_id", "last_rotated_at", "never_used", "owner", "observed_at", "source")
    }
    assert "PRIVATE KEY" not in (tmp_path / "keys.jsonl").read_text()
