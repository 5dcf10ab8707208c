"""When to try again."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from keyturn.backoff import CEILING, retry_delay

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
