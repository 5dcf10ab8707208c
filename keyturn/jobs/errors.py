"""A rotation job, its claim, or the message about it."""

from datetime import timedelta
from typing import ClassVar

from keyturn.errors import JobError, KeyturnError


class IdempotencyConflict(JobError):
    """This idempotency key was used for another job."""

    kind = "idempotency_conflict"
    hint = "Look at the job with `keyturn jobs`; this key stands for a different rotation."


class OrderOfAnother(JobError):
    """An order, or the approval in it, comes from a workflow that it is not of."""

    kind = "order_of_another"
    next_step = "fail_and_inspect"
    hint = "A payload was copied from another workflow: see who can write to Temporal, and ask again."


class OpenJobExists(JobError):
    """The credential has an open rotation job already."""

    kind = "open_job_exists"
    hint = "Look at it with `keyturn jobs`: this credential's rotation is under way already."


class UnknownJob(JobError):
    """There is no such job, or it is another tenant's."""

    kind = "unknown_job"
    next_step = "fail_and_fix_request"
    hint = "Look for it with `keyturn jobs`."


class JobHeld(JobError):
    """Another one holds the job until its lease is over."""

    kind = "job_held"
    next_step = "stop_working_on_it"
    hint = "Leave it to whoever holds it (`keyturn jobs show ID`), or ask again when the lease is over."


class StaleClaim(JobError):
    """The lease ran out and another one has claimed the job since; the older one's word changes nothing."""

    kind = "stale_claim"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job, undo nothing: whoever holds it now goes on from its recorded state."


class JobClosed(JobError):
    """The job is done, failed or cancelled."""

    kind = "job_closed"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job: `keyturn jobs show ID` says how it ended."


class StateRefused(JobError):
    """This state does not follow the one that the job is in."""

    kind = "state_refused"
    next_step = "fail_and_fix_request"
    hint = "Report states in their order: rotating, verifying, grace; then complete or fail."


class StaleAttempt(JobError):
    """This attempt outlived its time: what it would write was decided otherwise since."""

    kind = "stale_attempt"
    hint = "Nothing to fix: the rotation went on without this attempt, which changed nothing."


class DeliveryError(KeyturnError):
    """A job could not be told to its receiver. `retry_after` is the receiver's own wish, if it stated one."""

    kind = "delivery_error"

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReceiverUnavailable(DeliveryError):
    """No answer came, or one that asks for patience. Whether it was taken is unknown: it is sent again."""

    kind = "receiver_unavailable"
    # No user waits at a screen for a delivery: a receiver that is away for hours is asked every five minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=5)
    retryable = True
    next_step = "retry_with_backoff"
    hint = "See that the receiver at KEYTURN_WEBHOOK_URL answers; then `keyturn deliveries resend`."


class EarlierDelivery(DeliveryError):
    """An earlier message of the same credential has not come through yet."""

    kind = "earlier_delivery"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "It goes on by itself once the earlier one is delivered, or given up by `keyturn deliveries`."


class ReceiverConflict(DeliveryError):
    """The receiver knows this idempotency key for another request."""

    kind = "receiver_conflict"
    hint = "Look at both sides: the receiver used this job's key for something else. Then `keyturn deliveries resend`."


class ReceiverRefused(DeliveryError):
    """The receiver will not take this message, or may not be asked at all."""

    kind = "receiver_refused"
    hint = "Check KEYTURN_WEBHOOK_URL and its keys; then `keyturn deliveries resend`."


class UnknownDelivery(DeliveryError):
    """There is no such message."""

    kind = "unknown_delivery"
    hint = "Look for it with `keyturn deliveries`."
