"""Which row of an audit trail is a notice, and which."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from keyturn.execution.contracts import ROLLED_BACK
from keyturn.execution.plans import hint_of
from keyturn.execution.trails import Record
from keyturn.jobs.tables import URGENT
from keyturn.notices.contracts import MAX_EVENT_ID, Notice, Severity, Topic

_log = structlog.get_logger("keyturn.notices")
_Row = TypeVar("_Row")
# Events of rotations that people hear of, with the topic and severity of each.
ROTATION_EVENTS: Mapping[str, tuple[Topic, Severity]] = {
    "approval_requested": ("approval.waits", "warning"),  # also of a disagreement, which has `readings`
    "parked": ("rotation.parked", "warning"),
}
_LISTED = 20  # stores and consumers, each: as many as a line of text takes
_OF_STATES: Mapping[str, tuple[Topic, Severity]] = {
    "created": ("job.created", "info"),
    "tightened": ("job.tightened", "info"),
    "cancelled": ("job.cancelled", "info"),
    "done": ("rotation.done", "info"),
    "failed": ("rotation.failed", "urgent"),
}
# What of a row's detail a notice repeats, and under which name. Everything else stays in the trail.
_FACTS = {
    "approvers": "approvers",
    "until": "until",
    "kind": "kind",
    "readings": "readings",
    "reason": "reason",
    "overlap": "overlap",
    "grace": "grace",
    "late_until": "late_until",
    "blocked": "blocked",
    "by": "by",
    "used_by": "users",
    "new_key_id": "new_key",
    "last_used": "last_used",
}


def notice_of_job_event(row: Mapping[str, Any]) -> Notice | None:
    """Return the notice of a row of a job's audit trail, joined with its job; None if people need not hear of it."""
    detail, event = row["detail"], row["event"]
    found = _of_end(event, detail) or _OF_STATES.get(event) or _of_progress(event, detail)
    if found is None or not row["account_id"]:  # of a purged job nothing is left to say
        return None
    topic, severity = found
    facts = _facts_of(detail)
    if (topic == "job.created" and row["priority"] == URGENT) or (
        topic == "job.tightened" and detail.get("priority") == "urgent"
    ):
        severity, facts = "urgent", facts | {"exposed": "yes"}
    if topic == "job.cancelled":
        facts["cancelled_by"] = str(row["actor"])[:500]
    if topic == "rotation.began":
        facts |= _plan_in(row)
    if topic == "rotation.blocked" and (to_do := hint_of(str(detail["blocked"]), row["job_id"])):
        facts["to_do"] = to_do
    return notice_of_job(row, f"job-{row['audit_id']}", topic, severity, row["at"], facts)


def notice_of_blocked(row: Mapping[str, Any], kind: str, execution_id: str, at: datetime) -> Notice:
    """Return the notice of an executor's rotation that waits for an operator, or for a fault to be fixed.

    Args:
        row: of its job.
        kind: of what blocks it.
        execution_id: of Temporal's; within it, each kind is one notice.
        at: when it was found.
    """
    event_id = f"blocked-{execution_id}-{kind}"[:MAX_EVENT_ID]
    facts = {"kind": kind, "look": f"keyturn status {row['job_id']}"}
    return notice_of_job(row, event_id, "rotation.parked", "warning", at, facts)


def notice_of_job(
    row: Mapping[str, Any], event_id: str, topic: Topic, severity: Severity, at: datetime, facts: dict[str, str]
) -> Notice:
    """Return a notice about the key of a job, by the job's row."""
    return Notice(
        event_id=event_id,
        topic=topic,
        severity=severity,
        tenant_id=row["tenant_id"],
        at=at,
        owner=row["owner"],
        account_id=row["account_id"],
        key_id=row["key_id"],
        policy_lines=tuple(row["policy_lines"] or ())[:16],
        job_id=row["job_id"],
        rotate_by=row["rotate_by"],
        facts=facts,
    )


def notice_of_unknown_key(row: Mapping[str, Any]) -> Notice:
    """Return the notice of an exposed key that no inventory and no job knew."""
    return Notice(
        event_id=f"exposed-{row['key_id']}"[:MAX_EVENT_ID],
        topic="exposure.unknown",
        severity="urgent",
        tenant_id=row["tenant_id"],
        at=row["reported_at"],
        key_id=row["key_id"],
        facts={name: _in_one_line(row[name]) for name in ("source", "place", "reported_by") if row[name]},
    )


def readable(read: Callable[[_Row], Notice | None], rows: Iterable[_Row]) -> list[Notice]:
    """Return the notices of rows; a row that none can hold is left out, and does not hold up the others."""
    found = []
    for row in rows:
        try:
            notice = read(row)
        except ValidationError as error:
            _log.error("notice_unreadable", cause=type(error).__name__)
            continue
        found += [] if notice is None else [notice]
    return found


def _of_end(event: str, detail: Mapping[str, Any]) -> tuple[Topic, Severity] | None:
    """A person's decision to go back is no failure: nothing is broken, and the key is as it was."""
    is_rolled_back = event == "failed" and str(detail.get("reason", "")).startswith(ROLLED_BACK)
    return ("rotation.rolled_back", "warning") if is_rolled_back else None


def _plan_in(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a rotation that has begun will change, and when at the earliest."""
    try:
        record = Record.of_evidence(row["detail"])
    except (KeyError, ValueError):  # an executor of one's own reports what it likes
        return {}
    deactivated = row["at"] + record.waits.overlap
    plan = {"overlap_until": deactivated.isoformat(), "grace_until": (deactivated + record.waits.grace).isoformat()}
    lists = {"stores": record.targets[:_LISTED], "consumers": record.consumers[:_LISTED]}
    return plan | {name: _in_one_line(", ".join(listed)) for name, listed in lists.items() if listed}


def _of_progress(event: str, detail: Mapping[str, Any]) -> tuple[Topic, Severity] | None:
    """What an executor reports under the state that the job is in, by what it says."""
    if "cloud_account" in detail and event == "rotating":
        return "rotation.began", "info"
    if "blocked" in detail:
        return "rotation.blocked", "warning"
    if "activating" in detail:
        return "old_key.activated", "urgent"
    if "deactivated" in detail:
        return "old_key.deactivated", "info"
    return None


def notice_of_event(row: Mapping[str, Any]) -> Notice | None:
    """Return the notice of an event of a rotation on its way to a job; None if people need not hear of it."""
    found = ROTATION_EVENTS.get(row["event"])
    if found is None:
        return None
    topic, severity = found
    detail = row["detail"]
    if detail.get("readings"):
        topic = "decision.disagreement"
    lines = detail.get("policy_lines")
    return Notice(
        event_id=f"rotation-{row['event_id']}",
        topic=topic,
        severity=severity,
        tenant_id=row["tenant_id"],
        at=row["at"],
        owner=row["owner"],
        account_id=row["account_id"],
        key_id=row["key_id"],
        policy_lines=tuple(lines.split(", ")) if lines else (),
        rotate_by=detail.get("rotate_by"),
        workflow_id=row["workflow_id"],
        facts=_facts_of(detail),
    )


def _facts_of(detail: Mapping[str, Any]) -> dict[str, str]:
    return {_FACTS[name]: _in_one_line(value) for name, value in detail.items() if name in _FACTS and value}


def _in_one_line(value: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(value))[:500]
