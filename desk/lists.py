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
    RotationFilter,
    count_rotations,
    count_waiting,
    list_rotations,
)
from keyturn.application.runs import states_of_runs
from keyturn.bulk.contracts import RunProgress
from keyturn.bulk.errors import UnknownRun
from keyturn.bulk.store import BulkStore, cursor_of_run
from keyturn.contracts import UNOWNED, CredentialFacts
from keyturn.desk.rows import Row, overdue_days, rotation_row
from keyturn.errors import InvalidRequest
from keyturn.jobs.listing import JobCount, JobFilter, JobListing, JobOrderBy
from keyturn.jobs.states import OPEN
from keyturn.ledger.store import LedgerStore, midnight
from keyturn.owners import Owners

LISTED = 50  # as many as a person looks through at once; the next page has the rest
RUNS_LISTED = 12  # as many as a chart shows side by side


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
        rows = [{**row, "overdue_by_days": overdue_days(row, now)} for row in page.rows]
        return Page(list(map(self._with_owner, rows)), page.after)

    def _with_owner(self, row: Row) -> dict[str, Any]:
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
        return Page(await self._with_state(rows), cursor_of_run(rows[-1]) if len(found) > size else None)

    async def _with_state(self, rows: Sequence[Row]) -> list[Row]:
        states = await states_of_runs(self._client, rows)
        return [{**row, "state": states[row["run_id"]], "progress": await self._progress_of(row)} for row in rows]

    async def run(self, run_id: str) -> Row:
        """Return one run, as `runs` lists it; raises UnknownRun."""
        found = await self._with_state(await self._runs.runs(tenant_id=self._tenant, limit=1, run_id=run_id))
        if not found:
            raise UnknownRun(f"this tenant has no run {run_id[:64]}")
        return found[0]

    async def run_of(self, trace_id: str, *, account_id: str, key_id: str) -> str | None:
        """Return the run that asked about a key under a trace; None if no run did: an asker may choose any trace."""
        run_id, _, ordinal = trace_id.rpartition("-")
        if not run_id or not (ordinal.isascii() and ordinal.isdecimal() and len(ordinal) <= 9):
            return None
        if not await self._runs.runs(tenant_id=self._tenant, limit=1, run_id=run_id):
            return None
        items = await self._runs.items(run_id, after=int(ordinal) - 1, limit=1)
        is_its = bool(items) and (items[0]["account_id"], items[0]["key_id"]) == (account_id, key_id)
        return run_id if is_its and items[0]["ordinal"] == int(ordinal) else None

    async def items(self, run_id: str, *, outcome: str | None, account_id: str | None, after: str | None) -> Page:
        """Return a page of a run's items, in the inventory's order; raises InvalidRequest, UnknownRun."""
        await self._runs.run(run_id, tenant_id=self._tenant)
        if after is not None and not (after.isascii() and after.isdecimal() and len(after) <= 9):
            raise InvalidRequest("after: is no cursor of this list")
        size, last = self._page_size, int(after or 0)
        chosen = {"outcome": outcome, "account_id": account_id}
        found = await self._runs.items(run_id, after=last, limit=size + 1, **chosen)
        rows = [self._item(run_id, row) for row in found[:size]]
        return Page(rows, str(rows[-1]["ordinal"]) if len(found) > size else None)

    def _item(self, run_id: str, row: Row) -> Row:
        facts = _stored_facts(row["facts"])
        trace = f"{run_id}-{row['ordinal']}" if row["ask"] is not None else None  # as `keyturn.bulk.pages` asks
        shown = {**row, "recorded_owner": row["owner"], "trace_id": trace}
        return self._with_owner(shown) | {"age_days": None if facts is None or facts.age is None else facts.age.days}

    async def _progress_of(self, row: Row) -> RunProgress:
        if row["figures"] is not None:
            return RunProgress.model_validate(row["figures"])
        return await self._runs.progress(row["run_id"])

    async def calls(
        self, *, status: str | None, task: str | None, trace_id: str | None = None, after: str | None = None
    ) -> Page:
        """Return a page of model calls, newest first; raises InvalidRequest."""
        chosen = {"status": status, "task": task, "trace_id": trace_id}
        rows, following = await self._ledger.page(tenant_id=self._tenant, limit=self._page_size, after=after, **chosen)
        return Page(rows, following)

    async def costs_today(self) -> Sequence[Row]:
        """Return what model calls have cost since midnight (UTC), by task."""
        return await self._ledger.costs("task", since=midnight(datetime.now(UTC)), tenant_id=self._tenant)


def _stored_facts(stored: Any) -> CredentialFacts | None:
    try:
        return None if stored is None else CredentialFacts.model_validate(stored)
    except ValueError:  # of a version that took what this one refuses: the list is shown all the same
        return None


def _most_overdue_first(counts: Iterable[tuple[str, JobCount]]) -> Sequence[OpenJobs]:
    due, overdue = Counter[str](), Counter[str]()
    for name, one in counts:
        due[name] += one.jobs
        overdue[name] += one.jobs if one.overdue else 0
    return [
        OpenJobs(name, due[name], overdue[name]) for name in sorted(due, key=lambda it: (-overdue[it], -due[it], it))
    ]
