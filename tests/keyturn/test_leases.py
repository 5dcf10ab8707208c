"""Claims on rotation jobs, on both databases: one holder at a time, and what comes too late changes nothing."""

import asyncio
import random
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.jobs.contracts import ClaimedJob
from keyturn.jobs.errors import JobClosed, JobHeld, OpenJobExists, StaleClaim, StateRefused, UnknownJob
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_jobs
from tests.support.cases import facts, order

MINUTE = timedelta(minutes=1)


@pytest.fixture
def claims(engine: AsyncEngine) -> JobLeases:
    return JobLeases(engine)


async def make(store: JobStore, *, key: str | None = None, **changed: Any) -> str:
    key = key or f"key_{uuid.uuid4().hex[:12]}"
    ordered = order(credential=facts(key_id=key), **changed)
    return (await store.create_once(ordered, idempotency_key=f"rotate:{uuid.uuid4().hex}", fence=1)).job_id


async def claimed(claims: JobLeases, owner: str = "worker-1", lease: timedelta = MINUTE) -> ClaimedJob:
    job = await claims.claim_next(tenant_id="default", owner=owner, lease=lease)
    assert job is not None
    return job


async def expire(engine: AsyncEngine, job_id: str) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).where(rotation_jobs.c.job_id == job_id).values(lease_until=past))


async def trail(claims: JobLeases, job_id: str) -> list[tuple[str, str]]:
    _, rows = await claims.show(job_id, tenant_id="default")
    return [(row["event"], row["actor"]) for row in rows]


@pytest.mark.parametrize("days_off", [40, -40])
async def test_when_a_lease_is_over_is_the_databases_to_say(store: JobStore, claims: JobLeases, days_off: int) -> None:
    """A claimer whose clock is wrong has its job for as long as it asked for, and gets none that is claimed."""
    made, began = await make(store), datetime.now(UTC)
    wrong = time_machine.travel(began + timedelta(days=days_off))
    with wrong:
        job = await claimed(claims)
    assert job.lease_until is not None
    assert timedelta(seconds=55) < job.lease_until - began < timedelta(seconds=90)
    with wrong:
        assert await claims.claim_next(tenant_id="default", owner="worker-2", lease=MINUTE) is None
        kept = await claims.heartbeat(made, tenant_id="default", token=job.token, lease=2 * MINUTE)
    assert kept.lease_until is not None
    assert timedelta(seconds=110) < kept.lease_until - began < timedelta(seconds=150)


async def test_a_job_is_claimed_carried_out_and_closed(store: JobStore, claims: JobLeases) -> None:
    """Each state a row in the audit, with actor and evidence; then the credential may be asked about again."""
    made = await make(store, key="key_1")
    job = await claimed(claims)
    assert (job.job_id, job.key_id, job.state, job.token) == (made, "key_1", "claimed", 1)
    assert job.policy_lines == ("P-7@1",)
    for state in ("rotating", "verifying", "grace"):
        evidence = {"new_key_id": "AKIA1"}
        job = await claims.heartbeat(
            made, tenant_id="default", token=job.token, lease=MINUTE, state=state, evidence=evidence
        )
        assert job.state == state
    with pytest.raises(OpenJobExists):
        await make(store, key="key_1")
    done = await claims.complete(made, tenant_id="default", token=job.token, evidence={"deleted": "AKIA0"})
    assert done.state == "done"
    row, rows = await claims.show(made, tenant_id="default")
    events = ["created", "claimed", "rotating", "verifying", "grace", "duplicate_refused", "done"]
    assert [audit["event"] for audit in rows] == events
    assert rows[-1]["detail"] == {"deleted": "AKIA0"}
    assert rows[-1]["actor"] == "worker-1"
    assert row["closed_at"] is not None
    assert await make(store, key="key_1") != made


async def test_the_most_urgent_job_is_claimed_first_and_each_by_one(store: JobStore, claims: JobLeases) -> None:
    """By the date it is due; a claimed one is not given away; none left is none."""
    late, soon = await make(store), await make(store)
    async with store._engine.begin() as connection:
        due = datetime.now(UTC) + timedelta(days=1)
        await connection.execute(update(rotation_jobs).where(rotation_jobs.c.job_id == soon).values(rotate_by=due))
    assert (await claimed(claims)).job_id == soon
    assert (await claimed(claims)).job_id == late
    assert await claims.claim_next(tenant_id="default", owner="x", lease=MINUTE) is None
    assert await claims.claim_next(tenant_id="other", owner="x", lease=MINUTE) is None


async def test_an_expired_lease_is_taken_over_and_the_slow_ones_word_changes_nothing(
    store: JobStore, claims: JobLeases, engine: AsyncEngine
) -> None:
    """The second one continues from the recorded state; the first is refused by name, whatever it says."""
    made = await make(store)
    slow = await claimed(claims, "slow")
    await claims.heartbeat(made, tenant_id="default", token=slow.token, lease=MINUTE, state="rotating")
    await expire(engine, made)
    quick = await claimed(claims, "quick")
    assert (quick.job_id, quick.state, quick.token) == (made, "rotating", 2)
    with pytest.raises(StaleClaim):
        await claims.complete(made, tenant_id="default", token=slow.token)
    with pytest.raises(StaleClaim):
        await claims.heartbeat(made, tenant_id="default", token=slow.token, lease=MINUTE)
    with pytest.raises(StaleClaim):
        await claims.fail(made, tenant_id="default", token=slow.token, reason="x")
    await claims.complete(made, tenant_id="default", token=quick.token)
    with pytest.raises(JobClosed):
        await claims.complete(made, tenant_id="default", token=slow.token)
    assert await trail(claims, made) == [
        ("created", "unknown"),
        ("claimed", "slow"),
        ("rotating", "slow"),
        ("claimed", "quick"),
        ("done", "quick"),
    ]


async def test_a_late_word_under_the_last_token_still_counts(
    store: JobStore, claims: JobLeases, engine: AsyncEngine
) -> None:
    """No one took the job over: the work was done, and is not thrown away."""
    made = await make(store)
    job = await claimed(claims)
    await expire(engine, made)
    assert (await claims.complete(made, tenant_id="default", token=job.token)).state == "done"


async def test_a_completion_whose_answer_was_lost_may_be_said_again(store: JobStore, claims: JobLeases) -> None:
    """Done once, with one row; another end is refused."""
    made = await make(store)
    job = await claimed(claims)
    first = await claims.complete(made, tenant_id="default", token=job.token, evidence={"a": "1"})
    assert await claims.complete(made, tenant_id="default", token=job.token, evidence={"a": "1"}) == first
    with pytest.raises(JobClosed):
        await claims.fail(made, tenant_id="default", token=job.token, reason="no")
    assert [event for event, _ in await trail(claims, made)].count("done") == 1


async def test_a_heartbeat_keeps_the_job_and_writes_no_row(store: JobStore, claims: JobLeases) -> None:
    """A worker may say every second that it is at it."""
    made = await make(store)
    job = await claimed(claims, lease=timedelta(seconds=1))
    kept = await claims.heartbeat(made, tenant_id="default", token=job.token, lease=timedelta(hours=1))
    assert kept.lease_until is not None
    assert kept.lease_until > datetime.now(UTC) + timedelta(minutes=50)
    assert [event for event, _ in await trail(claims, made)] == ["created", "claimed"]


async def test_states_follow_each_other(store: JobStore, claims: JobLeases) -> None:
    """A grace period is not gone back from."""
    made = await make(store)
    job = await claimed(claims)
    await claims.heartbeat(made, tenant_id="default", token=job.token, lease=MINUTE, state="grace")
    with pytest.raises(StateRefused, match="rotating cannot follow"):
        await claims.heartbeat(made, tenant_id="default", token=job.token, lease=MINUTE, state="rotating")


async def test_nothing_is_said_of_a_job_that_nobody_claimed(store: JobStore, claims: JobLeases) -> None:
    """Neither claimed nor closed, whatever token is guessed; it is still there to be claimed."""
    made = await make(store)
    for token in (0, 1):
        with pytest.raises(StaleClaim):
            await claims.heartbeat(made, tenant_id="default", token=token, lease=MINUTE)
        with pytest.raises(StaleClaim):
            await claims.complete(made, tenant_id="default", token=token)
        with pytest.raises(StaleClaim):
            await claims.fail(made, tenant_id="default", token=token, reason="x")
    assert await trail(claims, made) == [("created", "unknown")]
    assert (await claimed(claims)).job_id == made


async def test_a_cancelled_job_is_over_for_whoever_holds_it(store: JobStore, claims: JobLeases) -> None:
    """By an operator, with a reason."""
    made = await make(store)
    job = await claimed(claims)
    await claims.cancel(made, tenant_id="default", actor="omar", reason="the account is closed")
    with pytest.raises(JobClosed):
        await claims.complete(made, tenant_id="default", token=job.token)
    assert (await trail(claims, made))[-1] == ("cancelled", "omar")
    with pytest.raises(JobClosed):
        await claims.cancel(made, tenant_id="default", actor="omar", reason="again")


async def test_unknown_jobs_and_other_tenants_jobs_are_the_same(store: JobStore, claims: JobLeases) -> None:
    """Nothing of another tenant is shown, not even that there is something; nor of a claim that was withdrawn."""
    made = await make(store)
    ordered = order(credential=facts(key_id="key_w"))
    await store.withdraw(ordered, idempotency_key="withdrawn", fence=1)
    async with store._engine.connect() as connection:
        query = select(rotation_jobs.c.job_id).where(rotation_jobs.c.status == "withdrawn")
        withdrawn = (await connection.execute(query)).scalar_one()
    for job_id, tenant in (
        (made, "other"),
        ("job_none", "default"),
        ("'; DROP TABLE", "default"),
        (withdrawn, "default"),
    ):
        with pytest.raises(UnknownJob):
            await claims.complete(job_id, tenant_id=tenant, token=0)
        with pytest.raises(UnknownJob):
            await claims.show(job_id, tenant_id=tenant)
    assert (await claimed(claims)).job_id == made
    assert await claims.claim_next(tenant_id="default", owner="x", lease=MINUTE) is None


async def test_overdue_jobs_are_listed_until_they_are_closed(store: JobStore, claims: JobLeases) -> None:
    """The longest overdue first."""
    made = [await make(store) for _ in range(3)]
    async with store._engine.begin() as connection:
        for days, job_id in ((1, made[0]), (5, made[1])):
            past = datetime.now(UTC) - timedelta(days=days)
            await connection.execute(
                update(rotation_jobs).where(rotation_jobs.c.job_id == job_id).values(rotate_by=past)
            )
    assert [row["job_id"] for row in await claims.overdue(tenant_id="default")] == [made[1], made[0]]
    assert await claims.count() == {("open", True): 2, ("open", False): 1}
    await claims.cancel(made[1], tenant_id="default", actor="omar", reason="x")
    assert [row["job_id"] for row in await claims.overdue()] == [made[0]]
    await claimed(claims)
    assert sum(number for (_, overdue), number in (await claims.count()).items() if overdue) == 1


async def test_50_claimers_killed_at_random_complete_each_job_once(database: URL) -> None:
    """They die holding jobs, and come back late with their word: each job has one done, and no stale one counts."""
    chance = random.Random(20261121)
    engines = [open_database(database) for _ in range(3)]
    try:
        store = JobStore(engines[0])
        made = [await make(store, account_id=f"acct_{number}") for number in range(60)]
        done: Counter[str] = Counter()
        stale = 0

        async def claimer(number: int) -> None:
            nonlocal stale
            claims = JobLeases(engines[number % len(engines)])
            while sum(done.values()) < len(made):
                job = await claims.claim_next(tenant_id="default", owner=f"w{number}", lease=timedelta(seconds=1))
                if job is None:
                    await asyncio.sleep(0.05)
                    continue
                if chance.random() < 0.4:
                    # Killed here, or so slow that its lease runs out; it says its word when another one has the job.
                    await asyncio.sleep(1.2 + chance.random() * 0.3)
                try:
                    await claims.complete(
                        job.job_id, tenant_id="default", token=job.token, evidence={"by": f"w{number}"}
                    )
                    done[job.job_id] += 1
                except (StaleClaim, JobClosed):
                    stale += 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(claimer(number) for number in range(50)))
        assert done == Counter(made)
        assert stale > 0  # a claimer did come late: otherwise nothing was tested
        async with engines[0].connect() as connection:
            ended = await connection.execute(select(job_audit.c.job_id).where(job_audit.c.event == "done"))
            assert Counter(row.job_id for row in ended) == Counter(made)
    finally:
        for engine in engines:
            await engine.dispose()


async def test_what_is_reported_on_the_way_is_in_the_audit_although_the_state_stays(
    store: JobStore, claims: JobLeases
) -> None:
    """A heartbeat with evidence writes a row under the state that the job is in; one without writes none."""
    job_id = await make(store)
    job = await claimed(claims)
    for evidence in ({"step": "one"}, None, {"step": "two"}):
        await claims.heartbeat(job_id, tenant_id="default", token=job.token, lease=MINUTE, evidence=evidence)
    _, rows = await claims.show(job_id, tenant_id="default")
    assert [(row["event"], row["detail"]) for row in rows[2:]] == [
        ("claimed", {"step": "one"}),
        ("claimed", {"step": "two"}),
    ]


async def test_a_job_is_claimed_by_its_id_by_one_at_a_time_and_again_by_the_same(
    store: JobStore, claims: JobLeases, engine: AsyncEngine
) -> None:
    """Its holder may claim it again, with a higher token; another one is refused until the lease expires."""
    job_id = await make(store)
    first = await claims.claim(job_id, tenant_id="default", owner="a", lease=MINUTE)
    again = await claims.claim(job_id, tenant_id="default", owner="a", lease=MINUTE)
    assert (first.token, again.token) == (1, 2)
    with pytest.raises(JobHeld):
        await claims.claim(job_id, tenant_id="default", owner="b", lease=MINUTE)
    with pytest.raises(UnknownJob):
        await claims.claim(job_id, tenant_id="another", owner="a", lease=MINUTE)
    await expire(engine, job_id)
    assert (await claims.claim(job_id, tenant_id="default", owner="b", lease=MINUTE)).token == 3
    with pytest.raises(StaleClaim):
        await claims.complete(job_id, tenant_id="default", token=2)
    await claims.complete(job_id, tenant_id="default", token=3)
    with pytest.raises(JobClosed):
        await claims.claim(job_id, tenant_id="default", owner="b", lease=MINUTE)


USER_NAMED = 'svc-50%_"ü"'  # what LIKE and JSON write otherwise


async def test_what_other_executions_wrote_of_a_name_is_read_and_nothing_else(
    store: JobStore, claims: JobLeases, engine: AsyncEngine
) -> None:
    """Not one's own, not of another name, not what an outsider wrote, and not of jobs that were closed before."""
    start, jobs = datetime.now(UTC), {}
    for name, user, actor in (
        ("own", USER_NAMED, "execute:"),
        ("other", USER_NAMED, "execute:"),
        ("another user", "svc-500", "execute:"),
        ("outsider", USER_NAMED, "pipeline-"),
        ("forger", USER_NAMED, "execute:another-"),
        ("closed", USER_NAMED, "execute:"),
    ):
        job_id = await make(store)
        jobs[job_id] = name
        job = await claims.claim(job_id, tenant_id="default", owner=f"{actor}{job_id}", lease=MINUTE)
        for evidence in ({"user": user}, {"created_key": f"key of {name}"}):
            await claims.heartbeat(
                job_id, tenant_id="default", token=job.token, lease=MINUTE, state="rotating", evidence=evidence
            )
        if name == "closed":
            await claims.fail(job_id, tenant_id="default", token=job.token, reason="a test")
    (own,) = (job_id for job_id, name in jobs.items() if name == "own")

    async def found(since: datetime) -> list[str]:
        trails = await claims.other_trails(own, actor="execute:", since=since, naming=USER_NAMED)
        assert all(row["at"].tzinfo is not None for trail in trails for row in trail)
        return sorted({jobs[row["job_id"]] for trail in trails for row in trail if "created_key" in row["detail"]})

    assert await found(start - timedelta(minutes=1)) == ["closed", "other"]
    assert await found(start + timedelta(minutes=1)) == ["other"]
