"""Where notices come from: the audit trails and the tables of jobs, runs and waivers, read again and again.

A trail is read by its row's number or moment, with some overlap: a row is written within seconds, but not in the order
of its number, so rows of the last two minutes are looked at again. What was found before is found by its event ID.
Nothing from before the first look becomes a notice: whoever sets up a channel today hears nothing of last year.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, transaction
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs
from keyturn.notices.contracts import Notice
from keyturn.notices.dates import PAGE, DateSources, not_noticed
from keyturn.notices.readings import ROTATION_EVENTS, notice_of_event, notice_of_job_event
from keyturn.notices.store import NoticeStore
from keyturn.notices.tables import notice_cursors
from keyturn.owners import Owners

# No transaction is open for so long, and no two machines' clocks differ by so much.
OVERLAP = timedelta(minutes=2)
_jobs, _audit, _events = rotation_jobs.c, job_audit.c, rotation_events.c


class NoticeSources:
    """Finds what people should hear of.

    Args:
        engine: the database.
        owners: who owns which key.
    """

    def __init__(self, engine: AsyncEngine, owners: Owners) -> None:
        self._engine = engine
        self._owners = owners
        self._dates = DateSources(engine, self._owned)

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
        count = 0
        while True:
            found, settled, is_more = await self._of_jobs(now)
            await store.add(found)
            if settled is not None:
                await self._move("jobs", after_id=settled)
            count += len(found)
            if not is_more:
                break
        found, until = await self._of_rotations(now)
        await store.add(found)
        await self._move("rotations", since=until)
        dated = await self._dates.find(now, began=(await self._cursor("tables"))["since"])
        await store.add(dated)
        return count + len(found) + len(dated)

    async def _of_jobs(self, now: datetime) -> tuple[Sequence[Notice], int | None, bool]:
        """Return notices of a page of the jobs' trail, up to which row it is whole, and whether there is more."""
        cursor = await self._cursor("jobs")
        shown = (_jobs.tenant_id, _jobs.account_id, _jobs.key_id, _jobs.policy_lines, _jobs.rotate_by, _jobs.owner)
        query = (
            select(job_audit, *shown, _jobs.priority)
            .join(rotation_jobs, _jobs.job_id == _audit.job_id)
            .where(_audit.audit_id > cursor["after_id"], _audit.at >= cursor["since"] - OVERLAP)
            .order_by(_audit.audit_id)
            .limit(PAGE)
        )
        rows = await self._rows(query)
        found = [notice for row in rows if (notice := notice_of_job_event(self._owned(row))) is not None]
        settled = [row["audit_id"] for row in rows if row["at"] < now - OVERLAP]
        is_more = len(rows) == PAGE == len(settled)
        return found, max(settled, default=None), is_more

    async def _of_rotations(self, now: datetime) -> tuple[Sequence[Notice], datetime]:
        """Return notices of what waits for a person, and until when the trail was read."""
        cursor = await self._cursor("rotations")
        query = (
            select(rotation_events)
            .where(_events.at >= cursor["since"] - OVERLAP, _events.event.in_(ROTATION_EVENTS))
            .where(not_noticed(literal("rotation-").concat(_events.event_id), _events.tenant_id))
            .order_by(_events.at)
            .limit(PAGE)
        )
        rows = await self._rows(query)
        found = [notice for row in rows if (notice := notice_of_event(self._owned(row))) is not None]
        return found, now if len(rows) < PAGE else rows[-1]["at"]

    def _owned(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with the owner that the key has now."""
        account, key = row["account_id"], row["key_id"]
        owner = self._owners.owner_of(account, key, row["owner"]) if account and key else row["owner"]
        return {**row, "owner": owner}

    async def _cursor(self, source: str) -> Mapping[str, Any]:
        query = select(notice_cursors).where(notice_cursors.c.source == source)
        return (await self._rows(query))[0]

    async def _move(self, source: str, **values: Any) -> None:
        this = notice_cursors.c.source == source
        ahead = true() if "since" in values else notice_cursors.c.after_id < values["after_id"]
        async with transaction(self._engine) as connection:
            await connection.execute(notice_cursors.update().where(this, ahead).values(**values))

    async def _rows(self, query: Any) -> list[dict[str, Any]]:
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]
