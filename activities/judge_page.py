"""The activities of a bulk run: load its items, judge a page of them, look up its rotations' status, end it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.alive import heartbeating
from keyturn.bulk.contracts import (
    BatchResult,
    BulkOrder,
    BulkPage,
    OfflineBatch,
    PageResult,
    RunProgress,
    RunResult,
)

# A page is asked about this often: passing failures pass within it, and what is left is written down as failed.
PAGE_ATTEMPTS = 3

# A paused run's page stops with the answer to a heartbeat.
HALT_SECONDS = 2.0


class BulkRuns(Protocol):
    """Executes bulk runs. Each method raises a KeyturnError."""

    async def load(self, order: BulkOrder, *, workflow_id: str, at: datetime) -> RunProgress:
        """Read the run's inventory, if it has a source, and return what there is."""
        ...

    async def submit(self, batch: OfflineBatch) -> None:
        """Hand some items to the provider's batch endpoint, once."""
        ...

    async def collect(self, batch: OfflineBatch) -> BatchResult:
        """Store its answers in the response cache, if it has them."""
        ...

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        """Judge what is open of a page; once `stop` is set, nothing more of it is asked."""
        ...

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        """Look up the rotations' status."""
        ...

    async def end(self, run_id: str, status: str) -> None:
        """Write down that the run has ended."""
        ...


class JudgePage:
    """The activities, on `runs`."""

    def __init__(self, runs: BulkRuns) -> None:
        self._runs = runs

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.load_run, self.submit_batch, self.collect_batch, self.judge_page, self.settle_run, self.end_run]

    @activity.defn
    async def load_run(self, order: BulkOrder) -> RunProgress:
        """Read the inventory into the run's items; what was read before is not read again."""
        async with heartbeating():
            info = activity.info()
            at = info.current_attempt_scheduled_time  # the server's clock, as for a single rotation
            return await self._runs.load(order, workflow_id=info.workflow_id or "", at=at)

    @activity.defn
    async def submit_batch(self, batch: OfflineBatch) -> None:
        """Hand some items to the provider's batch endpoint, unless they were."""
        async with heartbeating():
            await self._runs.submit(batch)

    @activity.defn
    async def collect_batch(self, batch: OfflineBatch) -> BatchResult:
        """Store the answers of a batch in the response cache, if it has ended."""
        async with heartbeating():
            return await self._runs.collect(batch)

    @activity.defn
    async def judge_page(self, page: BulkPage) -> PageResult:
        """Ask about each open item of a page, and start the rotations that are due."""
        async with heartbeating(every=HALT_SECONDS):
            info = activity.info()
            last, at, stop = info.attempt >= PAGE_ATTEMPTS, info.current_attempt_scheduled_time, asyncio.Event()
            judging = asyncio.ensure_future(
                self._runs.judge(page, attempt=info.attempt, last_attempt=last, at=at, stop=stop)
            )
            try:
                return await asyncio.shield(judging)
            except asyncio.CancelledError:
                details = activity.cancellation_details()
                if details is None or not details.cancel_requested:  # the worker stops, or another has the page
                    judging.cancel()
                    with suppress(asyncio.CancelledError):
                        await judging
                    raise
                stop.set()  # the run was paused or cancelled: calls in flight are paid for, and their verdicts written
                return await judging

    @activity.defn
    async def settle_run(self, order: BulkOrder) -> RunResult:
        """Look up the status of the rotations that were started."""
        async with heartbeating():
            return await self._runs.update_outcomes(order.run_id, tenant_id=order.tenant_id)

    @activity.defn
    async def end_run(self, order: BulkOrder, status: str) -> None:
        """Write down how the run ended."""
        async with heartbeating():
            await self._runs.end(order.run_id, status)
