"""A stricter decision on a credential that has an open job tightens that job, once, under its own fence."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.jobs.errors import OpenJobExists, StaleAttempt
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import outbox, rotation_jobs
from keyturn.notifications.webhook.signing import event_id
from keyturn.rotations.contracts import Approval, JobOrder
from keyturn.rotations.outcomes import RotationJob
from tests.support.cases import facts, order

LAX, STRICT = "rotate:default:acct_10234:key_1:P-7@1", "rotate:default:acct_10234:key_1:EXPOSED@1"
KEY = facts(key_id="key_1")


def stricter(**changed: Any) -> JobOrder:
    """The same key, found compromised: due in a day, under a line that asked for an approval."""
    ordered = order(credential=KEY.model_copy(update={"compromised": True}), user_id="noor")
    date = ordered.decision.rotate_by
    assert date is not None
    line = ordered.policy_lines[0].model_copy(update={"id": "EXPOSED"})
    decision = ordered.decision.model_copy(
        update={"rotation_window_days": 1, "rotate_by": date - timedelta(days=29), "source_lines": (line,)} | changed
    )
    approval = Approval(approver="omar", digest=decision.digest)
    return ordered.model_copy(update={"decision": decision, "approval": approval})


async def test_date_lines_priority_and_approval_of_the_open_job_become_the_stricter_ones(
    store: JobStore, engine: AsyncEngine
) -> None:
    """It stays one job, its audit has what was before, and its receiver gets a message."""
    lax = order(credential=KEY)
    first = await store.create_once(lax, idempotency_key=LAX, fence=1)
    job = await store.create_once(stricter(), idempotency_key=STRICT, fence=2)
    assert job == RotationJob(job_id=first.job_id, created=False, tightened=True)
    [row] = await store.jobs(tenant_id="default", limit=10)
    assert (row["rotation_window_days"], row["priority"]) == (1, 1)
    assert (row["policy_lines"], row["rotate_by"]) == (["EXPOSED@1", "P-7@1"], stricter().decision.rotate_by)
    _, trail = await JobLeases(engine).show(first.job_id, tenant_id="default")
    result = trail[-1]
    assert (result["event"], result["actor"], result["detail"]["approved_by"]) == ("tightened", "noor", "omar")
    assert lax.decision.rotate_by is not None
    assert result["detail"]["rotate_by_before"] == lax.decision.rotate_by.isoformat()
    async with engine.connect() as connection:
        messages = [dict(one) for one in (await connection.execute(select(outbox))).mappings()]
    assert [one["topic"] for one in messages] == ["rotation_job.created", "rotation_job.tightened"]
    assert (messages[1]["payload"]["priority"], messages[1]["payload"]["rotation_window_days"]) == ("urgent", 1)


async def test_it_is_done_once_and_makes_no_job_when_it_is_repeated_after_the_first_is_closed(
    store: JobStore, engine: AsyncEngine
) -> None:
    """A lost answer is asked for again, perhaps when the key was rotated already."""
    first = await store.create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
    for fence in (2, 2, 3):
        job = await store.create_once(stricter(), idempotency_key=STRICT, fence=fence)
        assert (job.job_id, job.created) == (first.job_id, False)
    async with engine.begin() as connection:
        await connection.execute(
            update(rotation_jobs).where(rotation_jobs.c.job_id == first.job_id).values(status="done")
        )
    again = await store.create_once(stricter(), idempotency_key=STRICT, fence=4)
    assert again == RotationJob(job_id=first.job_id, created=False, tightened=True)
    assert await store.withdraw(stricter(), idempotency_key=STRICT, fence=5) == again
    _, trail = await JobLeases(engine).show(first.job_id, tenant_id="default")
    assert [row["event"] for row in trail].count("tightened") == 1
    events = await store.events(tenant_id="default", workflow_id=STRICT)
    assert [event["event"] for event in events] == ["created", "tightened"]
    assert len(await store.jobs(tenant_id="default", limit=10)) == 1


async def test_an_attempt_whose_claim_was_taken_back_tightens_nothing(store: JobStore) -> None:
    """It was frozen, its rotation has ended without a job, and then it woke up."""
    await store.create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
    await store.withdraw(stricter(), idempotency_key=STRICT, fence=20)
    with pytest.raises(StaleAttempt):
        await store.create_once(stricter(), idempotency_key=STRICT, fence=10)
    [row] = await store.jobs(tenant_id="default", limit=10)
    assert row["rotation_window_days"] == 30
    assert (await store.create_once(stricter(), idempotency_key=STRICT, fence=21)).tightened


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=60)])
async def test_a_decision_that_is_no_stricter_is_refused_by_name(store: JobStore, later: timedelta) -> None:
    """The job that is there is due sooner, or as soon."""
    first = await store.create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
    lax = order(credential=KEY)
    assert lax.decision.rotate_by is not None
    decision = lax.decision.model_copy(update={"rotate_by": lax.decision.rotate_by + later})
    with pytest.raises(OpenJobExists, match=first.job_id):
        await store.create_once(lax.model_copy(update={"decision": decision}), idempotency_key=STRICT, fence=2)


async def test_a_job_that_is_being_carried_out_is_tightened_and_its_claim_stands(
    store: JobStore, engine: AsyncEngine
) -> None:
    """Its holder reads the new date with the next heartbeat."""
    first = await store.create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
    leases = JobLeases(engine)
    claimed = await leases.claim(first.job_id, tenant_id="default", owner="bot", lease=timedelta(minutes=5))
    assert (await store.create_once(stricter(), idempotency_key=STRICT, fence=2)).tightened
    result = await leases.heartbeat(
        first.job_id, tenant_id="default", token=claimed.token, lease=timedelta(minutes=5), state="rotating"
    )
    assert (result.rotation_window_days, result.priority, result.token) == (1, "urgent", claimed.token)


async def test_twenty_stricter_decisions_at_once_tighten_it_once_each_key(database: URL) -> None:
    """Two workers race; no key gets a second job."""
    engines = [open_database(database) for _ in range(2)]
    stores = [JobStore(engine) for engine in engines]
    try:
        first = await stores[0].create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
        ends = await asyncio.gather(
            *(stores[n % 2].create_once(stricter(), idempotency_key=f"strict-{n % 4}", fence=2 + n) for n in range(20)),
            return_exceptions=True,
        )
        for end in ends:
            is_same = isinstance(end, RotationJob) and end.job_id == first.job_id and not end.created
            assert is_same or isinstance(end, OpenJobExists | StaleAttempt), end
        assert any(isinstance(end, RotationJob) for end in ends)
        assert len(await stores[0].jobs(tenant_id="default", limit=10)) == 1
    finally:
        for engine in engines:
            await engine.dispose()


async def test_the_compromised_key_is_claimed_before_all_others(store: JobStore, engine: AsyncEngine) -> None:
    """Also before one that is overdue by a year."""
    other = order(credential=facts(key_id="key_2"), account_id="acct_2")
    assert other.decision.rotate_by is not None
    late = other.decision.model_copy(update={"rotate_by": other.decision.rotate_by - timedelta(days=400)})
    await store.create_once(other.model_copy(update={"decision": late}), idempotency_key="late", fence=1)
    exposed = await store.create_once(stricter(rotate_by=None), idempotency_key=STRICT, fence=1)
    claimed = await JobLeases(engine).claim_next(tenant_id="default", owner="bot", lease=timedelta(minutes=5))
    assert claimed is not None
    assert (claimed.job_id, claimed.priority) == (exposed.job_id, "urgent")


async def test_both_messages_of_a_job_are_delivered_in_their_order(store: JobStore, engine: AsyncEngine) -> None:
    """The outbox hands out the oldest that waits, each under a unique name."""
    first = await store.create_once(order(credential=KEY), idempotency_key=LAX, fence=1)
    await store.create_once(stricter(), idempotency_key=STRICT, fence=2)
    messages = Outbox(engine)
    names = []
    for topic in ("rotation_job.created", "rotation_job.tightened"):
        message = await messages.message(first.job_id)
        assert (message.topic, message.delivered_at) == (topic, None)
        names.append(event_id(message))
        await messages.mark_delivered(message, answer="taken")
    assert (await messages.message(first.job_id)).topic == "rotation_job.tightened"
    assert names[0] == first.job_id
    assert len(set(names)) == 2
