"""What waits for a person, found by its search attribute; and an answer to all of a kind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from temporalio.client import Client, WorkflowExecution

from keyturn.application.answers import AnswerRefused, NoWorkerAnswers, answer
from keyturn.application.rotation_status import Handle, waits_for
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.rotations.contracts import Resumption, RotationStatus, RotationSubject
from keyturn.workflows.rotate_key import execution_id
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import PARKED, POLICY_LINES, SUBJECT, TENANT, WAITING

WAITING_TYPES = ("RotationWorkflow", "RotateKeyWorkflow")
# Waits of a key's rotation that are what they should be: no one has to fix anything yet.
WAITS = ("frozen", "old_key_in_use", "new_key_not_seen", "consumers_not_moved", "key_use_unknown")
MOST_WAITING = 100_000  # read to find the oldest of them: twice the largest estate, in some seconds


class WaitingRotation(NamedTuple):
    """A rotation that waits for a person: for what, and when it was started."""

    workflow_id: str
    kind: str
    started_at: datetime
    execution: WorkflowExecution


class BlockedJob(NamedTuple):
    """A job whose rotation is blocked: by which execution of Temporal's, and the kind of what blocks it."""

    execution_id: str
    kind: str


async def waiting_rotations(
    client: Client, *, tenant: str | None, kind: str | None, limit: int, types: Sequence[str] = WAITING_TYPES
) -> AsyncIterator[WaitingRotation]:
    """Yield the rotations that wait for a person, oldest first."""
    named = ", ".join(f"'{name}'" for name in types)
    query = f"WorkflowType IN ({named}) AND ExecutionStatus = 'Running' AND {PARKED.name} IS NOT NULL"
    for name, value in ((TENANT.name, tenant), (PARKED.name, kind)):
        if value is not None:
            query += f" AND {name} = '{_expect_plain(value)}'"
    # The server lists the newest first, and the oldest is who has waited longest: all are read, and then cut.
    rows = client.list_workflows(query, limit=MOST_WAITING)
    found = [WaitingRotation(row.id, waits_for(row) or "unforeseen", row.start_time, row) async for row in rows]
    for one in sorted(found, key=lambda one: (one.started_at, one.workflow_id))[:limit]:
        yield one


async def as_listed(one: WaitingRotation) -> dict[str, Any]:
    """Return a rotation that waits with its names and lines, and since when it waits, as far as that is known here.

    Of a job's execution, its ID alone is known: `keyturn jobs show` has the names.
    """
    try:
        subject = await one.execution.memo_value(SUBJECT, None, type_hint=RotationSubject)
        waiting = await one.execution.memo_value(WAITING, None, type_hint=RotationStatus)
    except KeyturnError:  # encrypted under a key that is not here
        subject = waiting = None
    since = one.started_at if waiting is None or waiting.since is None else waiting.since
    return {
        "workflow_id": one.workflow_id,
        "kind": one.kind,
        "since": since.isoformat(),
        "account_id": None if subject is None else subject.account_id,
        "key_id": None if subject is None else subject.key_id,
        "requested_by": None if subject is None else subject.requested_by,
        "policy_lines": list(one.execution.typed_search_attributes.get(POLICY_LINES) or ()),
    }


async def blocked_jobs(client: Client, *, task_queue: str | None = None) -> Mapping[str, BlockedJob]:
    """Return the jobs whose rotations wait for an operator or for a fault to be fixed, by their IDs.

    One that is frozen, or whose consumers have not moved yet, is none: nothing is wrong with it.

    Args:
        client: a connected client.
        task_queue: of one executor; None for all of the namespace.
    """
    query = "WorkflowType = 'RotateKeyWorkflow' AND ExecutionStatus = 'Running'"
    query += "" if task_queue is None else f" AND TaskQueue = '{task_queue}'"
    query += f" AND {PARKED.name} IS NOT NULL AND {PARKED.name} NOT IN ({', '.join(map(repr, WAITS))})"
    found = client.list_workflows(query, limit=MOST_WAITING)
    return {
        row.id.removeprefix(execution_id("")): BlockedJob(row.run_id, waits_for(row) or "unforeseen")
        async for row in found
    }


async def resume_all(
    client: Client,
    resumption: Resumption,
    *,
    kind: str,
    tenant: str | None,
    at_once: int,
    on_progress: Callable[[int, int], None],
) -> tuple[int, list[str]]:
    """Resume every rotation that is parked for `kind`; returns how many were, and a line for each that refused.

    Args:
        client: a connected client.
        resumption: by whom.
        kind: what the rotations wait for.
        tenant: whose; None for all.
        at_once: how many Updates are under way at once.
        on_progress: is called after each with how many are done, and of how many.
    """
    turns, done = asyncio.Semaphore(at_once), 0

    async def one(workflow_id: str) -> str | None:
        nonlocal done
        async with turns:
            handle: Handle = client.get_workflow_handle_for(RotationWorkflow.run, workflow_id)
            refused = None
            try:
                await answer(handle, "resume", resumption)
            except (AnswerRefused, NoWorkerAnswers) as error:
                refused = f"{workflow_id}: {error}"
            done += 1
            on_progress(done, len(found))
            return refused

    found = [row.workflow_id async for row in waiting_rotations(client, tenant=tenant, kind=kind, limit=MOST_WAITING)]
    results = await asyncio.gather(*map(one, found))
    refused = [line for line in results if line is not None]
    return len(results) - len(refused), refused


def _expect_plain(value: str) -> str:
    if not value.isascii() or any(letter in value for letter in "'\"\\`") or len(value) > 256:
        raise InvalidRequest("a tenant or kind has letters, digits and . _ @ + = - only")
    return value
