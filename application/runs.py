"""Bulk runs from the outside: start one or attach to it, follow it, pause, resume or cancel it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.rotation_status import plain_kind, waits_for
from keyturn.bulk.contracts import BulkOrder, BulkOutcome, BulkStatus
from keyturn.bulk.errors import UnknownRun
from keyturn.errors import KeyturnError
from keyturn.workflows.bulk import BY_HAND, BulkWorkflow, bulk_id
from keyturn.workflows.visibility import PARKED, TENANT

# Single rotations before bulk runs: the server hands out tasks of a lower number first; 3 is its default.
BULK_PRIORITY = 5
LOOK_SECONDS = 0.5
RUNS_A_QUERY = 50  # in one condition of visibility: some kB
# The words for what a run is at, everywhere.
RunState = Literal["loading", "running", "paused", "cancelling", "cancelled", "done", "failed"]
# A worker answers in milliseconds, one that replays a long history in seconds.
QUERY_TIMEOUT = timedelta(seconds=10)
Handle = WorkflowHandle[BulkWorkflow, BulkOutcome]


class RunStopped(KeyturnError):
    """The run's workflow failed, or was terminated or cancelled."""

    kind = "run_stopped"
    next_step = "fail_and_inspect"
    hint = "Look at it in the Temporal UI; the same `keyturn bulk` resumes what is open."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = (
                f"{hint}\nThen a scheduled run starts anew by `keyturn schedule trigger`, another by `keyturn bulk`."
            )


async def start_run(client: Client, order: BulkOrder, *, task_queue: str) -> Handle:
    """Start a run's workflow, or attach to the one that runs; one that ended continues with what is open."""
    return await client.start_workflow(
        BulkWorkflow.run,
        order,
        id=bulk_id(order.tenant_id, order.run_id),
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, order.tenant_id)]),
        static_summary=f"run {order.run_id}",
        priority=Priority(priority_key=BULK_PRIORITY, fairness_key=order.tenant_id),
    )


def handle_of_run(client: Client, workflow_id: str, *, execution: str | None = None) -> Handle:
    """Return the handle of a run's workflow: of one execution, or of the newest one."""
    return client.get_workflow_handle(workflow_id, run_id=execution, result_type=BulkOutcome)


# What is said while a run's status is not known. None of it ends the run, nor the command that follows it.
NO_WORKER = "no worker answers: the run waits for one (`keyturn worker`), and loses nothing"
NO_SERVER = "Temporal does not answer: the run is safe, and is followed again then"
_WAITS: Mapping[RPCStatusCode, str] = {
    RPCStatusCode.CANCELLED: NO_WORKER,
    RPCStatusCode.DEADLINE_EXCEEDED: NO_WORKER,
    RPCStatusCode.FAILED_PRECONDITION: NO_WORKER,
    RPCStatusCode.UNAVAILABLE: NO_SERVER,
}


async def follow(handle: Handle, *, every: float = LOOK_SECONDS) -> AsyncIterator[BulkStatus | str]:
    """Yield what a run is at, again and again until it has ended; or, while nobody answers that, what is waited for.

    A worker or server that restarts meanwhile is waited for.

    Args:
        handle: of the run.
        every: seconds between two looks.

    Raises:
        UnknownRun: there is no such workflow.
        RunStopped: it did not end by itself.
    """
    while True:
        try:
            progress = await handle.query(BulkWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
            yield progress
            if progress.phase == "ended":
                return
            # One that was continued as new is running under the same id.
            status = (await handle.describe(rpc_timeout=QUERY_TIMEOUT)).status
            if status is WorkflowExecutionStatus.COMPLETED:
                yield await handle.query(BulkWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
                return
            if status is not WorkflowExecutionStatus.RUNNING:
                raise await _stopped(handle, "unknown" if status is None else status.name.lower())
        except WorkflowQueryFailedError:
            pass  # its first task has not been worked on yet
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise UnknownRun(f"this namespace has no run {handle.id[:200]}") from None
            if error.status not in _WAITS:
                raise
            yield _WAITS[error.status]
        await asyncio.sleep(every)


async def _stopped(run: Handle, status: str) -> RunStopped:
    """Return the error of a run that did not complete."""
    try:
        await run.result(rpc_timeout=QUERY_TIMEOUT)
    except WorkflowFailureError as error:
        return stopped_by(error, status)
    return RunStopped(f"the run stopped: {status}")


def stopped_by(error: WorkflowFailureError, status: str = "failed") -> RunStopped:
    """Return what a run's failure says, with its own hint; it repeats no evidence and no question."""
    why = _failure_of(error)
    if not isinstance(why, ApplicationError) or not why.type:
        return RunStopped(f"the run stopped: {status}")
    said = next(iter(why.details), None)
    hint = said.get("hint") if isinstance(said, dict) else None
    return RunStopped(f"the run {status}: {why.type}: {why.message}", hint=hint)


def _failure_of(error: WorkflowFailureError) -> BaseException | None:
    return error.cause.cause if isinstance(error.cause, ActivityError) else error.cause


async def end_of_run(run: Handle) -> str | None:
    """Return how a run ended: None while it runs; the kind of its failure, if it failed. Raises RPCError."""
    try:
        if (await run.describe()).status is WorkflowExecutionStatus.RUNNING:
            return None
        return (await run.result()).status
    except WorkflowFailureError as error:
        why = _failure_of(error)
        return why.type or "failed" if isinstance(why, ApplicationError) else type(why).__name__
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return "past Temporal's retention"
        raise


async def states_of_runs(client: Client, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, RunState]:
    """Return what runs are at, by their IDs; raises RPCError.

    Args:
        client: a connected client.
        rows: of the runs, as `BulkStore.runs` returns them. Of those that have not ended, Temporal is asked.
    """
    found: dict[str, RunState] = {row["run_id"]: row["ended"] for row in rows if row["ended"]}
    asked = [row for row in rows if not row["ended"]]
    latest: dict[str, WorkflowExecution] = {}
    for start in range(0, len(asked), RUNS_A_QUERY):
        some = (f"WorkflowId = '{row['workflow_id']}'" for row in asked[start : start + RUNS_A_QUERY])
        async for one in client.list_workflows(f"WorkflowType = 'BulkWorkflow' AND ({' OR '.join(some)})"):
            if one.id not in latest or one.start_time > latest[one.id].start_time:  # a long run continues as a new one
                latest[one.id] = one
    for row in asked:
        there = latest.get(row["workflow_id"])
        # It did not get to write its end; or that was so long ago that Temporal has forgotten it.
        found[row["run_id"]] = "failed"
        if there is not None and there.status in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED}:
            is_paused = there.typed_search_attributes.get(PARKED) is not None
            found[row["run_id"]] = "paused" if is_paused else "running" if row["loaded_at"] else "loading"
    return found


@dataclass(frozen=True)
class TroubledRun:
    """A run that someone must look at, and of which no report says so.

    Attributes:
        execution_id: Temporal's run ID of the workflow.
        state: `failed` if its workflow did not complete, perhaps before it had read its inventory; `paused` if it waits
            for someone to resume it.
        at: when it failed, or when it was found paused.
        reason: the kind of the failure, or of what paused it.
    """

    workflow_id: str
    execution_id: str
    tenant: str
    state: Literal["failed", "paused"]
    at: datetime
    reason: str


async def runs_in_trouble(client: Client, *, since: datetime) -> Sequence[TroubledRun]:
    """Return the runs that failed since a moment, and those that are paused, but not by hand; raises RPCError."""
    return [*await _failed(client, since), *await _paused(client)]


async def _paused(client: Client) -> Sequence[TroubledRun]:
    query = f"WorkflowType = 'BulkWorkflow' AND ExecutionStatus = 'Running' AND {PARKED.name} IS NOT NULL"
    now, found = datetime.now(UTC), []
    async for row in client.list_workflows(query):
        reason = waits_for(row)
        if reason is not None and reason != BY_HAND:
            tenant = row.typed_search_attributes.get(TENANT) or "default"
            found.append(TroubledRun(row.id, row.run_id, tenant, "paused", now, reason))
    return found


async def _failed(client: Client, since: datetime) -> Sequence[TroubledRun]:
    ended = "ExecutionStatus IN ('Failed', 'TimedOut', 'Terminated')"
    query = f"WorkflowType = 'BulkWorkflow' AND {ended} AND CloseTime > '{since.isoformat()}'"
    found = []
    async for row in client.list_workflows(query):
        failure = await end_of_run(handle_of_run(client, row.id, execution=row.run_id))
        tenant = row.typed_search_attributes.get(TENANT) or "default"
        closed = row.close_time or since
        found.append(TroubledRun(row.id, row.run_id, tenant, "failed", closed, plain_kind(failure or "failed")))
    return found
