"""What every longer activity does while it works: heartbeat, and map its errors to Temporal's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from temporalio import activity

from keyturn.activities.failures import map_errors

# Four of them fit into a heartbeat timeout of 20 s: one that is late is not mistaken for a killed worker. The SDK sends
# fewer to the server than it is given.
BEAT_SECONDS = 5.0


@asynccontextmanager
async def heartbeating(*, every: float = BEAT_SECONDS) -> AsyncIterator[None]:
    """Within an activity: heartbeat until it ends, and map a KeyturnError to Temporal's ApplicationError.

    Args:
        every: seconds between two heartbeats. A cancellation arrives with the next one.
    """
    beating = asyncio.create_task(_beat(every))
    try:
        with map_errors():
            yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(every: float) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(every)
