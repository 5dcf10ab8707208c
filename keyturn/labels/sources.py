"""Where labels come from: the audit trails, in which each approval, denial and rollback is a row already."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, literal, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import rows_of
from keyturn.execution.contracts import ROLLED_BACK
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs
from keyturn.labels.contracts import PersonsAnswer
from keyturn.labels.tables import labelled_cases

# Rows of a look, oldest first: the next look takes the others. A history is read for each, in some milliseconds.
MOST_AT_ONCE = 5_000
MAX_REASON = 500  # as a case has it; executors of others may write more
_events, _audit, _jobs = rotation_events.c, job_audit.c, rotation_jobs.c


class LabelSources:
    """The audit trails behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def uncollected(
        self, *, since: datetime, tenant_id: str | None = None, gone_too: bool = False
    ) -> Sequence[PersonsAnswer]:
        """Return what people said from `since` on that is no case yet, oldest first.

        Args:
            since: from when on.
            tenant_id: whose; None for every tenant's.
            gone_too: those, too, whose histories were gone when they were looked at.
        """
        answers = await self._answers(since, tenant_id, gone_too)
        return sorted([*answers, *await self._rollbacks(since, tenant_id, gone_too)], key=lambda one: one.at)

    async def _answers(self, since: datetime, tenant_id: str | None, gone_too: bool) -> list[PersonsAnswer]:
        query = (
            select(rotation_events)
            .where(_events.at >= since, _events.event.in_(["approved", "denied"]))
            .where(_is_no_case(_events.event_id, _events.tenant_id, gone_too))
            .order_by(_events.at)
            .limit(MOST_AT_ONCE)
        )
        if tenant_id is not None:
            query = query.where(_events.tenant_id == tenant_id)
        return [
            PersonsAnswer(
                **{name: row[name] for name in ("tenant_id", "workflow_id", "event_id", "at")},
                kind=row["event"],
                by=row["actor"],
                digest=row["detail"].get("digest"),
                reason=row["detail"].get("reason"),
            )
            for row in await rows_of(self._engine, query)
        ]

    async def _rollbacks(self, since: datetime, tenant_id: str | None, gone_too: bool) -> list[PersonsAnswer]:
        """Jobs that failed after their old key had to come back: rolled back by an operator, or used again."""
        event_id = literal("job:").concat(_audit.job_id)
        query = (
            select(job_audit, _jobs.tenant_id, _jobs.idempotency_key)
            .join(rotation_jobs, _jobs.job_id == _audit.job_id)
            .where(_audit.at >= since, _audit.event == literal_column("'failed'"))  # of the partial index
            .where(_is_no_case(event_id, _jobs.tenant_id, gone_too))
            .order_by(_audit.at)
            .limit(MOST_AT_ONCE)
        )
        if tenant_id is not None:
            query = query.where(_jobs.tenant_id == tenant_id)
        rows = await rows_of(self._engine, query)
        restored = await self._restored([row["job_id"] for row in rows])
        return [
            PersonsAnswer(
                tenant_id=row["tenant_id"],
                workflow_id=row["idempotency_key"],
                event_id=f"job:{row['job_id']}",
                kind="rolled_back",
                by=_operator(reason) or row["actor"],
                at=row["at"],
                reason=reason[:MAX_REASON],
                job_id=row["job_id"],
            )
            for row, reason in ((row, str(row["detail"].get("reason", ""))) for row in rows)
            if _operator(reason) or row["job_id"] in restored
        ]

    async def _restored(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of some jobs whose old key was activated again, because a consumer still needed it."""
        if not job_ids:
            return set()
        rows = await rows_of(self._engine, select(_audit.job_id, _audit.detail).where(_audit.job_id.in_(job_ids)))
        return {row["job_id"] for row in rows if "activated" in row["detail"]}


def _operator(reason: str) -> str:
    """Return who rolled a job back, by the reason that its rotation writes; empty if none did."""
    return reason.removeprefix(ROLLED_BACK).partition(": ")[0] if reason.startswith(ROLLED_BACK) else ""


def _is_no_case(event_id: Any, tenant_id: Any, gone_too: bool) -> ColumnElement[bool]:
    case = exists().where(labelled_cases.c.tenant_id == tenant_id, labelled_cases.c.event_id == event_id)
    return ~(case.where(labelled_cases.c.content.is_not(None)) if gone_too else case)
