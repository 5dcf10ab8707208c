"""The whole path on Temporal's real dev server, over real HTTP, into real databases."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowFailureError

from keyturn.application.outcomes import exit_status
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.database import open_database
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.rotations.outcomes import (
    JobCreated,
    LimitedUntil,
    NotEligible,
    NotSpecified,
    Rejected,
    TimedOut,
    WaitingForPerson,
)
from tests.support.boundaries import guarded, on_simulator
from tests.support.cases import NOW, QUESTION, facts, request
from tests.support.proxies import Fault, LossyProxy
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import ELIGIBLE, Limit, Script, worker_on


@pytest.fixture
async def provider(simulator: SimulatorControl) -> AsyncIterator[HttpModelClient]:
    async with http_client(64) as http:
        yield on_simulator(http, simulator)


async def rows(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(rotation_jobs))).scalar_one()


async def test_a_stale_key_is_decided_proved_and_given_one_job(
    temporal: Client, queue: str, provider: HttpModelClient, store: JobStore, simulator: SimulatorControl
) -> None:
    """From the request to the row, on both databases; and the same request again brings the same job, unasked."""
    asked = request()
    async with worker_on(temporal, queue, provider, store):
        attached, first = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        again, second = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(first, JobCreated)
    assert (attached, again) == (False, True)
    assert second == first
    [row] = await store.jobs(tenant_id="default", limit=10)
    assert (row["job_id"], row["idempotency_key"]) == (first.job_id, id_of(asked))
    assert len(await simulator.requests()) == 1


async def test_200_starts_at_once_make_one_workflow_and_one_job(
    temporal: Client, queue: str, provider: HttpModelClient, store: JobStore, simulator: SimulatorControl
) -> None:
    """Duplicate clicks attach: one run, one model call, one row."""
    asked = request()
    async with worker_on(temporal, queue, provider, store):
        ends = await asyncio.gather(*(rotate(temporal, asked, task_queue=queue, wait_seconds=60) for _ in range(200)))
    jobs = [outcome.job_id for _, outcome in ends if isinstance(outcome, JobCreated)]
    assert len(jobs) == 200
    assert len(set(jobs)) == 1
    assert sum(not attached for attached, _ in ends) == 1
    assert len(await store.jobs(tenant_id="default", limit=10)) == 1
    assert len(await simulator.requests()) == 1


async def test_a_caller_who_does_not_wait_still_learns_that_the_rotation_was_started(
    temporal: Client, queue: str
) -> None:
    """A start takes its milliseconds: to report it as failed would have it asked for twice."""
    asked = request()
    for attached in (False, True):
        answered = await rotate(temporal, asked, task_queue=queue, wait_seconds=0)
        assert answered == (attached, TimedOut())
    await temporal.get_workflow_handle(id_of(asked)).terminate()


async def test_an_exhausted_quota_costs_exactly_one_request(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """No retry anywhere, neither ours nor Temporal's nor the transport's."""
    await simulator.fail("quota", times=None)
    async with worker_on(temporal, queue, provider, sqlite_store):
        _, outcome = await rotate(temporal, request(max_retries=5), task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, WaitingForPerson)
    assert outcome.kind == "quota_exhausted"
    assert len(await simulator.requests()) == 1


async def test_a_503_that_passes_costs_exactly_one_request_an_attempt(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """Two outages and an answer are three requests."""
    await simulator.fail("unavailable", times=2)
    async with worker_on(temporal, queue, provider, sqlite_store):
        _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, JobCreated)
    assert [entry["status"] for entry in await simulator.requests()] == [503, 503, 200]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong_window", "unsupported_window"),
        ("unknown_source", "unknown_source"),
        ("malformed_json", "malformed_answer"),
        ("truncated_json", "truncated_answer"),
        ("refusal", "model_refused"),
        ("content_filter", "content_filtered"),
    ],
)
async def test_every_bad_answer_is_a_rejection_with_its_reason_and_no_job(
    temporal: Client,
    queue: str,
    provider: HttpModelClient,
    sqlite_store: JobStore,
    simulator: SimulatorControl,
    fault: str,
    reason: str,
) -> None:
    """Whatever wrong answer the simulator gives, the gate stops it."""
    await simulator.fail(fault, times=None)
    async with worker_on(temporal, queue, provider, sqlite_store):
        _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == reason
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
    assert len(await simulator.requests()) == 1


async def test_the_policys_no_and_its_silence_are_told_apart(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """A fresh key is not eligible; a key of unknown state is not specified."""
    async with worker_on(temporal, queue, provider, sqlite_store):
        _, fresh = await rotate(temporal, request(credential=facts(stale=False)), task_queue=queue, wait_seconds=30)
        _, unknown = await rotate(temporal, request(credential=facts(stale=None)), task_queue=queue, wait_seconds=30)
    assert isinstance(fresh, NotEligible)
    assert isinstance(unknown, NotSpecified)


async def test_new_evidence_is_decided_anew_and_the_same_evidence_is_not(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """A key that was fresh and has become stale gets its job, although its workflow id was used."""
    async with worker_on(temporal, queue, provider, sqlite_store):

        async def ask(stale: bool, *, again: bool = False) -> tuple[bool, object]:
            asked = request(credential=facts(key_id=f"key_of_{queue}", stale=stale))
            return await rotate(temporal, asked, task_queue=queue, wait_seconds=30, again=again)

        assert [type(outcome) for _, outcome in [await ask(False)]] == [NotEligible]
        assert (await ask(False))[0] is True  # the same question on the same evidence: answered already
        assert (await ask(False, again=True))[0] is False  # unless it is wanted
        attached, outcome = await ask(True)
        assert not attached
        assert isinstance(outcome, JobCreated)
        assert (await ask(False))[1] == outcome  # the job is there, whatever is asked later
    assert len(await simulator.requests()) == 3


async def test_who_attaches_with_other_evidence_gets_an_answer_for_it(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """Another caller's question runs under the same id: ours is asked when theirs is answered, and not swallowed."""
    await simulator.fail("slow", seconds=1)
    theirs = request(credential=facts(key_id=f"key_of_{queue}", stale=False))
    ours = request(credential=facts(key_id=f"key_of_{queue}", stale=True))
    async with worker_on(temporal, queue, provider, sqlite_store):
        await start_or_attach(temporal, theirs, task_queue=queue)
        attached, outcome = await rotate(temporal, ours, task_queue=queue, wait_seconds=30)
    assert not attached
    assert isinstance(outcome, JobCreated)
    assert len(await simulator.requests()) == 2


async def test_two_who_wait_for_somebody_elses_answer_share_one_answer_of_their_own(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """Both ask anew when the other's rotation ends: one starts, one attaches, and there is one job."""
    await simulator.fail("slow", seconds=1)
    theirs = request(credential=facts(key_id=f"key_of_{queue}", stale=False))
    ours = request(credential=facts(key_id=f"key_of_{queue}", stale=True))
    async with worker_on(temporal, queue, provider, sqlite_store):
        await start_or_attach(temporal, theirs, task_queue=queue)
        ends = await asyncio.gather(*(rotate(temporal, ours, task_queue=queue, wait_seconds=30) for _ in range(10)))
    assert {type(outcome) for _, outcome in ends} == {JobCreated}
    assert [attached for attached, _ in ends].count(False) == 1
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1
    assert len(await simulator.requests()) == 2


async def test_a_users_deadline_passes_while_the_workflow_goes_on(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """The named timeout comes in time, and the same call attaches to the answer later."""
    await simulator.fail("slow", seconds=2)
    asked = request()
    async with worker_on(temporal, queue, provider, sqlite_store):
        _, early = await rotate(temporal, asked, task_queue=queue, wait_seconds=0.5)
        attached, late = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert early.status == "timeout"
    assert attached
    assert isinstance(late, JobCreated)
    assert len(await simulator.requests()) == 1


async def test_a_workflow_input_that_cannot_be_read_fails_at_once(
    temporal: Client, queue: str, sqlite_store: JobStore
) -> None:
    """A client of another version gets an error, and not a workflow that retries its task for ever."""
    too_long = {**request().model_dump(mode="json"), "question": "Luna's private words " * 1_000}
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        for bad in ({"account_id": 7}, "nonsense", None, too_long):
            handle = await temporal.start_workflow(
                "RotationWorkflow", bad, id=f"bad-{uuid.uuid4().hex}", task_queue=queue
            )
            with pytest.raises(WorkflowFailureError):
                await asyncio.wait_for(handle.result(), 5)
            last = (await handle.fetch_history()).events[-1]
            assert last.HasField("workflow_execution_failed_event_attributes")
            assert "private words" not in str(last)  # what did not fit is not repeated


async def test_what_history_shows_in_plain_text_holds_nothing_private(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """Workflow id, search attributes, error types and messages: not a word of the question or the key."""
    await simulator.fail("unavailable", times=None)
    planted = "Luna's private words"
    async with worker_on(temporal, queue, provider, sqlite_store):
        asked = request(question=planted, max_retries=0)
        rotation = await start_or_attach(temporal, asked, task_queue=queue)
        await outcome_of(rotation.handle)
    history = await rotation.handle.fetch_history()
    failures = [
        event.activity_task_failed_event_attributes.failure
        for event in history.events
        if event.HasField("activity_task_failed_event_attributes")
    ]
    assert [failure.application_failure_info.type for failure in failures] == ["provider_unavailable"]
    ended = history.events[-1]
    assert (
        ended.workflow_execution_failed_event_attributes.failure.application_failure_info.type == "provider_unavailable"
    )
    described = await rotation.handle.describe()
    shown = f"{failures}{ended}{rotation.handle.id}{described.typed_search_attributes}"
    for secret in (planted, "key_for_tests", QUESTION):
        assert secret not in shown


@pytest.mark.parametrize(
    ("fault", "created"),
    [("answer_lost", False), ("request_lost", True), ("half_open", False)],
)
async def test_a_lost_response_of_the_database_never_makes_a_second_job(
    temporal: Client, queue: str, postgresql: URL, fault: Fault, created: bool
) -> None:
    """The connection drops after the commit, before it, or falls silent: the retry finds or makes the one job."""
    proxy = LossyProxy()
    async with proxy.before(postgresql) as lossy:
        engine, direct = open_database(lossy), open_database(postgresql)
        try:
            proxy.fault = fault
            async with worker_on(temporal, queue, Script(ELIGIBLE), JobStore(engine)):
                _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=40)
            assert proxy.spoiled == 1
            assert isinstance(outcome, JobCreated)
            assert outcome.created is created  # False: the row was committed before the answer was lost
            assert await rows(direct) == 1
            async with direct.connect() as connection:
                audited = (await connection.execute(select(job_audit.c.event))).scalars().all()
            assert list(audited) == ["created"]
        finally:
            await engine.dispose()
            await direct.dispose()


async def test_a_forgotten_workflow_still_meets_its_job(temporal: Client, queue: str, sqlite_store: JobStore) -> None:
    """After termination and a new start, and for another run of the same id, the row is the tombstone."""
    asked = request(credential=facts(observed_at=NOW))
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        _, first = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        handle = await temporal.start_workflow(
            "RotationWorkflow", asked, id=id_of(asked), task_queue=queue, result_type=JobCreated
        )
        second = await handle.result()
    assert isinstance(first, JobCreated)
    assert (second.job_id, second.created) == (first.job_id, False)
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_who_is_over_the_token_limit_is_told_until_when_and_is_let_in_then(
    temporal: Client, queue: str, provider: HttpModelClient, sqlite_store: JobStore
) -> None:
    """`rotate` comes back with `rate_limited` and the time; asked again, it attaches and gets the job."""
    limit = Limit(times=1, wait=timedelta(seconds=3))
    async with worker_on(temporal, queue, provider, sqlite_store, guard=guarded(tokens=limit)):
        asked = request()
        _, limited = await rotate(temporal, asked, task_queue=queue, wait_seconds=1)
        attached, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(limited, LimitedUntil)
    assert abs(limited.retry_at - limit.until) < timedelta(seconds=1)
    assert exit_status(limited) == 4
    assert attached
    assert isinstance(outcome, JobCreated)
