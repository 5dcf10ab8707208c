"""What is remembered of a provider that is down: by a clock of the test's own."""

import pytest

from keyturn.errors import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from keyturn.llm.outages import FAILURES_TO_OPEN, LONGEST_SECONDS, OPEN_SECONDS, Outages

FIRST, SECOND = ("openai", "m-1"), ("anthropic", "m-2")
ROUTE = (FIRST, SECOND)
DOWN = ProviderTimeout("silent")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outages(clock: Clock) -> Outages:
    return Outages(clock=clock, jitter=lambda: 0.5)


def to_ask(outages: Outages) -> tuple[tuple[str, str], ...]:
    return tuple(outages.to_ask(ROUTE, lambda name: name))


def open_first(outages: Outages) -> None:
    for _ in range(FAILURES_TO_OPEN):
        outages.failed(FIRST, DOWN)


def test_after_some_failures_in_a_row_a_provider_is_not_asked_until_one_call_has_tried_it(
    outages: Outages, clock: Clock
) -> None:
    for _ in range(FAILURES_TO_OPEN):
        assert to_ask(outages) == ROUTE
        outages.failed(FIRST, DOWN)
    assert to_ask(outages) == (SECOND,)
    assert outages.open_now() == ["openai:m-1"]
    clock.now += OPEN_SECONDS
    assert to_ask(outages) == ROUTE  # the probe
    assert to_ask(outages) == (SECOND,)  # and only that one
    outages.answered(FIRST)
    assert (to_ask(outages), outages.open_now()) == (ROUTE, [])


def test_a_probe_that_fails_opens_it_for_longer_but_never_for_more_than_a_minute(
    outages: Outages, clock: Clock
) -> None:
    open_first(outages)
    seconds = OPEN_SECONDS
    for _ in range(6):
        clock.now += seconds
        assert to_ask(outages) == ROUTE
        outages.failed(FIRST, DOWN)
        seconds = min(seconds * 2, LONGEST_SECONDS)
        clock.now += seconds - 0.01
        assert to_ask(outages) == (SECOND,)
        clock.now += 0.01 - seconds


@pytest.mark.parametrize("error", [RateLimited("x"), QuotaExhausted("x"), AuthenticationFailed("x")])
def test_a_provider_that_answers_is_not_down_whatever_it_says(outages: Outages, error: ProviderError) -> None:
    """And an answer in between begins the count anew."""
    for _ in range(FAILURES_TO_OPEN - 1):
        outages.failed(FIRST, DOWN)
    outages.failed(FIRST, error)
    outages.failed(FIRST, ProviderUnavailable("x"))
    assert to_ask(outages) == ROUTE


def test_where_all_are_down_all_are_asked(outages: Outages) -> None:
    """It is better to ask in vain than not to ask: their errors are what a person has to read."""
    open_first(outages)
    for _ in range(FAILURES_TO_OPEN):
        outages.failed(SECOND, DOWN)
    assert to_ask(outages) == ROUTE


def test_a_probe_that_never_comes_back_is_followed_by_another(outages: Outages, clock: Clock) -> None:
    open_first(outages)
    clock.now += OPEN_SECONDS
    assert to_ask(outages) == ROUTE
    clock.now += OPEN_SECONDS
    assert to_ask(outages) == ROUTE


def test_calls_that_had_begun_before_it_was_opened_do_not_prolong_it(outages: Outages, clock: Clock) -> None:
    open_first(outages)
    clock.now += OPEN_SECONDS / 2
    for _ in range(64):
        outages.failed(FIRST, DOWN)
    clock.now += OPEN_SECONDS / 2
    assert to_ask(outages) == ROUTE
