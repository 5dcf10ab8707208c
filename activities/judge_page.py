"""The activities of a bulk run: load its items, judge a page of them, look up its rotations' status, end it."""

from collections.abc import Callable
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

    async def judge(self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime) -> PageResult:
        """Judge what is open of a page."""
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
        async with heartbeating():
            info = activity.info()
            last, at = info.attempt >= PAGE_ATTEMPTS, info.current_attempt_scheduled_time
            return await self._runs.judge(page, attempt=info.attempt, last_attempt=last, at=at)

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
