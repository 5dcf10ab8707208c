"""How long records are stored: what is older than its retention is deleted, a batch at a time.

A closed job is emptied and not deleted: its row is the tombstone that refuses a second job for its key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import ColumnElement, Table, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_batches, bulk_items, bulk_runs
from keyturn.database import transaction
from keyturn.drafts.tables import drafts, is_expired
from keyturn.freezes.tables import freezes
from keyturn.jobs.states import CLOSED, OPEN
from keyturn.jobs.tables import job_audit, outbox, rotation_events, rotation_jobs
from keyturn.labels.tables import labelled_cases
from keyturn.ledger.tables import call_records
from keyturn.notices.tables import notice_issues, notice_sends, notices
from keyturn.waivers.tables import waivers

RecordKind = Literal["calls", "events", "jobs", "runs", "notices", "labels", "drafts", "waivers", "freezes"]
RECORD_KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
BATCH = 2_000  # rows a transaction: some 100 ms, in which no other waits for long
# What a purged job keeps: that it was there, and what refuses another one.
_TOMBSTONE = {
    "job_id", "tenant_id", "idempotency_key", "fingerprint", "status", "created_at", "closed_at", "fence",
    "lease_token", "priority", "merged_into",
}  # fmt: skip


@dataclass(frozen=True)
class Retention:
    """How many days records of each kind are stored; None for ever.

    Args:
        calls: model calls, from the call.
        events: what happened to rotations (parked, approved, denied), from the event.
        jobs: closed jobs with their audit trails and messages, from their end.
        runs: bulk runs with their items, from their end.
        notices: notices to people, from their event, and which issues of trackers they are in; those that still wait
            stay.
        labels: labelled cases, from the person's answer.
        drafts: drafts of replies, from their end.
        waivers: waivers, from their end; those in force stay.
        freezes: freezes, from their end; those in force stay.
    """

    calls: int | None = None
    events: int | None = None
    jobs: int | None = None
    runs: int | None = None
    notices: int | None = None
    labels: int | None = None
    drafts: int | None = None
    waivers: int | None = None
    freezes: int | None = None

    def limits(self, now: datetime) -> Mapping[RecordKind, datetime]:
        """Return before when records of each kind are expired; kinds that are stored for ever are left out."""
        days = {kind: getattr(self, kind) for kind in RECORD_KINDS}
        return {kind: now - timedelta(days=count) for kind, count in days.items() if count is not None}


class RetentionStore:
    """The records in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def count(self, limits: Mapping[RecordKind, datetime]) -> Mapping[RecordKind, int]:
        """Return how many records of each kind are older than its limit."""
        found: dict[RecordKind, int] = {}
        async with transaction(self._engine) as connection:
            for kind, before in limits.items():
                table, expired = _EXPIRED[kind]
                query = select(func.count()).select_from(table).where(expired(before))
                found[kind] = int((await connection.execute(query)).scalar_one())
        return found

    async def delete(self, limits: Mapping[RecordKind, datetime]) -> Mapping[RecordKind, int]:
        """Delete what is older than its limit, and empty closed jobs; returns how many records of each kind."""
        return {kind: await self._delete_all(kind, before) for kind, before in limits.items()}

    async def _delete_all(self, kind: RecordKind, before: datetime) -> int:
        total = 0
        while deleted := await self._delete_batch(kind, before):
            total += deleted
        if kind == "notices":
            await self._forget_issues(before)
        return total

    async def _forget_issues(self, before: datetime) -> None:
        """Delete what is known of trackers' issues, but for those of open jobs: the next notice of one needs it."""
        issues = notice_issues.c
        is_open = exists().where(rotation_jobs.c.job_id == issues.job_id, rotation_jobs.c.status.in_(OPEN))
        expired = select(issues.row_id).where(issues.changed_at < before, ~is_open).limit(BATCH)
        deleted = BATCH
        while deleted == BATCH:
            async with transaction(self._engine) as connection:
                gone = await connection.execute(delete(notice_issues).where(issues.row_id.in_(expired)))
                deleted = gone.rowcount

    async def _delete_batch(self, kind: RecordKind, before: datetime) -> int:
        table, expired = _EXPIRED[kind]
        (key,) = table.primary_key
        async with transaction(self._engine, whole=True) as connection:
            # Locked: a run that an operator resumes meanwhile is resumed before or after, never half deleted.
            found = select(key).where(expired(before)).limit(BATCH if kind != "runs" else 1).with_for_update()
            rows = await connection.execute(found)
            ids = [row[0] for row in rows]
            if not ids:
                return 0
            if kind == "jobs":
                messages = update(outbox).where(outbox.c.job_id.in_(ids))
                await connection.execute(messages.values(payload={}))
                # A message without a payload cannot be delivered: no sweep may start it again.
                waiting = messages.where(outbox.c.delivered_at.is_(None), outbox.c.dead_at.is_(None))
                await connection.execute(waiting.values(dead_at=datetime.now(UTC), failure="purged"))
                await connection.execute(
                    update(job_audit).where(job_audit.c.job_id.in_(ids)).values(actor="purged", detail={})
                )
                emptied = {column.name: None for column in rotation_jobs.c if column.name not in _TOMBSTONE}
                changed = update(rotation_jobs).where(rotation_jobs.c.job_id.in_(ids))
                await connection.execute(changed.values(status="purged", **emptied))
                return len(ids)
            if kind == "runs":  # one at a time: its items may be a hundred thousand
                for part in (bulk_items, bulk_batches):
                    await connection.execute(delete(part).where(part.c.run_id.in_(ids)))
            if kind == "notices":
                await connection.execute(delete(notice_sends).where(notice_sends.c.notice_id.in_(ids)))
            await connection.execute(delete(table).where(key.in_(ids)))
        return len(ids)


def _expired_events(before: datetime) -> ColumnElement[bool]:
    # The trail of a job that is still open is complete, however old its approval is.
    job = exists().where(
        rotation_jobs.c.tenant_id == rotation_events.c.tenant_id,
        rotation_jobs.c.idempotency_key == rotation_events.c.workflow_id,
        rotation_jobs.c.status.in_(OPEN),
    )
    return (rotation_events.c.at < before) & ~job


def _expired_notices(before: datetime) -> ColumnElement[bool]:
    waits = exists().where(
        notice_sends.c.notice_id == notices.c.notice_id,
        notice_sends.c.sent_at.is_(None),
        notice_sends.c.dead_at.is_(None),
    )
    return (notices.c.created_at < before) & notices.c.routed_at.is_not(None) & ~waits


# Where records of each kind are, and which of them have expired.
_EXPIRED: Mapping[RecordKind, tuple[Table, Callable[[datetime], ColumnElement[bool]]]] = {
    "calls": (call_records, lambda before: call_records.c.called_at < before),
    "events": (rotation_events, _expired_events),
    "jobs": (
        rotation_jobs,
        lambda before: rotation_jobs.c.status.in_(CLOSED) & (rotation_jobs.c.closed_at < before),
    ),
    "runs": (bulk_runs, lambda before: bulk_runs.c.ended_at < before),
    "notices": (notices, _expired_notices),
    "labels": (labelled_cases, lambda before: labelled_cases.c.labelled_at < before),
    "drafts": (drafts, is_expired),
    "waivers": (waivers, lambda before: (waivers.c.ended_at < before) | (waivers.c.until < before)),
    "freezes": (freezes, lambda before: (freezes.c.ended_at < before) | (freezes.c.until < before)),
}
