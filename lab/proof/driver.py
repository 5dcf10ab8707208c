"""Asks for each operation of a plan, some at once, and sees each to its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from temporalio.client import Client

from keyturn.lab.proof.drafts import drafted
from keyturn.lab.proof.plan import Operation
from keyturn.lab.proof.rotations import rotated
from keyturn.lab.proof.runs import finished
from keyturn.lab.proof.seen import Seen
from keyturn.lab.proof.world import World

AT_ONCE = 48  # operations under way: enough for two workers to have no pause
# What has not ended after this long never will: a fault costs half a minute at most, and a run meets some of them.
PATIENCE_SECONDS = 300.0
RUN_PATIENCE_SECONDS = 900.0  # of a run, of whose eight keys each meets a fault of its own

_ASKED: Mapping[str, Callable[[World, Client, Seen], Awaitable[None]]] = {
    "rotation": rotated,
    "approval": rotated,
    "draft": drafted,
    "bulk": finished,
}


async def drive(
    world: World,
    operations: Sequence[Operation],
    *,
    at_once: int = AT_ONCE,
    until: float | None = None,
    told: Callable[[int], None] = lambda _ended: None,
) -> list[Seen]:
    """Ask for every operation until the moment `until`; returns what was seen of those that were asked for.

    Args:
        world: where to ask.
        operations: what to ask for.
        at_once: how many are under way.
        until: the moment, by the monotonic clock, after which no more are begun.
        told: told how many have ended, whenever one has.
    """
    turns, client = asyncio.Semaphore(at_once), await world.client()
    seen: list[Seen] = []

    async def one(operation: Operation) -> None:
        async with turns:
            if until is not None and time.monotonic() > until:
                return
            now = Seen(operation, began=time.time())
            seen.append(now)
            await one_operation(world, client, now)
            told(sum(bool(one.ended) for one in seen))

    await asyncio.gather(*map(one, operations))
    return seen


async def one_operation(world: World, client: Client, seen: Seen) -> None:
    """Ask for one operation and see it to its end; what does not end in time, or as nobody foresaw, has no outcome."""
    try:
        async with asyncio.timeout(RUN_PATIENCE_SECONDS if seen.operation.kind.asked == "bulk" else PATIENCE_SECONDS):
            await _ASKED[seen.operation.kind.asked](world, client, seen)
    except TimeoutError:
        seen.say("unknown: it did not complete")
    except Exception as error:  # a violation of its own: the others are seen to their ends all the same
        seen.say(f"unknown: {error!r}")
    seen.ended = time.time()
