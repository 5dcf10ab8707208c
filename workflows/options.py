"""Each timeout and retry of the rotation workflow, with what it protects and how its number was chosen."""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy

from keyturn.backoff import BASE, CEILING
from keyturn.rotations.contracts import RotationRequest

TASK_QUEUE = "keyturn"

# The client ends the call at the request's own timeout. 5 s more let it classify and record that end before Temporal
# abandons the attempt: one that Temporal ends has no reason recorded.
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


# A database that fails over is back in a minute or two; `decide` tries it for less, because each of its attempts may be
# billed. It is tried again after each of these waits, six minutes in all; then a person should know.
DATABASE_WAITS = (timedelta(seconds=30), timedelta(seconds=60), timedelta(seconds=120))

# How often policy or evidence may change while one rotation is decided: more is not a change but a fault.
MAX_DECISIONS = 10
# An exhausted quota or a broken route waits for an operator: a long weekend, and the days that a purchase takes. After
# that no operator is coming, and the evidence is a week old.
PARKED_FOR = timedelta(days=7)
# Approvers work office hours: a week holds every weekend and most absences of one of them.
APPROVAL_WITHIN = timedelta(days=7)
# Taking a claim back must come through before a rotation may say that there is no job. After a day without a database,
# saying that this is unknown is better than not ending.
WITHDRAW_WITHIN = timedelta(days=1)
# An event of the audit trail is written beside the workflow; a database that is down for a day is down for all.
RECORD_WITHIN = timedelta(days=1)


class ActivityOptions(TypedDict):
    """Keyword arguments of `workflow.execute_activity_method`."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    retry_policy: RetryPolicy


def decide_options(request: RotationRequest) -> ActivityOptions:
    """Return the options of `decide`: as long and as often as the request allows."""
    attempt = timedelta(seconds=request.timeout_seconds) + DECIDE_MARGIN
    attempts = request.max_retries + 1
    return {
        "start_to_close_timeout": attempt,
        # Every attempt may use its whole time, with the longest wait between them: anything longer is no progress.
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


def withdraw_options() -> ActivityOptions:
    """Return the options of `withdraw_claim`: any number of attempts within a day."""
    return _retry_within(WITHDRAW_WITHIN)


def record_options() -> ActivityOptions:
    """Return the options of `record_event`: any number of attempts within a day."""
    return _retry_within(RECORD_WITHIN)


def _retry_within(within: timedelta) -> ActivityOptions:
    return {
        "start_to_close_timeout": CREATE_START_TO_CLOSE,
        "schedule_to_close_timeout": within,
        # A database that is away for hours is asked some 150 times a day, and not 3,000 times: attempts are billed.
        "retry_policy": RetryPolicy(
            initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=timedelta(minutes=10)
        ),
    }
