"""`BulkWorkflow`: judges a run page by page, a few at once, and lets a person pause, resume and cancel it.

Verdicts are stored in the database; history holds the pages and counts (docs/adr/0016). The rotations that are due
are workflows of their own, which continue whatever becomes of the run.
"""

import asyncio
from bisect import insort
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypedDict

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.judge_page import JudgePage
    from keyturn.backoff import BASE, CEILING
    from keyturn.bulk.contracts import (
        HALTED,
        BatchResult,
        BulkOrder,
        BulkOutcome,
        BulkPage,
        BulkStatus,
        OfflineBatch,
        PageResult,
        RunProgress,
    )
    from keyturn.bulk.errors import MaxUsdReached, PriceUnknown
    from keyturn.payload_errors import PayloadMoved
    from keyturn.rotations.contracts import Abandonment, Resumption
    from keyturn.workflows.options import record_options
    from keyturn.workflows.visibility import PARKED
    from keyturn.workflows.waiting import expect_own, refusal

BULK_QUEUE = "-bulk"  # pages have a task queue of their own, beside the worker's
DUE_QUEUE = "-due"  # and so have the rotations that a run starts
# A page of 50 keys of 20 s each, beside seven others at an endpoint that takes one call at once: 2.2 hours. A worker
# that is gone is noticed by its heartbeats.
PAGE_START_TO_CLOSE = timedelta(hours=3)
PAGE_HEARTBEAT = timedelta(seconds=20)
# A million rows are read in a minute or two.
LOAD_START_TO_CLOSE = timedelta(minutes=30)
# A page that no worker judges in a day waits for workers that are not coming.
PAGE_WITHIN = timedelta(days=1)
# How often the rotations in progress are looked at: each second at first; then so that a run waits no more than a
# tenth longer; and at last seldom. A look is 11 events, and a history may have 51,200: a day of looks must fit.
LOOK_FIRST, LOOK_LAST = timedelta(seconds=1), timedelta(minutes=1)
# The rest waits for operators or an absent database: a day, then the run completes and `keyturn report` looks again.
FOLLOW_WITHIN = timedelta(days=1)
BY_HAND = "by_hand"
# Questions in one batch: below both providers' limits with the longest prompts that there are, 60 MB.
BATCH_SIZE = 1_000
# Providers answer within 24 hours, or say that it expired; two more for saying so. What is missing is asked at once.
BATCH_WITHIN = timedelta(hours=26)
BATCH_LOOK_FIRST, BATCH_LOOK_LAST = timedelta(seconds=5), timedelta(minutes=10)
# A look at a batch is 6 events: at this pace, looks for BATCH_WITHIN are half of what a history may have.
BATCH_PACE = timedelta(seconds=22)


class PageOptions(TypedDict):
    """Keyword arguments of `workflow.execute_activity_method` for a page."""

    task_queue: str
    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    schedule_to_close_timeout: timedelta
    retry_policy: RetryPolicy


def bulk_id(tenant_id: str, run_id: str) -> str:
    """Return the id of the workflow that carries a run out."""
    return f"bulk:{tenant_id}:{run_id}"


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class BulkWorkflow:
    """Judge every item of a run. It completes when each has an outcome, or when it is cancelled and nothing runs."""

    @workflow.init
    def __init__(self, order: BulkOrder) -> None:
        self._order = order
        self._progress = RunProgress()
        self._counted: dict[int, RunProgress] = {}
        self._pages: dict[int, workflow.ActivityHandle[PageResult]] = {}  # those that are judged now
        self._halted: set[int] = set()  # of these, those that are to ask nothing more
        self._cancelled: str | None = None
        self._resumed = 0
        self._paused = order.paused if isinstance(order, BulkOrder) else None
        self._hint: str | None = None
        self._budgets: dict[int, Decimal] = {}  # of the running pages, where the run has a limit of cost
        self._dearest_usd: Decimal | None = None
        self._near_limit = False  # from then on one page runs after another, with all that is left
        self._phase: BulkStatus = self._status("loading")

    @workflow.run
    async def run(self, order: BulkOrder) -> BulkOutcome:
        """Carry the run out."""
        if not isinstance(order, BulkOrder):
            raise ApplicationError("the workflow's input is not a bulk order", type="invalid_request")
        if order.source is not None and order.next_page == 0:
            # A schedule's run is named for the time when it fired.
            order = order.model_copy(update={"run_id": f"{order.run_id}-{workflow.info().start_time:%Y%m%dT%H%M%SZ}"})
            self._order = order
        self._progress = await workflow.execute_activity_method(
            JudgePage.load_run,
            order,
            task_queue=self._queue(),
            start_to_close_timeout=LOAD_START_TO_CLOSE,
            heartbeat_timeout=PAGE_HEARTBEAT,
            schedule_to_close_timeout=PAGE_WITHIN,
            retry_policy=_retry_policy(),
        )
        if order.offline:
            await self._ask_offline()
        await self._judge_all()
        await self._follow_rotations()
        status = "cancelled" if self._cancelled is not None else "done"
        await workflow.execute_activity_method(
            JudgePage.end_run, args=[order, status], task_queue=self._queue(), **record_options()
        )
        self._at("ended")
        return BulkOutcome(status=status, run_id=order.run_id, progress=self._progress)

    async def _ask_offline(self) -> None:
        """Have the provider's batches asked first: the pages then find what they answered in the cache of answers."""
        self._at("offline")
        asks, left = self._progress.asks, []
        for number, first in enumerate(range(1, asks + 1, BATCH_SIZE)):
            whose = {"run_id": self._order.run_id, "tenant_id": self._order.tenant_id}
            batch = OfflineBatch(number=number, first=first, last=min(first + BATCH_SIZE - 1, asks), **whose)
            await self._insist(JudgePage.submit_batch, batch)
            left.append(batch)
        until, wait = workflow.now() + BATCH_WITHIN, BATCH_LOOK_FIRST
        while left and self._cancelled is None and workflow.now() < until:
            still = []
            for batch in left:
                collected = await self._insist(JudgePage.collect_batch, batch)
                if collected is not None and collected.running:
                    still.append(batch)
            left = still
            if left:
                with suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._cancelled is not None, timeout=wait)
                wait = next_batch_look(wait, len(left))

    async def _insist(self, step: Any, batch: OfflineBatch) -> BatchResult | None:
        """Return what a step on a batch returns; what fails for good pauses the run, and is done again when resumed."""
        while self._cancelled is None:
            try:
                collected: BatchResult | None = await workflow.execute_activity_method(
                    step, batch, **self._page_options()
                )
                return collected
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                self._paused, self._hint = _kind_of(error), None
                self._at("paused")
                await self._wait_while_paused()
                self._at("offline")
        return None

    async def _judge_all(self) -> None:
        pages = -(-self._progress.asks // self._order.page_size)
        waiting = list(range(self._order.next_page, pages))
        running: set[asyncio.Task[None]] = set()
        while (waiting or running) and not (self._cancelled is not None and not running):
            self._at("paused" if self._paused else "judging")
            if self._paused is not None and not running:
                await self._wait_while_paused()
                continue
            at_once = 1 if self._runs_alone() else self._order.pages_at_once
            if self._may_start() and waiting and len(running) < at_once:
                # A page that was stopped is finished first: the next history counts from one page on.
                is_whole = not self._counted and len(waiting) == pages - waiting[0]
                long = is_whole and (self._history_is_long() or self._has_new_build(waiting[0]))
                if long and not running:
                    workflow.continue_as_new(
                        self._order.model_copy(update={"next_page": waiting[0], "source": None, "offline": False}),
                        # A run of days would hold its build as long: its next history starts on the current one.
                        initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
                    )
                if not long:  # else what runs ends first
                    page = waiting.pop(0)
                    running.add(asyncio.create_task(self._judge(page, waiting)))
                    continue
            done, left = await workflow.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running = set(left)
            for task in done:
                task.result()

    def _halt_pages(self) -> None:
        """Let the pages ask nothing more; calls under way end, and the pages are judged again."""
        for page, judging in self._pages.items():
            self._halted.add(page)
            judging.cancel()

    def _may_start(self) -> bool:
        return self._paused is None and self._cancelled is None

    def _history_is_long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > self._order.events_a_history

    def _has_new_build(self, next_page: int) -> bool:
        """Whether another build is current, and this history has judged something: else two builds could alternate."""
        changed = workflow.info().is_target_worker_deployment_version_changed()
        return changed and next_page > self._order.next_page

    async def _judge(self, page: int, waiting: list[int]) -> None:
        size, asks = self._order.page_size, self._progress.asks
        asked = BulkPage(
            run_id=self._order.run_id,
            tenant_id=self._order.tenant_id,
            first=page * size + 1,
            last=min((page + 1) * size, asks),
            max_usd=self._take_budget(page),
            dearest_usd=self._dearest_usd,
            may_exceed=self._runs_alone(),
        )
        resumed = self._resumed
        try:
            self._pages[page] = workflow.start_activity_method(
                JudgePage.judge_page,
                asked,
                summary=f"items {asked.first} to {asked.last}",
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                **self._page_options(),
            )
            judged: PageResult = await self._pages[page]
        except ActivityError as error:
            if is_cancelled_exception(error) and page not in self._halted:
                raise
            # No worker had begun it when the run was halted, or the worker is gone; or it cannot be judged at all, such
            # as one whose texts cannot be decrypted, and waits for an operator.
            stopped = HALTED if page in self._halted else _kind_of(error)
            judged = PageResult(progress=self._counted.get(page, RunProgress()), stopped=stopped)
        del self._pages[page]
        self._halted.discard(page)
        self._budgets.pop(page, None)
        if judged.dearest_usd is not None:
            self._dearest_usd = max(self._dearest_usd or Decimal(0), judged.dearest_usd)
        self._count(page, judged.progress)
        limit = self._order.max_usd
        if judged.stopped is not None:
            if not 0 < judged.progress.asks <= judged.progress.asked:  # else nothing is left of it
                insort(waiting, page)
            if judged.stopped == MaxUsdReached.kind and not asked.may_exceed:
                self._near_limit = True  # its share is used up, and others may have some left
            elif judged.stopped != HALTED and resumed == self._resumed and self._cancelled is None:
                # Else the run is over, or what stopped the page was fixed while it ran.
                self._paused, self._hint = self._paused or judged.stopped, judged.hint
        elif limit is not None and self._progress.cost_usd >= limit:
            self._paused, self._hint = self._paused or MaxUsdReached.kind, MaxUsdReached.hint
        if self._paused is not None:
            self._halt_pages()  # what stopped one would stop the others, after some calls of each
        if self._paused in {MaxUsdReached.kind, PriceUnknown.kind}:
            self._order, self._near_limit = self._order.model_copy(update={"max_usd": None}), False

    def _runs_alone(self) -> bool:
        """Whether one page runs after another: near a limit of cost, and while the cost of a call is unknown."""
        return self._near_limit or (self._order.max_usd is not None and self._dearest_usd is None)

    def _take_budget(self, page: int) -> Decimal | None:
        """Return what a page's calls may cost: its share of what is left, beside what it has cost already."""
        limit = self._order.max_usd
        if limit is None:
            return None
        left = limit - self._progress.cost_usd - sum(self._budgets.values(), Decimal(0))
        free = 1 if self._runs_alone() else self._order.pages_at_once - len(self._budgets)
        self._budgets[page] = max(left, Decimal(0)) / max(free, 1)
        return self._counted.get(page, RunProgress()).cost_usd + self._budgets[page]

    def _count(self, page: int, judged: RunProgress) -> None:
        """Add a page to what is known, or what is new of one that was judged before."""
        before = self._counted.pop(page, RunProgress())
        if judged.asked < judged.asks:
            self._counted[page] = judged  # it will be judged again
        outcomes = dict(self._progress.outcomes)
        for name, number in judged.outcomes.items():
            outcomes[name] = outcomes.get(name, 0) + number - before.outcomes.get(name, 0)
        self._progress = self._progress.model_copy(
            update={
                "asked": self._progress.asked + judged.asked - before.asked,
                "outcomes": outcomes,
                "cost_usd": self._progress.cost_usd + judged.cost_usd - before.cost_usd,
            }
        )

    async def _wait_while_paused(self) -> None:
        workflow.upsert_search_attributes([PARKED.value_set(self._paused or BY_HAND)])
        await workflow.wait_condition(lambda: self._paused is None or self._cancelled is not None)
        workflow.upsert_search_attributes([PARKED.value_unset()])

    async def _follow_rotations(self) -> None:
        self._at("settling")
        began = workflow.now()
        while True:
            found = await workflow.execute_activity_method(JudgePage.settle_run, self._order, **self._page_options())
            self._progress = found.progress
            self._at("settling")
            passed = workflow.now() - began
            if not found.left or passed >= FOLLOW_WITHIN:
                return
            await workflow.sleep(next_look(passed), summary="rotations are under way")

    def _page_options(self) -> PageOptions:
        return {
            "task_queue": self._queue(),
            "start_to_close_timeout": PAGE_START_TO_CLOSE,
            "heartbeat_timeout": PAGE_HEARTBEAT,
            "schedule_to_close_timeout": PAGE_WITHIN,
            "retry_policy": _retry_policy(),
        }

    def _queue(self) -> str:
        return workflow.info().task_queue + BULK_QUEUE

    def _at(self, phase: str) -> None:
        self._phase = self._status(phase)

    def _status(self, phase: str) -> BulkStatus:
        return BulkStatus.model_validate({"phase": phase, "progress": self._progress, "since": workflow.now()})

    # -- queries, updates and signals -------------------------------------------------------------------------------

    @workflow.query
    def status(self) -> BulkStatus:
        """What the run is at, and how far."""
        return self._phase.model_copy(
            update={
                "progress": self._progress,
                # A run that is cancelled waits for nobody to resume it.
                "paused": self._paused if self._cancelled is None else None,
                "hint": self._hint if self._paused and self._cancelled is None else None,
                "cancelled": self._cancelled is not None,
            }
        )

    @workflow.update
    def pause(self, instruction: Resumption) -> None:
        """Ask nothing more: calls that are under way end."""
        self._paused, self._hint = BY_HAND, None
        self._halt_pages()

    @pause.validator
    def _may_pause(self, instruction: Resumption) -> None:
        expect_own(instruction)
        if self._phase.phase != "judging" or self._cancelled is not None or self._paused is not None:
            raise refusal("not_running", f"the run is not judging: its phase is {self._phase.phase}")

    @workflow.update
    def resume(self, resumption: Resumption) -> None:
        """Resume the run where it was paused."""
        self._paused = self._hint = None
        self._resumed += 1

    @resume.validator
    def _may_resume(self, resumption: Resumption) -> None:
        expect_own(resumption)
        if self._paused is None or self._cancelled is not None:
            raise refusal("not_waiting", "the run is not paused")

    @workflow.update
    def cancel(self, instruction: Abandonment) -> None:
        """Ask nothing more, and complete once the started rotations have completed."""
        self._cancelled = instruction.operator
        self._halt_pages()

    @cancel.validator
    def _may_cancel(self, instruction: Abandonment) -> None:
        expect_own(instruction)
        if self._phase.phase in {"settling", "ended"} or self._cancelled is not None:
            raise refusal("not_running", f"nothing is left to cancel: the run's phase is {self._phase.phase}")


def next_look(passed: timedelta) -> timedelta:
    """Return how long to wait before the next look at rotations, when `passed` is since the first one."""
    return max(LOOK_FIRST, min(passed / 10, LOOK_LAST))


def next_batch_look(wait: timedelta, left: int) -> timedelta:
    """Return how long to wait before the next look at the batches that are `left`, after `wait`."""
    return max(min(wait * 2, BATCH_LOOK_LAST), BATCH_PACE * (left - 1))


def _kind_of(error: ActivityError) -> str:
    cause = error.cause
    return (cause.type if isinstance(cause, ApplicationError) else None) or "no_answer"


def _retry_policy() -> RetryPolicy:
    # A failure that the activity reports brings its own jittered delay; a killed worker is noticed by its heartbeats.
    # The page itself counts its attempts: after the third it writes down what failed.
    return RetryPolicy(initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=CEILING)
