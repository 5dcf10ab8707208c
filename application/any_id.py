"""What an ID stands for that Keyturn has printed somewhere, and what that is at."""

from dataclasses import dataclass
from typing import Any, Literal

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError

from keyturn.application.following import describe_workflow, pending_attempts
from keyturn.application.rotation_status import QUERY_TIMEOUT
from keyturn.application.runs import NO_WORKER, RunState, stopped_by
from keyturn.bulk.contracts import BulkOutcome, BulkStatus
from keyturn.console import counted
from keyturn.execution.contracts import EXECUTION, KeyRotationOutcome, KeyRotationStatus
from keyturn.moments import in_utc
from keyturn.progress import line_of, summary_of
from keyturn.workflows.bulk import BulkWorkflow, bulk_id
from keyturn.workflows.rotate_key import RotateKeyWorkflow

IdKind = Literal["rotation", "run", "job", "execution", "delivery", "notice", "draft"]
_PREFIXES: dict[str, IdKind] = {
    "bulk:": "run",
    EXECUTION: "execution",
    "deliver:": "delivery",
    "notify:": "notice",
    "draft:": "draft",
}
_TYPES = {
    "run": "BulkWorkflow",
    "execution": "RotateKeyWorkflow",
    "delivery": "DeliveryWorkflow",
    "notice": "NoticeWorkflow",
    "draft": "DraftWorkflow",
}


@dataclass(frozen=True)
class FoundId:
    """An ID, and what it is of. `workflow_id` is the workflow's; of a job it is the job's ID."""

    kind: IdKind
    workflow_id: str


@dataclass(frozen=True)
class Summary:
    """What something is at: its state in a word, and lines that say more."""

    state: str
    lines: tuple[str, ...]
    is_open: bool


def find_id(text: str, *, tenant: str) -> FoundId:
    """Return what `text` is the ID of.

    Args:
        text: a workflow ID, a job ID, or the name of a run.
        tenant: whose run a name means.
    """
    if text.startswith("job_"):
        return FoundId("job", text)
    for prefix, kind in _PREFIXES.items():
        if text.startswith(prefix):
            return FoundId(kind, text)
    if text.startswith("notice_"):
        return FoundId("notice", f"notify:{text}")
    if ":" not in text:  # every other ID has one
        return FoundId("run", bulk_id(tenant, text))
    return FoundId("rotation", text)


async def handle_of_any(
    client: Client, found: FoundId
) -> tuple[WorkflowHandle[Any, Any], WorkflowExecutionDescription]:
    """Return the workflow of an ID that is no rotation's and no job's; raises NoSuchWorkflow."""
    return await describe_workflow(client, found.workflow_id, types=(_TYPES[found.kind],))


async def summary_of_any(client: Client, found: FoundId) -> Summary:
    """Return what a run, an execution, a delivery or a draft is at; raises NoSuchWorkflow."""
    handle, description = await handle_of_any(client, found)
    running = description.status is WorkflowExecutionStatus.RUNNING
    if found.kind == "run":
        return await _run_summary(client, handle.id, running=running)
    if found.kind == "execution":
        return await _execution_summary(client, handle.id, running=running)
    status = "unknown" if description.status is None else description.status.name.lower()
    if found.kind in {"delivery", "notice"} and not running and status == "failed":
        return Summary(
            "failed", ("`keyturn deliveries` lists it, and `keyturn deliveries resend` sends it again",), False
        )
    return Summary(status.replace("canceled", "cancelled"), tuple(pending_attempts(description)), running)


async def _run_summary(client: Client, workflow_id: str, *, running: bool) -> Summary:
    handle: WorkflowHandle[BulkWorkflow, BulkOutcome]
    handle = client.get_workflow_handle_for(BulkWorkflow.run, workflow_id)
    if running:
        try:
            status: BulkStatus = await handle.query(BulkWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
        except (RPCError, WorkflowQueryFailedError):
            return Summary("running", (NO_WORKER,), True)
        state: RunState = "cancelling" if status.cancelled else "paused" if status.paused else "running"
        state = "loading" if status.phase == "loading" and state == "running" else state
        hint = (status.hint,) if status.hint else ()
        return Summary(state, (line_of(status, None), *hint), True)
    try:
        outcome: BulkOutcome = await handle.result()
    except WorkflowFailureError as error:
        stopped = stopped_by(error)
        return Summary("failed", (str(stopped), stopped.hint), False)
    figures = f"{counted(outcome.progress.total, 'item')}: {summary_of(outcome.progress)}"
    return Summary(outcome.status, (figures, f"${outcome.progress.cost_usd:,.4f} for model calls"), False)


async def _execution_summary(client: Client, workflow_id: str, *, running: bool) -> Summary:
    handle: WorkflowHandle[RotateKeyWorkflow, KeyRotationOutcome]
    handle = client.get_workflow_handle_for(RotateKeyWorkflow.run, workflow_id)
    if running:
        try:
            at: KeyRotationStatus = await handle.query(RotateKeyWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
        except (RPCError, WorkflowQueryFailedError):
            return Summary("running", ("no executor answers: start one with `keyturn executor`",), True)
        lines = [f"old key {at.old_key_id}, new key {at.new_key_id or 'not created yet'}"] if at.old_key_id else []
        if at.blocked:
            lines.append(f"blocked: {at.blocked}" + (f": {at.because}" if at.because else ""))
        lines += [f"by {', '.join(at.blocked_by)}"] if at.blocked_by else []
        lines += [at.hint] if at.hint else []
        lines += [f"until {in_utc(at.until)}"] if at.until else []
        return Summary(at.step.replace("_", " "), tuple(lines), True)
    try:
        outcome: KeyRotationOutcome = await handle.result()
    except WorkflowFailureError:
        return Summary("failed", ("look at it in the Temporal UI",), False)
    return Summary(outcome.status.replace("_", " "), (outcome.reason,) if outcome.reason else (), False)
