"""Each timeout and retry of the rotation workflow, with what it protects and how its number was chosen."""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy

from keyturn.backoff import BASE, CEILING
from keyturn.contracts import RotationRequest

TASK_QUEUE = "keyturn"

# The client ends the call at the request's own timeout. 5 s more let it classify and record that end before Temporal
# gives the attempt up: an attempt that Temporal ends says nothing of why.
DECIDE_MARGIN = timedelta(seconds=5)

# One claim is one short transaction: milliseconds. 10 s outlast the 5 s that it may wait for a lock or a connection;
# and when a worker is killed, another takes over after this long.
CREATE_START_TO_CLOSE = timedelta(seconds=10)
# A database that is restarted or fails over is back in minutes. The decision is paid for and the claim idempotent, so
# it is worth waiting for; after 10 minutes a person should know.
CREATE_SCHEDULE_TO_CLOSE = timedelta(minutes=10)


# The limit is of an hour: who was not let in after five of them competes with a crowd, and a person should know.
MAX_LIMIT_WAITS = 5
LIMIT_JITTER_SECONDS = 10.0  # a crowd of 64 calls of some seconds is through a worker in about as long


class ActivityOptions(TypedDict):
    """What `workflow.execute_activity_method` takes of these."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    retry_policy: RetryPolicy


def decide_options(request: RotationRequest) -> ActivityOptions:
    """Return the options of `decide`: as long and as often as the request allows."""
    attempt = timedelta(seconds=request.timeout_seconds) + DECIDE_MARGIN
    attempts = request.max_retries + 1
    return {
        "start_to_close_timeout": attempt,
        # Every attempt may take its whole time, with the longest wait between them: what is longer is not progress.
        "schedule_to_close_timeout": attempts * attempt + request.max_retries * CEILING,
        # A failure that the activity reports brings its own jittered delay. This backoff is for what it cannot report:
        # a killed worker, or an attempt cut off by start-to-close.
        "retry_policy": RetryPolicy(
            initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=CEILING, maximum_attempts=attempts
        ),
    }


def create_options() -> ActivityOptions:
    """Return the options of `create_rotation_job`: any number of attempts within ten minutes."""
    return {
        "start_to_close_timeout": CREATE_START_TO_CLOSE,
        "schedule_to_close_timeout": CREATE_SCHEDULE_TO_CLOSE,
        "retry_policy": RetryPolicy(initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=CEILING),
    }
