"""Recorded cases of the workflows beside `RotationWorkflow`, on activities with fixed results."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.worker import Worker

from keyturn.activities.deliver_job import DeliverJob
from keyturn.activities.draft_reply import BEAT_SECONDS, DraftReply
from keyturn.activities.judge_page import JudgePage
from keyturn.activities.rotate_key import RotateKey
from keyturn.application.answers import answer
from keyturn.bulk.contracts import (
    BatchResult,
    BulkOrder,
    BulkPage,
    OfflineBatch,
    PageResult,
    RunProgress,
    RunResult,
)
from keyturn.drafts.contracts import DraftEnd, DraftResult
from keyturn.execution.contracts import KeyRotationOrder, KeyRotationOutcome, KeyState, KeyWaits, Need
from keyturn.execution.errors import ForeignKey, Frozen, KeyLimit
from keyturn.jobs.contracts import ClaimedJob, Delivery
from keyturn.jobs.errors import ReceiverRefused, StaleClaim
from keyturn.llm.errors import QuotaExhausted
from keyturn.rotations.contracts import Abandonment, Resumption
from keyturn.tasks.draft_reply import DraftRequest
from keyturn.workflows.bulk import BULK_QUEUE, BulkWorkflow
from keyturn.workflows.delivery import DeliveryWorkflow
from keyturn.workflows.draft import DraftWorkflow
from keyturn.workflows.rotate_key import RotateKeyWorkflow
from tests.keyturn.test_ledger import call
from tests.support.cases import NOW, P7

WAITS = KeyWaits(overlap=timedelta(hours=1), grace=timedelta(days=3))
ORDER = KeyRotationOrder(job_id="job_1", cloud_account="123456789012", waits=WAITS)
# Time is skipped while a result is awaited, and not while a person's answer is.
AT_ONCE = ORDER.model_copy(update={"waits": KeyWaits(overlap=timedelta(0), grace=timedelta(0))})


class Receiver:
    """Takes a message, or refuses it for good."""

    def __init__(self, refuses: bool = False) -> None:
        self._refuses = refuses

    async def deliver(self, job_id: str) -> str:
        if self._refuses:
            raise ReceiverRefused("no")
        return "taken"

    async def give_up(self, job_id: str, *, failure: str) -> None: ...


class Steps:
    """Each step succeeds, but those that `fails` names fail first; `needs` and `uses` are what looks find, in turn."""

    def __init__(self, *, needs: Sequence[Need] = (), uses: Sequence[Need] = (), **fails: BaseException) -> None:
        self._found = {"needs": list(needs), "uses": list(uses)}
        self._fails = fails
        self._token = 0

    def _may(self, step: str) -> None:
        if step in self._fails:
            raise self._fails.pop(step)

    def _next(self, look: str) -> Need | None:
        return self._found[look].pop(0) if self._found[look] else None

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        self._token += 1
        return ClaimedJob(
            job_id=order.job_id,
            tenant_id=order.tenant_id,
            account_id="svc",
            key_id="AKIA1",
            credential_kind="access_key",
            state="claimed",
            token=self._token,
        )

    async def record(self, order: KeyRotationOrder, job: ClaimedJob) -> KeyState:
        self._may("record")
        return KeyState(
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            token=job.token,
            cloud_account="123456789012",
            user="svc",
            old_key_id="AKIA1",
            keys_before=("AKIA1",),
            targets=("file:secrets/svc",),
            waits=order.waits,
            recorded_at=NOW,
        )

    async def create(self, rotation: KeyState) -> str:
        self._may("create")
        return "AKIA2"

    async def verify(self, rotation: KeyState) -> datetime:
        self._may("verify")
        return NOW

    async def expect_thawed(self, rotation: KeyState) -> None:
        self._may("thaw")

    async def needs(self, rotation: KeyState, *, now: datetime) -> Need | None:
        return self._next("needs")

    async def uses_since(self, rotation: KeyState) -> Need | None:
        return self._next("uses")

    async def report_blocked(self, rotation: KeyState, need: Need) -> None: ...

    async def record_advance(self, rotation: KeyState, operator: str, reason: str) -> None: ...

    async def prolong(self, rotation: KeyState) -> None: ...

    async def deactivate(self, rotation: KeyState) -> datetime:
        self._may("deactivate")
        return NOW

    async def delete(self, rotation: KeyState) -> None: ...

    async def close(self, rotation: KeyState) -> None: ...

    async def refuse(self, job: ClaimedJob, reason: str) -> None: ...

    async def roll_back(self, rotation: KeyState, reason: str) -> None: ...


class Runs:
    """Thirty items in three pages; the second page is stopped once, if `stops` says by what."""

    def __init__(self, stops: str | None = None) -> None:
        self._stops = stops
        self._looks = 0

    async def load(self, order: BulkOrder, *, workflow_id: str, at: datetime) -> RunProgress:
        return RunProgress(total=35, asks=30)

    async def submit(self, batch: OfflineBatch) -> None: ...

    async def collect(self, batch: OfflineBatch) -> BatchResult:
        self._looks += 1
        return BatchResult(running=self._looks == 1)

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        if page.first == 11 and self._stops is not None:
            stopped, self._stops = self._stops, None
            return PageResult(progress=RunProgress(total=10, asks=10, asked=4), stopped=stopped, hint="fix it")
        return PageResult(progress=RunProgress(total=10, asks=10, asked=10, outcomes={"started": 10}))

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        self._looks += 1
        left = 10 if self._looks == 1 else 0
        return RunResult(progress=RunProgress(total=35, asks=30, asked=30), left=left)

    async def end(self, run_id: str, status: str) -> None: ...


async def _run(
    client: Client,
    runs: Runs,
    ends: str,
    people: Callable[[Any], Awaitable[object]] | None = None,
    *,
    offline: bool = False,
) -> WorkflowHistory:
    judge, queue = JudgePage(runs), f"histories-{uuid.uuid4().hex}"
    activities: list[Callable[..., Any]] = [
        judge.load_run,
        judge.submit_batch,
        judge.collect_batch,
        judge.judge_page,
        judge.settle_run,
        judge.end_run,
    ]
    async with (
        Worker(client, task_queue=queue, workflows=[BulkWorkflow]),
        Worker(client, task_queue=queue + BULK_QUEUE, activities=activities),
    ):
        order = BulkOrder(run_id="run-1", page_size=10, pages_at_once=1, offline=offline)
        handle = await client.start_workflow(BulkWorkflow.run, order, id=uuid.uuid4().hex, task_queue=queue)
        if people is not None:
            async with asyncio.timeout(20):
                while (await handle.query(BulkWorkflow.status)).phase != "paused":
                    await asyncio.sleep(0.02)
            await people(handle)
        outcome = await handle.result()
        if outcome.status != ends:
            raise AssertionError(f"it ended as {outcome.status}, not as {ends}")
        return await handle.fetch_history()


async def _go_on(handle: Any) -> None:
    await answer(handle, "resume", Resumption(operator="omar"))


async def _cancel(handle: Any) -> None:
    await answer(handle, "cancel", Abandonment(operator="omar", reason="closed"))


async def _delivered(client: Client, receiver: Receiver) -> WorkflowHistory:
    deliver, queue = DeliverJob(receiver), f"histories-{uuid.uuid4().hex}"
    activities: list[Callable[..., Any]] = [deliver.deliver_job, deliver.give_up_delivery]
    async with Worker(client, task_queue=queue, workflows=[DeliveryWorkflow], activities=activities):
        handle = await client.start_workflow(
            DeliveryWorkflow.run, Delivery(job_id="job_1"), id=uuid.uuid4().hex, task_queue=queue
        )
        await asyncio.gather(handle.result(), return_exceptions=True)
        return await handle.fetch_history()


class Writer:
    """Writes a draft at once, or for ever, or not at all."""

    def __init__(self, how: str = "at once") -> None:
        self._how = how
        self.began = asyncio.Event()

    async def write(self, draft_id: str, request: DraftRequest, *, run_id: str, attempt: int) -> DraftResult:
        self.began.set()
        if self._how == "for ever":
            await asyncio.Event().wait()
        if self._how == "not at all":
            raise QuotaExhausted("x")
        return DraftResult(text="It may be rotated.", approved=True, call=call(task="draft_reply"))

    async def end(self, end: DraftEnd) -> None: ...


async def _drafted(client: Client, writer: Writer) -> WorkflowHistory:
    drafts, queue = DraftReply(writer), f"histories-{uuid.uuid4().hex}"
    activities: list[Callable[..., Any]] = [drafts.draft_reply, drafts.end_draft]
    async with Worker(
        client,
        task_queue=queue,
        workflows=[DraftWorkflow],
        activities=activities,
        max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
    ):
        asked = DraftRequest(account_id="acct_1", question="May it?", policy_lines=(P7,), trace_id="t", user_id="luna")
        handle = await client.start_workflow(DraftWorkflow.run, asked, id=uuid.uuid4().hex, task_queue=queue)
        await writer.began.wait()
        if writer._how == "for ever":
            await handle.cancel()
        await asyncio.gather(handle.result(), return_exceptions=True)
        return await handle.fetch_history()


Handle = WorkflowHandle[RotateKeyWorkflow, KeyRotationOutcome]


async def _executed(
    client: Client,
    steps: Steps,
    ends: str,
    people: Callable[[Handle], Awaitable[object]] | None = None,
    order: KeyRotationOrder = ORDER,
) -> WorkflowHistory:
    rotate, queue = RotateKey(steps), f"histories-{uuid.uuid4().hex}"
    async with Worker(client, task_queue=queue, workflows=[RotateKeyWorkflow], activities=rotate.activities):
        handle = await client.start_workflow(RotateKeyWorkflow.run, order, id=uuid.uuid4().hex, task_queue=queue)
        if people is not None:
            await people(handle)
        outcome = await handle.result()
        if outcome.status != ends:
            raise AssertionError(f"it ended as {outcome.status}, not as {ends}")
        return await handle.fetch_history()


async def _resume(handle: Handle) -> None:
    async with asyncio.timeout(20):
        while (await handle.query(RotateKeyWorkflow.status)).blocked is None:
            await asyncio.sleep(0.02)
    await answer(handle, "resume", Resumption(operator="omar"))


async def _roll_back(handle: Handle) -> None:
    async with asyncio.timeout(20):
        while (await handle.query(RotateKeyWorkflow.status)).blocked is None:
            await asyncio.sleep(0.02)
    await answer(handle, "roll_back", Abandonment(operator="omar", reason="closed"))


async def _advance(handle: Handle) -> None:
    async with asyncio.timeout(20):
        while (await handle.query(RotateKeyWorkflow.status)).blocked is None:
            await asyncio.sleep(0.02)
    await answer(handle, "advance", Abandonment(operator="omar", reason="nothing uses it"))


_IN_USE = Need(kind="old_key_in_use", by=("203.0.113.7",))
_NOT_SEEN = Need(kind="new_key_not_seen")

# All on the server that skips time: by their names, how each came to its end.
CASES: Mapping[str, Callable[[Client], Awaitable[WorkflowHistory]]] = {
    "delivery_taken": lambda client: _delivered(client, Receiver()),
    "delivery_given_up": lambda client: _delivered(client, Receiver(refuses=True)),
    "draft_written": lambda client: _drafted(client, Writer()),
    "draft_stopped": lambda client: _drafted(client, Writer("for ever")),
    "draft_failed": lambda client: _drafted(client, Writer("not at all")),
    "key_rotated": lambda client: _executed(client, Steps(), "done"),
    "key_rotated_after_a_stale_claim": lambda client: _executed(client, Steps(verify=StaleClaim("x")), "done"),
    "key_rotated_when_resumed": lambda client: _executed(client, Steps(create=ForeignKey("x")), "done", _resume),
    "key_rotated_when_its_consumer_moved": lambda client: _executed(client, Steps(needs=[_IN_USE, _NOT_SEEN]), "done"),
    "key_rotated_when_advanced": lambda client: _executed(
        client, Steps(needs=[_NOT_SEEN] * 99), "done", _advance, AT_ONCE
    ),
    "key_rotated_after_its_old_key_was_used": lambda client: _executed(
        client, Steps(uses=[_IN_USE]), "done", _resume, AT_ONCE
    ),
    "key_rotated_after_a_freeze": lambda client: _executed(client, Steps(deactivate=Frozen("x")), "done"),
    "key_not_rotated_at_the_limit": lambda client: _executed(client, Steps(record=KeyLimit("x")), "failed"),
    "run_done": lambda client: _run(client, Runs(), "done"),
    "run_offline": lambda client: _run(client, Runs(), "done", offline=True),
    "run_paused_and_resumed": lambda client: _run(client, Runs("quota_exhausted"), "done", _go_on),
    "run_paused_and_cancelled": lambda client: _run(client, Runs("quota_exhausted"), "cancelled", _cancel),
    "key_rolled_back": lambda client: _executed(client, Steps(create=ForeignKey("x")), "rolled_back", _roll_back),
}
