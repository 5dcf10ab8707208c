"""`ReadinessWorkflow`: the gate before a new build of the worker, which takes no rotation until it has passed."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.check_readiness import NOT_READY, CheckReadiness

# One look takes milliseconds; a database that does not answer is given up after 8 s (`database.TRANSACTION_SECONDS`).
CHECK_START_TO_CLOSE = timedelta(seconds=20)
# A database that fails over is back in a minute or two. A build that is not ready after five is not deployed.
READY_WITHIN = timedelta(minutes=5)


@workflow.defn
class ReadinessWorkflow:
    """Complete if a worker of the build that runs it has its database, schema and policy; fail if it has not.

    Temporal's Worker Controller starts it on a new build, and routes no rotation to a build on which it fails.
    """

    @workflow.run
    async def run(self) -> None:
        """Check until it is ready, for five minutes."""
        try:
            # By its name: mypy 2 takes the type of a method without an argument for that of all others, elsewhere.
            await workflow.execute_activity(
                CheckReadiness.check_readiness.__name__,
                summary="check that this build can do its work",
                start_to_close_timeout=CHECK_START_TO_CLOSE,
                schedule_to_close_timeout=READY_WITHIN,
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=15)),
            )
        except ActivityError as error:
            reason = error.cause.message if isinstance(error.cause, ApplicationError) else "no answer in time"
            raise ApplicationError(reason, type=NOT_READY, non_retryable=True) from None
