"""What is remembered of a provider that is down: by a clock of the test's own."""

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast

import pytest
from redis.asyncio import Redis

from keyturn.llm.concurrency import AFTER_REFUSAL, FIRST_LIMIT, ConcurrencyLimit
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    EndpointBusy,
    ProviderError,
    ProviderKeyUnavailable,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from keyturn.llm.outages import FAILURES_TO_OPEN, LONGEST_SECONDS, OPEN_SECONDS, Outages
from keyturn.llm.routing import RouteFailed, ask_in_turn
from keyturn.llm.shared_outages import SharedOutages
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.tasks.definition import Prompt
from tests.support.clocks import Clock

FIRST, SECOND = ("openai", "m-1"), ("anthropic", "m-2")
ROUTE = (FIRST, SECOND)
DOWN = ProviderTimeout("silent")


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def outages(clock: Clock) -> Outages:
    return Outages(clock=clock, jitter=lambda: 0.5)


DOWN_LAST = (SECOND, FIRST)


def to_ask(outages: Outages) -> tuple[tuple[str, str], ...]:
    """The order of a call that asks the first of it."""
    order = tuple(outages.in_order(ROUTE, lambda name: name))
    outages.record_attempt(order[0])
    return order


def open_first(outages: Outages) -> None:
    for _ in range(FAILURES_TO_OPEN):
        outages.record_failure(FIRST, DOWN)


def test_after_some_failures_in_a_row_a_provider_is_asked_last_until_one_call_has_tried_it(
    outages: Outages, clock: Clock
) -> None:
    for _ in range(FAILURES_TO_OPEN):
        assert to_ask(outages) == ROUTE
        outages.record_failure(FIRST, DOWN)
    assert to_ask(outages) == DOWN_LAST
    assert outages.open_now() == ["openai:m-1"]
    clock.now += OPEN_SECONDS
    assert to_ask(outages) == ROUTE  # the probe
    assert to_ask(outages) == DOWN_LAST  # and only that one
    outages.record_answer(FIRST)
    assert (to_ask(outages), outages.open_now()) == (ROUTE, [])


def test_a_probe_that_fails_opens_it_for_longer_but_never_for_more_than_a_minute(
    outages: Outages, clock: Clock
) -> None:
    open_first(outages)
    seconds = OPEN_SECONDS
    for _ in range(6):
        clock.now += seconds
        assert to_ask(outages) == ROUTE
        outages.record_failure(FIRST, DOWN)
        seconds = min(seconds * 2, LONGEST_SECONDS)
        clock.now += seconds - 0.01
        assert to_ask(outages) == DOWN_LAST
        clock.now += 0.01 - seconds


@pytest.mark.parametrize("error", [RateLimited("x"), QuotaExhausted("x"), AuthenticationFailed("x")])
def test_a_provider_that_answers_is_not_down_whatever_it_says(outages: Outages, error: ProviderError) -> None:
    """And an answer in between starts the count anew."""
    for _ in range(FAILURES_TO_OPEN - 1):
        outages.record_failure(FIRST, DOWN)
    outages.record_failure(FIRST, error)
    outages.record_failure(FIRST, ProviderUnavailable("x"))
    assert to_ask(outages) == ROUTE


def test_where_all_are_down_all_are_asked_in_their_order(outages: Outages) -> None:
    """It is better to ask in vain than not to ask: their errors are what a person has to read."""
    open_first(outages)
    for _ in range(FAILURES_TO_OPEN):
        outages.record_failure(SECOND, DOWN)
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
        outages.record_failure(FIRST, DOWN)
    clock.now += OPEN_SECONDS / 2
    assert to_ask(outages) == ROUTE


class Endpoint:
    """One that answers, or is silent; and how long it was given for its first byte."""

    passes_quota_on = False

    def __init__(self, name: str, *, answers: bool) -> None:
        self.name, self.model, self.answers = name, "m-1", answers
        self.given: list[float] = []
        self.fails_by: ProviderError = DOWN

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        self.given.append(timeouts.first_byte)
        if not self.answers:
            raise self.fails_by
        return Completion("{}", "complete", "stop", self.model, Usage())


async def admitted(_provider: object) -> None: ...


async def test_a_caller_in_a_hurry_makes_nobody_wait_for_a_provider_that_is_not_down(outages: Outages) -> None:
    slow = Endpoint("slow", answers=False)
    for _ in range(FAILURES_TO_OPEN + 1):
        with pytest.raises(RouteFailed):
            await ask_in_turn(
                [slow],
                cast(Prompt, None),
                deadline=time.monotonic() + 0.3,
                trace_id="t",
                admit=admitted,
                outages=outages,
            )
    assert outages.open_now() == []


async def test_who_is_down_is_asked_last_and_keeps_no_time_for_itself(outages: Outages) -> None:
    """Where the next one fails, the first may be back: no provider is left out while a user waits for an answer."""
    first, second = Endpoint("first", answers=False), Endpoint("second", answers=True)

    async def ask() -> str:
        asked = await ask_in_turn(
            [first, second],
            cast(Prompt, None),
            deadline=time.monotonic() + 10,
            trace_id="t",
            admit=admitted,
            outages=outages,
        )
        return asked.provider.name

    for _ in range(FAILURES_TO_OPEN + 1):
        assert await ask() == "second"
    assert len(first.given) == FAILURES_TO_OPEN
    assert second.given[-1] == pytest.approx(10, abs=0.5)  # all of it, and no share is reserved for the first
    second.answers, first.answers = False, True
    assert await ask() == "first"
    assert outages.open_now() == []


class Fleet:
    """Two workers on one Redis, by the test's clock; time in Redis is its own."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.outages = [Outages(clock=clock, jitter=lambda: 0.5) for _ in range(2)]
        self.shared = [SharedOutages(one, url, ROUTE, clock=clock, jitter=lambda: 0.0) for one in self.outages]

    async def exchange(self) -> None:
        for shared in (*self.shared, *self.shared):
            await shared.exchange()


@pytest.fixture
async def fleet(redis: str, clock: Clock) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis, clock)
    yield fleet
    for shared in fleet.shared:
        await shared.close()


async def test_what_one_worker_finds_out_the_others_know(fleet: Fleet, clock: Clock) -> None:
    """That it is down, that it is down for longer, and that it is back."""
    one, other = fleet.outages
    open_first(one)
    await fleet.exchange()
    assert to_ask(other) == DOWN_LAST
    one.record_answer(FIRST)  # its probe was answered
    await fleet.exchange()
    assert (to_ask(one), to_ask(other)) == (ROUTE, ROUTE)
    open_first(other)
    await fleet.exchange()
    clock.now += OPEN_SECONDS
    assert to_ask(other) == ROUTE
    other.record_failure(FIRST, DOWN)
    await fleet.exchange()
    assert to_ask(one) == DOWN_LAST


async def test_a_worker_that_starts_in_an_outage_knows_of_it(fleet: Fleet, redis: str, clock: Clock) -> None:
    open_first(fleet.outages[0])
    await fleet.exchange()
    started = Outages(clock=clock)
    shared = SharedOutages(started, redis, ROUTE, clock=clock)
    await shared.exchange()
    await shared.close()
    assert started.open_now() == ["openai:m-1"]


async def test_a_name_whose_time_is_over_is_not_taken_for_one_that_answers(
    fleet: Fleet, redis: str, clock: Clock
) -> None:
    """It is half open: the next call of each worker may try it."""
    open_first(fleet.outages[0])
    await fleet.exchange()
    clock.now += OPEN_SECONDS
    async with Redis.from_url(redis) as there:
        await there.flushdb()  # as Redis does by itself at the end of its time
    await fleet.exchange()
    assert fleet.outages[1].open_now() == ["openai:m-1"]
    assert to_ask(fleet.outages[1]) == ROUTE


async def test_without_redis_each_worker_knows_what_it_found_out(clock: Clock) -> None:
    outages = Outages(clock=clock)
    away = SharedOutages(outages, "redis://127.0.0.1:9", ROUTE, clock=clock)
    open_first(outages)
    await away.exchange()
    await away.close()
    assert to_ask(outages) == DOWN_LAST


async def test_news_that_could_not_be_sent_in_time_is_no_news(redis: str, clock: Clock) -> None:
    """An outage that ended long ago, and an end of before the next outage."""
    one, other = Outages(clock=clock, jitter=lambda: 0.5), Outages(clock=clock, jitter=lambda: 0.5)
    shared = [SharedOutages(outages, redis, ROUTE, clock=clock, jitter=lambda: 0.0) for outages in (one, other)]
    open_first(one)  # while Redis is away
    clock.now += 600
    await shared[0].exchange()
    await shared[1].exchange()
    assert other.open_now() == []
    late = SharedOutages(one, "redis://127.0.0.1:9", ROUTE, clock=clock)
    one.record_answer(FIRST)
    await late.exchange()
    clock.now += 60
    open_first(other)
    await shared[1].exchange()
    await shared[0].exchange()
    await shared[1].exchange()
    assert to_ask(other) == DOWN_LAST
    for one_of in (*shared, late):
        await one_of.close()


async def test_a_redis_that_forgot_everything_ends_no_outage(fleet: Fleet, redis: str, clock: Clock) -> None:
    open_first(fleet.outages[0])
    await fleet.exchange()
    async with Redis.from_url(redis) as there:
        await there.flushdb()
    await fleet.exchange()
    assert [to_ask(outages) for outages in fleet.outages] == [DOWN_LAST, DOWN_LAST]


@pytest.mark.parametrize("error", [EndpointBusy("full"), ProviderKeyUnavailable("no login")])
async def test_what_this_worker_lacks_says_nothing_of_a_provider(outages: Outages, error: ProviderError) -> None:
    """Neither that it is down, for the whole fleet, nor that it is back."""
    first, second = Endpoint("first", answers=False), Endpoint("second", answers=True)
    first.fails_by = error

    async def ask() -> None:
        given = {"deadline": time.monotonic() + 10, "trace_id": "t", "admit": admitted, "outages": outages}
        await ask_in_turn([first, second], cast(Prompt, None), **given)  # type: ignore[arg-type]

    for _ in range(FAILURES_TO_OPEN + 1):
        await ask()
    assert (outages.open_now(), outages.take_news()) == ([], {})
    for _ in range(FAILURES_TO_OPEN):
        outages.record_failure(("first", "m-1"), DOWN)
    await ask()
    assert outages.open_now() == ["first:m-1"]


async def test_where_an_endpoint_refuses_one_worker_the_others_ask_less_of_it_too(redis: str, clock: Clock) -> None:
    loads = [ConcurrencyLimit(clock=clock) for _ in range(2)]
    fleet = [SharedOutages(Outages(), redis, ROUTE, {FIRST: load}, clock=clock) for load in loads]
    loads[0].permits = loads[1].permits = 16
    with pytest.raises(RateLimited), loads[0].call():
        raise RateLimited("429", retry_after=timedelta(seconds=5))
    for _ in range(2):
        for shared in fleet:
            await shared.exchange()
    assert [load.limit for load in loads] == pytest.approx([FIRST_LIMIT * AFTER_REFUSAL] * 2)
    loads[0].permits = loads[1].permits = 0
    assert [load.seconds_to_wait() for load in loads] == pytest.approx([5, 5], abs=0.01)
    for shared in fleet:
        await shared.close()


@pytest.mark.parametrize("written", ["nan", "x:y:nan", "x:y:inf", "x:y:-1", "x:y:soon", ""])
async def test_what_no_worker_has_written_into_redis_changes_no_limit(redis: str, clock: Clock, written: str) -> None:
    limit = ConcurrencyLimit(clock=clock)
    shared = SharedOutages(Outages(), redis, ROUTE, {FIRST: limit}, clock=clock)
    async with Redis.from_url(redis) as client:
        await client.set("keyturn:refused:openai:m-1", written)
    await shared.exchange()
    await shared.close()
    assert (limit.limit, limit.seconds_to_wait()) == (FIRST_LIMIT, 0)
