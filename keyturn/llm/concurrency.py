"""The concurrency limit of a model: how many calls are made at once. It is found by calling, and falls when refused.

What providers allow differs by a factor of a thousand between accounts and changes by the minute, so no number is
configured. Calls of bulk runs wait for a permit here; people's calls are counted, and never wait.

- A refusal is a 429, an overload, a failure, a timeout, or a latency that has doubled. It lowers the limit to 0.7 of
  the calls in flight, once for all calls that had started by then. It then follows CUBIC (RFC 9438, sections 4.2 and
  4.6): fast back to where the refusal came, slowly past it, and faster again where no further one comes. It grows by
  time and not by calls, because a rate limit must not be tried a hundred times a second by calls of ten milliseconds.
- Before the first refusal it doubles with each round of calls, as TCP's slow start does.
- Near the end of a rate limit that the provider states with its answers (`keyturn.llm.rate_limits`), what is left is
  spread over the time until it is whole again.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from statistics import median

from keyturn.llm.errors import ProviderOverloaded, ProviderTimeout, ProviderUnavailable, RateLimited
from keyturn.llm.rate_limits import RateLimit, rate_limits_in

# As many as every paid account of the large providers takes at once; the first round of calls doubles it.
FIRST_LIMIT = 16.0
# Of one worker: past it, two cores do nothing but their own work on the answers (make bench).
MOST_CALLS = 200.0
# RFC 9438: what is left of the limit after a refusal, and how fast it grows again, for limits up to some hundreds: from
# a refusal at 100 it is back there after 14 s, and tries 110 after another 10 s.
AFTER_REFUSAL, GROWTH = 0.7, 0.01
# Calls do not start in bursts: a round of them is spread over its latency, with room for the limit to double.
SPREAD_FIRST, SPREAD_LATER = 2.0, 1.25
# What a call takes until the first one has been measured: the first ones are then half a second apart in all.
FIRST_LATENCY = 1.0
# Twice a good latency, and more than a busy machine adds, says that calls wait in line at the other end.
SLOWER, SLOWER_SECONDS = 2.0, 0.05
# Medians of rounds, of the last of which the lower quartile is a good one: a model that has become slower is not held
# against it long. Latencies of one model differ by a factor of three; the median of 32 calls of it hardly doubles.
ROUNDS_KEPT, LEAST_ROUND = 32, 32
# Workers are refused together and hear of each other's refusal a second or two later: it is the same one.
SAME_REFUSAL_SECONDS = 3.0
# A hold without a stated end: as long as a server's first Retry-After mostly is, doubled with each refusal, up to
# what a limit by the minute needs.
HOLD_SECONDS, LONGEST_HOLD = 0.5, 30.0
# Of a limit by the minute, the last call may have to wait for the whole of it.
LONGEST_SPREAD = 60.0
# The share of a rate limit below which calls are spread.
NEARLY_USED = 0.05


class ConcurrencyLimit:
    """The calls of one worker to one model of an endpoint.

    Args:
        clock: in seconds.
        most: the limit that is never passed.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, most: float = MOST_CALLS) -> None:
        self._clock = clock
        self._most = most
        self.limit = min(FIRST_LIMIT, most)
        self.calls = 0  # in flight, a person's or a run's
        self.permits = 0  # of bulk runs
        self._is_first = True  # before the first refusal
        self._refused_at = -math.inf
        self._grows_from = self._accepted_at = clock()
        self._refused_limit = self.limit
        self._held_until, self._hold = 0.0, HOLD_SECONDS
        self._next_start = 0.0
        self._news: float | None = None
        self._latency = FIRST_LATENCY  # of a call, a mean of the last ones (RFC 6298's)
        self._is_measured = False
        self._round: list[float] = []
        self._rounds: deque[float] = deque(maxlen=ROUNDS_KEPT)
        self._tokens = 0.0  # of a call, a mean of the last ones
        self._rates: dict[str, tuple[float, RateLimit, float]] = {}  # read when, and calls started since
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count one call, and learn from how it ends."""
        began = self._clock()
        self.calls += 1
        for name, (at, rate, since) in self._rates.items():
            self._rates[name] = (at, rate, since + 1)
        try:
            yield
        except (RateLimited, ProviderUnavailable, ProviderTimeout) as error:
            wait = None if error.retry_after is None else error.retry_after.total_seconds()
            if wait is None and not isinstance(error, RateLimited | ProviderOverloaded):
                wait = 0.0  # one that is down is the circuit breaker's, and a run must learn of it soon
            self._refuse(began, wait)
            raise
        else:
            self._accept(began)
        finally:
            self.calls -= 1
            self._changed.set()

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Learn from the headers of an answer, as they came."""
        now = self._clock()
        for rate in rate_limits_in(headers):
            self._rates[rate.name] = (now, rate, 0)

    def count_tokens(self, tokens: int) -> None:
        """Note how many tokens a call has taken."""
        self._tokens = tokens if not self._tokens else self._tokens + (tokens - self._tokens) / 16

    async def acquire(self) -> Callable[[], None]:
        """Wait until a bulk run may make one more call, first come, first served; returns what releases the permit.

        Releasing it a second time has no effect.
        """
        async with self._line:
            while (wait := self.seconds_to_wait()) > 0:
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
            self.permits += 1
            self._next_start = max(self._clock(), self._next_start) + self._spread()
        is_released = False

        def release() -> None:
            nonlocal is_released
            self.permits -= 0 if is_released else 1
            is_released = True
            self._changed.set()

        return release

    def seconds_to_wait(self) -> float:
        """Return after how many seconds, at the latest, a permit may be free; 0 if one is free now."""
        now = self._clock()
        if not self._is_first:
            self.limit = self._cubic(now)
        if max(self.permits, self.calls) >= max(int(self.limit), 1):
            return 1.0  # a call that ends says so
        return max(self._held_until - now, self._next_start - now, 0.0)

    def take_refusal(self) -> float | None:
        """Return for how many seconds calls are held by a refusal since the last time; None if there was none."""
        news, self._news = self._news, None
        return news

    def learn_refusal(self, seconds: float) -> None:
        """Lower the limit for a refusal that another worker got, and hold calls for so many seconds."""
        now = self._clock()
        if now - self._refused_at > SAME_REFUSAL_SECONDS and now >= self._held_until:
            self._lower(now, self.limit)
        self._keep_held(now, seconds)

    def _spread(self) -> float:
        """The seconds between the starts of two calls."""
        even = self._latency / self.limit / (SPREAD_FIRST if self._is_first else SPREAD_LATER)
        stated = [self._seconds_a_call(*known) for known in self._rates.values()]
        # Of a day's limit the rest would last for hours, in silence: it is used up, and the run says so.
        return max([even, *(seconds for seconds in stated if seconds <= LONGEST_SPREAD)])

    def _seconds_a_call(self, at: float, rate: RateLimit, since: float) -> float:
        """How far apart calls are so that what is left of a rate limit lasts until it is whole again."""
        now, cost = self._clock(), max(self._tokens, 1.0) if rate.counts_tokens else 1.0
        seconds = at + rate.seconds - now
        left = rate.remaining / cost - since
        if seconds <= 0 or left > max(NEARLY_USED * rate.limit / cost, self.calls):
            return 0.0
        return seconds / max(left, 1.0)

    def _refuse(self, began: float, retry_after: float | None) -> None:
        now = self._clock()
        # It had started before the limit was lowered; or it is a person's, which started while others were held.
        is_known = began < self._refused_at or now < self._held_until
        if not is_known:
            self._lower(now, min(self.limit, max(self.calls, self.permits)))
            retry_after = self._hold if retry_after is None else retry_after
            self._hold = min(self._hold * 2, LONGEST_HOLD)
        self._keep_held(now, retry_after or 0.0)
        self._news = None if is_known else self._held_until - now

    def _keep_held(self, now: float, seconds: float) -> None:
        self._held_until = max(self._held_until, now + min(seconds, LONGEST_HOLD))
        self._grows_from = self._accepted_at = max(self._grows_from, self._held_until)

    def _lower(self, now: float, tried: float) -> None:
        self.limit = max(tried * AFTER_REFUSAL, 1.0)
        self._refused_limit, self._is_first = self.limit / AFTER_REFUSAL, False
        self._refused_at = self._grows_from = self._accepted_at = now

    def _cubic(self, now: float) -> float:
        back: float = (self._refused_limit * (1 - AFTER_REFUSAL) / GROWTH) ** (1 / 3)
        return min(max(self._refused_limit + GROWTH * (max(now - self._grows_from, 0.0) - back) ** 3, 1.0), self._most)

    def _accept(self, began: float) -> None:
        now = self._clock()
        if began > self._refused_at:
            self._hold = HOLD_SECONDS
        # A limit that is not used is not tested by this answer (RFC 9438, section 5.8).
        is_full = self._line.locked() and max(self.permits, self.calls) >= self.limit / 2
        if self._is_first and is_full:
            self.limit = min(self.limit + 1, self._most)
        if not is_full:
            self._grows_from += max(now - self._accepted_at, 0.0)
        self._accepted_at = max(now, self._accepted_at)
        seconds = now - began
        self._latency = self._latency + (seconds - self._latency) / 8 if self._is_measured else seconds
        self._is_measured = True
        self._round.append(seconds)
        if len(self._round) >= max(self.limit, LEAST_ROUND):
            self._end_round(now, is_full)

    def _end_round(self, now: float, is_full: bool) -> None:
        typical, self._round = median(self._round), []
        self._rounds.append(typical)
        good = sorted(self._rounds)[len(self._rounds) // 4]
        if is_full and typical > max(good * SLOWER, good + SLOWER_SECONDS):
            self._lower(now, min(self.limit, max(self.calls, self.permits)))
