"""The rows of the desk's lists, as its pages and its JSON show them. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from keyturn.application.rotation_lists import ListedRotation
from keyturn.jobs.states import OPEN

Row = Mapping[str, Any]


def rotation_row(row: ListedRotation, job: Row | None = None) -> dict[str, Any]:
    """Return a rotation as the page and the JSON list it; `job` is the one that it created."""
    decision = row.waiting.decision if row.waiting is not None else None
    due = job["rotate_by"] if job is not None else decision.rotate_by if decision is not None else None
    overdue = decision.overdue_by_days if decision is not None else None
    if job is not None:
        overdue = overdue_days(job, datetime.now(UTC))
    return {
        "workflow_id": row.workflow_id,
        "state": row.state,
        "reason": row.reason,
        "account_id": row.subject.account_id if row.subject else None,
        "key_id": row.subject.key_id if row.subject else None,
        "credential_kind": row.subject.kind if row.subject else None,
        "requested_by": row.subject.requested_by if row.subject else None,
        "owner": row.subject.owner if row.subject else None,
        "policy_lines": list(row.policy_lines),
        "started_at": row.started_at,
        "closed_at": row.closed_at,
        "rotate_by": due,
        "overdue_by_days": overdue,
        "job_id": job["job_id"] if job is not None else None,
        "job_state": job["status"] if job is not None else None,
        "asked_by": list(row.waiting.requested_by) if row.waiting is not None else [],
        "digest": decision.digest if decision is not None else None,
        "approvers": list(decision.approvers) if decision is not None else [],
        "any_operator": decision.any_operator if decision is not None else False,
        "readings": [one.model_dump(mode="json") for one in row.waiting.readings] if row.waiting is not None else [],
        "hint": row.waiting.hint if row.waiting is not None else None,
        "waits_since": row.waiting.since if row.waiting is not None else None,
        "waits_until": row.waiting.until if row.waiting is not None else None,
    }


def overdue_days(job: Row, now: datetime) -> int | None:
    """Return by how many whole days an open job is past its date; None if it is not."""
    due = job["rotate_by"]
    return (now - due).days if due is not None and job["status"] in OPEN and due < now else None
