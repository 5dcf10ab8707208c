"""The one table from the core's errors to Temporal's ApplicationError.

The error's type is its `kind` and its message comes from the core, which never repeats a question, a prompt or a key:
both stay readable in the UI. `from None` leaves the cause, whose text may be anything, out of history.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from keyturn.backoff import CEILING, LONG_CEILING, retry_delay
from keyturn.errors import KeyturnError
from keyturn.rotations.outcomes import Failed

TIMEOUT_KIND = "provider_timeout"


def outcome_of_error(error: KeyturnError) -> Failed:
    """Return the outcome of an error, unless a retry fixes it."""
    retry_at: datetime | None = getattr(error, "retry_at", None)
    return Failed(
        kind=error.kind,
        next_step=error.next_step,
        hint=error.hint,
        retry_at=retry_at,
        retry_in=None if retry_at is None else max(0.0, (retry_at - datetime.now(UTC)).total_seconds()),
        parks=error.parks,
    )


def application_error(error: KeyturnError, *, attempt: int, remaining: timedelta | None) -> ApplicationError:
    """Return Temporal's error for `error`: whether to retry, and when.

    Args:
        error: the core's error.
        attempt: the attempt that failed, counted from 1.
        remaining: what the deadline leaves for waiting before a whole further attempt; None if there is no deadline.
    """
    # Where hours are left, what is down is down for longer than seconds, and each attempt is billed.
    ceiling = LONG_CEILING if remaining is not None and remaining > timedelta(hours=1) else CEILING
    longest: timedelta = getattr(error, "longest_wait", ceiling)
    delay = retry_delay(attempt, retry_after=getattr(error, "retry_after", None), remaining=remaining, longest=longest)
    return ApplicationError(
        str(error),
        outcome_of_error(error),
        type=error.kind,
        non_retryable=not error.retryable,
        next_retry_delay=delay if error.retryable else None,
        # A passing failure is expected and fixed by the next attempt: we record it, the SDK need not alarm about it.
        category=ApplicationErrorCategory.BENIGN if error.retryable else ApplicationErrorCategory.UNSPECIFIED,
    )


@contextmanager
def map_errors() -> Iterator[None]:
    """Within an activity: turn a KeyturnError into the ApplicationError that the table gives."""
    try:
        yield
    except KeyturnError as error:
        info = activity.info()
        raise application_error(error, attempt=info.attempt, remaining=_remaining(info)) from None


def _remaining(info: activity.Info) -> timedelta | None:
    """What schedule-to-close leaves after one more whole attempt: a later retry would be cut off, so none is made."""
    if info.schedule_to_close_timeout is None:
        return None
    end = info.scheduled_time + info.schedule_to_close_timeout
    return end - datetime.now(UTC) - (info.start_to_close_timeout or timedelta(0))
