"""`DeliveryWorkflow`: brings one job's message to its receiver, however long that is away; one workflow a job.

Its history has the job's id and how the receiver answered. The activity reads the message from the outbox.
"""

from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.deliver_job import DeliverJob
    from keyturn.backoff import BASE
    from keyturn.jobs.contracts import Delivery
    from keyturn.payload_errors import PayloadMoved
    from keyturn.workflows.options import record_options

# One attempt is one request of at most 10 s and two short transactions of at most 8 s.
DELIVER_START_TO_CLOSE = timedelta(seconds=30)
# A receiver that is deployed, or down over a night, is back within a day; after that an operator should look at it.
DELIVER_WITHIN = timedelta(days=1)
# Failed attempts back off to this: a receiver that is back gets the message within five minutes.
DELIVER_CEILING = timedelta(minutes=5)


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
                # A failure that the activity reports brings its own jittered delay; this is for a killed worker.
                retry_policy=RetryPolicy(
                    initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=DELIVER_CEILING
                ),
            )
        except ActivityError as error:
            cause = error.cause
            failure = (cause.type if isinstance(cause, ApplicationError) else None) or "receiver_unavailable"
        await workflow.execute_activity_method(
            DeliverJob.give_up_delivery,
            args=[delivery, failure],
            summary="mark it as a dead letter",
            **record_options(),
        )
        raise ApplicationError(
            "the message is a dead letter: keyturn deliveries", type=failure, non_retryable=True
        ) from None
