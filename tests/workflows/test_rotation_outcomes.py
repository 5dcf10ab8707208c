"""Every outcome of the workflow, with its retries and timeouts, on a server that skips time."""

import asyncio
import time
import uuid
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.testing import WorkflowEnvironment

from keyturn.application.answers import answer
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of, waiting_for
from keyturn.application.rotations import start_or_attach
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.store import JobStore
from keyturn.llm.errors import ProviderTimeout, ProviderUnavailable, RateLimited
from keyturn.policy.catalogue import Catalogue
from keyturn.rotations.contracts import JobOrder, Resumption, RotationEvent
from keyturn.rotations.outcomes import (
    Failed,
    JobCreated,
    LimitedUntil,
    NotEligible,
    NotSpecified,
    Rejected,
    RotationJob,
    RotationOutcome,
    TimedOut,
    WaitingForPerson,
)
from keyturn.workflows.options import MAX_DECISIONS, MAX_LIMIT_WAITS
from tests.support.boundaries import guarded
from tests.support.cases import facts, order, request
from tests.support.workers_for_tests import ELIGIBLE, ChangedForTheJob, Limit, Script, worker_on

NO = '{"decision":"%s","rotation_window_days":null,"source_line_ids":[]}'


async def run(
    environment: WorkflowEnvironment, script: Script, claims: Any, catalogue: Catalogue | None = None, **changed: Any
) -> tuple[RotationOutcome, timedelta]:
    """Run one rotation; returns its outcome and how long it took on the server's clock."""
    queue = f"test-{uuid.uuid4().hex}"
    async with worker_on(environment.client, queue, script, claims, catalogue=catalogue):
        rotation = await start_or_attach(environment.client, request(**changed), task_queue=queue)
        outcome = await outcome_of(rotation.handle)
        ended = await rotation.handle.describe()
        assert ended.start_time is not None
        assert ended.close_time is not None
        return outcome, ended.close_time - ended.start_time


async def test_an_eligible_key_gets_its_job(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """The founding case: acct_10234 under P-7."""
    outcome, _ = await run(skipping, Script(ELIGIBLE), sqlite_store)
    assert isinstance(outcome, JobCreated)
    assert outcome.created
    [job] = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert job["job_id"] == outcome.job_id
    assert job["decision_digest"] == outcome.decision.digest


async def test_90_days_for_p7_is_rejected_and_makes_no_job(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """The founding counter-case: valid JSON that the policy does not support."""
    outcome, _ = await run(skipping, Script(ELIGIBLE.replace("30", "90")), sqlite_store)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "unsupported_window"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


@pytest.mark.parametrize(
    ("decision", "stale", "kind"), [("not_eligible", False, NotEligible), ("not_specified", None, NotSpecified)]
)
async def test_a_no_is_an_outcome_without_a_job(
    skipping: WorkflowEnvironment, sqlite_store: JobStore, decision: str, stale: bool | None, kind: type
) -> None:
    """The policy's no and its silence are distinguished, and neither acts."""
    outcome, _ = await run(skipping, Script(NO % decision), sqlite_store, credential=facts(stale=stale))
    assert isinstance(outcome, kind)
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_an_answer_that_is_not_json_is_rejected_at_once(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """An invalid answer is paid for once: it is not asked for again."""
    script = Script("Certainly!")
    outcome, _ = await run(skipping, script, sqlite_store)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "malformed_answer"
    assert script.calls == 1


async def test_a_passing_failure_is_retried_until_it_passes(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """Two failures and an answer are three calls and one job."""
    script = Script(ProviderUnavailable("x"), ProviderUnavailable("x"), ELIGIBLE)
    outcome, _ = await run(skipping, script, sqlite_store)
    assert isinstance(outcome, JobCreated)
    assert outcome.call.attempt == 3
    assert script.calls == 3


async def test_retries_are_capped(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """With two retries a lasting outage costs three calls, and fails by its own name."""
    script = Script(ProviderUnavailable("x"))
    outcome, took = await run(skipping, script, sqlite_store, max_retries=2)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "provider_unavailable"
    assert outcome.next_step == "retry_with_backoff"
    assert script.calls == 3
    assert took < timedelta(seconds=10)  # two jittered waits below 1 s and 2 s, and not Temporal's own backoff


async def test_a_stated_wait_is_honoured(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """Retry-After of 20 s: the second attempt comes after 20 s and not before."""
    script = Script(RateLimited("x", retry_after=timedelta(seconds=20)), ELIGIBLE)
    outcome, took = await run(skipping, script, sqlite_store)
    assert isinstance(outcome, JobCreated)
    assert timedelta(seconds=20) <= took < timedelta(seconds=25)


async def test_a_wait_beyond_the_deadline_is_clamped_to_it(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """Retry-After of an hour: the last attempts still come, within what the request allows."""
    script = Script(RateLimited("x", retry_after=timedelta(hours=1)), ELIGIBLE)
    outcome, took = await run(skipping, script, sqlite_store)
    assert isinstance(outcome, JobCreated)
    # three attempts of 20 s + 5 s and two waits of 30 s, less one whole attempt
    assert timedelta(seconds=105) <= took <= timedelta(seconds=115)


async def test_a_provider_that_stays_slow_is_a_timeout(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """The named state a screen can show, after as many attempts as the request allows."""
    script = Script(ProviderTimeout("x"))
    outcome, _ = await run(skipping, script, sqlite_store, max_retries=1)
    assert outcome == TimedOut()
    assert script.calls == 2


async def test_an_attempt_that_never_ends_is_a_timeout(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """Start-to-close bounds the step even if no worker reports its end."""

    class Hanging(Script):
        async def complete(self, *_: Any, **__: Any) -> Any:
            self.calls += 1
            await asyncio.Event().wait()

    script = Hanging()
    # Short, because the server skips no time while an attempt runs: 0.1 s and the margin of 5 s, once.
    outcome, took = await run(skipping, script, sqlite_store, max_retries=0, timeout_seconds=0.1)
    assert outcome == TimedOut()
    assert script.calls == 1
    assert took < timedelta(seconds=10)


class Down:
    """A database that does not answer `times` times when a job is to be made."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.calls = 0

    async def create_once(self, ordered: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise JobStoreUnavailable("down")
        return RotationJob(job_id="job_1", created=True)

    async def withdraw(self, ordered: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob | None:
        raise JobStoreUnavailable("down")

    async def record_event(self, event: RotationEvent, *, workflow_id: str, event_id: str) -> None:
        raise JobStoreUnavailable("down")


async def test_a_database_that_comes_back_still_gets_the_job(skipping: WorkflowEnvironment) -> None:
    """A decision is not lost to a restart of the database: the claim is repeated, the model is not asked again."""
    script, claims = Script(ELIGIBLE), Down(8)
    outcome, _ = await run(skipping, script, claims)
    assert isinstance(outcome, JobCreated)
    assert (script.calls, claims.calls) == (1, 9)


class AwayForWaivers:
    """A database that does not answer so often, when it is asked whether the key is exempt."""

    def __init__(self, times: int) -> None:
        self.left, self.asked = times, 0

    async def __call__(self, *_: Any) -> None:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise JobStoreUnavailable("it fails over")


async def test_a_database_that_fails_over_while_it_is_decided_needs_no_person(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """Three attempts are over in a minute; a failover may take two, and no operator should resume each rotation."""
    queue, away = f"test-{uuid.uuid4().hex}", AwayForWaivers(7)
    async with worker_on(skipping.client, queue, Script(ELIGIBLE), sqlite_store, waiver_of=away):
        rotation = await start_or_attach(skipping.client, request(), task_queue=queue)
        assert isinstance(await outcome_of(rotation.handle), JobCreated)
        history = await rotation.handle.fetch_history()
    assert away.asked == 7 + 2  # decided at the eighth, and asked once more when the job is made
    assert not any(e.HasField("workflow_properties_modified_event_attributes") for e in history.events)


async def test_a_database_that_is_away_for_longer_waits_for_a_person(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """After six minutes, in which no more than twelve calls were made; resumed, it tries as often again."""
    queue, away = f"test-{uuid.uuid4().hex}", AwayForWaivers(12 + 4)
    async with worker_on(skipping.client, queue, Script(ELIGIBLE), sqlite_store, waiver_of=away):
        rotation = await start_or_attach(skipping.client, request(), task_queue=queue)
        with skipping.auto_time_skipping_disabled():
            await skipping.sleep(timedelta(minutes=10))
            waits = await waiting_for(rotation.handle)
            assert isinstance(waits, WaitingForPerson)
            assert waits.kind == "job_store_unavailable"
            assert away.asked == 12
            await answer(rotation.handle, "resume", Resumption(operator="omar"))
        assert isinstance(await outcome_of(rotation.handle), JobCreated)


async def test_a_database_that_stays_away_is_a_named_failure(skipping: WorkflowEnvironment) -> None:
    """Whether a late attempt created the job cannot be known then, and the rotation does not say that there is none."""
    outcome, took = await run(skipping, Script(ELIGIBLE), Down(10_000))
    assert isinstance(outcome, Failed)
    assert outcome.kind == "job_store_unavailable"
    # ten minutes for the claim, a week for a person, a day for taking the claim back
    assert timedelta(days=8) < took <= timedelta(days=8, minutes=11)


async def test_a_policy_that_changes_between_decision_and_job_is_decided_anew(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """The digest is checked once more where the action is; the job is that of the second decision."""
    script = Script(ELIGIBLE)
    outcome, _ = await run(skipping, script, sqlite_store, ChangedForTheJob(times=1))
    assert isinstance(outcome, JobCreated)
    assert script.calls == 2
    [job] = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert job["job_id"] == outcome.job_id


async def test_a_policy_that_never_rests_makes_no_job(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """It ends by its name after some decisions."""
    script = Script(ELIGIBLE)
    outcome, _ = await run(skipping, script, sqlite_store, ChangedForTheJob(times=1_000))
    assert isinstance(outcome, Failed)
    assert outcome.kind == "never_settled"
    assert script.calls == MAX_DECISIONS
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_a_key_used_for_another_job_is_a_named_conflict(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """It is not retried, and the first job stands."""
    asked = request()
    await sqlite_store.create_once(order(account_id="acct_2"), idempotency_key=id_of(asked), fence=1)
    outcome, _ = await run(skipping, Script(ELIGIBLE), sqlite_store, credential=asked.credential)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "idempotency_conflict"
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_a_failed_rotation_can_be_asked_again_under_the_same_id(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """The same command starts anew, and makes the job."""
    asked = request()
    first, _ = await run(skipping, Script(ProviderUnavailable("x")), sqlite_store, credential=asked.credential)
    # The server skips years while nothing runs, and the evidence would be as old: it is observed again.
    later = asked.credential.model_copy(update={"observed_at": await skipping.get_current_time()})
    second, _ = await run(skipping, Script(ELIGIBLE), sqlite_store, credential=later)
    assert isinstance(first, Failed)
    assert isinstance(second, JobCreated)


async def test_history_holds_two_activities_and_no_more(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """The happy path schedules decide and create_rotation_job once each, and nothing else."""
    queue = f"test-{uuid.uuid4().hex}"
    async with worker_on(skipping.client, queue, Script(ELIGIBLE), sqlite_store):
        rotation = await start_or_attach(skipping.client, request(), task_queue=queue)
        await outcome_of(rotation.handle)
        history = await rotation.handle.fetch_history()
    names = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert names == ["decide", "create_rotation_job"]
    assert len(history.events) == 17


@pytest.mark.parametrize("days_off", [0, 40, -40])
async def test_a_user_over_their_token_limit_is_let_in_when_the_window_allows(
    skipping: WorkflowEnvironment, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch, days_off: int
) -> None:
    """The workflow waits by a durable timer and says until when, whatever the clock of the worker that was refused."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(time.time() + timedelta(days=days_off).total_seconds(), tz)

    monkeypatch.setattr("keyturn.activities.failures.datetime", Clock)
    script, limit, asked = Script(ELIGIBLE), Limit(times=2, wait=timedelta(days=days_off, minutes=40)), request()
    began = await skipping.get_current_time()
    queue = f"test-{uuid.uuid4().hex}"
    async with worker_on(skipping.client, queue, script, sqlite_store, guard=guarded(tokens=limit)):
        rotation = await start_or_attach(skipping.client, asked, task_queue=queue)
        async with asyncio.timeout(20):
            while not isinstance(waiting := await waiting_for(rotation.handle), LimitedUntil):
                await asyncio.sleep(0.02)
        outcome = await outcome_of(rotation.handle)
    assert timedelta(minutes=39) < waiting.retry_at - began < timedelta(minutes=41)
    assert isinstance(outcome, JobCreated)
    assert (script.calls, limit.refusals) == (1, 0)


async def test_a_user_who_is_never_let_in_is_told_so_at_last(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """After some windows it fails by its name, with the time; no provider was asked."""
    script, limit = Script(ELIGIBLE), Limit(times=1_000)
    queue = f"test-{uuid.uuid4().hex}"
    async with worker_on(skipping.client, queue, script, sqlite_store, guard=guarded(tokens=limit)):
        rotation = await start_or_attach(skipping.client, request(), task_queue=queue)
        outcome = await outcome_of(rotation.handle)
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.next_step, outcome.retry_at) == ("rate_limited", "wait", limit.until)
    assert (script.calls, limit.refusals) == (0, 1_000 - 1 - MAX_LIMIT_WAITS)
