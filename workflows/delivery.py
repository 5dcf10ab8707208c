"""Deliveries: a job's message to its receiver, a message of notices to people; however long these are away.

`DeliveryWorkflow` is one a job, `NoticeWorkflow` one a message. Their histories have its id and how it was answered;
the activities read what is sent from the database.
"""

from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.deliver_job import DeliverJob
    from keyturn.activities.deliver_notices import DeliverNotices
    from keyturn.backoff import BASE
    from keyturn.jobs.contracts import Delivery
    from keyturn.notices.contracts import NoticeDelivery
    from keyturn.payload_errors import PayloadMoved
    from keyturn.workflows.options import record_options

# One attempt is one request of at most 10 s and two short transactions of at most 8 s.
DELIVER_START_TO_CLOSE = timedelta(seconds=30)
# A receiver that is deployed, or down over a night, is back within a day; after that an operator should look at it.
DELIVER_WITHIN = timedelta(days=1)
# Failed attempts back off to this: a receiver that is back gets the message within five minutes.
DELIVER_CEILING = timedelta(minutes=5)


# What waits for people may wait a little longer, and need not be sent when it is old news.
NOTIFY_WITHIN = timedelta(days=1)


def notice_delivery_id(message_id: str) -> str:
    """Return the id of the workflow that delivers a message of notices."""
    return f"notify:{message_id}"


def delivery_id(job_id: str) -> str:
    """Return the id of the workflow that delivers a job."""
    return f"deliver:{job_id}"


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class DeliveryWorkflow:
    """Deliver the message of one job. It fails, and the message is a dead letter, if that cannot be done in a day."""

    @workflow.run
    async def run(self, delivery: Delivery) -> str:
        """Return the receiver's answer: `taken`, or `known` if it had the message already."""
        if not isinstance(delivery, Delivery):
            raise ApplicationError("the workflow's input is not a delivery", type="invalid_request")
        try:
            return await workflow.execute_activity_method(
                DeliverJob.deliver_job,
                delivery,
                summary="deliver the job's message to its receiver",
                start_to_close_timeout=DELIVER_START_TO_CLOSE,
                schedule_to_close_timeout=DELIVER_WITHIN,
                retry_policy=_after_a_killed_worker(),
            )
        except ActivityError as error:
            failure = _failure_of(error)
        await workflow.execute_activity_method(
            DeliverJob.give_up_delivery,
            args=[delivery, failure],
            summary="mark it as a dead letter",
            **record_options(),
        )
        raise _dead_letter(failure) from None


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class NoticeWorkflow:
    """Deliver one message of notices. It fails, and the message is a dead letter, if that cannot be done in a day."""

    @workflow.run
    async def run(self, delivery: NoticeDelivery) -> str:
        """Return the receiver's answer: `taken`, or `known` if the message had come through already."""
        if not isinstance(delivery, NoticeDelivery):
            raise ApplicationError("the workflow's input is no message of notices", type="invalid_request")
        try:
            return await workflow.execute_activity_method(
                DeliverNotices.deliver_notices,
                delivery,
                summary="send the notices to their destination",
                start_to_close_timeout=DELIVER_START_TO_CLOSE,
                schedule_to_close_timeout=NOTIFY_WITHIN,
                retry_policy=_after_a_killed_worker(),
            )
        except ActivityError as error:
            failure = _failure_of(error)
        await workflow.execute_activity_method(
            DeliverNotices.give_up_notices,
            args=[delivery, failure],
            summary="mark it as a dead letter",
            **record_options(),
        )
        raise _dead_letter(failure) from None


def _after_a_killed_worker() -> RetryPolicy:
    """A failure that an activity reports brings its own jittered delay; this is for a worker that was killed."""
    return RetryPolicy(initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=DELIVER_CEILING)


def _failure_of(error: ActivityError) -> str:
    cause = error.cause
    return (cause.type if isinstance(cause, ApplicationError) else None) or "receiver_unavailable"


def _dead_letter(failure: str) -> ApplicationError:
    return ApplicationError("the message is a dead letter: keyturn deliveries", type=failure, non_retryable=True)
