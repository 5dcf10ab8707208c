"""Token limits a user and hour, and cached responses: in memory and SQL, and shared through a real Redis server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.cache.encrypted import EncryptedCache
from keyturn.cache.key import CacheKey
from keyturn.cache.redis import RedisCache
from keyturn.cache.sql import SqlCache
from keyturn.cache.tables import response_cache
from keyturn.call_errors import CostCapExceeded, LedgerUnavailable, TokenLimitReached
from keyturn.calls import CallRecord
from keyturn.database import open_database
from keyturn.errors import JobStoreUnavailable
from keyturn.ledger.store import LedgerStore
from keyturn.ledger.token_limit import SlidingTokenLimit
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.cache import cache_key, pack, unpack
from keyturn.llm.errors import ProviderUnavailable
from keyturn.llm.wire import Completion, Usage
from keyturn.policy.catalogue import Catalogue
from keyturn.rotations.decisions import GroundedDecision, Rejection
from keyturn.tasks.decide_rotation import TASK
from tests.keyturn.test_boundary import ELIGIBLE, Scripted
from tests.support.boundaries import guarded
from tests.support.cases import request
from tests.support.keys import NEWER, OLDER, ring

USER = "default/luna"
HOUR = timedelta(days=1)


@pytest.fixture(params=["memory", "redis"])
async def limit(request: pytest.FixtureRequest) -> AsyncIterator[SlidingTokenLimit]:
    """1,000 tokens an hour, counted in this process or in Redis."""
    url = None if request.param == "memory" else request.getfixturevalue("redis")
    kept = SlidingTokenLimit(1_000, redis_url=url)
    yield kept
    await kept.close()


async def test_a_user_may_use_so_many_tokens_and_no_more(limit: SlidingTokenLimit) -> None:
    """The limit is the user's own; the refusal says when the tokens will fit."""
    await limit.reserve(USER, 900)
    with pytest.raises(TokenLimitReached, match=r"1,000 tokens of this hour are used up; 200 more fit in") as caught:
        await limit.reserve(USER, 200)
    assert caught.value.kind == "rate_limited"
    assert datetime.now(UTC) < caught.value.retry_at <= datetime.now(UTC) + timedelta(hours=2)
    await limit.reserve(USER, 100)
    await limit.reserve("default/noor", 1_000)


async def test_a_refused_call_takes_nothing(limit: SlidingTokenLimit) -> None:
    """Nor does one that gave back what it did not use."""
    await limit.reserve(USER, 900)
    for _ in range(5):
        with pytest.raises(TokenLimitReached):
            await limit.reserve(USER, 200)
    receipt = await limit.reserve(USER, 100)
    await limit.give_back(receipt, USER, 500)
    await limit.reserve(USER, 500)
    with pytest.raises(TokenLimitReached):
        await limit.reserve(USER, 1)


async def test_a_call_that_never_fits_is_not_told_to_wait(limit: SlidingTokenLimit) -> None:
    """It exceeds the whole limit."""
    with pytest.raises(CostCapExceeded, match="may take 1,001 tokens, and KEYTURN_TOKENS_PER_USER_HOUR allows 1,000"):
        await limit.reserve(USER, 1_001)


async def test_many_calls_at_once_do_not_pass_the_limit_together(limit: SlidingTokenLimit) -> None:
    """50 at once of 70 each: 14 fit into 1,000."""
    ends = await asyncio.gather(*(limit.reserve(USER, 70) for _ in range(50)), return_exceptions=True)
    assert sum(not isinstance(end, BaseException) for end in ends) == 14


async def test_a_fleet_counts_together_and_each_alone_while_redis_is_away(redis: str) -> None:
    """Two workers share one limit; without Redis a limit still holds in each."""
    one, other = SlidingTokenLimit(1_000, redis_url=redis), SlidingTokenLimit(1_000, redis_url=redis)
    await one.reserve(USER, 900)
    with pytest.raises(TokenLimitReached):
        await other.reserve(USER, 200)
    away = SlidingTokenLimit(1_000, redis_url="redis://127.0.0.1:9")
    await away.reserve(USER, 900)
    with pytest.raises(TokenLimitReached):
        await away.reserve(USER, 200)
    for limit in (one, other, away):
        await limit.close()


async def test_the_time_that_is_shown_is_when_the_tokens_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """At that time they do, and half a minute before they do not, whatever was used in this window and the last."""
    import time

    for first, second, wanted in ((900, 0, 600), (1_000, 0, 1_000), (600, 300, 600), (200, 700, 900), (0, 990, 20)):
        limit = SlidingTokenLimit(1_000)
        begin = (time.time() // 3_600) * 3_600 + 3_600.0
        clock = [begin + 60.0]
        monkeypatch.setattr("limits.aio.storage.memory.time.time", lambda now=clock: now[0])
        if first:
            await limit.reserve(USER, first)
        clock[0] = begin + 3_600 + 1_800
        if second:
            await limit.reserve(USER, second)
        storage, taken = await limit.hit(USER, wanted)
        assert not taken, "the case is one that has to wait"
        wait = await limit.wait(storage, USER, wanted)
        clock[0] += wait - 30
        assert not (await limit.hit(USER, wanted))[1]
        clock[0] += 31
        assert (await limit.hit(USER, wanted))[1]
        monkeypatch.undo()


async def test_what_cannot_be_cleared_or_kept_while_redis_is_away_is_said() -> None:
    """The caller that clears gets an error; a call continues without a cache."""
    away = RedisCache("redis://127.0.0.1:9")
    with pytest.raises(JobStoreUnavailable, match="Redis did not answer"):
        await away.clear()
    key = CacheKey("decide_rotation", "rotation_decision@1", "1", "d" * 64)
    assert not await away.store(key, "{}", timedelta(minutes=1))
    await away.close()


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Each place where answers can be cached."""
    if request.param == "redis":
        shared = RedisCache(request.getfixturevalue("redis"))
        yield shared
        await shared.close()
        return
    engine = open_database(request.getfixturevalue(request.param))
    yield SqlCache(engine)
    await engine.dispose()


def key(digest: str, task: str = "decide_rotation", prompt: str = "p@1", catalogue: str = "v1:c") -> CacheKey:
    return CacheKey(task, prompt, catalogue, f"v1:{digest}")


async def test_an_answer_is_kept_for_its_time_and_the_first_one_stands(cache: Any) -> None:
    """Found by any of several keys, in their order; another answer does not replace it."""
    assert await cache.find([key("a"), key("b")]) is None
    await cache.store(key("b"), "first", HOUR)
    await cache.store(key("b"), "second", HOUR)
    assert await cache.find([key("a"), key("b")]) == (1, "first")
    await cache.store(key("a"), "other", HOUR)
    assert await cache.find([key("a"), key("b")]) == (0, "other")
    await cache.store(key("short"), "gone", timedelta(milliseconds=1))
    async with asyncio.timeout(5):
        while await cache.find([key("short")]) is not None:
            await asyncio.sleep(0.005)
    await cache.store(key("short"), "new", HOUR)
    assert await cache.find([key("short")]) == (0, "new")


async def test_a_cached_response_is_encrypted_and_decrypted_only_with_its_key_under_its_question(cache: Any) -> None:
    """What is stored is ciphertext; with the key taken out, or moved to another question, it is a miss."""
    await EncryptedCache(cache, ring(OLDER)).store(key("a"), "the model's words", timedelta(hours=1))
    found = await cache.find([key("a")])
    assert found is not None
    assert "words" not in found[1]
    assert await EncryptedCache(cache, ring(NEWER, OLDER)).find([key("b"), key("a")]) == (1, "the model's words")
    assert await EncryptedCache(cache, ring(NEWER)).find([key("a")]) is None
    await cache.store(key("b"), found[1], timedelta(hours=1))
    await cache.store(key("c"), "not encrypted at all", timedelta(hours=1))
    for moved in ("b", "c"):
        assert await EncryptedCache(cache, ring(OLDER)).find([key(moved)]) is None


async def test_answers_are_cleared_by_task_prompt_catalogue_or_altogether(cache: Any) -> None:
    """Only those that fit, and it says how many."""
    for each in (key("1"), key("2", task="other"), key("3", prompt="p@2"), key("4", catalogue="v1:d")):
        await cache.store(each, "x", HOUR)
    assert await cache.clear(task="other") == 1
    assert await cache.clear(prompt_version="p@2") == 1
    assert await cache.clear(catalogue_version="v1:d", task="other") == 0
    assert await cache.clear(catalogue_version="v1:d") == 1
    assert await cache.find([key("1")]) is not None
    assert await cache.clear() == 1
    assert await cache.find([key("1")]) is None


async def test_expired_answers_are_cleared_apart(engine: AsyncEngine) -> None:
    """A table does not forget by itself."""
    cache = SqlCache(engine)
    await cache.store(key("old"), "x", HOUR)
    await cache.store(key("new"), "x", HOUR)
    async with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        old = response_cache.c.digest == "v1:old"
        await connection.execute(update(response_cache).where(old).values(expires_at=past))
    assert await cache.clear(expired_only=True) == 1
    async with engine.connect() as connection:
        assert (await connection.execute(select(response_cache.c.digest))).scalars().all() == ["v1:new"]


async def test_a_cache_that_is_away_is_a_miss() -> None:
    """A call never fails for it."""
    for away in (
        RedisCache("redis://127.0.0.1:9"),
        SqlCache(open_database(URL.create("postgresql+psycopg", host="127.0.0.1", port=9))),
    ):
        assert await away.find([key("a")]) is None
        await away.store(key("a"), "x", HOUR)


async def test_a_ledger_that_is_away_is_reported_by_its_name() -> None:
    """A cap on a user's day cannot be enforced without it: the call waits for it, and fails by name."""
    ledger = LedgerStore(open_database(URL.create("postgresql+psycopg", host="127.0.0.1", port=9)))
    with pytest.raises(LedgerUnavailable, match="the ledger did not answer"):
        await ledger.spent_today("default", "luna")


async def test_a_cache_that_is_slow_is_a_miss(sqlite: URL) -> None:
    """Another process locks the database for longer than a call would wait."""
    import sqlite3

    other = sqlite3.connect(str(sqlite.database), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    engine = open_database(sqlite)
    began = asyncio.get_running_loop().time()
    assert await SqlCache(engine).find([key("a")]) is None
    assert asyncio.get_running_loop().time() - began < 3
    other.execute("ROLLBACK")
    other.close()
    await engine.dispose()


class Kept:
    """A boundary on a cache, with its records."""

    def __init__(self, cache: Any, catalogue: Catalogue, *route: Scripted) -> None:
        self.records: list[CallRecord] = []
        self.boundary = ModelBoundary({"*": route}, catalogue, guard=guarded(), record=self.records.append, cache=cache)


async def test_a_repeated_question_is_answered_from_the_cache_at_no_cost(cache: Any, catalogue: Catalogue) -> None:
    """As after a lost response: the first answer is found, judged again, and recorded as a hit."""
    provider = Scripted(ELIGIBLE)
    kept, asked = Kept(cache, catalogue, provider), request()
    first = await kept.boundary.decide(asked, 1)
    second = await kept.boundary.decide(asked, 2)
    assert len(provider.asked) == 1
    assert isinstance(first.verdict, GroundedDecision)
    assert isinstance(second.verdict, GroundedDecision)
    assert second.verdict.digest == first.verdict.digest
    miss, hit = kept.records
    assert (miss.cache_hit, hit.cache_hit) == (False, True)
    assert (hit.cost_usd, hit.input_tokens, hit.output_tokens, hit.request_id) == (Decimal(0), 0, 0, None)
    await kept.boundary.decide(asked.model_copy(update={"question": "Another one?"}), 1)
    assert len(provider.asked) == 2


async def test_after_a_fallback_the_answer_is_found_although_the_first_provider_is_back(
    cache: Any, catalogue: Catalogue
) -> None:
    """It was paid for; who gave it does not matter."""
    asked = request()
    back = Scripted(ELIGIBLE, "first")
    await Kept(
        cache, catalogue, Scripted(ProviderUnavailable("x"), "first"), Scripted(ELIGIBLE, "second")
    ).boundary.decide(asked, 1)
    kept = Kept(cache, catalogue, back, Scripted(ELIGIBLE, "second"))
    await kept.boundary.decide(asked, 2)
    assert back.asked == []
    assert (kept.records[0].provider, kept.records[0].cache_hit) == ("second", True)


async def test_a_rejected_answer_is_not_kept(cache: Any, catalogue: Catalogue) -> None:
    """Asking again asks the model again."""
    provider = Scripted("nonsense")
    kept, asked = Kept(cache, catalogue, provider), request()
    for attempt in (1, 2):
        assert isinstance((await kept.boundary.decide(asked, attempt)).verdict, Rejection)
    assert len(provider.asked) == 2


async def test_a_cached_response_that_cannot_be_read_is_a_miss(cache: Any, catalogue: Catalogue) -> None:
    """Such as another release's."""
    provider, asked = Scripted(ELIGIBLE), request()
    prompt = TASK.prompt(asked, catalogue.resolve(asked.policy_lines))
    place = cache_key("decide_rotation", prompt, catalogue.version, provider.name, provider.model)
    await cache.store(place, '{"answer": 7}', HOUR)
    await Kept(cache, catalogue, provider).boundary.decide(asked, 1)
    assert len(provider.asked) == 1


def test_the_key_covers_all_that_an_answer_depends_on(catalogue: Catalogue) -> None:
    """Provider, model, prompt version and text, catalogue, schema and input."""
    asked = request()
    lines = catalogue.resolve(asked.policy_lines)
    prompt = TASK.prompt(asked, lines)
    from dataclasses import replace

    prompts = [prompt, replace(prompt, version="x@1"), replace(prompt, system="other"), replace(prompt, schema={})]
    prompts += [replace(prompt, varying="{}"), replace(prompt, stable="{}")]
    keys = [cache_key("t", each, "c", "p", "m") for each in prompts]
    keys += [cache_key("t", prompt, "d", "p", "m"), cache_key("t", prompt, "c", "q", "m")]
    keys += [cache_key("t", prompt, "c", "p", "n")]
    assert len({each.digest for each in keys}) == len(keys)
    assert cache_key("t", TASK.prompt(asked, lines), "c", "p", "m") == keys[0]


def test_what_is_kept_is_read_as_it_was() -> None:
    """All of a completion."""
    completion = Completion("text", "complete", "stop", "m", Usage(1, 2, 3, 4), "req", 5.0)
    assert unpack(pack(completion)) == completion


async def test_only_what_was_used_is_taken_from_the_limit(catalogue: Catalogue) -> None:
    """A call reserves what it may use at most; an answer leaves its tokens, a failure and a cached response nothing."""
    limit = SlidingTokenLimit(100_000)

    async def left() -> int:
        taken = 0
        for size in (10_000, 1_000, 100, 10, 1):
            while (await limit.hit("default/luna", size))[1]:
                taken += size
        await limit.give_back(None, "default/luna", taken)
        return taken

    async def ask(*route: Scripted) -> None:
        boundary = ModelBoundary({"*": route}, catalogue, guard=guarded(tokens=limit), record=lambda _: None)
        await boundary.decide(request(user_id="luna"), 1)

    await ask(Scripted(ELIGIBLE))
    assert await left() == 100_000 - 330
    with pytest.raises(ProviderUnavailable):
        await ask(Scripted(ProviderUnavailable("x")))
    assert await left() == 100_000 - 330
