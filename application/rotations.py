"""Start a rotation, or attach to the one that is there; wait for it, and look at it later."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from keyturn.application.answers import UPDATE_TIMEOUT
from keyturn.application.connection import TemporalUnreachable
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import Handle, outcome_of, waiting_for, waits_for
from keyturn.policy.grounding import request_digest
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import (
    Failed,
    JobCreated,
    LimitedUntil,
    RotationOutcome,
    TimedOut,
    WaitingForPerson,
    Waived,
)
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import attributes_at_start, memo_at_start

# A start takes milliseconds, and some seconds at a busy server: a caller in a hurry should not ask for it twice.
LEAST_START_SECONDS = 5.0
LOOK_SECONDS = 1.0  # how late a user at a terminal sees that the rotation waits for a person


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
    if again or request.again:
        since = request.asked_again_at or datetime.now(UTC)
        request = request.model_copy(update={"again": True, "asked_again_at": since})
    start = partial(_start, client, request, task_queue, owner)
    try:
        # Once one has closed, only a failed one may be repeated without a look at what it answered.
        handle = await start(WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
        return Rotation(handle, attached=False)
    except WorkflowAlreadyStartedError:
        earlier: Handle = client.get_workflow_handle_for(RotationWorkflow.run, id_of(request, names_of(client)))
    description = await earlier.describe()
    if description.status is WorkflowExecutionStatus.RUNNING and waits_for(description) is not None:
        await _restate(earlier, request)
    if description.status is not WorkflowExecutionStatus.COMPLETED:
        return Rotation(earlier, attached=True)
    answered = await earlier.result()
    if not (request.again or _is_for_other_evidence(answered, request)):
        return Rotation(earlier, attached=True)
    try:
        handle = await start(WorkflowIDReusePolicy.ALLOW_DUPLICATE)
        return Rotation(handle, attached=False)
    except WorkflowAlreadyStartedError:  # another starter was quicker; the handle names no run and so means theirs
        return Rotation(earlier, attached=True)


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
    client: Client, request: RotationRequest, task_queue: str, owner: str | None, reuse: WorkflowIDReusePolicy
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
