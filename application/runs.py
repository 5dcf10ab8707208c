"""Bulk runs from the outside: start one or attach to it, follow it, pause, resume or cancel it."""

import asyncio
from collections.abc import AsyncIterator

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from keyturn.bulk.contracts import BulkOrder, BulkOutcome, BulkStatus
from keyturn.bulk.errors import UnknownRun
from keyturn.errors import KeyturnError
from keyturn.workflows.bulk import BulkWorkflow, bulk_id
from keyturn.workflows.visibility import TENANT

# Single rotations before bulk runs: the server hands out tasks of a lower number first; 3 is its default.
BULK_PRIORITY = 5
LOOK_SECONDS = 0.5
Handle = WorkflowHandle[BulkWorkflow, BulkOutcome]


class RunWaits(KeyturnError):
    """No worker answers how far the run is."""

    kind = "run_waits_for_worker"
    next_step = "retry_with_backoff"
    hint = "Start a worker with `keyturn worker`: the run waits for one, and loses nothing."


class RunStopped(KeyturnError):
    """The run's workflow failed, or was terminated or cancelled."""

    kind = "run_stopped"
    next_step = "fail_and_inspect"
    hint = "Look at it in the Temporal UI; the same `keyturn bulk` resumes what is open."


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


def handle_of_run(client: Client, workflow_id: str) -> Handle:
    """Return the handle of a run's workflow."""
    return client.get_workflow_handle_for(BulkWorkflow.run, workflow_id)


async def follow(handle: Handle, *, every: float = LOOK_SECONDS) -> AsyncIterator[BulkStatus]:
    """Yield what a run is at, again and again until it has ended.

    Raises:
        UnknownRun: there is no such workflow.
        RunStopped: it did not end by itself.
        RunWaits: no worker answers.
    """
    while True:
        try:
            progress = await handle.query(BulkWorkflow.status)
            yield progress
            if progress.phase == "ended":
                return
            status = (await handle.describe()).status  # one that was continued as new is running under the same id
            if status is WorkflowExecutionStatus.COMPLETED:
                yield await handle.query(BulkWorkflow.status)
                return
            if status is not WorkflowExecutionStatus.RUNNING:
                raise RunStopped(f"the run stopped: {'unknown' if status is None else status.name.lower()}")
        except WorkflowQueryFailedError:
            pass  # its first task has not been worked on yet
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise UnknownRun("this namespace has no such run") from None
            if error.status in {
                RPCStatusCode.CANCELLED,
                RPCStatusCode.DEADLINE_EXCEEDED,
                RPCStatusCode.FAILED_PRECONDITION,
            }:
                raise RunWaits("no worker answers how far the run is") from None
            raise
        await asyncio.sleep(every)
