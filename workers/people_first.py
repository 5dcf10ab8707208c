"""People's work goes first: while a worker has any, what its runs do takes little of it.

A worker is one process with one interpreter, and a run takes all of it if it may. Measured, a person's rotation beside
one then takes three to five times as long; so a run's work begins in steps with time between them while a person waits,
and as fast as it can otherwise.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    CustomSlotSupplier,
    ExecuteActivityInput,
    FixedSizeSlotSupplier,
    Interceptor,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    WorkerTuner,
)

from keyturn.bulk.pages import Permits

# A rotation is several tasks with some milliseconds between them, and whoever has asked asks again.
LINGERS_SECONDS = 1.0

# While a person waits: seconds between two tasks of a run's rotations (each takes some 5 ms, and one rotation is five),
# and between two questions of its pages (12 ms each). Measured, a run then makes 8 rotations a second, and a person's
# takes 1.1 times as long as alone.
BETWEEN_TASKS, BETWEEN_QUESTIONS = 0.04, 0.04
# The activities that a person waits for; deliveries and notices on the same queue are nobody's.
OF_PEOPLE = frozenset({"decide", "create_rotation_job", "draft_reply"})


class PeoplesWork:
    """What people wait for in this worker.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._until = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether somebody waits now, or did a moment ago."""
        return self._count > 0 or self._clock() < self._until

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one activity as a person's."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._until = self._clock() + LINGERS_SECONDS


class NotesPeople(Interceptor):
    """Notes the activities of a worker on a queue of people's; `names` are those that a person waits for."""

    def __init__(self, work: PeoplesWork, names: frozenset[str]) -> None:
        self._work = work
        self._names = names

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Put the note before an activity."""
        return _Noted(next, self._work, self._names)


class _Noted(ActivityInboundInterceptor):
    def __init__(self, then: ActivityInboundInterceptor, work: PeoplesWork, names: frozenset[str]) -> None:
        super().__init__(then)
        self._work = work
        self._names = names

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        if activity.info().activity_type not in self._names:
            return await super().execute_activity(input)
        with self._work.one():
            return await super().execute_activity(input)


class Pace:
    """Time between the beginnings of a run's work while people wait; none otherwise.

    Args:
        work: what people wait for.
        between: seconds.
        clock: in seconds.
    """

    def __init__(self, work: PeoplesWork, between: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._between = between
        self._clock = clock
        self._last = 0.0

    async def wait(self) -> None:
        """Return when the next work may begin."""
        # Others begin meanwhile, and people come and go: each looks again when its time has come.
        while self._work.is_under_way and (left := self._last + self._between - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)
        self._last = self._clock()


class Slots(CustomSlotSupplier):
    """Slots of one kind for a run's work.

    Args:
        work: what people wait for.
        most: slots.
    """

    def __init__(self, work: PeoplesWork, most: int) -> None:
        self._work = work
        self._pace = Pace(work, BETWEEN_TASKS)
        self._left = most
        self._lock = threading.Lock()  # the SDK gives slots back in its own threads
        self._freed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Wait for a slot."""
        await self._pace.wait()
        while (permit := self._take()) is None:
            self._freed.clear()
            await self._freed.wait()
        return permit

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Take a slot for a task that follows at once, unless people wait."""
        return None if self._work.is_under_way else self._take()

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """Nothing is to be done."""

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """Give a slot back."""
        with self._lock:
            self._left += 1
        with suppress(RuntimeError):  # the loop is closed: the worker has ended
            self._loop.call_soon_threadsafe(self._freed.set)

    def _take(self) -> SlotPermit | None:
        with self._lock:
            if self._left == 0:
                return None
            self._left -= 1
            return SlotPermit()


class PacedPermits:
    """Permits for calls, further apart while people wait."""

    def __init__(self, permits: Permits, pace: Pace) -> None:
        self._permits = permits
        self._pace = pace

    async def acquire(self) -> Callable[[], None]:
        """Wait for a permit; returns what releases it."""
        await self._pace.wait()
        return await self._permits.acquire()


def tuner(work: PeoplesWork, *, tasks: int, steps: int) -> WorkerTuner:
    """Return the tuner of a worker for the rotations of runs.

    Args:
        work: what people wait for.
        tasks: workflow tasks at once.
        steps: activities at once.
    """
    unused = FixedSizeSlotSupplier(1)
    return WorkerTuner.create_composite(
        workflow_supplier=Slots(work, tasks),
        activity_supplier=Slots(work, steps),
        local_activity_supplier=unused,
        nexus_supplier=unused,
    )
