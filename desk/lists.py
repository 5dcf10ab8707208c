"""What the desk lists and counts, for any caller and form, a page at a time."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.application.rotation_lists import (
    TO_DECIDE,
    ListedRotation,
    RotationFilter,
    count_rotations,
    count_waiting,
    list_rotations,
)
from keyturn.application.runs import states_of_runs
from keyturn.bulk.contracts import RunProgress
from keyturn.bulk.store import BulkStore, cursor_of_run
from keyturn.contracts import UNOWNED
from keyturn.jobs.listing import JobCount, JobFilter, JobListing, JobOrderBy
from keyturn.jobs.states import OPEN
from keyturn.ledger.store import LedgerStore, midnight
from keyturn.owners import Owners

LISTED = 50  # as many as a person looks through at once; the next page has the rest
RUNS_LISTED = 12  # as many as a chart shows side by side
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """A page of a list; `after` is the cursor of the next one, None at the end."""

    rows: Sequence[Row]
    after: str | None = None


class OpenJobs(NamedTuple):
    """How many jobs of a policy line or an owner are open, and how many of them are overdue."""

    of: str
    open: int
    overdue: int


@dataclass(frozen=True)
class Overview:
    """Where everything stands. Counts are of open jobs unless their name says otherwise.

    `waiting` has, by state, how many rotations wait for a person: all, those over a day old, those over a week old.
    """

    jobs_by_state: Mapping[str, int]
    due_by_line: Sequence[OpenJobs]
    due_by_owner: Sequence[OpenJobs]
    overdue: int
    waiting: Mapping[str, tuple[int, int, int]]
    running: int
    open_jobs: int
    runs: Sequence[Row]
    costs_today: Sequence[Row]


class Lists:
    """The lists of one tenant.

    Args:
        client: a connected client, with the keys that encrypt payloads.
        engine: the database.
        tenant: whose they are.
        owners: who owns which key.
        page_size: the most rows of a page.
    """

    def __init__(
        self, client: Client, engine: AsyncEngine, *, tenant: str, owners: Owners, page_size: int = LISTED
    ) -> None:
        self._client = client
        self._owners = owners
        self._tenant = tenant
        self._page_size = page_size
        self._jobs, self._runs, self._ledger = JobListing(engine), BulkStore(engine), LedgerStore(engine)

    async def overview(self) -> Overview:
        """Return where everything stands; raises JobStoreUnavailable."""
        now = datetime.now(UTC)
        counts, waiting, running, runs, costs = await asyncio.gather(
            self._jobs.counts(tenant_id=self._tenant),
            count_waiting(self._client, tenant=self._tenant, now=now),
            count_rotations(self._client, RotationFilter(states=("running",)), tenant=self._tenant),
            self.runs(limit=RUNS_LISTED),
            self.costs_today(),
        )
        by_state: Counter[str] = Counter()
        for one in counts:
            by_state[one.state] += one.jobs
        open_ones = [one for one in counts if one.state in OPEN]
        return Overview(
            jobs_by_state=dict(by_state),
            due_by_line=_most_overdue_first((line, one) for one in open_ones for line in one.policy_lines),
            due_by_owner=_most_overdue_first((one.owner or UNOWNED, one) for one in open_ones),
            overdue=sum(one.jobs for one in counts if one.overdue),
            waiting=waiting,
            running=running,
            runs=runs.rows,
            costs_today=costs,
            open_jobs=sum(by_state[state] for state in OPEN),
        )

    async def rotations(self, chosen: RotationFilter, *, after: str | None = None) -> Page:
        """Return a page of rotations, open ones first, each with its job; raises InvalidRequest."""
        page = await list_rotations(self._client, chosen, tenant=self._tenant, limit=self._page_size, after=after)
        created = [row.workflow_id for row in page.rows if row.state == "job_created"]
        jobs = await self._jobs.jobs_of_rotations(created, tenant_id=self._tenant) if created else {}
        rows = [rotation_row(row, jobs.get(row.workflow_id)) for row in page.rows]
        return Page(list(map(self._with_owner, rows)), page.after)

    async def approvals(self, chosen: RotationFilter, *, after: str | None = None) -> Page:
        """Return a page of the rotations that an approver decides on; raises InvalidRequest."""
        chosen = chosen if chosen.states else replace(chosen, states=TO_DECIDE)
        return await self.rotations(chosen, after=after)

    async def jobs(self, chosen: JobFilter, *, order_by: JobOrderBy, after: str | None = None) -> Page:
        """Return a page of jobs; raises InvalidRequest, JobStoreUnavailable."""
        now = datetime.now(UTC)
        page = await self._jobs.page(
            chosen, tenant_id=self._tenant, order_by=order_by, limit=self._page_size, after=after
        )
        rows = [{**row, "overdue_by_days": _overdue_days(row, now)} for row in page.rows]
        return Page(list(map(self._with_owner, rows)), page.after)

    def _with_owner(self, row: Row) -> Row:
        account, key = row["account_id"], row["key_id"]
        recorded = row["recorded_owner"] if "recorded_owner" in row else row["owner"]
        return {**row, "owner": self._owners.owner_of(account, key, recorded) if account and key else None}

    async def runs(self, *, limit: int | None = None, after: str | None = None) -> Page:
        """Return a page of runs, newest first; raises InvalidRequest.

        Each has its `state` and `progress`, as it is or was at its end.
        """
        size = limit or self._page_size
        found = await self._runs.runs(tenant_id=self._tenant, limit=size + 1, after=after)
        rows = found[:size]
        states = await states_of_runs(self._client, rows)
        shown = [{**row, "state": states[row["run_id"]], "progress": await self._progress_of(row)} for row in rows]
        return Page(shown, cursor_of_run(rows[-1]) if len(found) > size else None)

    async def _progress_of(self, row: Row) -> RunProgress:
        if row["figures"] is not None:
            return RunProgress.model_validate(row["figures"])
        return await self._runs.progress(row["run_id"])

    async def calls(self, *, status: str | None, task: str | None, after: str | None = None) -> Page:
        """Return a page of model calls, newest first; raises InvalidRequest."""
        rows, following = await self._ledger.page(
            tenant_id=self._tenant, status=status, task=task, limit=self._page_size, after=after
        )
        return Page(rows, following)

    async def costs_today(self) -> Sequence[Row]:
        """Return what model calls have cost since midnight (UTC), by task."""
        return await self._ledger.costs("task", since=midnight(datetime.now(UTC)), tenant_id=self._tenant)


def _most_overdue_first(counts: Iterable[tuple[str, JobCount]]) -> Sequence[OpenJobs]:
    due, overdue = Counter[str](), Counter[str]()
    for name, one in counts:
        due[name] += one.jobs
        overdue[name] += one.jobs if one.overdue else 0
    return [
        OpenJobs(name, due[name], overdue[name]) for name in sorted(due, key=lambda it: (-overdue[it], -due[it], it))
    ]


def rotation_row(row: ListedRotation, job: Row | None = None) -> dict[str, Any]:
    """Return a rotation as the page and the JSON list it; `job` is the one that it created."""
    decision = row.waiting.decision if row.waiting is not None else None
    due = job["rotate_by"] if job is not None else decision.rotate_by if decision is not None else None
    overdue = decision.overdue_by_days if decision is not None else None
    if job is not None:
        overdue = _overdue_days(job, datetime.now(UTC))
    return {
        "workflow_id": row.workflow_id,
        "state": row.state,
        "reason": row.reason,
        "account_id": row.subject.account_id if row.subject else None,
        "key_id": row.subject.key_id if row.subject else None,
        "credential_kind": row.subject.kind if row.subject else None,
        "requested_by": row.subject.requested_by if row.subject else None,
        "owner": row.subject.owner if row.subject else None,
        "policy_lines": list(row.policy_lines),
        "started_at": row.started_at,
        "closed_at": row.closed_at,
        "rotate_by": due,
        "overdue_by_days": overdue,
        "job_id": job["job_id"] if job is not None else None,
        "job_state": job["status"] if job is not None else None,
        "asked_by": list(row.waiting.requested_by) if row.waiting is not None else [],
        "digest": decision.digest if decision is not None else None,
        "approvers": list(decision.approvers) if decision is not None else [],
        "any_operator": decision.any_operator if decision is not None else False,
        "readings": [one.model_dump(mode="json") for one in row.waiting.readings] if row.waiting is not None else [],
        "hint": row.waiting.hint if row.waiting is not None else None,
        "waits_since": row.waiting.since if row.waiting is not None else None,
        "waits_until": row.waiting.until if row.waiting is not None else None,
    }


def _overdue_days(job: Row, now: datetime) -> int | None:
    """By how many whole days an open job is past its date; None if it is not."""
    due = job["rotate_by"]
    return (now - due).days if due is not None and job["status"] in OPEN and due < now else None
