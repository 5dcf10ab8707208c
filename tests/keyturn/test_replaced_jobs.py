"""A job that failed or was cancelled gives way to another one, if a caller asks again; any other never does."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.jobs.errors import IdempotencyConflict, OpenJobExists, StaleAttempt
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import outbox, rotation_jobs
from keyturn.rotations.contracts import JobOrder
from tests.support.cases import facts, order

KEY, OTHER_LINE = "rotate:default:acct_10234:key_1:P-7@1", "rotate:default:acct_10234:key_1:P-8@1"
FIRST_RUN = datetime.now(UTC)
SECOND_RUN, THIRD_RUN = FIRST_RUN + timedelta(minutes=10), FIRST_RUN + timedelta(minutes=20)


def at(moment: datetime, *, seconds: float = 5.0) -> int:
    """The fence of an attempt that the server scheduled that long after a run's start."""
    return int((moment.timestamp() + seconds) * 1_000_000)


def ordered(again_at: datetime | None = None, **changed: Any) -> JobOrder:
    made = order(credential=facts(key_id="key_1", **changed))
    return made.model_copy(update={"replaces_before": again_at})


async def close(engine: AsyncEngine, job_id: str, how: str) -> None:
    leases = JobLeases(engine)
    if how == "cancelled":
        await leases.cancel(job_id, tenant_id="default", actor="luna", reason="not now")
        return
    claimed = await leases.claim(job_id, tenant_id="default", owner="x", lease=timedelta(minutes=1))
    end = leases.fail if how == "failed" else leases.complete
    given: dict[str, Any] = {"reason": "key_limit"} if how == "failed" else {"evidence": {}}
    await end(job_id, tenant_id="default", token=claimed.token, **given)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_job_that_ended_without_a_rotation_gets_a_successor(
    store: JobStore, engine: AsyncEngine, how: str
) -> None:
    """One, however often the attempt is repeated; both say so in their trails, and receivers see a new key."""
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, how)
    plain = await store.create_once(ordered(), idempotency_key=KEY, fence=at(SECOND_RUN))
    assert (plain.job_id, plain.created) == (old.job_id, False)
    new = await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))
    assert new.created
    repeated = await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN, seconds=9))
    assert (repeated.job_id, repeated.created) == (new.job_id, False)
    before, old_trail = await JobLeases(engine).show(old.job_id, tenant_id="default")
    assert before["status"] == how
    assert (old_trail[-1]["event"], old_trail[-1]["detail"]) == ("asked_again", {"idempotency_key": KEY})
    _, [created] = await JobLeases(engine).show(new.job_id, tenant_id="default")
    assert (created["event"], created["detail"]["replaces"]) == ("created", old.job_id)
    async with engine.connect() as connection:
        sent = select(outbox.c.payload).where(outbox.c.job_id == new.job_id)
        payload = (await connection.execute(sent)).scalar_one()
    assert (payload["replaces"], payload["idempotency_key"]) == (old.job_id, f"{KEY}:after:{old.job_id}")
    assert [row["event"] for row in await store.events(tenant_id="default", workflow_id=KEY)] == ["created"]


async def test_a_job_that_is_open_or_done_stays_the_only_one(store: JobStore, engine: AsyncEngine) -> None:
    job = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    for how in (None, "done"):
        if how is not None:
            await close(engine, job.job_id, how)
        again = await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))
        assert (again.job_id, again.created) == (job.job_id, False)


async def test_an_attempt_of_an_earlier_run_that_wakes_up_replaces_nothing(
    store: JobStore, engine: AsyncEngine
) -> None:
    """Neither the first run's, nor the second one's whose own job has failed meanwhile."""
    first = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, first.job_id, "failed")
    second = await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))
    await close(engine, second.job_id, "failed")
    for late in (ordered(), ordered(SECOND_RUN)):
        found = await store.create_once(late, idempotency_key=KEY, fence=at(SECOND_RUN, seconds=2))
        assert (found.job_id, found.created) == (second.job_id, False)
    third = await store.create_once(ordered(THIRD_RUN), idempotency_key=KEY, fence=at(THIRD_RUN))
    assert third.created


async def test_many_at_once_replace_a_job_once(store: JobStore, engine: AsyncEngine) -> None:
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, "failed")
    claims = (store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN)) for _ in range(40))
    jobs = await asyncio.gather(*claims)
    assert len({job.job_id for job in jobs}) == 1
    assert sum(job.created for job in jobs) == 1


async def test_once_its_order_is_withdrawn_no_late_attempt_replaces_a_job(store: JobStore, engine: AsyncEngine) -> None:
    """The run ended without a job; a later one that asks again still gets it."""
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, "failed")
    withdrawn = await store.withdraw(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN, seconds=60))
    assert withdrawn is None
    with pytest.raises(StaleAttempt):
        await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))
    assert (await store.create_once(ordered(THIRD_RUN), idempotency_key=KEY, fence=at(THIRD_RUN))).created


async def test_a_job_that_a_decision_had_joined_is_replaced_under_that_decisions_key(
    store: JobStore, engine: AsyncEngine
) -> None:
    """A stricter decision tightened the open job, which failed: asked again, the decision gets a job of its own."""
    job = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    strict = ordered(compromised=True)
    joined = await store.create_once(strict, idempotency_key=OTHER_LINE, fence=at(FIRST_RUN))
    assert (joined.job_id, joined.tightened) == (job.job_id, True)
    await close(engine, job.job_id, "failed")
    again = strict.model_copy(update={"replaces_before": SECOND_RUN})
    own = await store.create_once(again, idempotency_key=OTHER_LINE, fence=at(SECOND_RUN))
    assert own.created
    with pytest.raises(OpenJobExists, match=own.job_id):
        await store.create_once(ordered(THIRD_RUN), idempotency_key=KEY, fence=at(THIRD_RUN))


async def test_a_successor_never_stands_beside_another_open_job_of_the_key(
    store: JobStore, engine: AsyncEngine
) -> None:
    """It failed under one line, and has an open job under another: that one is the job."""
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, "failed")
    other = await store.create_once(ordered(), idempotency_key=OTHER_LINE, fence=at(FIRST_RUN))
    with pytest.raises(OpenJobExists, match=other.job_id):
        await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))
    strict = ordered(THIRD_RUN, compromised=True)
    tightened = await store.create_once(strict, idempotency_key=KEY, fence=at(THIRD_RUN))
    assert (tightened.job_id, tightened.tightened) == (other.job_id, True)


async def test_a_key_of_another_credential_is_a_conflict_as_before(store: JobStore, engine: AsyncEngine) -> None:
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, "failed")
    foreign = order(credential=facts(key_id="key_2")).model_copy(update={"replaces_before": SECOND_RUN})
    with pytest.raises(IdempotencyConflict):
        await store.create_once(foreign, idempotency_key=KEY, fence=at(SECOND_RUN))


async def test_an_attempt_of_a_run_that_has_ended_creates_nothing_when_the_job_of_then_has_ended_too(
    store: JobStore, engine: AsyncEngine
) -> None:
    """It was frozen while the key had the wrong kind's job, its rotation failed, and a person cancelled that job."""
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    right = facts(key_id="key_1", kind="system_account_password")
    again = ordered().model_copy(update={"credential": right, "replaces_before": SECOND_RUN})
    assert await store.withdraw(again, idempotency_key=KEY, fence=at(SECOND_RUN, seconds=60)) is None
    await close(engine, old.job_id, "cancelled")
    with pytest.raises(IdempotencyConflict):
        await store.create_once(again, idempotency_key=KEY, fence=at(SECOND_RUN))
    later = again.model_copy(update={"replaces_before": THIRD_RUN})
    assert (await store.create_once(later, idempotency_key=KEY, fence=at(THIRD_RUN))).created


async def test_a_conflict_names_the_job_that_a_decision_had_joined(store: JobStore, engine: AsyncEngine) -> None:
    """The mark under that decision's key is no job that a person could look at, or cancel."""
    job = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await store.create_once(ordered(compromised=True), idempotency_key=OTHER_LINE, fence=at(FIRST_RUN))
    right = facts(key_id="key_1", kind="system_account_password", compromised=True)
    other = ordered(compromised=True).model_copy(update={"credential": right})
    with pytest.raises(IdempotencyConflict, match=job.job_id):
        await store.create_once(other, idempotency_key=OTHER_LINE, fence=at(SECOND_RUN))


@pytest.mark.parametrize("how", ["cancelled", "withdrawn"])
async def test_a_key_that_was_called_by_the_wrong_kind_is_asked_for_again_by_the_right_one(
    store: JobStore, engine: AsyncEngine, how: str
) -> None:
    """While the wrong one's job is open that is a conflict; an attempt of the wrong one that wakes up makes nothing."""
    wrong, kind = ordered(), facts(key_id="key_1", kind="system_account_password")
    again = wrong.model_copy(update={"credential": kind, "replaces_before": SECOND_RUN})
    if how == "withdrawn":
        await store.withdraw(wrong, idempotency_key=KEY, fence=at(FIRST_RUN))
    else:
        old = await store.create_once(wrong, idempotency_key=KEY, fence=at(FIRST_RUN))
        with pytest.raises(IdempotencyConflict):
            await store.create_once(again, idempotency_key=KEY, fence=at(SECOND_RUN))
        await close(engine, old.job_id, how)
    new = await store.create_once(again, idempotency_key=KEY, fence=at(SECOND_RUN))
    assert new.created
    with pytest.raises(IdempotencyConflict, match=new.job_id):
        await store.create_once(wrong, idempotency_key=KEY, fence=at(FIRST_RUN, seconds=1))
    assert not (await store.create_once(again, idempotency_key=KEY, fence=at(SECOND_RUN, seconds=1))).created


async def test_a_purged_job_is_replaced_too(store: JobStore, engine: AsyncEngine) -> None:
    """How it ended is not known any more: who asks again must not be refused for ever."""
    old = await store.create_once(ordered(), idempotency_key=KEY, fence=at(FIRST_RUN))
    await close(engine, old.job_id, "failed")
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).values(status="purged", account_id=None, key_id=None))
    assert (await store.create_once(ordered(SECOND_RUN), idempotency_key=KEY, fence=at(SECOND_RUN))).created
