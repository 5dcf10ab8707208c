"""A real worker process that kills itself with -9 at a chosen point of the claim: `before` it or `after` its commit."""

import asyncio
import os
import signal
import sys

from keyturn.application.connection import connect
from keyturn.jobs.store import JobStore
from keyturn.rotations.contracts import JobOrder
from keyturn.rotations.outcomes import RotationJob
from keyturn.workers.settings import load_settings
from keyturn.workers.telemetry import configure_logging
from keyturn.workers.wiring import open_boundary, open_worker


class Dies:
    """A job store whose process dies `before` the claim, or `after` its commit and before the answer."""

    def __init__(self, store: JobStore, point: str) -> None:
        self._store = store
        self._point = point

    async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        if self._point == "after":
            await self._store.create_once(order, idempotency_key=idempotency_key, fence=fence)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


async def main() -> None:
    settings = load_settings()
    configure_logging("json")
    async with (
        open_boundary(settings) as wired,
        open_worker(await connect(), wired, claims=lambda store: Dies(store, sys.argv[1])) as worker,
    ):
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
