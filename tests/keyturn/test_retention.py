"""How long records are stored: counted first, deleted in batches, and what must stay stays."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

import keyturn.retention as retention_module
from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.drafts.store import DraftStore
from keyturn.drafts.tables import draft_states, drafts
from keyturn.errors import SettingsInvalid
from keyturn.freezes.tables import freezes
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.ledger.store import LedgerStore
from keyturn.retention import Retention, RetentionStore
from keyturn.rotations.contracts import RotationEvent
from keyturn.rotations.outcomes import RotationJob
from keyturn.waivers.tables import waivers
from keyturn.workers.retention_settings import load_retention_settings
from tests.support.cases import facts, order

NOW = datetime.now(UTC)
KEY = "rotate:default:acct_10234:key_1:P-7@1"
YEAR = Retention(calls=365, events=365, jobs=365, runs=365)


async def rows_of(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def job_closed(engine: AsyncEngine, store: JobStore, *, days_ago: int, key_id: str = "key_1") -> str:
    ordered = order(credential=facts(key_id=key_id), user_id="luna")
    made = await store.create_once(ordered, idempotency_key=KEY.replace("key_1", key_id), fence=1)
    closed = {"status": "done", "closed_at": NOW - timedelta(days=days_ago)}
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).where(rotation_jobs.c.job_id == made.job_id).values(closed))
    return made.job_id


async def test_a_purged_job_still_refuses_a_second_one(store: JobStore, engine: AsyncEngine) -> None:
    """Purging empties the row of users and accounts, its trail and its message; the tombstone of its key stays."""
    job_id = await job_closed(engine, store, days_ago=366)
    young = await job_closed(engine, store, days_ago=364, key_id="key_2")
    open_job = await store.create_once(order(credential=facts(key_id="key_3")), idempotency_key="three", fence=1)
    records = RetentionStore(engine)
    assert (await records.count(YEAR.limits(NOW)))["jobs"] == 1
    assert (await records.delete(YEAR.limits(NOW)))["jobs"] == 1
    rows = {row["job_id"]: row for row in await store.jobs(tenant_id="default", limit=10)}
    assert (rows[job_id]["status"], rows[young]["status"], rows[open_job.job_id]["status"]) == (
        "purged",
        "done",
        "open",
    )
    assert "luna" not in str(rows[job_id])
    assert "acct_10234" not in str({**rows[job_id], "idempotency_key": None})
    async with engine.connect() as connection:
        trail = (await connection.execute(select(job_audit).where(job_audit.c.job_id == job_id))).mappings().all()
    assert {(row["actor"], str(row["detail"])) for row in trail} == {("purged", "{}")}
    outbox = Outbox(engine)
    assert await outbox.dead_letters(tenant_id="default", limit=10) == []
    assert job_id not in await outbox.waiting(older_than=-timedelta(days=1), limit=10), "no sweep starts it again"
    again = await store.create_once(order(credential=facts(key_id="key_1")), idempotency_key=KEY, fence=1)
    assert again == RotationJob(job_id=job_id, created=False)
    assert (await records.delete(YEAR.limits(NOW)))["jobs"] == 0, "once"


async def test_old_calls_events_and_runs_are_deleted_and_young_ones_stay(
    store: JobStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches; an item belongs to its run; a run that has not ended is never old."""
    monkeypatch.setattr(retention_module, "BATCH", 2)
    await LedgerStore(engine).write([(uuid.uuid4().hex, _call(days)) for days in (400, 401, 402, 403, 404, 10)])
    for days in (400, 10):
        at = NOW - timedelta(days=days)
        event = RotationEvent(tenant_id="default", event="approved", actor="omar", at=at)
        await store.record_event(event, workflow_id=KEY, event_id=uuid.uuid4().hex)
    async with engine.begin() as connection:
        for name, ended in (("old", 400), ("young", 10), ("open", None)):
            await connection.execute(insert(bulk_runs), _run(name, ended))
            await connection.execute(
                insert(bulk_items), [{"run_id": name, "ordinal": number, "line": number} for number in range(5)]
            )
    records, limits = RetentionStore(engine), YEAR.limits(NOW)
    expired = await records.count(limits)
    assert expired == {"calls": 5, "events": 1, "jobs": 0, "runs": 1}
    assert await records.delete(limits) == expired
    assert await records.count(limits) == dict.fromkeys(expired, 0)
    assert (await rows_of(engine, bulk_runs), await rows_of(engine, bulk_items)) == (2, 10)
    assert len(await LedgerStore(engine).calls(limit=10)) == 1
    assert len(await store.events(tenant_id="default", workflow_id=KEY)) == 1


async def test_the_trail_of_an_open_job_stays_whole(store: JobStore, engine: AsyncEngine) -> None:
    """A job may be open for longer than events are stored: who approved it is still asked."""
    at = NOW - timedelta(days=400)
    for workflow_id, who in ((KEY, "omar"), (KEY.replace("key_1", "key_2"), "lena")):
        event = RotationEvent(tenant_id="default", event="approved", actor=who, at=at)
        await store.record_event(event, workflow_id=workflow_id, event_id=uuid.uuid4().hex)
    await store.create_once(order(), idempotency_key=KEY, fence=1)
    await job_closed(engine, store, days_ago=10, key_id="key_2")
    records = RetentionStore(engine)
    assert (await records.delete(Retention(events=365).limits(NOW)))["events"] == 1
    stored = await store.events(tenant_id="default", workflow_id=KEY)
    assert [event["actor"] for event in stored if event["event"] == "approved"] == ["omar"]


async def test_drafts_waivers_and_freezes_expire_after_their_end(engine: AsyncEngine) -> None:
    """Those in force stay, however old; a draft whose workflow was terminated has no end, and goes by its beginning."""
    ago = {days: NOW - timedelta(days=days) for days in (-9, 9, 10, 400)}
    ends = {"old": ago[400], "young": ago[9], "open": None}
    async with engine.begin() as connection:
        for name, ended in (*ends.items(), ("terminated", None)):
            began = ago[9] if name == "open" else ago[400]
            await connection.execute(insert(drafts), _draft(name, began, ended))
            await connection.execute(
                insert(draft_states), {"draft_id": name, "state": "started", "attempt": 1, "at": NOW}
            )
        for name, until, ended in (
            ("expired", ago[400], None),
            ("ended", ago[-9], ago[400]),
            ("expired_lately", ago[9], None),
            ("in_force", ago[-9], None),
        ):
            await connection.execute(insert(waivers), _waiver(name, until, ended))
        for name, frozen_until, thawed in (
            ("expired", ago[400], None),
            ("thawed", None, ago[400]),
            ("thawed_lately", None, ago[9]),
            ("in_force", None, None),
        ):
            await connection.execute(insert(freezes), _freeze(name, frozen_until, thawed))
    records, limits = RetentionStore(engine), Retention(drafts=30, waivers=30, freezes=30).limits(NOW)
    assert await records.count(limits) == {"drafts": 2, "waivers": 2, "freezes": 2}
    assert await records.delete(limits) == {"drafts": 2, "waivers": 2, "freezes": 2}
    async with engine.connect() as connection:
        stored = [
            set((await connection.execute(select(column))).scalars())
            for column in (drafts.c.draft_id, draft_states.c.draft_id, waivers.c.waiver_id, freezes.c.freeze_id)
        ]
    assert stored == [{"young", "open"}] * 2 + [{"expired_lately", "in_force"}, {"thawed_lately", "in_force"}]


async def test_a_new_draft_deletes_those_that_have_expired(engine: AsyncEngine) -> None:
    """So drafts go where no worker deletes once a day; as many days as are set, and never with none."""
    keyring = parse_keyring(new_keyring_text(), source="test")
    whose: dict[str, Any] = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna", "run_id": "r"}
    async with engine.begin() as connection:
        for days in (2, 20):
            at = NOW - timedelta(days=days)
            await connection.execute(insert(drafts), _draft(f"of {days} days", at, at))
    for number, (stored, left) in enumerate(((None, 3), (7, 3), (1, 3))):
        await DraftStore(engine, keyring, retention_days=stored).start(f"new {number}", **whose, attempt=1)
        assert await rows_of(engine, drafts) == left


async def test_what_is_stored_for_ever_is_not_looked_at(engine: AsyncEngine) -> None:
    assert await RetentionStore(engine).count(Retention(calls=1).limits(NOW)) == {"calls": 0}
    assert await RetentionStore(engine).delete(Retention().limits(NOW)) == {}


def test_the_settings_are_days_and_zero_is_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A year and a month by default, and nothing is deleted by a worker unless that is switched on."""
    assert load_retention_settings().limits() == Retention(400, 400, 400, 400, 400, 400, 7, 400, 400)
    assert load_retention_settings().retention == "off"
    monkeypatch.setenv("KEYTURN_RETAIN_CALLS_DAYS", "30")
    monkeypatch.setenv("KEYTURN_RETAIN_JOBS_DAYS", "0")
    assert load_retention_settings().limits() == Retention(30, 400, None, 400, 400, 400, 7, 400, 400)
    monkeypatch.setenv("KEYTURN_RETAIN_RUNS_DAYS", "a year")
    with pytest.raises(SettingsInvalid, match="KEYTURN_RETAIN_RUNS_DAYS"):
        load_retention_settings()


def _call(days: int) -> Any:
    from tests.keyturn.test_ledger import call

    return call(called_at=NOW - timedelta(days=days), cost_usd=Decimal("0.01"))


def _draft(name: str, created_at: datetime, ended_at: datetime | None) -> dict[str, Any]:
    return {
        "draft_id": name, "tenant_id": "default", "account_id": "acct_1", "requested_by": "luna", "run_id": "r",
        "state": "completed" if ended_at else "streaming", "attempt": 1, "generation": 1, "revision": 1,
        "created_at": created_at, "ended_at": ended_at,
    }  # fmt: skip


def _waiver(name: str, until: datetime, ended_at: datetime | None) -> dict[str, Any]:
    return {
        "waiver_id": name, "tenant_id": "default", "reason": "a move", "granted_by": "omar", "until": until,
        "granted_at": NOW - timedelta(days=500), "ended_at": ended_at,
    }  # fmt: skip


def _freeze(name: str, until: datetime | None, ended_at: datetime | None) -> dict[str, Any]:
    return {
        "freeze_id": name, "tenant_id": "default", "reason": "a release", "started_by": "omar", "until": until,
        "started_at": NOW - timedelta(days=500), "ended_at": ended_at,
    }  # fmt: skip


def _run(name: str, ended_days: int | None) -> dict[str, Any]:
    ended = None if ended_days is None else NOW - timedelta(days=ended_days)
    return {
        "run_id": name, "tenant_id": "default", "task": "decide_rotation", "source": "x", "source_digest": "x",
        "policy_lines": [], "requested_by": "luna", "workflow_id": f"bulk:default:{name}", "ended_at": ended,
        "created_at": NOW - timedelta(days=500),
    }  # fmt: skip
