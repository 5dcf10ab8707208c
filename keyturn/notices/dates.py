"""What is a notice by its date: jobs that are due soon or overdue, approvals and waivers that end, runs that closed.

Each query leaves out what has a notice already.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.contracts import RunProgress
from keyturn.bulk.tables import bulk_runs
from keyturn.database import rows_of
from keyturn.jobs.states import OPEN
from keyturn.jobs.tables import URGENT, rotation_events, rotation_jobs
from keyturn.notices.contracts import Notice, Severity, Topic
from keyturn.notices.readings import notice_of_event, notice_of_job
from keyturn.notices.tables import notices
from keyturn.owners import Owners
from keyturn.policy.line import PolicyLine
from keyturn.progress import summary_of
from keyturn.waivers.contracts import Waiver
from keyturn.waivers.rules import ends_for, find_waiver, may_exempt_from
from keyturn.waivers.store import WaiverStore

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
        owners: who owns which key.
        owned: returns a row with the owner that its key has now.
        lines: the policy lines, which limit waivers.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        owners: Owners,
        owned: Callable[[Mapping[str, Any]], dict[str, Any]],
        lines: Sequence[PolicyLine],
    ) -> None:
        self._engine = engine
        self._owners = owners
        self._owned = owned
        self._exempt = WaiverStore(engine)
        self._lines = {line.id: line for line in lines}

    async def find(self, now: datetime, *, began: datetime) -> Sequence[Notice]:
        """Return the notices that were not written yet; raises JobStoreUnavailable.

        Args:
            now: the present moment.
            began: since when anyone is notified.
        """
        due, exempt = _jobs.rotate_by, await self._exempt.active(tenant_id=None)
        late = await self._jobs_due("overdue", now, exempt, due < literal(now, due.type))
        soon = await self._jobs_due(
            "due_soon",
            now,
            exempt,
            and_(
                due < literal(now + DUE_SOON, due.type),
                due >= literal(now, due.type),
                _jobs.created_at < literal(now - HEARD_OF, due.type),
            ),
        )
        return [*late, *soon, *self._waivers(exempt, now), *await self._approvals(now), *await self._runs(began, now)]

    async def _jobs_due(
        self, name: str, now: datetime, exempt: Sequence[Waiver], when: ColumnElement[bool]
    ) -> list[Notice]:
        topic: Topic = "job.overdue" if name == "overdue" else "job.due_soon"
        event_id = literal(f"{name}-").concat(_jobs.job_id)
        query = (
            select(rotation_jobs)
            .where(_jobs.status.in_(OPEN), when, not_noticed(event_id, _jobs.tenant_id))
            .order_by(_jobs.rotate_by, _jobs.job_id)
        )
        found = list[Notice]()
        async for row in self._paged(query):
            if len(found) == PAGE:
                break  # the next look finds the others
            if self._is_waived(row, exempt, now):
                continue
            days = (now - row["rotate_by"]).days
            facts = {"state": row["status"]} | ({"days": str(days)} if name == "overdue" and days else {})
            severity: Severity = "warning" if name == "overdue" else "info"
            if name == "overdue" and row["priority"] == URGENT:
                severity = "urgent"
            found.append(notice_of_job(row, f"{name}-{row['job_id']}", topic, severity, now, facts))
        return found

    def _is_waived(self, row: Mapping[str, Any], exempt: Sequence[Waiver], now: datetime) -> bool:
        """Whether an approver has exempted a job's key: its owner need not be warned of it."""
        own = [one for one in exempt if one.tenant_id == row["tenant_id"]]
        lines = [self._lines.get(name.rpartition("@")[0]) for name in row["policy_lines"] or ()]
        known = [line for line in lines if line is not None]
        if not own or len(known) < len(lines):
            return False
        key = {"account_id": row["account_id"], "key_id": row["key_id"], "owner": row["owner"]}
        return find_waiver(own, known, **key, compromised=row["priority"] == URGENT, now=now) is not None

    def _waivers(self, exempt: Sequence[Waiver], now: datetime) -> list[Notice]:
        """Of waivers that end within a week, also by a line's limit; not of those that were granted for a few days."""
        found = []
        for waiver in exempt:
            of_lines = [line for line in self._lines.values() if may_exempt_from(waiver, line)]
            ends = {ends_for(waiver, line): line.id for line in of_lines if ends_for(waiver, line) < waiver.until}
            for end, line_id in {waiver.until: waiver.line, **ends}.items():
                if now < end <= now + WAIVER_ENDS and waiver.granted_at < now - HEARD_OF:
                    found.append(self._notice_of(waiver, end, line_id, now))
        return found

    def _notice_of(self, waiver: Waiver, end: datetime, line_id: str | None, now: datetime) -> Notice:
        one_key = waiver.account is not None and "*" not in waiver.account
        owner = self._owners.owner_of(str(waiver.account), waiver.key_id or "") if one_key else None
        facts = {"scope": waiver.scope[:500], "until": end.isoformat(), "granted_by": waiver.granted_by}
        if line_id is not None and end != waiver.until:
            facts["line"] = line_id
        return Notice(
            event_id=f"waiver-{waiver.waiver_id}-{end:%Y%m%d}",
            topic="waiver.ends",
            severity="warning",
            tenant_id=waiver.tenant_id,
            at=now,
            owner=waiver.owner or owner,
            facts=facts | {"waiver": waiver.waiver_id},
        )

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
            .order_by(_events.at, _events.event_id)
        )
        found = list[Notice]()
        async for row in self._paged(query):
            if len(found) == PAGE:
                break
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
        for row in await rows_of(self._engine, query):
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

    async def _paged(self, query: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield all rows of an ordered query, with their owners: those of which nothing is said hide no others."""
        for page in count():
            rows = await rows_of(self._engine, query.limit(PAGE).offset(page * PAGE))
            for row in rows:
                await asyncio.sleep(0)  # its reader compares it with every waiver, and others must go on meanwhile
                yield self._owned(row)
            if len(rows) < PAGE:
                return


def not_noticed(event_id: ColumnElement[Any], tenant_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return that no notice of an event ID is there."""
    there = select(notices.c.notice_id).where(
        notices.c.tenant_id == tenant_id, notices.c.event_id == cast(event_id, String)
    )
    return ~there.correlate_except(notices).exists()
