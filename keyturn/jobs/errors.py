"""A rotation job, its claim, or the message about it."""

from datetime import timedelta
from typing import ClassVar

from keyturn.errors import JobError, KeyturnError


class IdempotencyConflict(JobError):
    """The idempotency key was used for another job."""

    kind = "idempotency_conflict"
    hint = (
        "`keyturn jobs show JOB_ID` shows its job. If that is for the wrong kind of credential and still open: "
        "`keyturn jobs cancel JOB_ID --reason ...`. Then ask with --again."
    )


class OrderOfAnother(JobError):
    """An order, or the approval in it, belongs to another workflow than the one that sent it."""

    kind = "order_of_another"
    next_step = "fail_and_inspect"
    hint = "A payload was copied from another workflow: check who can write to Temporal, and ask again."


class OpenJobExists(JobError):
    """The credential already has an open rotation job; the hint names it."""

    kind = "open_job_exists"
    hint = "Look at it with `keyturn jobs`: this credential's rotation is already under way."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the credential already has the open job {job_id}")
        self.hint = f"The key already has the job {job_id}: `keyturn status {job_id}` shows what it is at."


class UnknownJob(JobError):
    """There is no such job, or it is another tenant's."""

    kind = "unknown_job"
    next_step = "fail_and_fix_request"
    hint = "Look for it with `keyturn jobs`."


class JobHeld(JobError):
    """Another claim holds the job until its lease expires."""

    kind = "job_held"
    next_step = "stop_working_on_it"
    hint = "Leave it to the lease's owner (`keyturn jobs show ID`), or claim it when the lease has expired."


class StaleClaim(JobError):
    """The lease expired and the job was claimed again since; the older claim changes nothing."""

    kind = "stale_claim"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job and undo nothing: its new owner resumes from the recorded state."


class JobClosed(JobError):
    """The job is done, failed or cancelled."""

    kind = "job_closed"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job: `keyturn jobs show ID` shows its outcome."


class StateRefused(JobError):
    """This state does not follow the one that the job is in."""

    kind = "state_refused"
    next_step = "fail_and_fix_request"
    hint = "Report states in their order: rotating, verifying, grace; then complete or fail."


class AnotherNewKey(JobError):
    """A consumer reports a key that is not the new key of the job's rotation."""

    kind = "another_new_key"
    next_step = "fail_and_fix_request"
    hint = "Report the `new_key_id` that `keyturn jobs show JOB_ID` has, once the key is created."


class UnknownConsumer(JobError):
    """A consumer of this name is not declared in the key map for the job's key: nothing waits for it."""

    kind = "unknown_consumer"
    next_step = "fail_and_fix_request"
    hint = "Report under the name that the key map has. One that is added to the map counts for later rotations."


class StaleAttempt(JobError):
    """This attempt came too late: its order was withdrawn or executed by another attempt."""

    kind = "stale_attempt"
    hint = "Nothing to fix: the rotation continued without this attempt, which changed nothing."


class DeliveryError(KeyturnError):
    """A job's message could not be delivered to its receiver. `retry_after` is the receiver's Retry-After, if any."""

    kind = "delivery_error"

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReceiverUnavailable(DeliveryError):
    """The receiver did not answer, or asked to retry later. Whether it took the message is unknown: it is resent."""

    kind = "receiver_unavailable"
    # No user waits at a screen for a delivery: a receiver that is away for hours is asked every five minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=5)
    retryable = True
    next_step = "retry_with_backoff"
    hint = (
        "It is sent again for a day: make the receiver answer. `keyturn deliveries resend` sends a dead letter again."
    )

    def __init__(self, message: str, *, retry_after: timedelta | None = None, took_nothing: bool = False) -> None:
        """Say what happened; `took_nothing` if it is known that the receiver took nothing."""
        super().__init__(message, retry_after=retry_after)
        self.took_nothing = took_nothing


class EarlierDelivery(DeliveryError):
    """An earlier message of the same credential has not been delivered yet."""

    kind = "earlier_delivery"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "It is sent by itself once the earlier one is delivered or becomes a dead letter."


class ReceiverConflict(DeliveryError):
    """The receiver knows this idempotency key for another request."""

    kind = "receiver_conflict"
    hint = "Find out for what the receiver used this job's key; then `keyturn deliveries resend`."


class ReceiverRefused(DeliveryError):
    """The receiver refuses this message, or its address is not allowed."""

    kind = "receiver_refused"
    hint = "Check its channel's settings: address, secrets, rights. `keyturn deliveries resend` resends a dead letter."


class UnknownDelivery(DeliveryError):
    """There is no such message."""

    kind = "unknown_delivery"
    hint = "Look for it with `keyturn deliveries`."
