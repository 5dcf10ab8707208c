"""What a fleet's workers share, by Redis, of providers that are down or refuse calls: what one finds out, all know."""

import asyncio
import math
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from keyturn.background import is_cancelled
from keyturn.llm.concurrency import ConcurrencyLimit
from keyturn.llm.outages import Name, Outages

_log = structlog.get_logger("keyturn.llm")
# An outage costs each worker five calls to find out; shared within a second, it costs the fleet about as many.
EXCHANGE_EVERY_SECONDS = 1.0
REDIS_SECONDS = 1.0
# Workers learn of the same end at the same time: by up to two seconds apart, one has tried before the next one does.
SPREAD_SECONDS = 2.0
# An end that moved by less is the same end, looked at a moment later.
EARLY_SECONDS = 1.0
# Long enough for each worker to read it, short enough for no later outage to be taken for over.
CLOSED_SECONDS = 5.0
OPEN, CLOSED = "open", "closed"
_PREFIX, _PREFIX_OF_REFUSALS = "keyturn:outage", "keyturn:refused"
# Long enough for each worker to read it once.
REFUSAL_SECONDS = 3.0


class SharedOutages:
    """Circuits in the Redis at `url`. While it does not answer, each worker knows what it found out itself.

    Args:
        outages: this worker's.
        url: of Redis.
        names: whom the routes ask.
        limits: the concurrency limit of each of them.
        clock: in seconds.
        jitter: a number from 0 to 1.
    """

    def __init__(
        self,
        outages: Outages,
        url: str,
        names: Iterable[Name],
        limits: Mapping[Name, ConcurrencyLimit] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outages = outages
        self._names = tuple(names)
        self._limits = dict(limits or {})
        self._heard: dict[Name, str] = {}  # the last refusal of each
        self._me = uuid.uuid4().hex
        self._clock = clock
        self._jitter = jitter
        self._ends: dict[Name, float] = {}  # of names that stood in Redis when it was last looked at
        self._unsent: dict[Name, tuple[float, float]] = {}  # with when it was found out
        self._redis = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, decode_responses=True
        )

    async def watch(self) -> None:
        """Publish and learn once a second, for ever."""
        while not is_cancelled():
            await self.exchange()
            await asyncio.sleep(EXCHANGE_EVERY_SECONDS)

    async def exchange(self) -> None:
        """Publish what this worker found out, and learn what others did; a Redis that is away is logged."""
        self._unsent |= self._outages.take_news()
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await self._send()
                known = await look_up(self._redis, self._names)
                await self._share_refusals()
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("outages_not_shared", cause=type(error).__name__)
            return
        self._learn(known)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _send(self) -> None:
        sent, now = dict(self._unsent), self._clock()
        if not sent:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name, (seconds, at) in sent.items():
                # What could not be sent for a while may be news no more: others have found out more since.
                if seconds and (left := at + seconds - now) > 0:
                    pipeline.set(_key(name), OPEN, px=max(int(left * 1000), 1))
                elif not seconds and now - at < CLOSED_SECONDS:
                    pipeline.set(_key(name), CLOSED, px=int(CLOSED_SECONDS * 1000))
            await pipeline.execute()
        # Found out again while it was sent: that is sent with the next exchange.
        self._unsent = {name: value for name, value in self._unsent.items() if sent.get(name) != value}

    async def _share_refusals(self) -> None:
        """Let all workers ask less of an endpoint that has refused one of them."""
        if not self._limits:
            return
        refusals = {name: limit.take_refusal() for name, limit in self._limits.items()}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in self._limits:
                pipeline.get(_key(name, _PREFIX_OF_REFUSALS))
            found = await pipeline.execute()
            for name, seconds in refusals.items():
                if seconds is None:
                    continue
                news = f"{self._me}:{uuid.uuid4().hex}:{seconds:.3f}"
                pipeline.set(_key(name, _PREFIX_OF_REFUSALS), news, px=int(REFUSAL_SECONDS * 1000))
            await pipeline.execute()
        for name, news in zip(self._limits, found, strict=True):
            if news is not None and news != self._heard.get(name):
                self._heard[name] = news
                by, _, seconds = news.rpartition(":")
                with suppress(ValueError):  # not written by a worker
                    held = float(seconds)
                    if not by.startswith(self._me) and 0 <= held < math.inf:
                        self._limits[name].learn_refusal(held)

    def _learn(self, known: Mapping[Name, tuple[str, float]]) -> None:
        now = self._clock()
        for name, (state, left) in known.items():
            if state == OPEN:
                if now + left > self._ends.get(name, 0.0) + EARLY_SECONDS:  # it is new, or has been prolonged
                    self._outages.learn_open(name, left + self._jitter() * SPREAD_SECONDS)
                self._ends[name] = now + left
            elif self._ends.pop(name, None) is not None:
                self._outages.learn_closed(name)


async def look_up(redis: Redis, names: Iterable[Name]) -> dict[Name, tuple[str, float]]:
    """Return what the fleet knows of each circuit, and for how many seconds it counts; raises RedisError."""
    names = tuple(names)
    async with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.get(_key(name))
            pipeline.pttl(_key(name))
        found = await pipeline.execute()
    states = zip(names, found[::2], found[1::2], strict=True)
    return {
        name: (state.decode() if isinstance(state, bytes) else state, left / 1000)
        for name, state, left in states
        if state is not None and left > 0
    }


async def remaining(redis: Redis, names: Iterable[Name]) -> dict[Name, float]:
    """Return for how many seconds each circuit is open that is; raises RedisError."""
    return {name: left for name, (state, left) in (await look_up(redis, names)).items() if state == OPEN}


def _key(name: Name, prefix: str = _PREFIX) -> str:
    return ":".join((prefix, *name))
