"""Asks for each operation of a plan, some at once, and sees each to its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from temporalio.client import Client

from keyturn.lab.proof.drafts import run_draft
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.plan import Operation
from keyturn.lab.proof.rotations import run_rotation
from keyturn.lab.proof.runs import run_bulk
from keyturn.lab.proof.world import World

AT_ONCE = 48  # operations under way: enough for two workers to have no pause
# What has not ended after this long never will: a fault costs half a minute at most, and a run meets some of them.
TIMEOUT_SECONDS = 300.0
RUN_TIMEOUT_SECONDS = 900.0  # of a run, of whose eight keys each meets another fault

_ASKED: Mapping[str, Callable[[World, Client, OperationRecord], Awaitable[None]]] = {
    "rotation": run_rotation,
    "approval": run_rotation,
    "draft": run_draft,
    "bulk": run_bulk,
}


async def drive(
    world: World,
    operations: Sequence[Operation],
    *,
    at_once: int = AT_ONCE,
    until: float | None = None,
    report: Callable[[int], None] = lambda _ended: None,
) -> list[OperationRecord]:
    """Ask for every operation until the moment `until`; returns what was seen of those that were asked for.

    Args:
        world: where to ask.
        operations: what to ask for.
        at_once: how many are in progress.
        until: the moment, by the monotonic clock, after which no more are started.
        report: called with how many have ended, whenever one has.
    """
    turns, client = asyncio.Semaphore(at_once), await world.client()
    seen: list[OperationRecord] = []

    async def one(operation: Operation) -> None:
        async with turns:
            if until is not None and time.monotonic() > until:
                return
            now = OperationRecord(operation, began=time.time())
            seen.append(now)
            await one_operation(world, client, now)
            report(sum(bool(one.ended) for one in seen))

    await asyncio.gather(*map(one, operations))
    return seen


async def one_operation(world: World, client: Client, seen: OperationRecord) -> None:
    """Ask for one operation and follow it to its end; one that does not end in time, or unforeseen, has no outcome."""
    try:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS if seen.operation.kind.asked == "bulk" else TIMEOUT_SECONDS):
            await _ASKED[seen.operation.kind.asked](world, client, seen)
    except TimeoutError:
        seen.say("unknown: it did not complete")
    except Exception as error:  # a separate violation: the others are followed to their ends all the same
        seen.say(f"unknown: {error!r}")
    seen.ended = time.time()
