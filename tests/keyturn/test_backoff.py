"""When to try again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from keyturn.backoff import CEILING, retry_delay, wait_asked_for

seconds = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False).map(lambda s: timedelta(seconds=s))


@given(st.integers(min_value=-5, max_value=10_000), st.none() | seconds, st.none() | seconds, st.floats(0, 1))
def test_a_delay_is_never_negative_and_never_past_the_deadline(
    attempt: int, retry_after: timedelta | None, remaining: timedelta | None, chance: float
) -> None:
    """Whatever a provider asks for and however late it is."""
    delay = retry_delay(
        attempt, retry_after=retry_after, remaining=remaining, uniform=lambda a, b: a + (b - a) * chance
    )
    assert delay >= timedelta(0)
    if remaining is not None:
        assert delay <= max(remaining, timedelta(0))


def test_the_ceiling_doubles_from_one_second_to_thirty() -> None:
    """Full jitter draws between 0 and 1, 2, 4, 8, 16, 30, 30 ... seconds."""
    ceilings = [
        retry_delay(n, retry_after=None, remaining=None, uniform=lambda _, b: b).total_seconds() for n in range(1, 8)
    ]
    assert ceilings == [1, 2, 4, 8, 16, 30, 30]
    assert retry_delay(3, retry_after=None, remaining=None, uniform=lambda a, _: a) == timedelta(0)


def test_a_stated_wait_is_waited_for_in_full() -> None:
    """Retry-After comes first, and jitter on top spreads the callers that got the same."""
    wait = timedelta(seconds=7)
    delays = {retry_delay(1, retry_after=wait, remaining=None) for _ in range(50)}
    assert min(delays) >= wait
    assert max(delays) <= wait + CEILING
    assert len(delays) > 1


def test_a_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    """What is neither asks for nothing; more than a day is a day."""
    assert wait_asked_for({"retry-after": "17"}) == timedelta(seconds=17)
    assert wait_asked_for({"retry-after": "9" * 5_000}) == timedelta(days=1)
    in_a_minute = wait_asked_for(
        {"retry-after": format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)}
    )
    assert in_a_minute is not None
    assert timedelta(seconds=55) < in_a_minute <= timedelta(minutes=1)
    assert wait_asked_for({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == timedelta(0)
    assert [wait_asked_for({"retry-after": text}) for text in ("", "soon", "-3", "1.5", "\u0663")] == [None] * 5
    assert wait_asked_for({}) is None
    assert wait_asked_for({"retry-after": "0" * 20 + "7"}) == timedelta(seconds=7)
    assert wait_asked_for({"retry-after": "86401"}) == timedelta(days=1)
    assert wait_asked_for({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) == timedelta(days=1)
