"""Follow a workflow: its state now, or its steps as they come."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.encryption import names_of, reader_of
from keyturn.application.outcomes import fate_of
from keyturn.application.rotation_status import Handle, waiting_for, waits_for
from keyturn.console import counted
from keyturn.errors import KeyturnError
from keyturn.execution.contracts import EXECUTION
from keyturn.moments import in_utc
from keyturn.rotations.contracts import Assessment
from keyturn.rotations.decisions import GroundedDecision, Rejection
from keyturn.rotations.outcomes import LimitedUntil, RotationJob, WaitingForPerson
from keyturn.workflows.identity import stored_id
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import PARKED


class NoSuchWorkflow(KeyturnError):
    """No workflow has this ID, or its retention has expired."""

    kind = "no_such_workflow"
    hint = "Check the ID and TEMPORAL_NAMESPACE; `keyturn jobs` still lists the jobs of expired ones."


class ExecutionNotStarted(NoSuchWorkflow):
    """No executor has started the job yet, or its execution is past its retention."""

    kind = "execution_not_started"
    hint = "`keyturn jobs show JOB_ID` has its state; `keyturn executor --dry-run` says what is done with open ones."


async def handle_of(client: Client, workflow_id: str, *, types: Sequence[str] = ("RotationWorkflow",)) -> Handle:
    """Return the handle of an existing workflow; see `describe_workflow`."""
    handle, _ = await describe_workflow(client, workflow_id, types=types)
    return handle


async def describe_workflow(
    client: Client, workflow_id: str, *, types: Sequence[str] = ("RotationWorkflow",)
) -> tuple[Handle, WorkflowExecutionDescription]:
    """Return the handle and the description of an existing workflow of one of `types`; raises NoSuchWorkflow.

    Its id may be written with the names of account and key, or as Temporal has it.
    """
    handle: Handle = client.get_workflow_handle_for(RotationWorkflow.run, stored_id(workflow_id, names_of(client)))
    try:
        description = await handle.describe()
    except RPCError as error:
        if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
            if workflow_id.startswith(EXECUTION):
                job_id = workflow_id.removeprefix(EXECUTION)[:200]
                raise ExecutionNotStarted(f"no executor of ours has started {job_id}") from None
            raise NoSuchWorkflow(f"no workflow has the ID {workflow_id[:200]}") from None
        raise
    if description.workflow_type not in types:
        raise NoSuchWorkflow(f"{workflow_id[:200]} is no {' or '.join(types)} but a {description.workflow_type}")
    return handle, description


async def progress_of(handle: Handle) -> list[str] | WaitingForPerson | None:
    """Return what a running workflow is at: a line a pending step, or what it waits for; None if it has ended."""
    description = await handle.describe()
    if description.status is not WorkflowExecutionStatus.RUNNING:
        return None
    kind = waits_for(description)
    waiting = await waiting_for(handle, kind=kind) if kind is not None else None
    if isinstance(waiting, WaitingForPerson):
        return waiting
    lines = pending_attempts(description)
    task = description.raw_description.pending_workflow_task
    if task.attempt > 1:
        # Such as a worker without the key that the starter encrypted with: nothing is lost, and it cannot continue.
        lines.append(
            f"workers have failed {counted(task.attempt - 1, 'attempt')} at it: `keyturn doctor` and their log say why"
        )
    if not lines:
        limited = await waiting_for(handle)
        if isinstance(limited, LimitedUntil):
            lines.append(f"rate limited until {in_utc(limited.retry_at)}")
    return lines or ["waiting for a worker"]


def pending_attempts(description: WorkflowExecutionDescription) -> list[str]:
    """Return a line for each activity of a workflow that is not complete: its attempt and its last failure."""
    lines = []
    for pending in description.raw_description.pending_activities:
        line = f"{pending.activity_type.name}: attempt {pending.attempt}"
        if pending.HasField("last_failure"):
            line += f", last failure {pending.last_failure.application_failure_info.type or 'timeout'}"
        lines.append(line)
    return lines


async def steps_of(client: Client, handle: Handle) -> AsyncIterator[str]:
    """Yield a line for each step of the workflow that says something, as it comes, until the workflow has ended."""
    names: dict[int, str] = {}
    async for event in handle.fetch_history_events(wait_new_event=True):
        text = await _text_of(client, handle.id, event, names)
        if text is not None:
            moment = event.event_time.ToDatetime(UTC)
            yield f"{in_utc(moment)}  {text}"


async def _text_of(client: Client, workflow_id: str, event: HistoryEvent, names: dict[int, str]) -> str | None:
    match event.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            return "started"
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            return f"{names[event.event_id]} ..."
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            return await _result(client, workflow_id, names[completed.scheduled_event_id], completed.result.payloads)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            kind = failed.failure.application_failure_info.type
            return f"{names[failed.scheduled_event_id]}: failed, {kind}"
        case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return f"{names[event.activity_task_timed_out_event_attributes.scheduled_event_id]}: timed out"
        case _:
            return _human_step(event)


def _human_step(event: HistoryEvent) -> str | None:
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
        update = event.workflow_execution_update_accepted_event_attributes.accepted_request
        return f"Update: {update.input.name}"
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    if PARKED.name not in fields:
        return None
    kind = json.loads(fields[PARKED.name].data or b"null")
    return f"waits for an operator or approver: {kind}" if kind else None


async def _result(client: Client, workflow_id: str, name: str, payloads: Any) -> str:
    if name == "decide":
        [assessment] = await reader_of(client, workflow_id, activity=name).decode(payloads, [Assessment])
        verdict = assessment.verdict
        said: str = verdict.reason if isinstance(verdict, Rejection) else "the model contradicts the evidence"
        if isinstance(verdict, GroundedDecision):
            said = verdict.decision
        return f"decide: {verdict.verdict}, {said} ({assessment.call.model}, attempt {assessment.call.attempt})"
    if name in {"record_event", "withdraw_claim"}:
        return f"{name}: done"
    if name == "create_rotation_job":
        [job] = await reader_of(client, workflow_id, activity=name).decode(payloads, [RotationJob])
        return f"create_rotation_job: {job.job_id}, {fate_of(created=job.created, tightened=job.tightened)}"
    return f"{name}: done"
