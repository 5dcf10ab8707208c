"""Lists and counts of rotation jobs, for those who look through them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, String, and_, case, cast, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.contracts import UNOWNED
from keyturn.database import rows_of
from keyturn.database_cursors import cursor_at, read_cursor
from keyturn.jobs.rows import MERGED, WITHDRAWN
from keyturn.jobs.states import CLOSED, OPEN, JobState
from keyturn.jobs.tables import rotation_jobs

_jobs = rotation_jobs.c
JobOrderBy = Literal["due", "newest"]
# A job without a date comes after all others: https://docs.python.org/3/library/datetime.html#datetime.datetime.max
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are listed. None leaves a condition out.

    Args:
        state: of this state, or `open` for all that are not closed and `closed` for the others.
        account_id: of this account.
        key_id: of this key.
        line: under this policy line: an ID, or ID@VERSION.
        overdue: whether only open jobs past their date are listed.
        owner: of this owner, when they were created; `unowned` for those that no one owned.
    """

    state: JobState | Literal["open", "closed"] | None = None
    account_id: str | None = None
    key_id: str | None = None
    line: str | None = None
    overdue: bool = False
    owner: str | None = None


@dataclass(frozen=True)
class JobPage:
    """A page of a list; `after` is the cursor of the next one, None at the end."""

    rows: Sequence[Mapping[str, Any]]
    after: str | None


@dataclass(frozen=True)
class JobCount:
    """How many jobs of an owner, None for unowned ones, are in a state under the same policy lines, overdue or not."""

    state: str
    policy_lines: tuple[str, ...]
    owner: str | None
    overdue: bool
    jobs: int


class JobListing:
    """The jobs in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, chosen: JobFilter, *, tenant_id: str, order_by: JobOrderBy, limit: int, after: str | None = None
    ) -> JobPage:
        """Return a page of a tenant's jobs; raises InvalidRequest for a cursor that is none.

        Args:
            chosen: which jobs.
            tenant_id: whose.
            order_by: the earliest date first, or the newest job first.
            limit: at most so many.
            after: the cursor of the page before.
        """
        now = datetime.now(UTC)
        query = select(rotation_jobs).where(*_conditions(chosen, tenant_id, now)).limit(limit + 1)
        date = func.coalesce(_jobs.rotate_by, literal(_NEVER, _jobs.rotate_by.type))
        if order_by == "due":
            query = query.order_by(date, _jobs.job_id)
        else:
            query = query.order_by(_jobs.created_at.desc(), _jobs.job_id)
        if after is not None:
            moment, job_id = read_cursor(after)
            column = date if order_by == "due" else _jobs.created_at
            bound = literal(moment, _jobs.created_at.type)
            later = column > bound if order_by == "due" else column < bound
            query = query.where(or_(later, and_(column == bound, _jobs.job_id > job_id)))
        rows = await rows_of(self._engine, query)
        if len(rows) <= limit:
            return JobPage(rows, None)
        last = rows[limit - 1]
        moment = (last["rotate_by"] or _NEVER) if order_by == "due" else last["created_at"]
        return JobPage(rows[:limit], cursor_at(moment, last["job_id"]))

    async def counts(self, *, tenant_id: str) -> Sequence[JobCount]:
        """Return how many jobs of a tenant there are, by state, policy lines, owner, and whether they are overdue."""
        now = datetime.now(UTC)
        lines, overdue = cast(_jobs.policy_lines, String), case((_is_overdue(now), 1), else_=0)
        query = (
            select(
                _jobs.status, lines.label("lines"), _jobs.owner, overdue.label("overdue"), func.count().label("jobs")
            )
            .where(*_conditions(JobFilter(), tenant_id, now))
            .group_by(_jobs.status, lines, _jobs.owner, overdue)
        )
        return [
            JobCount(
                state=row["status"],
                policy_lines=tuple(json.loads(row["lines"] or "null") or ()),
                owner=row["owner"],
                overdue=bool(row["overdue"]),
                jobs=row["jobs"],
            )
            for row in await rows_of(self._engine, query)
        ]

    async def jobs_of_rotations(
        self, workflow_ids: Sequence[str], *, tenant_id: str
    ) -> Mapping[str, Mapping[str, Any]]:
        """Return the jobs of rotations, by workflow ID; of a decision that joined another job, that job."""
        keys = select(_jobs.idempotency_key, func.coalesce(_jobs.merged_into, _jobs.job_id).label("job_id")).where(
            _jobs.tenant_id == tenant_id, _jobs.idempotency_key.in_(workflow_ids), _jobs.status != WITHDRAWN
        )
        found = {row["idempotency_key"]: row["job_id"] for row in await rows_of(self._engine, keys)}
        query = select(rotation_jobs).where(_jobs.tenant_id == tenant_id, _jobs.job_id.in_(set(found.values())))
        jobs = {row["job_id"]: row for row in await rows_of(self._engine, query)}
        return {key: jobs[job_id] for key, job_id in found.items() if job_id in jobs}

    async def states_of(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the states of jobs, by their IDs."""
        query = select(_jobs.job_id, _jobs.status).where(_jobs.job_id.in_(job_ids))
        return {row["job_id"]: row["status"] for row in await rows_of(self._engine, query)}


def _conditions(chosen: JobFilter, tenant_id: str, now: datetime) -> list[ColumnElement[bool]]:
    found = [_jobs.tenant_id == tenant_id, _jobs.status.not_in([WITHDRAWN, MERGED])]
    match chosen.state:
        case None:
            pass
        case "open":
            found.append(_jobs.status.in_(OPEN))
        case "closed":
            found.append(_jobs.status.in_([*CLOSED, "purged"]))
        case state:
            found.append(_jobs.status == state)
    if chosen.account_id is not None:
        found.append(_jobs.account_id == chosen.account_id)
    if chosen.key_id is not None:
        found.append(_jobs.key_id == chosen.key_id)
    if chosen.line is not None:
        # A list of JSON texts: the quotation marks bound its members.
        beginning = f'"{chosen.line}"' if "@" in chosen.line else f'"{chosen.line}@'
        found.append(cast(_jobs.policy_lines, String).contains(beginning, autoescape=True))
    if chosen.overdue:
        found.append(_is_overdue(now))
    if chosen.owner is not None:
        found.append(_jobs.owner.is_(None) if chosen.owner == UNOWNED else _jobs.owner == chosen.owner)
    return found


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(_jobs.status.in_(OPEN), _jobs.rotate_by < literal(now, _jobs.rotate_by.type))
