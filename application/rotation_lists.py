"""Lists of rotations, a page at a time: found by search attributes, shown by their memos."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError

from keyturn.application.encryption import list_cursor, names_of, read_list_cursor
from keyturn.application.rotation_status import waits_for
from keyturn.contracts import UNOWNED
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.payload_errors import PayloadError
from keyturn.rotations.contracts import RotationStatus, RotationSubject
from keyturn.workflows.identity import MAX_ID, shorten, stored_id, workflow_id_of
from keyturn.workflows.visibility import (
    ACCOUNT,
    APPROVAL,
    DISAGREEMENT,
    OUTCOME,
    OWNER,
    PARKED,
    POLICY_LINES,
    SUBJECT,
    TENANT,
    WAITING,
)

RotationState = Literal[
    "running", "awaiting_approval", "disagreement", "parked", "job_created", "not_eligible", "not_specified",
    "waived", "rejected", "failed",
]  # fmt: skip
_RUNNING, _COMPLETED = "ExecutionStatus = 'Running'", "ExecutionStatus = 'Completed'"
_WAITS = f"{_RUNNING} AND {PARKED.name} IS NOT NULL"
# Which rotations have a state, as a query of Temporal's visibility: https://docs.temporal.io/list-filter
STATES: Mapping[RotationState, str] = {
    "running": f"{_RUNNING} AND {PARKED.name} IS NULL",
    "awaiting_approval": f"{_RUNNING} AND {PARKED.name} = '{APPROVAL}'",
    "disagreement": f"{_RUNNING} AND {PARKED.name} = '{DISAGREEMENT}'",
    "parked": f"{_WAITS} AND {PARKED.name} != '{APPROVAL}' AND {PARKED.name} != '{DISAGREEMENT}'",
    "job_created": f"{_COMPLETED} AND {OUTCOME.name} IS NULL",
    "not_eligible": f"{OUTCOME.name} = 'not_eligible'",
    "not_specified": f"{OUTCOME.name} = 'not_specified'",
    "waived": f"{OUTCOME.name} = 'waived'",
    "rejected": f"{OUTCOME.name} = 'rejected'",
    "failed": "ExecutionStatus IN ('Failed', 'Terminated', 'Canceled', 'TimedOut')",
}
# What an approver decides on.
TO_DECIDE: tuple[RotationState, ...] = ("awaiting_approval", "disagreement")


@dataclass(frozen=True)
class RotationFilter:
    """Which rotations are listed. None and nothing leave a condition out.

    Args:
        states: of these states.
        account_id: of this account.
        key_id: of this key; it needs the account.
        line: under this policy line, as ID@VERSION.
        owner: of this owner when they were asked for; `unowned` for those without one.
        started_before: started before then.
    """

    states: tuple[RotationState, ...] = ()
    account_id: str | None = None
    key_id: str | None = None
    line: str | None = None
    owner: str | None = None
    started_before: datetime | None = None


@dataclass(frozen=True)
class ListedRotation:
    """A rotation in a list. Names are None where its memo cannot be read here."""

    workflow_id: str
    run_id: str
    state: RotationState
    reason: str | None  # what a parked one waits for
    policy_lines: tuple[str, ...]
    started_at: datetime
    closed_at: datetime | None
    subject: RotationSubject | None
    waiting: RotationStatus | None


@dataclass(frozen=True)
class RotationPage:
    """A page of a list, open ones first, then those that closed last; `after` is the next page's cursor, if any."""

    rows: Sequence[ListedRotation]
    after: str | None


async def list_rotations(
    client: Client, chosen: RotationFilter, *, tenant: str, limit: int, after: str | None = None
) -> RotationPage:
    """Return a page of a tenant's rotations.

    Args:
        client: with the keys that encrypted them.
        chosen: which are listed.
        tenant: whose.
        limit: at most so many.
        after: the cursor of the page before.

    Raises:
        InvalidRequest: a condition or the cursor cannot be used.
    """
    # By its conditions; a list by age moves with the clock, and is the same list.
    of = _query(client, replace(chosen, started_before=None), tenant)
    try:
        token = read_list_cursor(client, after, of=of) if after else None
    except PayloadError:  # and not the server's refusal: what it makes of a wrong token depends on its store
        raise InvalidRequest("the list cannot be continued from there: start at its first page") from None
    found = client.list_workflows(_query(client, chosen, tenant), page_size=limit, next_page_token=token)
    await found.fetch_next_page()
    rows = await asyncio.gather(*map(_listed, found.current_page or ()))
    following = found.next_page_token
    return RotationPage(rows, list_cursor(client, following, of=of) if following else None)


async def subject_of(client: Client, workflow_id: str, *, tenant: str) -> RotationSubject | None:
    """Return what a tenant's rotation is about; None if it has none of this ID, or its memo cannot be read here."""
    try:
        described = await client.get_workflow_handle(stored_id(workflow_id, names_of(client))).describe()
        is_theirs = described.typed_search_attributes.get(TENANT) == tenant
        if described.workflow_type != "RotationWorkflow" or not is_theirs:
            return None
        return await described.memo_value(SUBJECT, None, type_hint=RotationSubject)
    except (RPCError, KeyturnError):
        return None


async def count_rotations(client: Client, chosen: RotationFilter, *, tenant: str) -> int:
    """Return how many of a tenant's rotations there are; raises InvalidRequest."""
    return (await client.count_workflows(_query(client, chosen, tenant))).count


async def count_waiting(client: Client, *, tenant: str, now: datetime) -> Mapping[str, tuple[int, int, int]]:
    """Return how many rotations wait for a person, by state: all, those over a day old, those over a week old."""
    limits = (None, now - timedelta(days=1), now - timedelta(days=7))
    states: tuple[RotationState, ...] = (*TO_DECIDE, "parked")
    wanted = [RotationFilter(states=(state,), started_before=limit) for state in states for limit in limits]
    counts = await asyncio.gather(*(count_rotations(client, one, tenant=tenant) for one in wanted))
    return {state: (counts[at], counts[at + 1], counts[at + 2]) for state, at in zip(states, (0, 3, 6), strict=True)}


def _query(client: Client, chosen: RotationFilter, tenant: str) -> str:
    parts = ["WorkflowType = 'RotationWorkflow'", f"{TENANT.name} = {_quoted(tenant)}"]
    if chosen.states:
        parts.append("(" + " OR ".join(f"({STATES[state]})" for state in chosen.states) + ")")
    names = names_of(client)
    if chosen.account_id is not None:
        parts.append(f"{ACCOUNT.name} = {_quoted(shorten(names(chosen.account_id), MAX_ID))}")
    if chosen.key_id is not None:
        if chosen.account_id is None:
            raise InvalidRequest("to find a key, name its account, too")
        prefix = workflow_id_of(tenant, chosen.account_id, chosen.key_id, (), names)
        parts.append(f"WorkflowId STARTS_WITH {_quoted(prefix)}")
    if chosen.line is not None:
        parts.append(f"{POLICY_LINES.name} = {_quoted(chosen.line)}")
    if chosen.owner == UNOWNED:
        parts.append(f"{OWNER.name} IS NULL")
    elif chosen.owner is not None:
        parts.append(f"{OWNER.name} = {_quoted(shorten(names(chosen.owner), MAX_ID))}")
    if chosen.started_before is not None:
        parts.append(f"StartTime < '{chosen.started_before.isoformat()}'")
    return " AND ".join(parts)


def _quoted(value: str) -> str:
    if any(letter in value for letter in "'\"\\`") or not value.isprintable() or len(value) > MAX_ID:
        raise InvalidRequest("a filter holds no quotation marks or backslashes, and 255 characters at most")
    return f"'{value}'"


async def _listed(row: WorkflowExecution) -> ListedRotation:
    attributes = row.typed_search_attributes
    reason = waits_for(row)
    try:
        subject = await row.memo_value(SUBJECT, None, type_hint=RotationSubject)
        waiting = await row.memo_value(WAITING, None, type_hint=RotationStatus) if reason else None
    except KeyturnError:  # encrypted under a key that is not here: its id and state are all that can be said
        subject = waiting = None
    return ListedRotation(
        workflow_id=row.id,
        run_id=row.run_id,
        state=_state_of(row, reason),
        reason=reason,
        policy_lines=tuple(attributes.get(POLICY_LINES) or ()),
        started_at=row.start_time,
        closed_at=row.close_time,
        subject=subject,
        waiting=waiting,
    )


def _state_of(row: WorkflowExecution, reason: str | None) -> RotationState:
    if row.status is WorkflowExecutionStatus.RUNNING:
        if reason is None:
            return "running"
        return {APPROVAL: TO_DECIDE[0], DISAGREEMENT: TO_DECIDE[1]}.get(reason, "parked")
    if row.status is WorkflowExecutionStatus.COMPLETED:
        outcome = row.typed_search_attributes.get(OUTCOME)
        states: Mapping[str, RotationState] = {name: name for name in STATES}
        return "job_created" if outcome is None else states.get(outcome, "failed")
    return "failed"
