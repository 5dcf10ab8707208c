"""Repeat a call of a cloud. A fetch is a process without Temporal, and so repeats what elsewhere Temporal does.

It only reads: whether an answer was lost makes no difference.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import TypeVar

from keyturn.backoff import retry_delay
from keyturn.execution.errors import CloudUnavailable
from keyturn.snapshots.errors import CloudAnswerInvalid

T = TypeVar("T")
# Ceilings of 1, 2, 4, 8, 16 and then 30 s: two minutes on average, as throttling and a failover last. What lasts longer
# is met by running the command again, which reads only what is missing.
ATTEMPTS = 10
# A cloud that asks for more has a quota of the day, which no one waits for in front of a terminal.
LONGEST_WAIT = timedelta(minutes=5)


async def repeated(call: Callable[[], Awaitable[T]], *, attempts: int | None = None) -> T:
    """Return what a call returns; raises what it raises that does not pass, and CloudUnavailable once it lasts.

    Args:
        call: makes the call.
        attempts: at most; None for ATTEMPTS.
    """
    attempt, most = 1, attempts or ATTEMPTS
    while True:
        try:
            return await call()
        except CloudUnavailable as error:
            asked = error.retry_after
            if attempt == most or (asked is not None and asked > LONGEST_WAIT):
                raise
            delay = retry_delay(attempt, retry_after=asked, remaining=None)
        await asyncio.sleep(delay.total_seconds())
        attempt += 1


class Places:
    """The places of a listing's pages: one that leads to an earlier one would never end."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def pass_by(self, place: str) -> str:
        """Return the place of the next page; raises CloudAnswerInvalid if it was passed before."""
        if place in self._passed:
            raise CloudAnswerInvalid("a page leads to itself, or to an earlier one")
        self._passed.add(place)
        return place


async def all_of(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Return what each returns; raises the first failure, and leaves none of the others running behind it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
