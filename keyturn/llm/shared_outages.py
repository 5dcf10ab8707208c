"""What a fleet's workers tell each other of providers that are down, by Redis: one finds out, and the others know."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from keyturn.llm.outages import Name, Outages

_log = structlog.get_logger("keyturn.llm")
# An outage costs each worker five calls to find out; told within a second, it costs the fleet about as many.
EXCHANGE_EVERY_SECONDS = 1.0
REDIS_SECONDS = 1.0
# Workers learn of the same end at the same time: by up to two seconds apart, one has tried before the next one does.
SPREAD_SECONDS = 2.0
# A name that is gone by so much before its time was taken away: its provider answers.
EARLY_SECONDS = 1.0
_PREFIX = "keyturn:outage"


class SharedOutages:
    """Circuits in the Redis at `url`. While it does not answer, each worker knows what it found out itself.

    Args:
        outages: this worker's.
        url: of Redis.
        names: whom the routes ask.
        clock: in seconds.
        jitter: a number from 0 to 1.
    """

    def __init__(
        self,
        outages: Outages,
        url: str,
        names: Iterable[Name],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outages = outages
        self._names = tuple(names)
        self._clock = clock
        self._jitter = jitter
        self._ends: dict[Name, float] = {}  # of names that stood in Redis when it was last looked at
        self._unsent: dict[Name, float] = {}
        self._redis = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, decode_responses=True
        )

    async def watch(self) -> None:
        """Tell and learn once a second, for ever."""
        while True:
            await self.exchange()
            await asyncio.sleep(EXCHANGE_EVERY_SECONDS)

    async def exchange(self) -> None:
        """Tell what this worker found out, and learn what others did; a Redis that is away is logged."""
        self._unsent |= self._outages.take_news()
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await self._send()
                left = await remaining(self._redis, self._names)
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("outages_not_shared", cause=type(error).__name__)
            return
        self._learn(left)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _send(self) -> None:
        sent = dict(self._unsent)
        if not sent:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name, seconds in sent.items():
                if seconds:
                    pipeline.set(_key(name), "open", px=max(int(seconds * 1000), 1))
                else:
                    pipeline.delete(_key(name))
            await pipeline.execute()
        # Found out again while it was told: that is told with the next exchange.
        self._unsent = {name: value for name, value in self._unsent.items() if sent.get(name) != value}

    def _learn(self, left: Mapping[Name, float]) -> None:
        now = self._clock()
        for name in self._names:
            if name in left:
                if now + left[name] > self._ends.get(name, 0.0) + EARLY_SECONDS:  # it is new, or has been prolonged
                    self._outages.learn_open(name, left[name] + self._jitter() * SPREAD_SECONDS)
                self._ends[name] = now + left[name]
            elif (ends := self._ends.pop(name, None)) is not None and now < ends - EARLY_SECONDS:
                self._outages.learn_closed(name)


async def remaining(redis: Redis, names: Iterable[Name]) -> dict[Name, float]:
    """Return for how many seconds each circuit is open that is; raises RedisError."""
    names = tuple(names)
    async with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.pttl(_key(name))
        left = await pipeline.execute()
    return {name: one / 1000 for name, one in zip(names, left, strict=True) if one > 0}


def _key(name: Name) -> str:
    return ":".join((_PREFIX, *name))
