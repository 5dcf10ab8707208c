"""Cached responses in Redis, which deletes them by itself when they expire."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from keyturn.cache.key import CacheKey
from keyturn.errors import JobStoreUnavailable

_log = structlog.get_logger("keyturn.cache")
# A lookup may not delay a call: Redis answers in a millisecond or is not there.
REDIS_SECONDS = 1.0
_PREFIX = "keyturn:answer"


class RedisCache:
    """Cached responses in the Redis at `url`. A failure of it is a miss, and logged."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, decode_responses=True
        )

    async def find(self, keys: Sequence[CacheKey]) -> tuple[int, str] | None:
        """Return the place in `keys` of the first that is cached, and its answer."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                kept = await self._redis.mget([_name(key) for key in keys])
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)
            return None
        return next(((place, str(answer)) for place, answer in enumerate(kept) if answer is not None), None)

    async def store(self, key: CacheKey, answer: str, cache_for: timedelta) -> bool:
        """Cache `answer` for this time, unless the key has one. False if it could not be cached."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await self._redis.set(_name(key), answer, px=cache_for, nx=True)
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)
            return False
        return True

    async def drop(self, key: CacheKey) -> None:
        """Forget the answer of a key; where Redis does not answer, that is logged, and the caller asks anew anyway."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await self._redis.delete(_name(key))
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)

    async def clear(
        self,
        *,
        task: str | None = None,
        prompt_version: str | None = None,
        catalogue_version: str | None = None,
        expired_only: bool = False,
    ) -> int:
        """Forget the answers that fit what is given, all of them if nothing is; returns how many.

        Raises JobStoreUnavailable.
        """
        if expired_only:
            return 0  # Redis has done that
        pattern = ":".join((_PREFIX, task or "*", prompt_version or "*", catalogue_version or "*", "*"))
        cleared = 0
        try:
            async for name in self._redis.scan_iter(match=pattern, count=1_000):
                cleared += await self._redis.delete(name)
        except (RedisError, OSError) as error:
            raise JobStoreUnavailable(f"Redis did not answer: {type(error).__name__}") from None
        return cleared

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _name(key: CacheKey) -> str:
    return ":".join((_PREFIX, key.task, key.prompt_version, key.catalogue_version, key.digest))
