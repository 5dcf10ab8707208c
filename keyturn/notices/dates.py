"""What is a notice by its date: jobs that are due soon or overdue, approvals and waivers that end, runs that closed.

Each query leaves out what has a notice already.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.contracts import RunProgress
from keyturn.bulk.tables import bulk_runs
from keyturn.database import transaction
from keyturn.jobs.states import OPEN
from keyturn.jobs.tables import URGENT, rotation_events, rotation_jobs
from keyturn.notices.contracts import Notice, Severity, Topic
from keyturn.notices.readings import notice_of_event
from keyturn.notices.tables import notices
from keyturn.progress import summary_of
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.tables import waivers

PAGE = 1_000
DUE_SOON = timedelta(days=3)  # of which the owner has at least one working day
HEARD_OF = timedelta(days=1)  # within which a new job need not be announced once more
WAIVER_ENDS = timedelta(days=7)
RUNS_SINCE = timedelta(days=7)  # for which no worker may have looked
APPROVAL_ENDS = timedelta(days=1)
_jobs, _events = rotation_jobs.c, rotation_events.c
# What ends the wait for an approval.
_DECIDED = ("approved", "denied", "approval_expired", "restated")


class DateSources:
    """Finds what people should hear of because of a date.

    Args:
        engine: the database.
        owned: returns a row with the owner that its key has now.
    """

    def __init__(self, engine: AsyncEngine, owned: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._engine = engine
        self._owned = owned

    async def find(self, now: datetime, *, began: datetime) -> Sequence[Notice]:
        """Return the notices that were not written yet; raises JobStoreUnavailable.

        Args:
            now: the present moment.
            began: since when anyone is notified.
        """
        due = _jobs.rotate_by
        late = await self._jobs_due("overdue", now, due < literal(now, due.type))
        soon = await self._jobs_due(
            "due_soon",
            now,
            and_(
                due < literal(now + DUE_SOON, due.type),
                due >= literal(now, due.type),
                _jobs.created_at < literal(now - HEARD_OF, due.type),
            ),
        )
        return [*late, *soon, *await self._waivers(now), *await self._approvals(now), *await self._runs(began, now)]

    async def _jobs_due(self, name: str, now: datetime, when: ColumnElement[bool]) -> list[Notice]:
        topic: Topic = "job.overdue" if name == "overdue" else "job.due_soon"
        event_id = literal(f"{name}-").concat(_jobs.job_id)
        query = (
            select(rotation_jobs)
            .where(_jobs.status.in_(OPEN), when, not_noticed(event_id, _jobs.tenant_id))
            .order_by(_jobs.rotate_by)
            .limit(PAGE)
        )
        found = []
        for row in map(self._owned, await self._rows(query)):
            days = (now - row["rotate_by"]).days
            facts = {"state": row["status"]} | ({"days": str(days)} if name == "overdue" and days else {})
            severity: Severity = "warning" if name == "overdue" else "info"
            if name == "overdue" and row["priority"] == URGENT:
                severity = "urgent"
            found.append(_job_notice(row, f"{name}-{row['job_id']}", topic, severity, now, facts))
        return found

    async def _waivers(self, now: datetime) -> list[Notice]:
        soon = literal(now + WAIVER_ENDS, waivers.c.until.type)
        event_id = literal("waiver-").concat(waivers.c.waiver_id)
        query = (
            select(waivers)
            .where(waivers.c.ended_at.is_(None), waivers.c.until > literal(now, waivers.c.until.type))
            .where(waivers.c.until <= soon, not_noticed(event_id, waivers.c.tenant_id))
            .limit(PAGE)
        )
        found = []
        for row in await self._rows(query):
            waiver = Waiver.model_validate({name: row[name] for name in Waiver.model_fields})
            found.append(
                Notice(
                    event_id=f"waiver-{waiver.waiver_id}",
                    topic="waiver.ends",
                    severity="warning",
                    tenant_id=waiver.tenant_id,
                    at=now,
                    owner=waiver.owner,
                    facts={
                        "scope": waiver.scope[:500],
                        "until": waiver.until.isoformat(),
                        "by": waiver.granted_by,
                        "waiver": waiver.waiver_id,
                    },
                )
            )
        return found

    async def _approvals(self, now: datetime) -> list[Notice]:
        """Of decisions that wait, those whose wait ends within a day."""
        later = rotation_events.alias("later")
        answered = (
            select(later.c.event_id)
            .where(
                later.c.tenant_id == _events.tenant_id,
                later.c.workflow_id == _events.workflow_id,
                later.c.at >= _events.at,
                later.c.event.in_(_DECIDED),
            )
            .correlate(rotation_events)
            .exists()
        )
        query = (
            select(rotation_events)
            .where(_events.event == "approval_requested", _events.at >= now - timedelta(days=30), ~answered)
            .where(not_noticed(literal("expires-").concat(_events.event_id), _events.tenant_id))
            .limit(PAGE)
        )
        found = []
        for row in map(self._owned, await self._rows(query)):
            until = row["detail"].get("until")
            ends = None if until is None else datetime.fromisoformat(until)
            if ends is None or not now < ends <= now + APPROVAL_ENDS:
                continue
            waits = notice_of_event(row)
            if waits is not None:
                changed = {"event_id": f"expires-{row['event_id']}", "topic": "approval.expires", "at": now}
                found.append(waits.model_copy(update=changed))
        return found

    async def _runs(self, began: datetime, now: datetime) -> list[Notice]:
        runs = bulk_runs.c
        query = (
            select(bulk_runs)
            # Of older runs it is not known any more that they were reported, once their notices are forgotten.
            .where(runs.ended_at >= literal(max(began, now - RUNS_SINCE), runs.ended_at.type))
            .where(not_noticed(literal("run-").concat(runs.run_id), runs.tenant_id))
            .limit(PAGE)
        )
        found = []
        for row in await self._rows(query):
            progress = RunProgress.model_validate(row["figures"] or {})
            facts = {
                "ended": row["ended"] or "done",
                "keys": f"{progress.total:,}",
                "outcomes": summary_of(progress)[:500],
                "cost_usd": f"{progress.cost_usd:.4f}",
                "by": row["requested_by"],
            }
            found.append(
                Notice(
                    event_id=f"run-{row['run_id']}",
                    topic="run.finished",
                    severity="info",
                    tenant_id=row["tenant_id"],
                    at=row["ended_at"],
                    run_id=row["run_id"],
                    policy_lines=tuple(row["policy_lines"] or ())[:16],
                    facts=facts,
                )
            )
        return found

    async def _rows(self, query: Any) -> list[dict[str, Any]]:
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]


def not_noticed(event_id: ColumnElement[Any], tenant_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return that no notice of an event ID is there."""
    there = select(notices.c.notice_id).where(
        notices.c.tenant_id == tenant_id, notices.c.event_id == cast(event_id, String)
    )
    return ~there.correlate_except(notices).exists()


def _job_notice(
    row: Mapping[str, Any], event_id: str, topic: Topic, severity: Severity, at: datetime, facts: dict[str, str]
) -> Notice:
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
