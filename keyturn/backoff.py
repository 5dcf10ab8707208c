"""When to retry: full jitter, the provider's Retry-After, and never past the deadline. Pure."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# 1 s, 2 s, 4 s, ... as ceilings; a provider's brief outage rarely lasts longer than the third.
BASE = timedelta(seconds=1)
# 30 s: above it a waiting person has gone, and a longer outage is better met by asking again.
CEILING = timedelta(seconds=30)
# What may be tried for a day is tried some 300 times, and not 6,000.
LONG_CEILING = timedelta(minutes=10)
LONGEST_WAIT = timedelta(days=1)  # that is asked for: a longer one is a mistake, and no one waits for either


def retry_delay(
    attempt: int,
    *,
    retry_after: timedelta | None,
    remaining: timedelta | None,
    longest: timedelta = CEILING,
    uniform: Callable[[float, float], float] = random.uniform,
) -> timedelta:
    """Return how long to wait before the next attempt.

    Full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): uniform between 0 and a doubling ceiling, so that
    many workers do not come back in step. A provider's `retry_after` is waited for in full, with the jitter on top.

    Args:
        attempt: the attempt that just failed, counted from 1.
        retry_after: what the provider asked for; None if nothing.
        remaining: what the deadline leaves for waiting; None if there is no deadline.
        longest: where the doubling ceiling stops.
        uniform: the source of chance.
    """
    ceiling = min(BASE * 2 ** min(max(attempt, 1) - 1, 10), longest)
    delay = timedelta(seconds=uniform(0.0, ceiling.total_seconds()))
    if retry_after is not None:
        delay += max(retry_after, timedelta(0))
    if remaining is not None:
        delay = min(delay, remaining)
    return max(delay, timedelta(0))


def wait_asked_for(headers: Mapping[str, str]) -> timedelta | None:
    """Return the wait of a Retry-After, in seconds or as a date (RFC 9110, 10.2.3), a day at most; None without one.

    Args:
        headers: of the answer, by names in any case as HTTP clients have them.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        digits = value.lstrip("0")
        return timedelta(seconds=min(int(digits or "0"), 86_400)) if len(digits) < 6 else LONGEST_WAIT
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(max(moment - datetime.now(UTC), timedelta(0)), LONGEST_WAIT)
