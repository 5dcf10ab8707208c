"""What happens next to a rotation or a job, and when, in a sentence for whoever looks at it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError

from keyturn.execution.contracts import KeyRotationStatus
from keyturn.jobs.states import NEXT, OPEN
from keyturn.moments import in_utc
from keyturn.workflows.rotate_key import RotateKeyWorkflow, execution_id

QUERY_TIMEOUT = timedelta(seconds=2)  # a worker answers in milliseconds; without one, a page waits no longer

_OF_ROTATION: Mapping[str, str] = {
    "running": "A worker decides it, in some seconds.",
    "rate_limited": "It continues by itself at {retry_at}.",
    "parked": "It waits for an operator until {until}, and then fails; it may be asked for again.",
    "awaiting_approval": "It waits for an approver until {until}, and then ends without a job.",
    "disagreement": "It waits for an approver until {until}, and then ends without a job.",
    "not_specified": "Nothing by itself: ask again with more evidence, or under another policy line.",
    "not_eligible": "Nothing: the key needs no rotation yet.",
    "waived": "Nothing until the waiver ends: then it is due again, and may be asked for.",
    "rejected": "Nothing by itself: look at the reason, and ask again.",
}
_OF_STEP: Mapping[str, str] = {
    "overlap": "Both keys work until {until}; then the old key is deactivated.",
    "grace": "The old key is deactivated, and is deleted at {until}.",
}


async def execution_status(client: Client, job_id: str) -> KeyRotationStatus | None:
    """Return what Keyturn's own executor is at with a job; None if it has not started it, or does not answer."""
    handle = client.get_workflow_handle(execution_id(job_id))
    try:
        if (await handle.describe(rpc_timeout=QUERY_TIMEOUT)).status is not WorkflowExecutionStatus.RUNNING:
            return None
        return await handle.query(RotateKeyWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError):
        return None


def next_for_job(job: Mapping[str, Any], status: KeyRotationStatus | None) -> str:
    """Return what happens next to a job.

    Args:
        job: its row.
        status: what our own executor is at with it, if that is known.
    """
    if status is not None and job["status"] in OPEN:
        until = "" if status.until is None else in_utc(status.until)
        if status.blocked is not None:
            again = f" It tries again at {until}." if until else ""
            why = f": {status.because}" if status.because else ""
            by = f" by {', '.join(status.blocked_by)}" if status.blocked_by else ""
            return f"Blocked: {status.blocked.replace('_', ' ')}{by}{why}. {status.hint or ''}{again}"
        if status.step in _OF_STEP and until:
            return _OF_STEP[status.step].format(until=until)
    return NEXT.get(job["status"], "")


def next_for_rotation(fields: Mapping[str, Any]) -> str:
    """Return what happens next to a rotation without a job, by its fields as `outcomes.as_object` has them."""
    moments = {name: in_utc(fields[name]) for name in ("until", "retry_at") if fields.get(name)}
    sentence = _OF_ROTATION.get(fields["status"], "Nothing by itself: fix the cause, and ask again.")
    return sentence.format(until=moments.get("until", "its time is over"), retry_at=moments.get("retry_at", "then"))
