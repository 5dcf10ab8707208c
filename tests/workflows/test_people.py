"""What waits for a person: parked rotations and approvals, and everything that is refused on the way."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from keyturn.application.answers import AnswerRefused, NoWorkerAnswers, address_instruction, answer
from keyturn.application.outcomes import as_lines, as_object, exit_status
from keyturn.application.parked import WaitingRotation, resume_all, waiting_rotations
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import Handle, outcome_of, status_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.application.stories import last_request, story_of
from keyturn.call_errors import ContextWindowExceeded, CostCapExceeded
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.jobs.store import JobStore
from keyturn.llm.errors import AuthenticationFailed, QuotaExhausted, RequestRefused, UnexpectedStatus
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.policy.line import digest_of_lines
from keyturn.rotations.contracts import (
    Abandonment,
    Approval,
    Denial,
    Instruction,
    JobOrder,
    Resumption,
    RotationRequest,
    RotationStatus,
)
from keyturn.rotations.outcomes import Failed, JobCreated, Rejected, RotationJob, WaitingForPerson
from keyturn.tasks.errors import UnknownPromptVersion
from tests.support.cases import NOW, facts, request
from tests.support.workers_for_tests import APPROVERS, ELIGIBLE, Claims, Script, with_approval, worker_on

OMAR = "omar"


@dataclass
class Desk:
    """A running worker and one rotation on it."""

    client: Client
    queue: str
    handle: Handle
    asked: RotationRequest
    script: Script

    async def at(self, phase: str) -> RotationStatus:
        """Wait until the rotation is at `phase`."""
        async with asyncio.timeout(20):
            while True:
                status = await status_of(self.handle)
                if status is not None and status.phase == phase:
                    return status
                await asyncio.sleep(0.02)

    async def refused(self, update: str, argument: Any) -> str:
        """Send what must be refused; returns the name of the refusal."""
        if isinstance(argument, Instruction) and argument.workflow_id is None:
            argument = await address_instruction(self.handle, argument)
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await self.handle.execute_update(update, argument)
        assert isinstance(caught.value.cause, ApplicationError)
        return str(caught.value.cause.type)


@asynccontextmanager
async def desk(
    client: Client, script: Script, claims: Claims, *, catalogue: Catalogue | None = None, **changed: Any
) -> AsyncIterator[Desk]:
    queue, asked = f"test-{uuid.uuid4().hex}", request(**{"user_id": "luna"} | changed)
    async with worker_on(client, queue, script, claims, catalogue=catalogue):
        rotation = await start_or_attach(client, asked, task_queue=queue)
        yield Desk(client, queue, rotation.handle, asked, script)


async def trail(store: JobStore, desk: Desk) -> list[tuple[str, str]]:
    events = await store.events(tenant_id="default", workflow_id=id_of(desk.asked))
    return [(event["event"], event["actor"]) for event in events]


# -- parked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        QuotaExhausted("x"),
        AuthenticationFailed("x"),
        RequestRefused("x"),
        UnexpectedStatus("x"),
        CostCapExceeded("x"),
        ContextWindowExceeded("x"),
        UnknownPolicyLine("x"),
        UnknownPromptVersion("x"),
    ],
    ids=lambda error: error.kind,
)
async def test_what_a_person_must_mend_is_parked_and_one_job_follows_when_it_is(
    temporal: Client, sqlite_store: JobStore, error: KeyturnError
) -> None:
    """One call each time: no retry fixes it; the hint says what does; resumed, it asks again and creates one job."""
    async with desk(temporal, Script(error, ELIGIBLE), sqlite_store) as here:
        status = await here.at("parked")
        assert (status.kind, status.hint) == (error.kind, error.hint)
        assert here.script.calls == 1
        await answer(here.handle, "resume", Resumption(operator=OMAR))
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
        assert here.script.calls == 2
        assert await trail(sqlite_store, here) == [("parked", "keyturn"), ("resumed", OMAR), ("created", "luna")]
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_asking_for_a_parked_rotation_says_at_once_what_it_waits_for(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """The user at the screen does not wait out their timeout; it has a separate exit status."""
    async with desk(temporal, Script(QuotaExhausted("x")), sqlite_store) as here:
        began = asyncio.get_running_loop().time()
        attached, outcome = await rotate(temporal, here.asked, task_queue=here.queue, wait_seconds=30)
        assert asyncio.get_running_loop().time() - began < 10
        assert attached
        assert isinstance(outcome, WaitingForPerson)
        assert (outcome.status, outcome.kind, exit_status(outcome)) == ("parked", "quota_exhausted", 5)
        assert as_object("id", outcome)["next_step"] == "fail_and_fix_quota"
        assert "nothing is lost" in as_lines("id", outcome)[0]
        await answer(here.handle, "abandon", Abandonment(operator=OMAR, reason="the end of this test"))
        await outcome_of(here.handle)


async def test_a_word_that_no_worker_takes_in_time_may_still_be_taken(
    temporal: Client, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller does not learn that nothing changed: a worker that comes later finds it."""
    async with desk(temporal, Script(QuotaExhausted("x")), sqlite_store) as here:
        await here.at("parked")
    # Long enough for the server to have it, on a machine that has other work, too.
    monkeypatch.setattr("keyturn.application.answers.UPDATE_TIMEOUT", timedelta(seconds=3))
    with pytest.raises(NoWorkerAnswers, match=r"no worker answered the resume within 3 s") as caught:
        await answer(here.handle, "resume", Resumption(operator=OMAR))
    assert "is not known" in caught.value.hint
    async with worker_on(temporal, here.queue, Script(ELIGIBLE), sqlite_store), asyncio.timeout(60):
        assert isinstance(await outcome_of(here.handle), JobCreated)


async def test_an_abandoned_rotation_ends_by_its_name_and_may_be_asked_for_again(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Who and why stand in the audit trail."""
    async with desk(temporal, Script(QuotaExhausted("x"), ELIGIBLE), sqlite_store) as here:
        await here.at("parked")
        await answer(here.handle, "abandon", Abandonment(operator=OMAR, reason="the account is closed"))
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, Failed)
        assert outcome.kind == "abandoned"
        events = await sqlite_store.events(tenant_id="default", workflow_id=id_of(here.asked))
        assert events[-1]["actor"] == OMAR
        assert events[-1]["detail"] == {"kind": "quota_exhausted", "reason": "the account is closed"}
        assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
        _, second = await rotate(temporal, here.asked, task_queue=here.queue, wait_seconds=30)
        assert isinstance(second, JobCreated)


async def test_a_parked_rotation_that_nobody_mends_ends_after_a_week(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """As a named failure that still says what was wrong."""
    async with desk(skipping.client, Script(QuotaExhausted("x")), sqlite_store) as here:
        outcome = await outcome_of(here.handle)
        description = await here.handle.describe()
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.next_step) == ("parked_expired", "fail_and_fix_quota")
    assert "quota_exhausted" in outcome.hint
    assert description.close_time is not None
    assert timedelta(days=7) <= description.close_time - description.start_time < timedelta(days=7, minutes=1)


async def test_a_database_that_is_away_too_long_is_waited_for_and_the_model_is_not_asked_again(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """The decision is paid for: after ten minutes it is parked, and resuming makes the job of that decision."""

    class Away(JobStore):
        """The real store behind a database that does not answer until it is fixed."""

        def __init__(self) -> None:
            self.fixed = False

        async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
            if not self.fixed:
                raise JobStoreUnavailable("away")
            return await sqlite_store.create_once(order, idempotency_key=idempotency_key, fence=fence)

        async def record_event(self, *arguments: Any, **named: Any) -> None:
            await sqlite_store.record_event(*arguments, **named)

    claims = Away()
    async with desk(skipping.client, Script(ELIGIBLE), claims) as here:
        with skipping.auto_time_skipping_disabled():
            await skipping.sleep(timedelta(minutes=11))
            status = await here.at("parked")
            assert status.kind == "job_store_unavailable"
            claims.fixed = True
            await answer(here.handle, "resume", Resumption(operator=OMAR))
        outcome = await outcome_of(here.handle)
    assert isinstance(outcome, JobCreated)
    assert here.script.calls == 1


async def test_a_cancellation_that_comes_when_the_job_is_made_does_not_unsay_it(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """The audit trail is still being written: the outcome is the job, and the trail is whole."""

    class SlowTrail(JobStore):
        """The real store; its trail records persons' actions only once it may."""

        def __init__(self) -> None:
            self.withdrawn = asyncio.Event()

        async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
            return await sqlite_store.create_once(order, idempotency_key=idempotency_key, fence=fence)

        async def record_event(self, *arguments: Any, **named: Any) -> None:
            await self.withdrawn.wait()
            await sqlite_store.record_event(*arguments, **named)

    claims = SlowTrail()
    async with desk(temporal, Script(QuotaExhausted("x"), ELIGIBLE), claims) as here:
        await here.at("parked")
        await answer(here.handle, "resume", Resumption(operator=OMAR))
        await here.at("ended")
        await here.handle.cancel()
        async with asyncio.timeout(20):
            while not await _was_cancelled(here.handle):
                await asyncio.sleep(0.02)
        claims.withdrawn.set()
        assert isinstance(await outcome_of(here.handle), JobCreated)
        assert await trail(sqlite_store, here) == [("parked", "keyturn"), ("resumed", OMAR), ("created", "luna")]


async def _was_cancelled(handle: Handle) -> bool:
    """Whether a workflow task has seen the cancellation."""
    kinds = [event.event_type async for event in handle.fetch_history_events()]
    if EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED not in kinds:
        return False
    after = kinds[kinds.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED) :]
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in after


async def test_a_whole_outage_is_resumed_by_its_kind(temporal: Client, sqlite_store: JobStore) -> None:
    """Twelve parked rotations of one tenant: listed, resumed by one command, twelve jobs; another kind stays parked."""
    tenant, queue = f"t{uuid.uuid4().hex[:12]}", f"test-{uuid.uuid4().hex}"
    quota = Script(*[QuotaExhausted("x")] * 12, AuthenticationFailed("x"), ELIGIBLE)
    asked = [request(tenant_id=tenant, account_id=f"acct_{number}") for number in range(12)]
    async with worker_on(temporal, queue, quota, sqlite_store):
        handles = [(await start_or_attach(temporal, one, task_queue=queue)).handle for one in asked]
        await _listed(temporal, tenant, "quota_exhausted", 12)
        other = (await start_or_attach(temporal, request(tenant_id=tenant), task_queue=queue)).handle
        await _listed(temporal, tenant, "authentication_failed", 1)
        oldest = [row.workflow_id async for row in waiting_rotations(temporal, tenant=tenant, kind=None, limit=3)]
        assert oldest == [handle.id for handle in handles[:3]], "who has waited longest comes first, and is not cut off"
        resumption = Resumption(operator=OMAR)
        seen: list[tuple[int, int]] = []
        resumed, refused = await resume_all(
            temporal,
            resumption,
            kind="quota_exhausted",
            tenant=tenant,
            at_once=5,
            on_progress=lambda done, of: seen.append((done, of)),
        )
        assert [done for done, _ in seen] == list(range(1, resumed + len(refused) + 1))
        assert (resumed, refused) == (12, [])
        outcomes = [await outcome_of(handle) for handle in handles]
        assert all(isinstance(outcome, JobCreated) for outcome in outcomes)
        assert len(await sqlite_store.jobs(tenant_id=tenant, limit=100)) == 12
        assert (await _listed(temporal, tenant, None, 1))[0].kind == "authentication_failed"
        await other.terminate()


async def _listed(client: Client, tenant: str, kind: str | None, number: int) -> list[WaitingRotation]:
    async with asyncio.timeout(20):  # visibility follows history within a second
        while True:
            rows = [row async for row in waiting_rotations(client, tenant=tenant, kind=kind, limit=100)]
            if len(rows) == number:
                return rows
            await asyncio.sleep(0.05)


async def test_other_evidence_for_a_parked_rotation_is_decided_at_once(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Asking with newer facts attaches, states them, and the decision is made on those."""
    key = facts(key_id="key_restated", age_days=12)
    async with desk(temporal, Script(QuotaExhausted("x"), ELIGIBLE), sqlite_store, credential=key) as here:
        await here.at("parked")
        newer = request(user_id="noor", credential=facts(key_id="key_restated", age_days=40))
        attached, outcome = await rotate(temporal, newer, task_queue=here.queue, wait_seconds=30)
        assert attached
        assert isinstance(outcome, JobCreated)
        assert ("restated", "noor") in await trail(sqlite_store, here)
        asked = last_request((await story_of(temporal, here.handle.id))[1])
        assert asked is not None
        assert (asked["user_id"], asked["credential"]["age_days"]) == ("noor", 40), "what it goes by now is shown"


# -- approvals ------------------------------------------------------------------------------------------------------


async def test_a_line_that_asks_for_an_approval_gets_its_job_when_one_is_given(
    temporal: Client, store: JobStore
) -> None:
    """Bound to the decision that was shown; the approver stands in the outcome and in the job's audit."""
    async with desk(temporal, Script(ELIGIBLE), store, catalogue=with_approval()) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        assert status.decision.approvers == APPROVERS
        assert (status.account_id, status.requested_by) == ("acct_10234", ("luna",))
        assert await store.jobs(tenant_id="default", limit=10) == []
        await answer(here.handle, "approve", Approval(approver=OMAR, digest=status.decision.digest))
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
        assert outcome.approved_by == OMAR
        assert await trail(store, here) == [("approval_requested", "luna"), ("approved", OMAR), ("created", "luna")]
        created = (await store.events(tenant_id="default", workflow_id=id_of(here.asked)))[-1]
        assert created["detail"] == {"decision_digest": status.decision.digest, "approved_by": OMAR}


async def test_a_denied_decision_makes_no_job(temporal: Client, sqlite_store: JobStore) -> None:
    """The outcome is a rejection, and the reason is in the audit trail."""
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        denial = Denial(approver="priya", digest=status.decision.digest, reason="frozen until Monday")
        await answer(here.handle, "deny", denial)
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, Rejected)
        assert outcome.reason == "approval_denied"
        assert (await trail(sqlite_store, here))[-1] == ("denied", "priya")
        assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
        with pytest.raises(AnswerRefused, match="ended"):  # late
            await answer(here.handle, "approve", Approval(approver=OMAR, digest=status.decision.digest))


async def test_an_exposed_key_that_waits_stays_exposed(temporal: Client, sqlite_store: JobStore) -> None:
    """An inventory of the same night knows nothing of the leak: it ends no wait."""
    exposed, catalogue = facts(compromised=True), with_approval()
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, credential=exposed, catalogue=catalogue) as here:
        await here.at("awaiting_approval")
        later = exposed.model_copy(update={"compromised": None, "observed_at": NOW + timedelta(hours=1)})
        listed = here.asked.model_copy(update={"credential": later})
        assert await here.refused("restate", listed) == "exposed_before"


async def test_a_report_of_an_exposure_is_new_evidence_whatever_its_clock_says(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """What waits was observed by a machine whose clock is minutes ahead of that of the one that takes reports."""
    ahead = facts(observed_at=NOW + timedelta(minutes=4))
    async with desk(
        temporal, Script(ELIGIBLE, ELIGIBLE), sqlite_store, credential=ahead, catalogue=with_approval()
    ) as here:
        await here.at("awaiting_approval")
        exposed = ahead.model_copy(update={"compromised": True, "observed_at": NOW})
        reported = here.asked.model_copy(update={"credential": exposed})
        await here.handle.execute_update("restate", reported)
        status = await here.at("awaiting_approval")
        assert status.credential is not None
        assert status.credential.compromised


async def test_an_approval_that_nobody_gives_expires(skipping: WorkflowEnvironment, sqlite_store: JobStore) -> None:
    """After a week, by its name; the evidence of then must be asked about anew."""
    async with desk(skipping.client, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()) as here:
        outcome = await outcome_of(here.handle)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "approval_expired"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_approvals_that_do_not_count_are_refused_by_name_and_change_nothing(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """By strangers, by the requester, of another decision, out of order, twice; history holds the one that counted."""
    approvers = (*APPROVERS, "luna")
    catalogue = with_approval(approvers=approvers)
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=catalogue) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        digest, stale = status.decision.digest, f"v1:{'0' * 64}"
        async with asyncio.timeout(20):
            while await trail(sqlite_store, here) == []:  # what it wrote when it started to wait is in history
                await asyncio.sleep(0.02)
        events = len((await here.handle.fetch_history()).events)
        assert await here.refused("approve", Approval(approver="mallory", digest=digest)) == "not_an_approver"
        assert await here.refused("approve", Approval(approver="luna", digest=digest)) == "own_request"
        assert await here.refused("approve", Approval(approver=OMAR, digest=stale)) == "stale_digest"
        assert await here.refused("deny", Denial(approver="mallory", digest=digest, reason="x")) == "not_an_approver"
        assert await here.refused("resume", Resumption(operator=OMAR)) == "not_waiting"
        assert await here.refused("abandon", Abandonment(operator=OMAR, reason="x")) == "not_waiting"
        assert await here.refused("restate", here.asked) == "same_evidence"
        assert await here.refused("restate", request(account_id="acct_2")) == "other_rotation"
        older = here.asked.credential.model_copy(update={"stale": False, "observed_at": NOW - timedelta(days=20)})
        assert await here.refused("restate", here.asked.model_copy(update={"credential": older})) == "older_evidence"
        assert await status_of(here.handle) == status
        kept = (await here.handle.fetch_history()).events
        # Workflow tasks that carried a refusal may remain, and the end of the audit's own activity; nothing else.
        assert {event.event_type for event in kept[events:]} <= OF_TASKS_AND_THE_AUDIT
        both = await asyncio.gather(
            *(answer(here.handle, "approve", Approval(approver=who, digest=digest)) for who in APPROVERS),
            return_exceptions=True,
        )
        assert sum(isinstance(result, BaseException) for result in both) == 1
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


OF_TASKS_AND_THE_AUDIT = {
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
}


@pytest.mark.parametrize(
    "argument",
    [
        None,
        {},
        [],
        "approve everything",
        {"approver": "omar", "digest": "v1:short"},
        {"approver": "omar\nroot", "digest": f"v1:{'0' * 64}"},
        {"approver": "omar", "digest": f"v1:{'0' * 64}", "also": "this"},
        {"approver": "o" * 1_000_000, "digest": f"v1:{'0' * 64}"},
        {"approver": {"$ne": None}, "digest": f"v1:{'0' * 64}"},
    ],
    ids=lambda argument: str(argument)[:40],
)
async def test_hostile_arguments_are_refused_and_the_rotation_waits_on(
    temporal: Client, sqlite_store: JobStore, argument: Any
) -> None:
    """Nothing that an update can be given ends, wakes or stops a workflow."""
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()) as here:
        status = await here.at("awaiting_approval")
        for update in ("approve", "deny", "resume", "abandon", "restate", "no_such_update"):
            with pytest.raises(WorkflowUpdateFailedError):
                await here.handle.execute_update(update, argument)
        assert await status_of(here.handle) == status
        await here.handle.terminate()
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_a_policy_that_changes_while_an_approval_is_awaited_waits_for_whoever_asks_under_the_new_wording(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Another worker, another catalogue: the running workflow is not disturbed, and the old approval makes no job."""
    older, newer_lines = with_approval(), with_approval(window_days=14)
    queue, asked = (
        f"test-{uuid.uuid4().hex}",
        request(user_id="luna", policy_digest=digest_of_lines([older.current("P-7")])),
    )
    script = Script(ELIGIBLE)
    async with worker_on(temporal, queue, script, sqlite_store, catalogue=older):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        here = Desk(temporal, queue, handle, asked, script)
        before = await here.at("awaiting_approval")
    newer = Script(ELIGIBLE.replace("30", "14"))
    async with worker_on(temporal, queue, newer, sqlite_store, catalogue=newer_lines):
        assert before.decision is not None
        assert await here.at("awaiting_approval") == before  # replayed by the new worker, and where it was
        await answer(handle, "approve", Approval(approver=OMAR, digest=before.decision.digest))
        assert (await here.at("parked")).kind == "policy_differs"
        newest = digest_of_lines([newer_lines.current("P-7")])
        again = request(user_id="noor", credential=asked.credential, policy_digest=newest)
        await rotate(temporal, again, task_queue=queue, wait_seconds=30)
        after = await here.at("awaiting_approval")
        assert after.decision is not None
        assert after.decision.rotation_window_days == 14
        assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
        assert await here.refused("approve", Approval(approver=OMAR, digest=before.decision.digest)) == "stale_digest"
        await answer(handle, "approve", Approval(approver=OMAR, digest=after.decision.digest))
        outcome = await outcome_of(handle)
    assert isinstance(outcome, JobCreated)
    [job] = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert job["rotation_window_days"] == 14
    assert ("decided_anew", "keyturn") in await trail(sqlite_store, here)


async def test_whoever_restates_a_request_is_a_requester_too(temporal: Client, sqlite_store: JobStore) -> None:
    """An approver cannot approve what they asked for, by whichever way they asked."""
    key = facts(key_id="key_restated_2", age_days=12)
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=with_approval(), credential=key) as here:
        first = await here.at("awaiting_approval")
        newer = request(user_id=OMAR, credential=facts(key_id="key_restated_2", age_days=40))
        _, outcome = await rotate(temporal, newer, task_queue=here.queue, wait_seconds=30)
        assert isinstance(outcome, WaitingForPerson)
        status = await here.at("awaiting_approval")
        assert first.decision is not None
        assert status.decision is not None
        assert status.decision.digest != first.decision.digest
        assert status.requested_by == ("luna", OMAR)
        digest = status.decision.digest
        assert await here.refused("approve", Approval(approver=OMAR, digest=digest)) == "own_request"
        await answer(here.handle, "approve", Approval(approver="priya", digest=digest))
        assert isinstance(await outcome_of(here.handle), JobCreated)


async def test_a_line_that_only_the_requester_could_approve_is_rejected_at_once(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """No rotation waits a week for an approval that cannot come."""
    catalogue = with_approval(approvers=("luna",))
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=catalogue) as here:
        outcome = await outcome_of(here.handle)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "approval_required"


async def test_whoever_asked_cannot_approve_under_another_spelling(temporal: Client, sqlite_store: JobStore) -> None:
    """Omar asks as OMAR, and is still Omar; who may approve is found however they write their name."""
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=with_approval(), user_id="OMAR") as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        digest = status.decision.digest
        assert await here.refused("approve", Approval(approver="omar", digest=digest)) == "own_request"
        await answer(here.handle, "approve", Approval(approver="Priya", digest=digest))
        assert isinstance(await outcome_of(here.handle), JobCreated)


async def test_the_audit_says_how_both_names_were_proved(temporal: Client, sqlite_store: JobStore) -> None:
    """A command line's name is stated only; a desk's is proved."""
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        approval = Approval(approver="omar", digest=status.decision.digest, proved_by="token")
        await answer(here.handle, "approve", approval)
        await outcome_of(here.handle)
        events = await sqlite_store.events(tenant_id="default", workflow_id=id_of(here.asked))
        approved = next(event for event in events if event["event"] == "approved")
        assert (approved["detail"]["approver_proved_by"], approved["detail"]["asker_proved_by"]) == ("token", "stated")
