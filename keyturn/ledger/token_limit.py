"""Tokens a user and hour: a sliding window, in memory or shared by a fleet through Redis."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from limits import RateLimitItemPerHour
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from keyturn.call_errors import CostCapExceeded, TokenLimitReached

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool  # 0.2 s of a worker's start, for those who have no Redis as well

_log = structlog.get_logger("keyturn.ledger")
_HOUR = 3600.0
# A limit is looked up before each call, so it may not delay one: Redis answers in a millisecond or is not there.
REDIS_SECONDS = 1.0
UNKNOWN_WAIT_SECONDS = 60.0  # Redis refused and then fell silent: look again soon


Storage = MemoryStorage | RedisStorage


class SlidingTokenLimit:
    """At most `tokens` a user within any hour, counted as a sliding window.

    A call reserves what it may use at most and gives back what it did not, so that many calls at once cannot pass the
    limit together. A refused call takes nothing. While Redis does not answer, each worker counts for itself.

    Args:
        tokens: how many an hour.
        redis_url: where the fleet counts together; None counts in this process.
    """

    def __init__(self, tokens: int, *, redis_url: str | None = None) -> None:
        self._tokens = tokens
        self._item = RateLimitItemPerHour(tokens, namespace="keyturn:tokens")
        self._own = MemoryStorage()
        self._shared: RedisStorage | None = None
        self._pool: ConnectionPool | None = None
        self._away: tuple[type[Exception], ...] = (OSError, TimeoutError)  # what says that Redis does not answer
        if redis_url is not None:
            from redis import asyncio as client
            from redis.exceptions import RedisError

            self._away += (RedisError,)
            # `limits` does not close its connections: the pool is passed in, so that it can be closed here.
            self._pool = client.ConnectionPool.from_url(redis_url, socket_timeout=REDIS_SECONDS)
            # By any other name `limits` would look for another client.
            url = redis_url.replace("unix://", "redis+unix://", 1)
            pool: Any = self._pool  # `limits` takes it for an option's value; it hands it on as it is
            self._shared = RedisStorage(f"async+{url}", implementation="redispy", connection_pool=pool)

    async def reserve(self, user: str, tokens: int) -> Storage:
        """Take `tokens` from what `user` has left; returns where they were taken from.

        Raises:
            TokenLimitReached: they are more than is left now; with the time when they will not be.
            CostCapExceeded: they are more than the whole limit.
        """
        if tokens > self._tokens:
            raise CostCapExceeded(
                f"the call may take {tokens:,} tokens, and KEYTURN_TOKENS_PER_USER_HOUR allows {self._tokens:,}"
            )
        storage, taken = await self.hit(user, tokens)
        if taken:
            return storage
        wait = timedelta(seconds=math.ceil(await self.wait(storage, user, tokens)))
        message = (
            f"the user's {self._tokens:,} tokens of this hour are used up; {tokens:,} more fit in {wait.seconds} s"
        )
        raise TokenLimitReached(message, retry_at=datetime.now(UTC) + wait)

    async def give_back(self, receipt: object, user: str, tokens: int) -> None:
        """Return `tokens` that were reserved and not used; a negative number takes what was used beyond them.

        They go back where `receipt` says that they came from, and nowhere if that is away by now.
        The reservation is an upper estimate, so use beyond it is rare; what then does not fit is not counted.
        """
        if not tokens:
            return
        storage = self._shared if receipt is self._shared and self._shared is not None else self._own
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await SlidingWindowCounterRateLimiter(storage).hit(self._item, user, cost=-tokens)
        except self._away as error:
            _log.warning("shared_token_limit_unavailable", cause=type(error).__name__)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    async def hit(self, user: str, tokens: int) -> tuple[Storage, bool]:
        """Count `tokens`; returns who counted, and whether they fit."""
        if self._shared is not None:
            try:
                async with asyncio.timeout(REDIS_SECONDS):
                    taken = await SlidingWindowCounterRateLimiter(self._shared).hit(self._item, user, cost=tokens)
                return self._shared, taken
            except self._away as error:
                _log.warning("shared_token_limit_unavailable", cause=type(error).__name__)
        return self._own, await SlidingWindowCounterRateLimiter(self._own).hit(self._item, user, cost=tokens)

    async def wait(self, storage: Storage, user: str, tokens: int) -> float:
        """Seconds until `tokens` fit, if no other call takes any meanwhile; the window's own reset time is another one.

        The count is the current window's and the share of the previous one that still lies within the last hour.
        """
        try:
            window = await storage.get_sliding_window(self._item.key_for(user), int(_HOUR))
        except self._away:
            return UNKNOWN_WAIT_SECONDS
        previous, previous_left, current, current_left = window
        room = self._tokens - tokens
        if current <= room:
            if previous <= 0:
                return 1.0
            return max(previous_left - _HOUR * (room - current) / previous, 0.0) + 1.0
        # The current window has to become the previous one, and to leave by so much.
        until_next = max(current_left - _HOUR, 0.0)
        return until_next + max(_HOUR * (1 - room / current), 0.0) + 1.0
