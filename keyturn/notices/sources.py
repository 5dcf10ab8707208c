"""Where notices come from: the audit trails and the tables of jobs, runs and waivers, read again and again.

A trail is read by its row's number or moment, with some overlap: a row is written within seconds, but not in the order
of its number, so rows of the last two minutes are looked at again. What was found before is found by its event ID.
Nothing from before the first look becomes a notice: whoever sets up a channel today hears nothing of last year.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from sqlalchemy import func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_runs
from keyturn.database import insert_of, rows_of, transaction
from keyturn.exposures.store import UNKNOWN
from keyturn.exposures.tables import exposures
from keyturn.jobs.states import OPEN
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs
from keyturn.notices.contracts import MAX_EVENT_ID, Notice
from keyturn.notices.dates import PAGE, DateSources, not_noticed
from keyturn.notices.readings import (
    ROTATION_EVENTS,
    notice_of_blocked,
    notice_of_event,
    notice_of_job_event,
    notice_of_unknown_key,
    readable,
)
from keyturn.notices.store import NoticeStore
from keyturn.notices.tables import notice_cursors
from keyturn.owners import Owners
from keyturn.policy.line import PolicyLine

# No transaction is open for so long, and no two machines' clocks differ by so much.
OVERLAP = timedelta(minutes=2)
# What blocks a rotation and stands in its trail: it is notified of as `old_key.activated`.
_IN_TRAIL = frozenset({"old_key_used_again"})
_jobs, _audit, _events, _exposed = rotation_jobs.c, job_audit.c, rotation_events.c, exposures.c


class NoticeSources:
    """Finds what people should hear of.

    Args:
        engine: the database.
        owners: who owns which key.
        lines: the policy lines, which limit waivers.
    """

    def __init__(self, engine: AsyncEngine, owners: Owners, lines: Iterable[PolicyLine] = ()) -> None:
        self._engine = engine
        self._owners = owners
        self._dates = DateSources(engine, owners, self._owned, tuple(lines))

    async def start(self, now: datetime) -> datetime:
        """Note where each trail ends now, unless that was noted before; returns since when anyone is notified.

        Raises JobStoreUnavailable.
        """
        statement = insert_of(self._engine)(notice_cursors).on_conflict_do_nothing()
        async with transaction(self._engine) as connection:
            last = (await connection.execute(select(func.max(_audit.audit_id)))).scalar_one_or_none() or 0
            rows = [
                {"source": "jobs", "after_id": last, "since": now},
                {"source": "rotations", "after_id": 0, "since": now},
                {"source": "tables", "after_id": 0, "since": now},
            ]
            await connection.execute(statement, rows)
        since: datetime = (await self._cursor("tables"))["since"]
        return since

    async def gather(self, store: NoticeStore, now: datetime) -> int:
        """Add the notices of everything that has happened; returns how many were found. Raises JobStoreUnavailable.

        A trail's cursor moves after its notices were added: who is killed in between adds them again, in vain.
        """
        count = await self._gather_jobs(store, now)
        found, until = await self._of_rotations(now)
        await store.add(found)
        await self._move("rotations", since=until)
        began = (await self._cursor("tables"))["since"]
        dated = [*await self._dates.find(now, began=began), *await self._unknown_keys(began)]
        await store.add(dated)
        return count + len(found) + len(dated)

    async def of_blocked(self, blocked: Mapping[str, tuple[str, str]], now: datetime) -> Sequence[Notice]:
        """Return notices of jobs whose rotations are blocked, by their IDs: by which execution, and by what kind.

        Raises JobStoreUnavailable. The trail does not say it: what blocks a rotation may be the database itself.
        """
        silent = [job_id for job_id, (_, kind) in blocked.items() if kind not in _IN_TRAIL]
        found = list[Notice]()
        for start in range(0, len(silent), PAGE):
            of_page = _jobs.job_id.in_(silent[start : start + PAGE])
            rows = await rows_of(self._engine, select(rotation_jobs).where(of_page, _jobs.status.in_(OPEN)))
            found += readable(
                lambda row: notice_of_blocked(row, blocked[row["job_id"]][1], blocked[row["job_id"]][0], now),
                map(self._owned, rows),
            )
        return found

    async def names_of_runs(self, workflow_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the IDs of runs by those of their workflows, which a schedule names otherwise.

        Of a run that failed before it was on record, nothing is known. Raises JobStoreUnavailable.
        """
        runs = bulk_runs.c
        query = select(runs.workflow_id, runs.run_id).where(runs.workflow_id.in_(workflow_ids[:PAGE]))
        return {row["workflow_id"]: row["run_id"] for row in await rows_of(self._engine, query)}

    async def _unknown_keys(self, began: datetime) -> Sequence[Notice]:
        """Return notices of exposed keys that no inventory and no job knew: nothing rotates them yet."""
        event_id = func.substr(literal("exposed-").concat(_exposed.key_id), 1, MAX_EVENT_ID)
        query = (
            select(exposures)
            .where(_exposed.account_id == UNKNOWN, _exposed.reported_at >= literal(began, _exposed.reported_at.type))
            .where(not_noticed(event_id, _exposed.tenant_id))
            .order_by(_exposed.reported_at, _exposed.key_id)
            .limit(PAGE)
        )
        return readable(notice_of_unknown_key, await rows_of(self._engine, query))

    async def _gather_jobs(self, store: NoticeStore, now: datetime) -> int:
        """Read the jobs' trail page by page to its end; what is young is read again at the next look."""
        cursor, count = await self._cursor("jobs"), 0
        after, settled = cursor["after_id"], True
        while True:
            rows = await self._page_of_jobs(after, cursor["since"])
            found = readable(notice_of_job_event, map(self._owned, rows))
            await store.add(found)
            count += len(found)
            # Up to the first row that is young: one with a lower number may still be written.
            old = list(takewhile(lambda row: row["at"] < now - OVERLAP, rows)) if settled else []
            if old:
                await self._move("jobs", after_id=old[-1]["audit_id"])
            settled = len(old) == len(rows)
            if len(rows) < PAGE:
                return count
            after = rows[-1]["audit_id"]

    async def _page_of_jobs(self, after: int, since: datetime) -> list[dict[str, Any]]:
        shown = (_jobs.tenant_id, _jobs.account_id, _jobs.key_id, _jobs.policy_lines, _jobs.rotate_by)
        query = (
            select(job_audit, *shown, _jobs.recorded_owner, _jobs.priority)
            .join(rotation_jobs, _jobs.job_id == _audit.job_id)
            .where(_audit.audit_id > after, _audit.at >= since - OVERLAP)
            .order_by(_audit.audit_id)
            .limit(PAGE)
        )
        return await rows_of(self._engine, query)

    async def _of_rotations(self, now: datetime) -> tuple[Sequence[Notice], datetime]:
        """Return notices of what waits for a person, and until when the trail was read, by when it was written."""
        cursor = await self._cursor("rotations")
        query = (
            select(rotation_events)
            .where(_events.recorded_at >= cursor["since"] - OVERLAP, _events.event.in_(ROTATION_EVENTS))
            .where(not_noticed(literal("rotation-").concat(_events.event_id), _events.tenant_id))
            .order_by(_events.recorded_at)
            .limit(PAGE)
        )
        rows = await rows_of(self._engine, query)
        found = readable(notice_of_event, map(self._owned, rows))
        return found, now if len(rows) < PAGE else rows[-1]["recorded_at"]

    def _owned(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with the owner that the key has now."""
        account, key = row["account_id"], row["key_id"]
        recorded = row["recorded_owner"] if "recorded_owner" in row else row["owner"]
        owner = self._owners.owner_of(account, key, recorded) if account and key else recorded
        return {**row, "owner": owner}

    async def _cursor(self, source: str) -> Mapping[str, Any]:
        query = select(notice_cursors).where(notice_cursors.c.source == source)
        return (await rows_of(self._engine, query))[0]

    async def _move(self, source: str, **values: Any) -> None:
        this = notice_cursors.c.source == source
        ahead = true() if "since" in values else notice_cursors.c.after_id < values["after_id"]
        async with transaction(self._engine) as connection:
            await connection.execute(notice_cursors.update().where(this, ahead).values(**values))
