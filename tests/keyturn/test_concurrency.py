"""The concurrency limit of a model rises until the provider refuses a call, and falls at once then."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from aiohttp import web
from pydantic import SecretStr

from keyturn.errors import KeyturnError
from keyturn.llm.concurrency import AFTER_REFUSAL, FIRST_LIMIT, LONGEST_HOLD, MOST_CALLS, ConcurrencyLimit
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import AuthenticationFailed, ProviderOverloaded, ProviderTimeout, RateLimited
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.rate_limits import RateLimit, rate_limits_in
from keyturn.tasks.definition import Prompt
from tests.support.boundaries import endpoint
from tests.support.clocks import Clock
from tests.support.servers import fake_server

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
PROMPT = Prompt("v", "s", "u", "", "n", {}, 10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> ConcurrencyLimit:
    return ConcurrencyLimit(clock=clock)


async def take(limit: ConcurrencyLimit, clock: Clock, number: int) -> list[Callable[[], None]]:
    """Take as many permits as are given, letting time pass between the starts."""
    ends: list[Callable[[], None]] = []
    while len(ends) < number:
        wait = limit.seconds_to_wait()
        if wait >= 1.0:
            break
        clock.now += wait
        ends.append(await limit.acquire())
    return ends


def refuse(limit: ConcurrencyLimit, error: KeyturnError) -> None:
    with pytest.raises(type(error)), limit.call():
        raise error


async def test_no_more_permits_are_given_than_the_limit_and_a_released_one_is_given_again(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    releases = await take(limit, clock, 100)
    assert len(releases) == FIRST_LIMIT
    releases[0]()
    releases[0]()  # a second time, to no effect
    assert len(await take(limit, clock, 100)) == 1


async def test_the_first_calls_do_not_start_in_one_burst(limit: ConcurrencyLimit, clock: Clock) -> None:
    await take(limit, clock, int(FIRST_LIMIT))
    assert 0.4 < clock.now - 1_000 < 0.6


@pytest.mark.parametrize("error", [RateLimited("429"), ProviderOverloaded("529"), ProviderTimeout("late")])
async def test_a_refusal_lowers_the_limit_at_once_and_only_once_for_all_calls_under_way(
    limit: ConcurrencyLimit, clock: Clock, error: KeyturnError
) -> None:
    await take(limit, clock, 100)
    first, second = limit.call(), limit.call()
    for call in (first, second):
        call.__enter__()
    clock.now += 1
    for call in (first, second):
        assert not call.__exit__(type(error), error, None), "the error goes on"
        assert limit.limit == pytest.approx(FIRST_LIMIT * AFTER_REFUSAL)


async def test_a_failure_that_is_not_about_load_lowers_nothing(limit: ConcurrencyLimit) -> None:
    refuse(limit, AuthenticationFailed("401"))
    assert (limit.limit, limit.seconds_to_wait()) == (FIRST_LIMIT, 0)


async def test_after_a_refusal_the_limit_returns_to_where_it_was_and_later_passes_it(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    limit.limit = 100.0
    limit.permits = 100
    refuse(limit, RateLimited("429"))
    seen = []
    for _ in range(60):
        clock.now += 1
        limit.seconds_to_wait()
        seen.append(limit.limit)
    assert seen == sorted(seen)
    assert 70 < seen[0] < 80
    assert 99 < seen[14] < 101, "back after 14 s"
    assert 100 < seen[19] < 105, "slowly past it"
    assert seen[-1] == MOST_CALLS, "and then fast"


async def test_a_limit_is_at_least_one_call(limit: ConcurrencyLimit, clock: Clock) -> None:
    for _ in range(50):
        refuse(limit, RateLimited("429"))
        clock.now += limit.seconds_to_wait()
    assert limit.limit == 1
    assert len(await take(limit, clock, 10)) == 1


@pytest.mark.parametrize(("asked", "held"), [(5.0, 5.0), (0.0, 0.0), (3_600.0, LONGEST_HOLD)])
async def test_new_calls_wait_as_long_as_the_provider_asks_for_and_half_a_minute_at_most(
    limit: ConcurrencyLimit, asked: float, held: float
) -> None:
    refuse(limit, RateLimited("429", retry_after=timedelta(seconds=asked)))
    assert limit.seconds_to_wait() == pytest.approx(held)


async def test_a_refusal_while_others_are_held_neither_shortens_the_hold_nor_lowers_the_limit_again(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    """A person's call is not held, and may be refused or time out meanwhile; and other workers tell of the same one."""
    limit.permits = 16
    refuse(limit, RateLimited("429", retry_after=timedelta(seconds=30)))
    lowered, limit.permits = limit.limit, 0
    clock.now += 1
    refuse(limit, ProviderTimeout("late"))
    refuse(limit, RateLimited("429"))
    limit.learn_refusal(2.0)
    assert limit.limit == lowered
    assert limit.seconds_to_wait() == pytest.approx(29)


async def test_latencies_that_differ_as_those_of_models_do_are_no_refusal_of_a_few_calls_at_once() -> None:
    """Two calls at once, of a median of a second, most of them between a third and three."""
    clock, chance = Clock(), Random(3)
    limit = ConcurrencyLimit(clock=clock, most=2)
    for _ in range(3_000):
        limit.permits = 2
        async with limit._line:
            with limit.call():
                clock.now += chance.lognormvariate(0, 0.6)
    assert limit.limit == 2


async def test_a_person_is_counted_and_waits_for_nobody(limit: ConcurrencyLimit, clock: Clock) -> None:
    limit.limit = 2.0
    with limit.call(), limit.call():
        assert limit.seconds_to_wait() == 1.0, "background work waits"
        with limit.call():
            pass
    assert limit.seconds_to_wait() == 0


async def test_a_latency_that_doubles_is_a_refusal(limit: ConcurrencyLimit, clock: Clock) -> None:
    limits = []
    for seconds in (0.5, 3.0):
        for _ in range(400):
            limit.permits = int(limit.limit)
            async with limit._line:
                with limit.call():
                    clock.now += seconds / 400
                    clock.now += seconds
        limits.append(limit.limit)
    assert limits[0] == MOST_CALLS
    assert limits[1] < MOST_CALLS


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # OpenAI's guide on rate limits.
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            [RateLimit("requests", 60, 59, 1, False), RateLimit("tokens", 150_000, 149_984, 360, True)],
        ),
        # OpenAI in the field, and Groq's documentation.
        (
            {
                "X-RateLimit-Limit-Requests": "5000",
                "X-RateLimit-Remaining-Requests": "4999",
                "X-RateLimit-Reset-Requests": "12ms",
                "x-ratelimit-remaining-tokens_usage_based": "159976",
            },
            [RateLimit("requests", 5_000, 4_999, 0.012, False)],
        ),
        (
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
            },
            [RateLimit("requests", 14_400, 14_370, 179.56, False)],
        ),
        # Anthropic's API reference.
        (
            {
                "anthropic-ratelimit-requests-limit": "4000",
                "anthropic-ratelimit-requests-remaining": "3201",
                "anthropic-ratelimit-requests-reset": "2026-11-27T12:00:30Z",
                "anthropic-ratelimit-input-tokens-limit": "400000",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-27T11:59:59Z",
            },
            [RateLimit("requests", 4_000, 3_201, 30, False), RateLimit("input-tokens", 400_000, 0, 0, True)],
        ),
        # Azure OpenAI: no end, or seconds, or -1 for what it does not know.
        (
            {"x-ratelimit-remaining-requests": "19", "x-ratelimit-remaining-tokens": "-1"},
            [RateLimit("requests", 0, 19, 60, False)],
        ),
        (
            {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"},
            [],
        ),
        # LiteLLM in front of OpenAI; OpenRouter, in milliseconds since 1970.
        (
            {"llm_provider-x-ratelimit-remaining-requests": "3", "llm_provider-x-ratelimit-reset-requests": "20"},
            [RateLimit("llm_provider-requests", 0, 3, 20, False)],
        ),
        (
            {
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int((NOW + timedelta(seconds=9)).timestamp() * 1000)),
            },
            [RateLimit("requests", 20, 0, 9, False)],
        ),
        # A proxy's own limit beside the one that it repeats; moments by the clock of the server that states them.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "30s",
                "llm_provider-x-ratelimit-remaining-requests": "9999",
                "llm_provider-x-ratelimit-reset-requests": "10ms",
            },
            [
                RateLimit("requests", 0, 0, 30, False),
                RateLimit("llm_provider-requests", 0, 9_999, 0.01, False),
            ],
        ),
        # What is in no documented form says nothing.
        ({"x-ratelimit-remaining-requests": "nan", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "soon"}, []),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "2026-11-27T12:00:30"}, []),
        ({"x-ratelimit-remaining-requests": "9" * 5_000}, []),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1d" * 400}, []),
        ({"retry-after": "5", "content-type": "application/json"}, []),
    ],
)
def test_the_rate_limits_that_providers_state_are_read(headers: dict[str, str], expected: list[RateLimit]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    found = list(rate_limits_in(raw, now=NOW))
    if headers.get("x-ratelimit-reset-requests") == "1d" * 400:
        assert [rate.seconds for rate in found] == [86_400]
        return
    assert [rate._replace(seconds=round(rate.seconds, 6)) for rate in found] == expected


def test_a_moment_is_counted_from_the_answers_own_date() -> None:
    """By this machine's clock, which may be minutes off, the limit would be whole already."""
    date = "Fri, 01 Jan 2021 00:00:00 GMT"
    stated = {"remaining": "1", "reset": "2021-01-01T00:00:30Z"}
    headers = [(f"anthropic-ratelimit-requests-{name}".encode(), value.encode()) for name, value in stated.items()]
    (rate,) = rate_limits_in([*headers, (b"Date", date.encode())])
    assert rate.seconds == 30
    (rate,) = rate_limits_in([*headers, (b"date", b"yesterday")])
    assert rate.seconds == 0


async def test_what_is_left_of_a_rate_limit_is_spread_until_it_is_whole_again(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    stated = {"limit": "1000", "remaining": "500", "reset": "30s"}
    limit.read([(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in stated.items()])
    await limit.acquire()
    assert limit.seconds_to_wait() < 0.1, "half of it is left"
    stated |= {"remaining": "10"}
    limit.read([(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in stated.items()])
    clock.now += 1
    await limit.acquire()
    assert limit.seconds_to_wait() == pytest.approx(29 / 10)


async def test_tokens_that_are_left_count_as_the_calls_that_they_are_enough_for(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    limit.count_tokens(300)
    stated = {"limit": "100000", "remaining": "1500", "reset": "40"}
    limit.read([(f"x-ratelimit-{name}-tokens".encode(), value.encode()) for name, value in stated.items()])
    await limit.acquire()
    assert limit.seconds_to_wait() == pytest.approx(40 / 5)


@pytest.mark.parametrize(("reset", "waits"), [("60s", 60.0), ("6h0m0s", 0.0)])
async def test_what_is_left_of_a_days_limit_is_used_up_and_not_spread_over_hours_in_silence(
    limit: ConcurrencyLimit, clock: Clock, reset: str, waits: float
) -> None:
    """The provider's refusals then pause the run, which says why."""
    stated = {"limit": "14400", "remaining": "0", "reset": reset}
    limit.read([(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in stated.items()])
    await limit.acquire()
    assert limit.seconds_to_wait() == pytest.approx(waits, abs=0.1)


class Provider:
    """A server that takes some calls at once and refuses the others with a 429, as a gateway does."""

    def __init__(self, at_once: int, seconds: float) -> None:
        self.at_once = at_once
        self.seconds = seconds
        self.calls = self.refused = self.under_way = self.most = 0

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.calls += 1
        if self.under_way >= self.at_once:
            self.refused += 1
            return web.json_response({"error": {"code": "rate_limit_exceeded"}}, status=429)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        said = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}], "model": "m"}
        return web.json_response(said)


@pytest.mark.alone
async def test_a_provider_is_kept_busy_and_refuses_hardly_a_call() -> None:
    """It takes 40 calls at once of 0.2 s each, and states no limit."""
    provider = Provider(40, 0.2)
    application = web.Application()
    application.router.add_post("/{path:.*}", provider.answer)
    async with fake_server(application) as url, http_client(300) as http:
        client = HttpModelClient(http, endpoint("openai", url, key=SecretStr("k")), "m")
        limits = Timeouts(connect=5, first_byte=20, total=20)

        async def one(release: Callable[[], None]) -> None:
            try:
                with suppress(RateLimited):
                    await client.complete(PROMPT, timeouts=limits, trace_id="t")
            finally:
                release()

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(1_500):
                group.create_task(one(await client.concurrency.acquire()))
        seconds = time.monotonic() - began
    assert provider.most == 40
    assert provider.refused <= 0.01 * provider.calls
    assert seconds <= 1.5 * 1_500 / 40 * 0.2


async def test_a_limit_that_is_not_used_does_not_grow(limit: ConcurrencyLimit, clock: Clock) -> None:
    """Neither before the first refusal nor after it: an answer to one call says nothing of sixteen."""
    for _ in range(50):
        with limit.call():
            clock.now += 1
    assert limit.limit == FIRST_LIMIT
    limit.permits = 16
    refuse(limit, RateLimited("429"))
    limit.permits = 0
    clock.now += 5
    for _ in range(200):
        with limit.call():
            clock.now += 1
    assert limit.seconds_to_wait() == 0
    assert limit.limit < FIRST_LIMIT


async def test_calls_since_the_last_answer_count_against_what_that_answer_left(
    limit: ConcurrencyLimit, clock: Clock
) -> None:
    """The provider has counted them; its next answer says so only when it comes."""
    limit.limit = 100.0
    stated = {"limit": "10", "remaining": "8", "reset": "40s"}
    limit.read([(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in stated.items()])
    with ExitStack() as calls:
        for _ in range(4):
            calls.enter_context(limit.call())
        await limit.acquire()
        assert limit.seconds_to_wait() == pytest.approx(40 / 4)


def test_each_model_of_an_endpoint_has_its_limit_and_calls_at_once_is_one_for_all() -> None:
    own = endpoint("openai", "http://p", key=SecretStr("k"))
    assert own.limit_of("a") is own.limit_of("a") is not own.limit_of("b")
    server = endpoint("openai", "http://p", key=SecretStr("k"), calls_at_once=2)
    assert server.limit_of("a") is server.limit_of("b")
    assert server.limit_of("a").limit == 2


async def test_a_client_learns_from_answers_and_keeps_no_cookie_of_them() -> None:
    """A tenant's cookie would be sent with the calls of others."""
    cookies = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        said = {
            "choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}],
            "model": "m",
            "usage": {"prompt_tokens": 200, "completion_tokens": 100},
        }
        left = {"x-ratelimit-limit-tokens": "100000", "x-ratelimit-remaining-tokens": "1500"}
        return web.json_response(said, headers=left | {"set-cookie": "session=of-one-tenant; Path=/"})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    async with fake_server(application) as url, http_client(2) as http:
        client = HttpModelClient(http, endpoint("openai", url, key=SecretStr("k")), "m")
        for _ in range(2):
            await client.complete(PROMPT, timeouts=Timeouts(connect=5, first_byte=20, total=20), trace_id="t")
        await client.concurrency.acquire()
        assert client.concurrency.seconds_to_wait() == pytest.approx(60 / 5, abs=1), "1,500 tokens are five calls"
        assert (cookies, list(http.cookies.items())) == ([None, None], [])
