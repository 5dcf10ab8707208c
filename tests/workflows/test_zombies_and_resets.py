"""Whatever wakes up late, is reset, terminated, forgotten or started again: one job, and none once abandoned."""

import asyncio
import dataclasses
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import URL
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from keyturn.activities.create_rotation_job import CreateRotationJob
from keyturn.activities.withdraw_claim import WithdrawClaim
from keyturn.application.answers import answer
from keyturn.application.outcomes import as_lines, as_object
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import Handle, outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.database import open_database
from keyturn.jobs.errors import OpenJobExists, StaleAttempt
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.temporal import dev_server
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.contracts import Abandonment, JobOrder
from keyturn.rotations.outcomes import Failed, JobCreated, RotationJob
from keyturn.workflows import options
from keyturn.workflows.identity import rotation_ids_of
from tests.keyturn.test_ledger import call
from tests.support.cases import NOW, facts, order, request
from tests.support.keys import KEYRING
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on

KEY = "rotate:default:acct_10234:key_1:P-7@1"


# -- the fence, on both databases -------------------------------------------------------------------------------------


async def test_an_attempt_from_before_a_withdrawal_changes_nothing(store: JobStore) -> None:
    """It is refused by its name; there is no job, no audit row of one, and no message."""
    ordered = order(credential=facts(key_id="key_1"))
    assert await store.withdraw(ordered, idempotency_key=KEY, fence=20) is None
    for late in (1, 19, 20):
        with pytest.raises(StaleAttempt):
            await store.create_once(ordered, idempotency_key=KEY, fence=late)
    assert await store.jobs(tenant_id="default", limit=10) == []
    assert await store.events(tenant_id="default", workflow_id=KEY) == []


async def test_an_attempt_from_after_a_withdrawal_makes_the_job_once(store: JobStore) -> None:
    """Asked for again, the rotation gets its job, with its audit row; and the next attempt finds it."""
    ordered = order(credential=facts(key_id="key_1"))
    await store.withdraw(ordered, idempotency_key=KEY, fence=20)
    made = await store.create_once(ordered, idempotency_key=KEY, fence=21)
    again = await store.create_once(ordered, idempotency_key=KEY, fence=22)
    assert (made.created, again) == (True, RotationJob(job_id=made.job_id, created=False))
    [job] = await store.jobs(tenant_id="default", limit=10)
    assert (job["status"], job["account_id"], job["fence"]) == ("open", "acct_10234", 21)
    [created] = await store.events(tenant_id="default", workflow_id=KEY)
    assert created["event"] == "created"


async def test_a_withdrawal_after_the_job_was_made_returns_the_job(store: JobStore) -> None:
    """Then the job stands, and a report that there is none is corrected."""
    ordered = order(credential=facts(key_id="key_1"))
    made = await store.create_once(ordered, idempotency_key=KEY, fence=5)
    assert await store.withdraw(ordered, idempotency_key=KEY, fence=9) == RotationJob(job_id=made.job_id, created=False)
    assert len(await store.jobs(tenant_id="default", limit=10)) == 1


async def test_the_highest_fence_counts(store: JobStore) -> None:
    """Withdrawals may come late and out of order, too."""
    ordered = order(credential=facts(key_id="key_1"))
    for fence in (20, 30, 10):
        await store.withdraw(ordered, idempotency_key=KEY, fence=fence)
    with pytest.raises(StaleAttempt):
        await store.create_once(ordered, idempotency_key=KEY, fence=30)
    assert (await store.create_once(ordered, idempotency_key=KEY, fence=31)).created


async def test_a_withdrawn_claim_does_not_stand_in_the_way_of_another(store: JobStore) -> None:
    """The credential's open job is another's then, and the first one is refused by that."""
    ordered = order(credential=facts(key_id="key_1"))
    await store.withdraw(ordered, idempotency_key=KEY, fence=20)
    other = await store.create_once(ordered, idempotency_key="another", fence=21)
    with pytest.raises(OpenJobExists, match=other.job_id):
        await store.create_once(ordered, idempotency_key=KEY, fence=22)


async def test_withdrawing_and_creating_at_once_agree(database: URL) -> None:
    """50 races of two workers: either the job is there and the withdrawal says so, or neither ever is."""
    engines = [open_database(database) for _ in range(2)]
    try:
        for number in range(50):
            key, ordered = f"race-{number}", order(credential=facts(key_id=f"key_{number}"))
            made, withdrawn = await asyncio.gather(
                JobStore(engines[0]).create_once(ordered, idempotency_key=key, fence=1),
                JobStore(engines[1]).withdraw(ordered, idempotency_key=key, fence=2),
                return_exceptions=True,
            )
            if isinstance(made, StaleAttempt):
                assert withdrawn is None
            else:
                assert isinstance(made, RotationJob)
                assert withdrawn == RotationJob(job_id=made.job_id, created=False)
    finally:
        for engine in engines:
            await engine.dispose()


async def test_two_attempts_that_take_a_withdrawn_claim_up_at_once_make_one_job(database: URL) -> None:
    """Also when both may."""
    engines = [open_database(database) for _ in range(2)]
    ordered = order(credential=facts(key_id="key_1"))
    try:
        await JobStore(engines[0]).withdraw(ordered, idempotency_key=KEY, fence=1)
        results = await asyncio.gather(
            *(JobStore(engines[n % 2]).create_once(ordered, idempotency_key=KEY, fence=2 + n) for n in range(20)),
            return_exceptions=True,
        )
        jobs = [result for result in results if isinstance(result, RotationJob)]
        assert sum(job.created for job in jobs) == 1
        assert len(jobs) == 20, results
    finally:
        for engine in engines:
            await engine.dispose()


# -- a worker that freezes --------------------------------------------------------------------------------------------


class Frozen(JobStore):
    """A store whose worker stands still before the claim, until it is thawed; then it continues as if nothing was."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.thawed = asyncio.Event()
        self.late: list[asyncio.Task[RotationJob]] = []

    async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        async def late() -> RotationJob:
            await self.thawed.wait()
            return await self._store.create_once(order, idempotency_key=idempotency_key, fence=fence)

        # Not cancelled with its attempt: the process stood still, and no cancellation could reach it.
        self.late.append(asyncio.create_task(late()))
        return await asyncio.shield(self.late[-1])

    async def withdraw(self, *arguments: Any, **named: Any) -> RotationJob | None:
        return await self._store.withdraw(*arguments, **named)

    async def record_event(self, *arguments: Any, **named: Any) -> None:
        await self._store.record_event(*arguments, **named)


async def test_a_frozen_attempt_that_wakes_after_the_rotation_was_given_up_makes_no_job(
    temporal: Client, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start-to-close passes, it is parked, an operator abandons it; then the zombie wakes up, and changes nothing."""
    _hurry(monkeypatch)
    queue, asked, claims = f"test-{uuid.uuid4().hex}", request(), Frozen(store)
    async with worker_on(temporal, queue, Script(ELIGIBLE), claims):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        place = Place(temporal, handle, asked.credential.key_id, queue)
        await place.digest_at("parked")
        await answer(handle, "abandon", Abandonment(operator="omar", reason="another way was found"))
        outcome = await outcome_of(handle)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "abandoned"
    claims.thawed.set()
    late = await asyncio.gather(*claims.late, return_exceptions=True)
    assert late
    assert all(isinstance(result, StaleAttempt) for result in late)
    assert await store.jobs(tenant_id="default", limit=10) == []


async def test_a_frozen_attempt_that_wakes_before_the_claim_is_taken_back_is_the_job(
    temporal: Client, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the rotation does not say that it was abandoned: its job is there, and that is its outcome."""
    _hurry(monkeypatch)
    queue, asked, claims = f"test-{uuid.uuid4().hex}", request(), Frozen(sqlite_store)
    async with worker_on(temporal, queue, Script(ELIGIBLE), claims):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        await Place(temporal, handle, asked.credential.key_id, queue).digest_at("parked")
        claims.thawed.set()
        jobs = {(await task).job_id for task in claims.late}
        await answer(handle, "abandon", Abandonment(operator="omar", reason="too late"))
        outcome = await outcome_of(handle)
    assert isinstance(outcome, JobCreated)
    assert jobs == {outcome.job_id}


@pytest.mark.parametrize("phase", ["creating_job", "parked"])
async def test_a_cancelled_rotation_takes_its_claim_back_too(
    temporal: Client, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Cancelled in Temporal's UI while the claim is under way, or waits for its database: no job follows."""
    _hurry(monkeypatch)
    queue, asked, claims = f"test-{uuid.uuid4().hex}", request(), Frozen(sqlite_store)
    async with worker_on(temporal, queue, Script(ELIGIBLE), claims):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        await Place(temporal, handle, asked.credential.key_id, queue).digest_at(phase)
        await handle.cancel()
        outcome = await outcome_of(handle)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "workflow_cancelled"
    claims.thawed.set()
    late = await asyncio.gather(*claims.late, return_exceptions=True)
    assert all(isinstance(result, StaleAttempt) for result in late)
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim times out after a second, and not after ten minutes."""
    monkeypatch.setattr(options, "CREATE_START_TO_CLOSE", timedelta(seconds=0.5))
    monkeypatch.setattr(options, "CREATE_SCHEDULE_TO_CLOSE", timedelta(seconds=1))


# -- reset, terminated, forgotten -------------------------------------------------------------------------------------


async def _finished(client: Client, queue: str, store: JobStore, asked: Any) -> tuple[Handle, JobCreated]:
    async with worker_on(client, queue, Script(ELIGIBLE), store):
        rotation = await start_or_attach(client, asked, task_queue=queue)
        outcome = await outcome_of(rotation.handle)
    assert isinstance(outcome, JobCreated)
    return rotation.handle, outcome


async def test_a_reset_workflow_finds_its_job(temporal: Client, store: JobStore) -> None:
    """Another run, another decision, the same job."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    handle, first = await _finished(temporal, queue, store, asked)
    reset = await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="a test",
            workflow_task_finish_event_id=4,
            request_id=uuid.uuid4().hex,
        )
    )
    async with worker_on(temporal, queue, Script(ELIGIBLE), store):
        second = await temporal.get_workflow_handle(handle.id, run_id=reset.run_id, result_type=JobCreated).result()
    assert (second.job_id, second.created) == (first.job_id, False)
    assert len(await store.jobs(tenant_id="default", limit=10)) == 1


async def test_a_rotation_that_is_decided_again_reports_the_date_of_the_job_that_it_has(store: JobStore) -> None:
    """Decided anew on a later day, on the same evidence: the job keeps its date, and that is the one that counts."""
    first = order(credential=facts(key_id="key_1")).model_copy(update={"first_run_id": "run-1"})
    later = order(credential=facts(key_id="key_1", observed_at=NOW + timedelta(days=3)))
    later = later.model_copy(update={"first_run_id": "run-2"})
    assert first.decision.rotate_by != later.decision.rotate_by
    [own] = rotation_ids_of(first)
    environment, catalogue = ActivityEnvironment(), load_catalogue()
    environment.info = dataclasses.replace(environment.info, workflow_id=own)
    creates = CreateRotationJob(store, catalogue, rotation_ids=rotation_ids_of, state_of=store.state_of)
    withdraws = WithdrawClaim(store, state_of=store.state_of)
    made = await environment.run(creates.create_rotation_job, first)
    assert (made.created, made.rotate_by, made.first_run_id) == (True, None, "run-1")
    for again in (
        await environment.run(creates.create_rotation_job, later),
        await environment.run(withdraws.withdraw_claim, later),
    ):
        assert again is not None
        assert (again.job_id, again.created, again.rotate_by) == (made.job_id, False, first.decision.rotate_by)
        assert again.first_run_id == "run-2", "whose answer it is, and not whose job"
    same = await environment.run(creates.create_rotation_job, first)
    assert same.rotate_by is None
    reported = JobCreated(
        **same.model_copy(update={"rotate_by": first.decision.rotate_by}).model_dump(exclude={"first_run_id"}),
        decision=later.decision,
        request_digest=f"v1:{'0' * 64}",
        call=call(trace_id="t"),
    )
    assert first.decision.rotate_by is not None
    assert as_object(own, reported)["rotate_by"] == first.decision.rotate_by.isoformat()
    assert f"due {first.decision.rotate_by:%Y-%m-%d}" in as_lines(own, reported)[1]


async def test_a_terminated_workflow_that_is_asked_for_again_finds_its_job(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Ended by force between the claim and its own end."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()

    class EndsTheWorkflow(JobStore):
        """The real store; once the job is created, an operator terminates the workflow."""

        def __init__(self) -> None:
            self.made: RotationJob | None = None

        async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
            job = await sqlite_store.create_once(order, idempotency_key=idempotency_key, fence=fence)
            if self.made is None:
                self.made = job
                await temporal.get_workflow_handle(idempotency_key).terminate()
            return job

    claims = EndsTheWorkflow()
    async with worker_on(temporal, queue, Script(ELIGIBLE), claims):
        _, terminated = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        _, second = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(terminated, Failed)
    assert terminated.kind == "workflow_terminated"
    assert isinstance(second, JobCreated)
    assert claims.made is not None
    assert (second.job_id, second.created) == (claims.made.job_id, False)


async def test_when_temporal_has_forgotten_a_workflow_its_id_still_means_its_job(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Retention is over, or the namespace is a new one: the id is free again, and the row is not."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    handle, first = await _finished(temporal, queue, sqlite_store, asked)
    async with dev_server(keyring=KEYRING) as forgetful, worker_on(forgetful, queue, Script(ELIGIBLE), sqlite_store):
        attached, second = await rotate(forgetful, asked, task_queue=queue, wait_seconds=30)
    assert not attached
    assert isinstance(second, JobCreated)
    assert (second.job_id, second.created) == (first.job_id, False)
    assert id_of(asked) == handle.id
