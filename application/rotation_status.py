"""How a rotation ended, or what it is at and waits for."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from pydantic import TypeAdapter
from temporalio.client import (
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError

from keyturn.payload_errors import PayloadMoved
from keyturn.rotations.contracts import RotationStatus
from keyturn.rotations.outcomes import (
    CompletedOutcome,
    Failed,
    LimitedUntil,
    RotationOutcome,
    TimedOut,
    WaitingForPerson,
)
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import APPROVAL, DISAGREEMENT, PARKED

_KIND = r"[A-Za-z][A-Za-z0-9_]{0,63}"
_OUTCOME: TypeAdapter[RotationOutcome] = TypeAdapter(RotationOutcome)
# The caller's timeout has passed already: a worker that is there answers in milliseconds.
QUERY_TIMEOUT = timedelta(seconds=2)
Handle = WorkflowHandle[RotationWorkflow, CompletedOutcome]


async def outcome_of(handle: Handle) -> RotationOutcome:
    """Wait for the workflow's end and return its named outcome; a failure is an outcome too."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        return _outcome_of_failure(error.cause)


def _outcome_of_failure(cause: BaseException) -> RotationOutcome:
    if isinstance(cause, ApplicationError) and cause.details and isinstance(cause.details[0], dict):
        return _OUTCOME.validate_python(cause.details[0])
    if isinstance(cause, ApplicationError) and cause.type == PayloadMoved.__name__:
        return Failed(kind=PayloadMoved.kind, next_step="fail_and_inspect", hint=PayloadMoved.hint)
    if isinstance(cause, TerminatedError | CancelledError):
        ended = "terminated" if isinstance(cause, TerminatedError) else "cancelled"
        return Failed(
            kind=f"workflow_{ended}", next_step="fail_and_inspect", hint=f"It was {ended} in Temporal. Ask again."
        )
    return Failed(kind="unforeseen", next_step="fail_and_inspect", hint="Look at the workflow in the Temporal UI.")


def waits_for(description: WorkflowExecutionDescription | WorkflowExecution) -> str | None:
    """What a rotation waits for a person to fix or give, by its search attribute; None if it waits for no one."""
    kind = description.typed_search_attributes.get(PARKED)
    return None if kind is None else plain_kind(kind)


def plain_kind(kind: str) -> str:
    """Return a kind that Temporal's server names, `unforeseen` for what is none of ours.

    Who can write to Temporal can write a sentence there, and people would read it in a message of Keyturn's.
    """
    return kind if re.fullmatch(_KIND, kind) else "unforeseen"


async def status_of(handle: Handle) -> RotationStatus | None:
    """Return a rotation's own status; None if no worker answers, or one of another version."""
    try:
        return await handle.query(RotationWorkflow.status, rpc_timeout=QUERY_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError):
        return None


async def waiting_for(handle: Handle, *, kind: str | None = None) -> TimedOut | LimitedUntil | WaitingForPerson:
    """What a running rotation waits for; of kind `kind`, if its search attribute says that it waits."""
    match await status_of(handle):
        case RotationStatus(phase="rate_limited", until=until) if until is not None:
            return LimitedUntil(retry_at=until)
        case RotationStatus(phase="parked" | "awaiting_approval" | "disagreement" as phase) as status:
            return WaitingForPerson(
                status=phase,
                kind=status.kind or "unforeseen",
                next_step=status.next_step or "fail_and_inspect",
                hint=status.hint or "",
                until=status.until,
                decision=status.decision,
                readings=status.readings,
            )
        case _ if kind is not None:
            return WaitingForPerson(
                status=_WAITS.get(kind, "parked"),
                kind=kind,
                next_step="fail_and_inspect",
                hint="No worker answers what the rotation waits for: start one with `keyturn worker`.",
            )
        case _:
            return TimedOut()


_WAITS: Mapping[str, Literal["awaiting_approval", "disagreement"]] = {
    APPROVAL: "awaiting_approval",
    DISAGREEMENT: "disagreement",
}
