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
from keyturn.errors import SettingsInvalid
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.ledger.store import LedgerStore
from keyturn.retention import Retention, RetentionStore
from keyturn.rotations.contracts import RotationEvent
from keyturn.rotations.outcomes import RotationJob
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


async def test_what_is_stored_for_ever_is_not_looked_at(engine: AsyncEngine) -> None:
    assert await RetentionStore(engine).count(Retention(calls=1).limits(NOW)) == {"calls": 0}
    assert await RetentionStore(engine).delete(Retention().limits(NOW)) == {}


def test_the_settings_are_days_and_zero_is_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A year and a month by default, and nothing is deleted by a worker unless that is switched on."""
    assert load_retention_settings().limits() == Retention(400, 400, 400, 400, 400, 400)
    assert load_retention_settings().retention == "off"
    monkeypatch.setenv("KEYTURN_RETAIN_CALLS_DAYS", "30")
    monkeypatch.setenv("KEYTURN_RETAIN_JOBS_DAYS", "0")
    assert load_retention_settings().limits() == Retention(30, 400, None, 400, 400, 400)
    monkeypatch.setenv("KEYTURN_RETAIN_RUNS_DAYS", "a year")
    with pytest.raises(SettingsInvalid, match="KEYTURN_RETAIN_RUNS_DAYS"):
        load_retention_settings()


def _call(days: int) -> Any:
    from tests.keyturn.test_ledger import call

    return call(called_at=NOW - timedelta(days=days), cost_usd=Decimal("0.01"))


def _run(name: str, ended_days: int | None) -> dict[str, Any]:
    ended = None if ended_days is None else NOW - timedelta(days=ended_days)
    return {
        "run_id": name, "tenant_id": "default", "task": "decide_rotation", "source": "x", "source_digest": "x",
        "policy_lines": [], "requested_by": "luna", "workflow_id": f"bulk:default:{name}", "ended_at": ended,
        "created_at": NOW - timedelta(days=500),
    }  # fmt: skip
