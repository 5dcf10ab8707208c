"""`RotationWorkflow`: decide, gate, wait for a person where one is needed, create exactly one job.

The workflow branches on the verdict that `decide` recorded, never on the policy catalogue: were the check made here, a
change of policy would break the replay of running workflows.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception
from temporalio.exceptions import TimeoutError as ActivityTimedOut

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.create_rotation_job import CreateRotationJob
    from keyturn.activities.decide import Decide
    from keyturn.activities.failures import TIMEOUT_KIND
    from keyturn.activities.record_event import RecordEvent
    from keyturn.activities.withdraw_claim import WithdrawClaim
    from keyturn.contracts import PolicyRef
    from keyturn.moments import in_utc
    from keyturn.payload_errors import PayloadMoved
    from keyturn.people import is_among
    from keyturn.policy.grounding import request_digest
    from keyturn.rotations.contracts import (
        Abandonment,
        Approval,
        Assessment,
        Denial,
        JobOrder,
        Resumption,
        RotationEvent,
        RotationRequest,
        RotationStatus,
    )
    from keyturn.rotations.decisions import Disagreement, GroundedDecision, ModelReading, Rejection
    from keyturn.rotations.outcomes import (
        CompletedOutcome,
        Failed,
        JobCreated,
        NotEligible,
        NotSpecified,
        Rejected,
        RotationJob,
        TimedOut,
        Waived,
    )
    from keyturn.workflows.ending import to_its_end
    from keyturn.workflows.options import (
        APPROVAL_WITHIN,
        DATABASE_WAITS,
        LIMIT_JITTER_SECONDS,
        MAX_DECISIONS,
        MAX_LIMIT_WAITS,
        PARKED_FOR,
        create_options,
        decide_options,
        record_options,
        withdraw_options,
    )
    from keyturn.workflows.visibility import OUTCOME
    from keyturn.workflows.waiting import Answer, Waiting, expect_own

KEYTURN = "keyturn"  # the actor of an event that no person caused, such as a timeout


# A workflow whose input cannot be read fails at once: the default is to retry the workflow task for ever.
@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class RotationWorkflow:
    """May this key be rotated under these policy lines? If so, create its one rotation job.

    It completes with what was decided and done. It fails, with a `TimedOut` or `Failed` in the failure's details, where
    no decision was reached or no job could be made: then a new start with the same id tries again. What a person must
    fix or approve, it waits for.
    """

    def __init__(self) -> None:
        self._waiting = Waiting()
        self._asked_by: tuple[str, ...] = ()
        self._events: list[workflow.ActivityHandle[None]] = []

    @workflow.run
    async def run(self, request: RotationRequest) -> CompletedOutcome:
        """Decide `request`, and act on the verdict."""
        if not isinstance(request, RotationRequest):  # a payload of null is decoded as None, whatever the type
            raise ApplicationError("the workflow's input is not a rotation request", type="invalid_request")
        self._request = request
        self._asked_by = (request.user_id,)
        try:
            outcome = await self._decide_and_act()
        except ApplicationError as error:
            if error.details:
                await self._close(error.details[0].status)
            raise
        await self._close(None if isinstance(outcome, JobCreated) else outcome.status)
        return outcome

    async def _decide_and_act(self) -> CompletedOutcome:
        for _ in range(MAX_DECISIONS):
            outcome = await self._act_on(await self._decide())
            if outcome is not None:
                return outcome
        raise _failure(
            Failed(
                kind="never_settled",
                next_step="fail_and_inspect",
                hint="Policy or evidence kept changing during the decision: ask again when they are stable.",
            )
        )

    async def _close(self, status: str | None) -> None:
        self._waiting.status = RotationStatus(phase="ended")
        if status is not None:
            workflow.upsert_search_attributes([OUTCOME.value_set(status)])
        # An event that could not be written in a day does not delay the outcome: history has it too.
        # Nor does a cancellation undo the outcome: the caller would see a cancellation although the job exists.
        await to_its_end(asyncio.gather(*self._events, return_exceptions=True))

    # -- queries and updates ----------------------------------------------------------------------------------------

    @workflow.query
    def status(self) -> RotationStatus:
        """What the rotation is at, and what it waits for."""
        return self._waiting.status

    @workflow.update
    def resume(self, resumption: Resumption) -> None:
        """Resume the parked rotation: what it waited for is fixed."""
        self._waiting.take(resumption)

    @resume.validator
    def _may_resume(self, resumption: Resumption) -> None:
        expect_own(resumption)
        self._waiting.expect_parked()

    @workflow.update
    def abandon(self, abandonment: Abandonment) -> None:
        """End a parked rotation as a named failure."""
        self._waiting.take(abandonment)

    @abandon.validator
    def _may_abandon(self, abandonment: Abandonment) -> None:
        expect_own(abandonment)
        self._waiting.expect_parked()

    @workflow.update
    def approve(self, approval: Approval) -> None:
        """Let the decision with this digest become a job."""
        self._waiting.take(approval)

    @approve.validator
    def _may_approve(self, approval: Approval) -> None:
        expect_own(approval)
        self._waiting.expect_approver(approval.approver, approval.digest, asked_by=self._asked_by)

    @workflow.update
    def deny(self, denial: Denial) -> None:
        """End the rotation: the decision with this digest is refused by an approver."""
        self._waiting.take(denial)

    @deny.validator
    def _may_deny(self, denial: Denial) -> None:
        expect_own(denial)
        # The requester may withdraw a request, but not end a key that is due although a model denies it.
        own = self._asked_by if self._waiting.status.phase == "disagreement" else ()
        self._waiting.expect_approver(denial.approver, denial.digest, asked_by=own)

    @workflow.update
    def restate(self, request: RotationRequest) -> None:
        """Decide anew: the same rotation was asked for on other evidence while this one waits for a person."""
        self._waiting.take(request)

    @restate.validator
    def _may_restate(self, request: RotationRequest) -> None:
        self._waiting.expect_new_evidence(request, request_digest(request), self._request)

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _decide(self) -> Assessment:
        limit_waits, database_waits = 0, list(DATABASE_WAITS)
        while True:
            lines = _join_refs(self._request.policy_lines)
            self._waiting.status = RotationStatus(phase="deciding", request_digest=request_digest(self._request))
            workflow.set_current_details(f"**Deciding** under {lines}.")
            try:
                assessment = await workflow.execute_activity_method(
                    Decide.decide,
                    self._request.model_copy(update={"first_run_id": workflow.info().first_execution_run_id}),
                    summary=f"ask the model under {lines}",
                    **decide_options(self._request),
                )
            except ActivityError as error:
                failed = _outcome_of(error)
            else:
                if assessment.request_digest != request_digest(self._request) or _is_copied(assessment):
                    raise _failure(_ANSWER_TO_ANOTHER)
                return assessment
            if isinstance(failed, Failed) and failed.retry_at is not None and limit_waits < MAX_LIMIT_WAITS:
                limit_waits += 1
                # The worker that was refused may have another clock than the server, by which we wait.
                wait = failed.retry_in
                until = failed.retry_at if wait is None else workflow.now() + timedelta(seconds=wait)
                await self._wait_until(until)
            elif self._waits_for_database(failed) and database_waits:
                await self._wait_for_database(database_waits.pop(0))
            elif isinstance(failed, Failed) and failed.parks:
                database_waits = list(DATABASE_WAITS)
                ended = await self._park(failed)
                if isinstance(ended, Failed):
                    raise _failure(ended)
            else:
                raise _failure(failed)

    async def _wait_until(self, moment: datetime) -> None:
        digest = self._waiting.status.request_digest
        self._waiting.status = RotationStatus(phase="rate_limited", until=moment, request_digest=digest)
        workflow.set_current_details(f"**Rate limited** until {in_utc(moment)}; then it continues by itself.")
        wait = max((moment - workflow.now()).total_seconds(), 0.0)
        # Those who wait for the same limit do not come back in step.
        wait += workflow.random().uniform(0, min(wait, LIMIT_JITTER_SECONDS))
        await workflow.sleep(wait, summary="wait for the user's token limit")

    def _waits_for_database(self, failed: Failed | TimedOut) -> bool:
        """Whether the database may be back by itself. Rotations from before this was waited for go on as they began."""
        is_away = isinstance(failed, Failed) and failed.kind in _DATABASE_IS_AWAY
        return is_away and workflow.patched("waits-for-database")

    async def _wait_for_database(self, wait: timedelta) -> None:
        seconds = wait.total_seconds()
        workflow.set_current_details(f"**The database is away**: it is tried again in {seconds:g} s, by itself.")
        # Those who wait for the same database do not come back in step.
        seconds += workflow.random().uniform(0, min(seconds, LIMIT_JITTER_SECONDS))
        await workflow.sleep(seconds, summary="wait for the database")

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _act_on(self, assessment: Assessment) -> CompletedOutcome | None:
        """Return the outcome; None if policy or evidence changed meanwhile, so that it must be decided anew."""
        verdict = assessment.verdict
        if isinstance(verdict, Rejection):
            return _rejected_outcome(assessment, verdict)
        readings = verdict.readings if isinstance(verdict, Disagreement) else ()
        decision = verdict.supported if isinstance(verdict, Disagreement) else verdict
        if decision.decision != "eligible" or assessment.waiver is not None:
            if assessment.waiver is not None:
                self._note("waived", assessment.waiver.granted_by, waiver=assessment.waiver.waiver_id)
            return _without_job(assessment, decision)
        approval = None
        if decision.needs_approval:
            if not decision.any_operator and all(is_among(name, self._asked_by) for name in decision.approvers):
                return _rejected_outcome(assessment, _no_approver(decision))
            answer = await self._wait_for_approval(decision, readings)
            if not isinstance(answer, Approval):
                return None if answer is None else _rejected_outcome(assessment, _denial_by(answer.approver))
            approval = answer
        order = JobOrder(
            tenant_id=self._request.tenant_id,
            user_id=self._request.user_id,
            account_id=self._request.account_id,
            credential=self._request.credential,
            policy_lines=self._request.policy_lines,
            decision=decision,
            approval=approval,
            trace_id=self._request.trace_id,
            owner=self._request.owner,
            replaces_before=self._replaces_before(),
            first_run_id=workflow.info().first_execution_run_id,
        )
        job = await self._create_job(order)
        if job is None:
            return None
        workflow.set_current_details(f"**Eligible** under {_join_refs(decision.source_lines)}. Job `{job.job_id}`.")
        return JobCreated(
            decision=decision,
            job_id=job.job_id,
            created=job.created,
            tightened=job.tightened,
            rotate_by=job.rotate_by,
            job_state=job.job_state,
            approved_by=None if approval is None else approval.approver,
            call=assessment.call,
            request_digest=assessment.request_digest,
        )

    def _replaces_before(self) -> datetime | None:
        """Before when a job of this rotation must have been ordered that gives way to another one."""
        if not self._request.again:
            return None
        began, asked = workflow.info().workflow_start_time, self._request.asked_again_at
        return began if asked is None else min(began, asked)

    async def _create_job(self, order: JobOrder) -> RotationJob | None:
        """Return the one job, or None to decide anew; or end the workflow.

        Without a job it resumes, or fails, only once no attempt that is still running can create one any more.
        """
        try:
            return await self._claim_job(order)
        except BaseException as error:
            if not is_cancelled_exception(error):
                raise
            job = await self._withdraw_claim(order)
            if job is None:
                raise
            return job

    async def _claim_job(self, order: JobOrder) -> RotationJob | None:
        binding, days = _join_refs(order.decision.source_lines), order.decision.rotation_window_days
        while True:
            digest = self._waiting.status.request_digest
            self._waiting.status = RotationStatus(phase="creating_job", request_digest=digest)
            workflow.set_current_details(
                f"**Eligible** under {binding}, supported by the evidence. **Creating the job.**"
            )
            due = f", due in {days} days" if days else ""
            try:
                created = await workflow.execute_activity_method(
                    CreateRotationJob.create_rotation_job,
                    order,
                    summary=f"create the one job{due} under {binding}",
                    **create_options(),
                )
            except ActivityError as error:
                failed = _outcome_of(error)
            else:
                if not _is_copied(created):
                    return created
                failed = _ANSWER_TO_ANOTHER
            ended: Failed | TimedOut | RotationRequest = failed
            if isinstance(failed, Failed) and failed.parks:
                answer = await self._park(failed)
                if isinstance(answer, Resumption):
                    continue
                ended = answer
            job = await self._withdraw_claim(order)
            if job is not None:
                return job
            if isinstance(ended, RotationRequest) or (isinstance(ended, Failed) and ended.kind in _DECIDED_ANEW):
                self._note("decided_anew", KEYTURN, after=failed.kind if isinstance(failed, Failed) else "timeout")
                return None
            raise _failure(ended)

    async def _withdraw_claim(self, order: JobOrder) -> RotationJob | None:
        try:
            found = await workflow.execute_activity_method(
                WithdrawClaim.withdraw_claim,
                order,
                summary="withdraw the order: no late attempt may create a job",
                **withdraw_options(),
            )
        except ActivityError as error:
            raise _failure(_outcome_of(error)) from None
        if found is not None and _is_copied(found):
            raise _failure(_ANSWER_TO_ANOTHER)
        return found

    # -- waiting for a person ---------------------------------------------------------------------------------------

    async def _park(self, failed: Failed) -> Failed | Resumption | RotationRequest:
        """Wait until `failed` is fixed or other evidence comes; return that, or how the workflow ends."""
        until = workflow.now() + PARKED_FOR
        workflow.set_current_details(f"**Parked**: {failed.kind}, until {in_utc(until)}. {failed.hint}")
        self._note("parked", KEYTURN, kind=failed.kind, until=until.isoformat())
        answer = await self._wait_for_response("parked", until, failed)
        match answer:
            case RotationRequest():
                return answer
            case Resumption():
                self._note("resumed", answer.operator, kind=failed.kind)
                return answer
            case Abandonment():
                self._note("abandoned", answer.operator, kind=failed.kind, reason=answer.reason)
                hint = (
                    f"{answer.operator} abandoned it while it was parked: {failed.kind}. Ask again when that is fixed."
                )
                return Failed(kind="abandoned", next_step="fail_and_inspect", hint=hint)
            case _:
                self._note("parked_expired", KEYTURN, kind=failed.kind)
                hint = f"No operator resumed it in {PARKED_FOR.days} days: {failed.kind}. {failed.hint}"[:500]
                return Failed(kind="parked_expired", next_step=failed.next_step, hint=hint)

    async def _wait_for_approval(
        self, decision: GroundedDecision, readings: tuple[ModelReading, ...]
    ) -> Approval | Denial | None:
        """Wait for an approver's decision; None if the rotation was asked for on other evidence meanwhile.

        With `readings`, the models contradict the evidence: it is waited for as a disagreement.
        """
        until = workflow.now() + APPROVAL_WITHIN
        approvers = ", ".join(decision.approvers) or "the operators who did not ask"
        by_models = ", ".join(map(str, readings))
        said = f" **The model disagrees**: {by_models}." if readings else ""
        workflow.set_current_details(
            f"**Eligible** under {_join_refs(decision.source_lines)}.{said} **Awaits the approval** of one of "
            f"{approvers}, until {in_utc(until)}."
        )
        if readings:
            self._note("disagreement", KEYTURN, digest=decision.digest, readings=by_models)
        waits = {"until": until.isoformat(), "approvers": approvers[:500]}
        waits |= {"readings": by_models} if readings else {}
        waits["policy_lines"] = _join_refs(decision.source_lines)
        waits |= {} if decision.rotate_by is None else {"rotate_by": decision.rotate_by.isoformat()}
        self._note("approval_requested", self._request.user_id, digest=decision.digest, **waits)
        asked = _TO_DECIDE if readings else _TO_APPROVE
        answer = await self._wait_for_response(
            "disagreement" if readings else "awaiting_approval", until, asked, decision, readings
        )
        match answer:
            case RotationRequest():
                return None
            case Approval():
                said_why = {} if answer.reason is None else {"reason": answer.reason}
                self._note("approved", answer.approver, digest=answer.digest, **said_why, **self._proofs(answer))
                return answer
            case Denial():
                self._note(
                    "denied", answer.approver, digest=answer.digest, reason=answer.reason, **self._proofs(answer)
                )
                return answer
            case _:
                self._note("approval_expired", KEYTURN, digest=decision.digest)
                raise _failure(
                    Failed(
                        kind="disagreement_expired" if readings else "approval_expired",
                        next_step="ask_an_approver",
                        hint=f"No approver answered in {APPROVAL_WITHIN.days} days. Ask again: the decision then "
                        "rests on new evidence.",
                    )
                )

    async def _wait_for_response(
        self,
        phase: Literal["parked", "awaiting_approval", "disagreement"],
        until: datetime,
        failed: Failed,
        decision: GroundedDecision | None = None,
        readings: tuple[ModelReading, ...] = (),
    ) -> Answer | None:
        answer = await self._waiting.for_person(
            RotationStatus(
                phase=phase,
                request_digest=request_digest(self._request),
                since=workflow.now(),
                until=until,
                kind=failed.kind,
                next_step=failed.next_step,
                hint=failed.hint,
                requested_by=self._asked_by,
                account_id=self._request.account_id,
                key_id=self._request.credential.key_id,
                decision=decision,
                readings=readings,
                credential=self._request.credential,
            )
        )
        if isinstance(answer, RotationRequest):
            self._request = answer
            if not is_among(answer.user_id, self._asked_by):
                self._asked_by += (answer.user_id,)
            self._note("restated", answer.user_id)
        return answer

    def _proofs(self, answer: Approval | Denial) -> dict[str, str]:
        """How the names of both were proved: where one was only stated, the audit says so."""
        return {"approver_proved_by": answer.proved_by, "asker_proved_by": self._request.user_proved_by}

    # -- the audit trail --------------------------------------------------------------------------------------------

    def _note(self, event: str, actor: str, **detail: str) -> None:
        """Record an event without waiting for it: a database that is down is a reason to be parked, too."""
        asked = self._request
        entry = RotationEvent(
            tenant_id=asked.tenant_id,
            event=event,
            actor=actor,
            at=workflow.now(),
            detail=detail,
            account_id=asked.account_id,
            key_id=asked.credential.key_id,
            owner=asked.owner,
        )
        written = workflow.start_activity_method(
            RecordEvent.record_event, entry, summary=f"audit: {event}", **record_options()
        )
        self._events.append(written)


# What ends by itself, in a minute or two, where the database fails over.
_DATABASE_IS_AWAY = frozenset({"job_store_unavailable", "database_read_only"})
# What is decided again: policy or evidence differ from the verdict's by now, the approval is no longer valid, or a
# waiver was granted since.
_DECIDED_ANEW = frozenset({"digest_mismatch", "approval_invalid", "key_waived"})
_ANSWER_TO_ANOTHER = Failed(
    kind="answer_to_another_request",
    next_step="fail_and_inspect",
    hint="The recorded answer belongs to another request: check who can write to Temporal, and ask again.",
)
_TO_APPROVE = Failed(
    kind="approval",
    next_step="ask_an_approver",
    hint="An approver of the policy line reviews the decision with `keyturn approve`, or denies it.",
)
_TO_DECIDE = Failed(
    kind="disagreement",
    next_step="ask_an_approver",
    hint="By rule the key is due, and the model says that it is not. An approver of the policy lines (or an operator "
    "who did not ask, where they name none) reads both beside the wording, and approves, or denies with a reason.",
)


def _is_copied(answer: Assessment | RotationJob) -> bool:
    """Whether an activity's result is that of an earlier workflow of this ID; one without a run is from before that."""
    return answer.first_run_id not in {None, workflow.info().first_execution_run_id}


def _without_job(assessment: Assessment, decision: GroundedDecision) -> CompletedOutcome:
    """Return the outcome of a decision that allows no rotation."""
    call, digest, waiver = assessment.call, assessment.request_digest, assessment.waiver
    if waiver is not None:
        lines, until = _join_refs(decision.source_lines), in_utc(waiver.until)
        workflow.set_current_details(f"**Eligible** under {lines}, and **waived** until {until}: no job.")
        return Waived(decision=decision, waiver=waiver, call=call, request_digest=digest)
    if decision.decision == "not_eligible":
        workflow.set_current_details("**Not eligible**: no job.")
        return NotEligible(decision=decision, call=call, request_digest=digest)
    workflow.set_current_details("**Not specified** by policy or evidence: no job.")
    return NotSpecified(decision=decision, call=call, request_digest=digest)


def _no_approver(decision: GroundedDecision) -> Rejection:
    explanation = "The policy requires an approval, and only the asker is an approver."
    if not decision.approvers:
        names = ", ".join(str(ref) for ref in decision.source_lines)
        explanation = f"No user is in the approvers of each of {names}: amend the policy lines, and ask again."[:500]
    return Rejection(reason="approval_required", explanation=explanation)


def _denial_by(approver: str) -> Rejection:
    return Rejection(reason="approval_denied", explanation=f"{approver} denied it; the audit trail has the reason.")


def _rejected_outcome(assessment: Assessment, rejection: Rejection) -> Rejected:
    workflow.set_current_details(f"**Rejected**: {rejection.reason}. No job.")
    return Rejected(
        reason=rejection.reason,
        explanation=rejection.explanation,
        call=assessment.call,
        request_digest=assessment.request_digest,
    )


def _join_refs(lines: Iterable[PolicyRef]) -> str:
    return ", ".join(str(line) for line in lines)


def _outcome_of(error: ActivityError) -> Failed | TimedOut:
    """Return the named outcome that a step's failure stands for; a cancellation is raised as it is."""
    cause = error.cause
    if isinstance(cause, CancelledError):
        raise error
    if isinstance(cause, ActivityTimedOut) or (isinstance(cause, ApplicationError) and cause.type == TIMEOUT_KIND):
        # Only the step that waits for a model ends so; a claim that ran out of time has a database to fix.
        if error.activity_type == "decide":
            return TimedOut()
        return Failed(
            kind="job_store_unavailable",
            next_step="retry_with_backoff",
            hint="Bring the database back, then resume it: this creates no second job.",
            parks=True,
        )
    if isinstance(cause, ApplicationError) and cause.details:
        return Failed.model_validate(cause.details[0])
    return Failed(kind="unforeseen", next_step="fail_and_inspect", hint="Read the worker's log at this time.")


def _failure(outcome: Failed | TimedOut) -> ApplicationError:
    """Return what ends the workflow as failed, with the named outcome in the failure's details."""
    if isinstance(outcome, TimedOut):
        workflow.set_current_details("**Timed out**: no answer in time. Asking again is safe.")
        return ApplicationError("no answer in time; asking again is safe", outcome, type="timeout")
    workflow.set_current_details(f"**Failed**: {outcome.kind}. {outcome.hint}")
    return ApplicationError(outcome.hint, outcome, type=outcome.kind, non_retryable=True)
