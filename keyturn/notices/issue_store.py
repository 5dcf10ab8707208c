"""Which issues trackers have, and which notices each of them has: written before a request, and after its answer.

A request that writes is begun by a row, whose `attempts` it raises. Its answer is recorded only by whoever raised them
last: of two deliveries that overlap, the one that was paused for long changes nothing here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, transaction
from keyturn.jobs.errors import ReceiverUnavailable
from keyturn.notices.tables import notice_issues

# Notices that an issue has, remembered by it: those of the last messages, which alone are sent again. An operator may
# resend an older one; then it is looked for in the issue itself.
MOST_REMEMBERED = 200
CLOSE = "close"  # among the events: that the issue was closed
_rows = notice_issues.c


@dataclass(frozen=True)
class Issue:
    """What is known of the issue of a job, or of whatever else notices are about.

    Attributes:
        tenant_id: whose.
        destination: where, as CHANNEL:ADDRESS.
        about: what the tracker finds it by.
        job_id: the job that it is about, if it is about one.
        issue_id: the tracker's ID of it; None as long as none is known.
        intended_at: when a request that may have created it was begun; None if there is none.
        attempts: requests that write which were begun.
        written: by the event of each notice, and by `CLOSE`, when its request was begun; None once the issue has it.
    """

    tenant_id: str
    destination: str
    about: str
    job_id: str | None = None
    issue_id: str | None = None
    intended_at: datetime | None = None
    attempts: int = 0
    written: Mapping[str, str | None] = field(default_factory=dict)

    def has(self, event_id: str) -> bool:
        """Whether a notice is known to be written to the issue."""
        return event_id in self.written and self.written[event_id] is None

    def tried_at(self, event_id: str) -> datetime | None:
        """Return when a request that may have written a notice was begun; None if there is none."""
        tried = self.written.get(event_id)
        return None if tried is None else datetime.fromisoformat(tried)


class IssueStore:
    """The issues in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self, wanted: Issue) -> Issue:
        """Return what is known of an issue; `wanted` itself if nothing is."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(notice_issues).where(*_this(wanted)))
            row = found.mappings().one_or_none()
        if row is None:
            return wanted
        names = ("job_id", "issue_id", "intended_at", "attempts", "written")
        given: dict[str, Any] = {name: row[name] for name in names}
        return Issue(wanted.tenant_id, wanted.destination, wanted.about, **given)

    async def begin(self, issue: Issue, event_id: str, *, creates: bool = False) -> Issue:
        """Write that a request is begun which brings a notice into an issue, or creates the issue with it."""
        now = datetime.now(UTC)
        values: dict[str, Any] = {"written": {**issue.written, event_id: now.isoformat()}}
        values |= {"intended_at": now} if creates else {}
        return await self._change(issue, attempts=issue.attempts + 1, **values)

    async def withdraw(self, issue: Issue, event_id: str) -> Issue:
        """Write that the request of a notice had no effect: the tracker refused it, or never got it."""
        intended = None if issue.tried_at(event_id) == issue.intended_at else issue.intended_at
        return await self._change(issue, intended_at=intended, written=_without(issue.written, event_id))

    async def record(self, issue: Issue, event_id: str, *, issue_id: str | None = None) -> Issue:
        """Write that an issue has a notice; and the issue's ID, if the answer named it."""
        named = {} if issue_id is None else {"issue_id": issue_id}
        return await self._change(issue, written=_answered(issue.written, event_id), **named)

    async def adopt(self, issue: Issue, issue_id: str) -> Issue:
        """Write the ID of an issue that was found, with the notice by whose request it was created."""
        creators = [
            event_id
            for event_id in issue.written
            if issue.intended_at and issue.tried_at(event_id) == issue.intended_at
        ]
        return await self._change(issue, issue_id=issue_id, written=_answered(issue.written, *creators))

    async def forget(self, issue: Issue, event_id: str) -> Issue:
        """Write that an issue is gone; the notice that could not be written to it opens another one."""
        written = _without(issue.written, event_id, CLOSE)
        return await self._change(issue, issue_id=None, intended_at=None, written=written)

    async def _change(self, issue: Issue, **values: Any) -> Issue:
        """Change a row, or write it, unless another delivery has begun a request since it was read."""
        row = {"attempts": issue.attempts, **values, "changed_at": datetime.now(UTC)}
        async with transaction(self._engine) as connection:
            if issue.attempts == 0:
                named = {name: getattr(issue, name) for name in ("tenant_id", "destination", "about", "job_id")}
                insert = insert_of(self._engine)(notice_issues).values({"written": {}, **named, **row})
                # One that was adopted, and not yet written to, is there with no attempt.
                insert = insert.on_conflict_do_update(
                    index_elements=["tenant_id", "destination", "about"], set_=row, where=_rows.attempts == 0
                )
                changed = await connection.execute(insert.returning(_rows.row_id))
            else:
                this = update(notice_issues).where(*_this(issue), _rows.attempts == issue.attempts)
                changed = await connection.execute(this.values(**row).returning(_rows.row_id))
            is_changed = changed.first() is not None
        if not is_changed:
            raise ReceiverUnavailable("another delivery writes to the same issue", took_nothing=True)
        return replace(issue, **values)


def _this(issue: Issue) -> tuple[Any, ...]:
    return _rows.tenant_id == issue.tenant_id, _rows.destination == issue.destination, _rows.about == issue.about


def _without(written: Mapping[str, str | None], *event_ids: str) -> dict[str, str | None]:
    return {name: tried for name, tried in written.items() if name not in event_ids}


def _answered(written: Mapping[str, str | None], *event_ids: str) -> dict[str, str | None]:
    """Return `written` with these events answered, without the oldest ones that were: no one sends them again."""
    now = {**written, **dict.fromkeys(event_ids)}
    answered = [name for name, tried in now.items() if tried is None]
    for name in answered[:-MOST_REMEMBERED]:
        del now[name]
    return now
