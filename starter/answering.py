"""What waits for a person, found by its search attribute; and an answer, sent as an update."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from keyturn.contracts import Contract, Resumption
from keyturn.errors import InvalidRequest, KeyturnError
from starter.rotations import UPDATE_TIMEOUT, Handle, waits_for
from workflows.rotation import RotationWorkflow
from workflows.visibility import PARKED, TENANT


class AnswerRefused(KeyturnError):
    """The rotation does not take this answer; nothing changed."""

    kind = "answer_refused"
    next_step = "fail_and_fix_request"
    mend = "Look at what it waits for now: `keyturn status ID`."


class NoWorkerAnswers(KeyturnError):
    """No worker took the answer; nothing changed."""

    kind = "no_worker_answers"
    next_step = "retry_with_backoff"
    mend = "Start one with `keyturn worker`, then say it again: nothing changed."


async def answer(handle: WorkflowHandle[Any, Any], update: str, argument: Contract) -> None:
    """Send a person's answer to a rotation that waits, or to one that carries a job out.

    Args:
        handle: of the rotation.
        update: the name of one of its updates.
        argument: what the update takes.

    Raises:
        AnswerRefused: its validator refused it, by the name in the message; or the rotation has ended.
        NoWorkerAnswers: nobody took it within ten seconds.
    """
    try:
        async with asyncio.timeout(UPDATE_TIMEOUT.total_seconds()):
            await handle.execute_update(update, argument, rpc_timeout=UPDATE_TIMEOUT)
    except WorkflowUpdateFailedError as failed:
        cause = failed.cause
        kind = cause.type if isinstance(cause, ApplicationError) and cause.type else "unforeseen"
        raise AnswerRefused(f"{update} refused, {kind}: {cause}") from None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise NoWorkerAnswers(f"no worker took the {update} within {UPDATE_TIMEOUT.total_seconds():g} s") from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise AnswerRefused(f"{update} refused, ended: the rotation has ended already") from None
        if error.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
            raise NoWorkerAnswers(f"no worker took the {update} in time") from None
        raise


async def waiting_rotations(
    client: Client, *, tenant: str | None, kind: str | None, limit: int
) -> AsyncIterator[dict[str, str]]:
    """Yield the rotations that wait for a person, oldest first: `workflow_id`, `kind`, `since` (its start, in UTC)."""
    types = "'RotationWorkflow', 'RotateAccessKeyWorkflow'"
    query = f"WorkflowType IN ({types}) AND ExecutionStatus = 'Running' AND {PARKED.name} IS NOT NULL"
    for name, value in ((TENANT.name, tenant), (PARKED.name, kind)):
        if value is not None:
            query += f" AND {name} = '{_quoted(value)}'"
    found = [row async for row in client.list_workflows(query, limit=limit)]
    for row in sorted(found, key=lambda row: row.start_time):
        kept = waits_for(row) or "unforeseen"
        yield {"workflow_id": row.id, "kind": kept, "since": row.start_time.isoformat()}


async def resume_all(
    client: Client, resumption: Resumption, *, kind: str, tenant: str | None, at_once: int
) -> tuple[int, list[str]]:
    """Resume every rotation that is parked for `kind`; returns how many were, and a line for each that refused."""
    turns = asyncio.Semaphore(at_once)

    async def one(workflow_id: str) -> str | None:
        async with turns:
            handle: Handle = client.get_workflow_handle_for(RotationWorkflow.run, workflow_id)
            try:
                await answer(handle, "resume", resumption)
            except (AnswerRefused, NoWorkerAnswers) as error:
                return f"{workflow_id}: {error}"
            return None

    found = [row["workflow_id"] async for row in waiting_rotations(client, tenant=tenant, kind=kind, limit=100_000)]
    told = await asyncio.gather(*map(one, found))
    refused = [line for line in told if line is not None]
    return len(told) - len(refused), refused


def _quoted(value: str) -> str:
    if not value.isascii() or any(letter in value for letter in "'\"\\`") or len(value) > 256:
        raise InvalidRequest("a tenant or kind has letters, digits and . _ @ + = - only")
    return value
