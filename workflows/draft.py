"""`DraftWorkflow`: one draft of a reply, written while it is read. It ends in a text, and never in an action.

A separate activity writes how the draft ended, after the history has the result: an attempt that is lost together with
its answer has ended nothing, and its readers start over.
"""

import asyncio
from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.draft_reply import DraftReply
    from keyturn.activities.failures import TIMEOUT_KIND
    from keyturn.backoff import BASE
    from keyturn.drafts.contracts import DraftEnd, DraftEnding, DraftResult
    from keyturn.payload_errors import PayloadMoved
    from keyturn.rotations.outcomes import Failed
    from keyturn.tasks.draft_reply import DraftRequest
    from keyturn.workflows.ending import to_its_end
    from keyturn.workflows.options import DECIDE_MARGIN, record_options

# A worker that is killed is noticed after this long, and readers start over: ten heartbeats that did not come.
HEARTBEAT = timedelta(seconds=3)
# Its row is inserted before the model is asked, within the time that one transaction may take.
START_WITHIN = timedelta(seconds=8)
# A reader waits for the text: a wait of more than some seconds between attempts is not worth it.
LONGEST_WAIT = timedelta(seconds=5)


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class DraftWorkflow:
    """Write one draft. Cancelled, it closes the provider's connection and ends as cancelled."""

    @workflow.run
    async def run(self, request: DraftRequest) -> DraftResult:
        """Return the draft, approved or not. Fails, with a `Failed` in the details, if no answer came."""
        if not isinstance(request, DraftRequest):
            raise ApplicationError("the workflow's input is not a request for a draft", type="invalid_request")
        attempt = timedelta(seconds=request.timeout_seconds) + DECIDE_MARGIN + START_WITHIN
        retries = request.max_retries
        try:
            written = await workflow.execute_activity_method(
                DraftReply.draft_reply,
                request,
                summary="write the draft",
                start_to_close_timeout=attempt,
                schedule_to_close_timeout=(retries + 1) * attempt + retries * LONGEST_WAIT,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=RetryPolicy(
                    initial_interval=BASE, maximum_interval=LONGEST_WAIT, maximum_attempts=retries + 1
                ),
                # It ends when the provider's connection is closed, and not when that was asked for.
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
        except (ActivityError, asyncio.CancelledError) as error:
            # It may come as a bare CancelledError: when the activity has just ended, and no task was made of that yet.
            if is_cancelled_exception(error):
                await to_its_end(self._end(request, "cancelled"))
                raise
            failure = _failure_of(error)
            await to_its_end(self._end(request, "failed", reason=failure.kind, explanation=failure.hint))
            raise ApplicationError(failure.hint, failure, type=failure.kind, non_retryable=True) from None
        await to_its_end(self._end(request, "completed", written=written))
        return written

    async def _end(
        self,
        request: DraftRequest,
        state: DraftEnding,
        *,
        written: DraftResult | None = None,
        reason: str | None = None,
        explanation: str = "",
    ) -> None:
        end = DraftEnd(
            draft_id=workflow.info().workflow_id,
            tenant_id=request.tenant_id,
            account_id=request.account_id,
            requested_by=request.user_id,
            state=state,
            written=written,
            reason=reason,
            explanation=explanation,
        )
        await workflow.execute_activity_method(
            DraftReply.end_draft, end, summary=f"report to its readers: {state}", **record_options()
        )


def _failure_of(error: BaseException) -> Failed:
    cause = error.cause if isinstance(error, ActivityError) else None
    if isinstance(cause, ApplicationError) and cause.details:
        return Failed.model_validate(cause.details[0])
    hint = "Ask for it again: no worker completed it in time."
    return Failed(kind=TIMEOUT_KIND, next_step="show_retry_option", hint=hint)
