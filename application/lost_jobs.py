"""Jobs that a database lost which was restored to an earlier moment: found by Temporal, and created once more.

Temporal remembers each rotation that created a job. Where the database has no job of it, the rotation is reset to the
step that created it: the worker checks the recorded decision again, and creates the job as it did the first time.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from keyturn.application.rotation_lists import ListedRotation, RotationFilter, list_rotations
from keyturn.errors import KeyturnError

PAGE = 500  # rotations that server and database are asked about at once
_CREATES = "create_rotation_job"

# From the workflow IDs of rotations to those of them that have a job.
StoredJobs = Callable[[Sequence[str]], Awaitable[Collection[str]]]


class NothingToReset(KeyturnError):
    """The history of a rotation does not show the step that created its job."""

    kind = "nothing_to_reset"
    next_step = "fail_and_inspect"
    hint = "Ask for the rotation again once its history is past the namespace's retention."


async def lost_jobs(client: Client, stored: StoredJobs, *, tenant: str) -> AsyncIterator[ListedRotation]:
    """Yield a tenant's rotations that created a job which the database does not have.

    Only rotations within the namespace's retention are found: an older one is asked for, and decided, anew.
    """
    after = None
    while True:
        page = await list_rotations(
            client, RotationFilter(states=("job_created",)), tenant=tenant, limit=PAGE, after=after
        )
        there = await stored([row.workflow_id for row in page.rows])
        for row in page.rows:
            if row.workflow_id not in there:
                yield row
        after = page.after
        if after is None:
            return


async def recreate_job(client: Client, rotation: ListedRotation, *, by: str) -> str:
    """Reset a rotation to the step that creates its job; returns the ID of its new run.

    A worker of its build executes that step. Repeating this while the job is not there yet resets it once more, and
    creates no second job.

    Args:
        client: a connected client.
        rotation: one that completed with a job.
        by: who resets it, for the history.

    Raises:
        NothingToReset: its history does not show the step.
    """
    handle = client.get_workflow_handle(rotation.workflow_id, run_id=rotation.run_id)
    before = 0
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == _CREATES:
                before = scheduled.workflow_task_completed_event_id
    if not before:
        raise NothingToReset(f"the history of {rotation.workflow_id} has no {_CREATES}")
    reset = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=rotation.workflow_id, run_id=rotation.run_id),
            reason=f"its job is not in the database; reset by {by}"[:500],
            workflow_task_finish_event_id=before,
            request_id=uuid.uuid5(uuid.NAMESPACE_OID, rotation.run_id).hex,  # the same reset twice is one
        )
    )
    return reset.run_id
