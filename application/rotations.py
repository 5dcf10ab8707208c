"""Start a rotation, or attach to the one that is there; wait for it, and look at it later."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pydantic import TypeAdapter
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from keyturn.application.answers import UPDATE_TIMEOUT
from keyturn.application.connection import TemporalUnreachable
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.payload_errors import PayloadMoved
from keyturn.policy.grounding import request_digest
from keyturn.rotations.contracts import RotationRequest, RotationStatus
from keyturn.rotations.outcomes import (
    CompletedOutcome,
    Failed,
    JobCreated,
    LimitedUntil,
    RotationOutcome,
    TimedOut,
    WaitingForPerson,
    Waived,
)
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import APPROVAL, DISAGREEMENT, PARKED, attributes_at_start, memo_at_start

_OUTCOME: TypeAdapter[RotationOutcome] = TypeAdapter(RotationOutcome)
# The caller's timeout has passed already: a worker that is there answers in milliseconds.
QUERY_TIMEOUT = timedelta(seconds=2)
# A start takes milliseconds, and some seconds at a busy server: a caller in a hurry should not ask for it twice.
LEAST_START_SECONDS = 5.0
LOOK_SECONDS = 1.0  # how late a user at a terminal sees that the rotation waits for a person
Handle = WorkflowHandle[RotationWorkflow, CompletedOutcome]


@dataclass(frozen=True)
class Rotation:
    """A workflow of a request. `attached` is False if this call started it."""

    handle: Handle
    attached: bool


async def start_or_attach(
    client: Client, request: RotationRequest, *, task_queue: str, owner: str | None = None, again: bool = False
) -> Rotation:
    """Start the workflow of `request`, or attach to the one that has its id.

    A running one is always attached to (if it waits for a person while this request has other evidence, it is decided
    anew on that); so is one that created the job, or that answered the same question on the same evidence. One that
    failed is started again; so is one whose answer was given for other evidence: a key that was fresh last month may be
    stale now. None of this can create a second job: the job's row is claimed by the workflow id, and only one that
    failed or was cancelled gives way to another one, if that is asked for.

    Args:
        client: a connected client.
        request: what to ask.
        task_queue: where workers poll.
        owner: who owns the key, for lists; by default whom the request's inventory names.
        again: start anew although the same question was answered, unless it runs; a job that failed or was cancelled
            is replaced.
    """
    request = request.model_copy(update={"again": again or request.again})
    try:
        # Once one has closed, only a failed one may be repeated without a look at what it answered.
        handle = await _start(client, request, task_queue, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, owner)
        return Rotation(handle, attached=False)
    except WorkflowAlreadyStartedError:
        earlier = client.get_workflow_handle_for(RotationWorkflow.run, id_of(request, names_of(client)))
    description = await earlier.describe()
    if description.status is WorkflowExecutionStatus.RUNNING and waits_for(description) is not None:
        await _restate(earlier, request)
    if description.status is not WorkflowExecutionStatus.COMPLETED:
        return Rotation(earlier, attached=True)
    answered = await earlier.result()
    if not (request.again or _is_for_other_evidence(answered, request)):
        return Rotation(earlier, attached=True)
    try:
        handle = await _start(client, request, task_queue, WorkflowIDReusePolicy.ALLOW_DUPLICATE, owner)
        return Rotation(handle, attached=False)
    except WorkflowAlreadyStartedError:  # another starter was quicker; the handle names no run and so means theirs
        return Rotation(earlier, attached=True)


async def outcome_of(handle: Handle) -> RotationOutcome:
    """Wait for the workflow's end and return its named outcome; a failure is an outcome too."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        return _outcome_of_failure(error.cause)


async def wait_for_outcome(handle: Handle) -> RotationOutcome:
    """Wait for the workflow's end, or until it waits for a person, which may take days; return which it is."""
    ended = asyncio.ensure_future(outcome_of(handle))
    try:
        while True:
            # Looked at once a second: neither a poll for the end nor a description is a billable action.
            done, _ = await asyncio.wait({ended}, timeout=LOOK_SECONDS)
            if done:
                return ended.result()
            description = await handle.describe()
            kind = waits_for(description)
            if description.status is WorkflowExecutionStatus.RUNNING and kind is not None:
                return await waiting_for(handle, kind=kind)
    finally:
        ended.cancel()


async def rotate(
    client: Client,
    request: RotationRequest,
    *,
    task_queue: str,
    wait_seconds: float,
    owner: str | None = None,
    again: bool = False,
) -> tuple[bool, RotationOutcome]:
    """Start or attach and wait at most `wait_seconds`; returns whether it attached, and the outcome.

    When the time is up the outcome is `TimedOut`, or `LimitedUntil` if it waits for the user's token limit, while the
    workflow continues: the same call attaches to it later. A `WaitingForPerson` is returned as soon as it is one.

    Raises:
        TemporalUnreachable: the server confirmed no start within `wait_seconds`, or within LEAST_START_SECONDS if these
            are more. Asking again is safe.
    """
    began = time.monotonic()
    start_seconds = max(wait_seconds, LEAST_START_SECONDS)
    try:
        async with asyncio.timeout(start_seconds):
            rotation = await start_or_attach(client, request, task_queue=task_queue, owner=owner, again=again)
    except TimeoutError:
        raise TemporalUnreachable(f"the start was not confirmed within {start_seconds:.3g} s") from None
    try:
        async with asyncio.timeout(max(wait_seconds - (time.monotonic() - began), 0.0)):
            outcome = await wait_for_outcome(rotation.handle)
            while rotation.attached and _is_for_other_evidence(outcome, request):
                # It was running when we attached, and has answered another caller's question: now ours is asked.
                rotation = await start_or_attach(client, request, task_queue=task_queue, owner=owner)
                outcome = await wait_for_outcome(rotation.handle)
            return rotation.attached, outcome
    except TimeoutError:
        return rotation.attached, await waiting_for(rotation.handle)


def waits_for(description: WorkflowExecutionDescription | WorkflowExecution) -> str | None:
    """What a rotation waits for a person to fix or give, by its search attribute; None if it waits for no one."""
    return description.typed_search_attributes.get(PARKED)


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


async def _restate(handle: Handle, request: RotationRequest) -> None:
    """Offer the request to a rotation that waits: on the same evidence it refuses, which leaves nothing behind."""
    no_news = (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError)
    with suppress(*no_news):  # the same question, or it resumed in between: then its outcome is looked at
        await handle.execute_update(RotationWorkflow.restate, request, rpc_timeout=UPDATE_TIMEOUT)


def _is_for_other_evidence(outcome: RotationOutcome, request: RotationRequest) -> bool:
    """Whether a completed answer was given for other facts. One that created the job is final, whatever was asked."""
    if isinstance(outcome, JobCreated | TimedOut | LimitedUntil | WaitingForPerson | Failed):
        return False
    # A waiver may have ended since: it is looked up again.
    return isinstance(outcome, Waived) or outcome.request_digest != request_digest(request)


async def _start(
    client: Client, request: RotationRequest, task_queue: str, reuse: WorkflowIDReusePolicy, owner: str | None
) -> Handle:
    lines = ", ".join(str(line) for line in request.policy_lines)
    return await client.start_workflow(
        RotationWorkflow.run,
        request,
        id=id_of(request, names_of(client)),
        task_queue=task_queue,
        search_attributes=attributes_at_start(request, names_of(client), owner),
        memo=memo_at_start(request),
        id_reuse_policy=reuse,
        # While one runs, its start fails and the caller attaches: USE_EXISTING would not say who started it.
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        # Tenants side by side, before runs (application/runs.py); an exposed key, of priority 1, before everything.
        priority=Priority(1 if request.credential.compromised else None, fairness_key=request.tenant_id),
        static_summary=f"rotate {request.credential.key_id} of {request.account_id}?",
        static_details=f"Under {lines}. Asked by {request.user_id}, trace `{request.trace_id}`.",
    )


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
