"""`RotationWorkflow`: decide, gate, create exactly one job.

The workflow branches on the verdict that `decide` recorded, never on the policy catalogue: were the check made here, a
change of policy would break the replay of running workflows.
"""

import itertools
from datetime import datetime
from typing import NoReturn

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.exceptions import TimeoutError as ActivityTimedOut

with workflow.unsafe.imports_passed_through():
    from activities.create_rotation_job import CreateRotationJob
    from activities.decide import Decide
    from activities.failures import TIMEOUT_KIND
    from keyturn.contracts import (
        Assessment,
        CompletedOutcome,
        Failed,
        GroundedDecision,
        JobCreated,
        JobOrder,
        NotEligible,
        NotSpecified,
        Rejected,
        Rejection,
        RotationRequest,
        TimedOut,
    )
    from workflows.options import LIMIT_JITTER_SECONDS, MAX_LIMIT_WAITS, create_options, decide_options


# A workflow whose input cannot be read fails at once: the default is to retry the workflow task for ever.
@workflow.defn(failure_exception_types=[ValidationError])
class RotationWorkflow:
    """May this key be rotated under these policy lines? If so, create its one rotation job.

    It completes with what was decided and done. It fails, with a `TimedOut` or `Failed` in the failure's details, where
    no decision was reached or no job could be made: then a new start with the same id tries again.
    """

    def __init__(self) -> None:
        self._limited_until: datetime | None = None

    @workflow.run
    async def run(self, request: RotationRequest) -> CompletedOutcome:
        """Decide `request`, and act on the verdict."""
        if not isinstance(request, RotationRequest):  # a payload of null is decoded as None, whatever the type
            raise ApplicationError("the workflow's input is not a rotation request", type="invalid_request")
        lines = ", ".join(str(line) for line in request.policy_lines)
        workflow.set_current_details(f"**Deciding** under {lines}.")
        for waits in itertools.count():
            try:
                assessment = await workflow.execute_activity_method(
                    Decide.decide, request, summary=f"ask the model under {lines}", **decide_options(request)
                )
                break
            except ActivityError as error:
                allowed_at = _allowed_at(error)
                if allowed_at is None or waits == MAX_LIMIT_WAITS:
                    _fail(error)
                await self._wait_until(allowed_at)
        return await self._act_on(assessment, request)

    @workflow.query
    def limited_until(self) -> datetime | None:
        """Until when this rotation waits for its user's token limit; None if it does not."""
        return self._limited_until

    async def _wait_until(self, moment: datetime) -> None:
        self._limited_until = moment
        workflow.set_current_details(
            f"**Rate limited** until {moment:%Y-%m-%d %H:%M:%S} UTC; then it goes on by itself."
        )
        wait = max((moment - workflow.now()).total_seconds(), 0.0)
        # Those who wait for the same limit do not come back in step.
        wait += workflow.random().uniform(0, min(wait, LIMIT_JITTER_SECONDS))
        await workflow.sleep(wait, summary="wait for the user's token limit")
        self._limited_until = None

    async def _act_on(self, assessment: Assessment, request: RotationRequest) -> CompletedOutcome:
        verdict, call = assessment.verdict, assessment.call
        if isinstance(verdict, Rejection):
            return self._reject(assessment, verdict)
        if verdict.decision == "not_eligible":
            workflow.set_current_details("**Not eligible**: no job.")
            return NotEligible(decision=verdict, call=call, request_digest=assessment.request_digest)
        if verdict.decision == "not_specified":
            workflow.set_current_details("**Not specified** by policy or evidence: no job.")
            return NotSpecified(decision=verdict, call=call, request_digest=assessment.request_digest)
        if verdict.needs_approval:
            return self._reject(assessment, _APPROVAL_REQUIRED)
        return await self._create_job(assessment, verdict, request)

    async def _create_job(
        self, assessment: Assessment, decision: GroundedDecision, request: RotationRequest
    ) -> JobCreated:
        cited = ", ".join(str(line) for line in decision.source_lines)
        workflow.set_current_details(f"**Eligible** under {cited}, borne out by the evidence. **Creating the job.**")
        order = JobOrder(
            tenant_id=request.tenant_id,
            user_id=request.user_id,
            account_id=request.account_id,
            credential=request.credential,
            decision=decision,
            trace_id=request.trace_id,
        )
        try:
            job = await workflow.execute_activity_method(
                CreateRotationJob.create_rotation_job,
                order,
                summary=f"create the one job, due in {decision.rotation_window_days} days under {cited}"
                if decision.rotation_window_days
                else f"create the one job under {cited}",
                **create_options(),
            )
        except ActivityError as error:
            _fail(error)
        workflow.set_current_details(f"**Eligible** under {cited}. Job `{job.job_id}`.")
        return JobCreated(
            decision=decision,
            job_id=job.job_id,
            created=job.created,
            call=assessment.call,
            request_digest=assessment.request_digest,
        )

    def _reject(self, assessment: Assessment, rejection: Rejection) -> Rejected:
        workflow.set_current_details(f"**Rejected**: {rejection.reason}. No job.")
        return Rejected(
            reason=rejection.reason,
            explanation=rejection.explanation,
            call=assessment.call,
            request_digest=assessment.request_digest,
        )


# A line that asks for an approval never gets a job without one; collecting approvals is not part of this version.
_APPROVAL_REQUIRED = Rejection(
    reason="approval_required", explanation="The cited policy line asks for an approval, which was not given."
)


def _allowed_at(error: ActivityError) -> datetime | None:
    """When the model may be asked again, if all that is against it is the user's token limit."""
    cause = error.cause
    if not isinstance(cause, ApplicationError) or not cause.details:
        return None
    return Failed.model_validate(cause.details[0]).retry_at


def _fail(error: ActivityError) -> NoReturn:
    """End the workflow as failed, with the named outcome in the failure's details."""
    cause = error.cause
    if isinstance(cause, CancelledError):
        raise error
    if isinstance(cause, ActivityTimedOut) or (isinstance(cause, ApplicationError) and cause.type == TIMEOUT_KIND):
        # Only the step that waits for a model ends so; a claim that ran out of time has a database to mend.
        if error.activity_type == "decide":
            workflow.set_current_details("**Timed out**: no answer in time. Asking again is safe.")
            raise ApplicationError("no answer in time; asking again is safe", TimedOut(), type="timeout") from None
        outcome = Failed(
            kind="job_store_unavailable",
            next_step="retry_with_backoff",
            mend="Bring the database back, then ask again: no second job can come of it.",
        )
    elif isinstance(cause, ApplicationError) and cause.details:
        outcome = Failed.model_validate(cause.details[0])
    else:
        outcome = Failed(kind="unforeseen", next_step="fail_and_inspect", mend="Read the worker's log at this time.")
    workflow.set_current_details(f"**Failed**: {outcome.kind}. {outcome.mend}")
    raise ApplicationError(outcome.mend, outcome, type=outcome.kind, non_retryable=True) from None
