"""A job's row: made of an order, compared with another one, and the statements that write it."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    BigInteger,
    Select,
    String,
    bindparam,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from keyturn.jobs.contracts import JobMessage
from keyturn.jobs.outbox import TOPIC
from keyturn.jobs.tables import NORMAL, URGENT, audit_of, outbox, rotation_jobs
from keyturn.rotations.contracts import JobOrder

# States of a key that created no job: its claim was withdrawn, or its decision joined another job.
WITHDRAWN, MERGED = "withdrawn", "merged"


def job_row(order: JobOrder, idempotency_key: str, fingerprint: str, fence: int) -> dict[str, Any]:
    """Return the row of a new job."""
    return {
        "job_id": f"job_{uuid.uuid4().hex}",
        "tenant_id": order.tenant_id,
        "idempotency_key": idempotency_key,
        "fingerprint": fingerprint,
        "status": "open",
        "account_id": order.account_id,
        "key_id": order.credential.key_id,
        "name_by_creation": order.credential.name_by_creation,
        "credential_kind": order.credential.kind,
        "owner": order.owner,
        "recorded_owner": order.recorded_owner,
        "policy_lines": [str(ref) for ref in order.decision.source_lines],
        "rotation_window_days": order.decision.rotation_window_days,
        "decision_digest": order.decision.digest,
        "requested_by": order.user_id,
        "trace_id": order.trace_id,
        "created_at": datetime.now(UTC),
        "rotate_by": order.decision.rotate_by,
        "priority": URGENT if order.credential.compromised else NORMAL,
        "approved_by": None if order.approval is None else order.approval.approver,
        "fence": fence,
    }


def is_stricter(row: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether a decision wants the rotation sooner, or before others, than the open job does."""
    if row["priority"] < held["priority"]:
        return True
    wanted, date = row["rotate_by"], held["rotate_by"]
    return wanted is not None and (date is None or wanted < date)


def are_two_keys(row: Mapping[str, Any], key_id: str | None) -> bool:
    """Whether a job's key and an ordered one have two ids of their own, and only share the second of their creation."""
    name = row["name_by_creation"]
    return name is not None and key_id not in {row["key_id"], name} and row["key_id"] != name


def gives_id(row: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether a decision has the id of a key that the open, unclaimed job knows by its creation time alone."""
    is_unnamed = held["key_id"] == held["name_by_creation"] != row["key_id"]
    return is_unnamed and held["status"] in {"open", "delivered"}


def asks_for_the_same(row: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether a decision asks for the open job by the key's other name, under policy lines that the job has already."""
    return row["key_id"] != held["key_id"] and {*row["policy_lines"]} <= {*(held["policy_lines"] or ())}


def stricter_columns(row: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the open job under both decisions, the stricter of each."""
    return {
        "rotate_by": _least(row["rotate_by"], held["rotate_by"]),
        "rotation_window_days": _least(row["rotation_window_days"], held["rotation_window_days"]),
        "priority": min(row["priority"], held["priority"]),
        "policy_lines": sorted({*(held["policy_lines"] or ()), *row["policy_lines"]}),
        "decision_digest": row["decision_digest"] if is_stricter(row, held) else held["decision_digest"],
        "key_id": row["key_id"] if gives_id(row, held) else held["key_id"],
    }


def _least(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else min(one, other)


def moment_in_words(value: datetime | None) -> str:
    """Return a moment as an audit row has it."""
    return "none" if value is None else value.isoformat()


def approval_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return who approved, as an audit row has it; empty if no one had to."""
    return {} if row["approved_by"] is None else {"approved_by": row["approved_by"]}


def audit_row(row: Mapping[str, Any], event: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit row of an event."""
    return {
        "job_id": row["job_id"],
        "at": row["created_at"],
        "event": event,
        "actor": row["requested_by"],
        "detail": dict(detail),
    }


def message_payload(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what receivers are sent of a job."""
    fields = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name in JobMessage.model_fields
    }
    return fields | {"priority": "urgent" if row["priority"] == URGENT else "normal"}


def _all_at_once(job: CTE) -> Select[tuple[str]]:
    """PostgreSQL: the three rows in one statement, which is one transaction and one round trip.

    With BEGIN, three statements and COMMIT it costs five round trips, 1.6 times as long one at a time (docs/adr/0004).
    """
    message = insert(outbox).from_select(
        ["job_id", "topic", "payload", "created_at"],
        select(
            job.c.job_id,
            literal(TOPIC, String),
            bindparam("outbox_payload", type_=JSON),
            bindparam("outbox_created_at", type_=outbox.c.created_at.type),
        ),
    )
    return select(job.c.job_id).add_cte(audit_of(job), message.cte("message"))


_LATER = {"merged_into", "lease_token", "lease_owner", "lease_until", "closed_at"}


_COLUMNS = [column for column in rotation_jobs.c if column.name not in _LATER]


_VALUES = {column.name: bindparam(column.name, type_=column.type) for column in _COLUMNS}


INSERT_ALL_AT_ONCE = _all_at_once(
    postgresql.insert(rotation_jobs)
    .values(_VALUES)
    .on_conflict_do_nothing()
    .returning(rotation_jobs.c.job_id)
    .cte("job")
)


# SQLite has no inserts in a WITH clause, so there it is three statements in one immediate transaction.
INSERT_JOB_SQLITE = (
    sqlite.insert(rotation_jobs).values(_VALUES).on_conflict_do_nothing().returning(rotation_jobs.c.job_id)
)


_UNCHANGED = {"job_id", "tenant_id", "idempotency_key"}


REVIVE_JOB = (
    update(rotation_jobs)
    .where(
        rotation_jobs.c.tenant_id == bindparam("this_tenant", type_=String),
        rotation_jobs.c.idempotency_key == bindparam("this_key", type_=String),
        rotation_jobs.c.status == WITHDRAWN,
        rotation_jobs.c.fence < bindparam("this_fence", type_=BigInteger),
    )
    # Parameters with other names: those named as columns would be set too, the key's among them.
    .values({name: bindparam(f"set_{name}", type_=one.type) for name, one in _VALUES.items() if name not in _UNCHANGED})
    .values(merged_into=None)
    .returning(rotation_jobs.c.job_id)
)


REVIVE_ALL_AT_ONCE = _all_at_once(REVIVE_JOB.cte("job"))
