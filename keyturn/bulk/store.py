"""Runs and their items in SQL: written once, however often a load, a page or a look is repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, bindparam, case, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.contracts import RunProgress
from keyturn.bulk.errors import UnknownRun
from keyturn.bulk.tables import bulk_batches, bulk_items, bulk_runs
from keyturn.contracts import PolicyRef
from keyturn.database import insert_of, rows_of, transaction
from keyturn.database_cursors import cursor_at, read_cursor
from keyturn.jobs.rows import WITHDRAWN
from keyturn.jobs.states import ENDED_WITHOUT_ROTATION
from keyturn.jobs.tables import rotation_jobs

PICO = 10**12
# Asked about with the next page, or when the run is started again: without an outcome, or failed.
OPEN = (None, "failed")
# Rotations that wait for a person; a disagreement of rule and model is counted apart.
WAITING = ("disagreement", "waiting")
_items, _runs, _batches = bulk_items.c, bulk_runs.c, bulk_batches.c


@dataclass(frozen=True)
class Run:
    """A run as it was ordered."""

    run_id: str
    tenant_id: str
    task: str
    source: str
    source_digest: str
    policy_lines: tuple[PolicyRef, ...]
    question: str | None  # encrypted
    requested_by: str
    decide_by: Literal["rule_and_model", "rule"]
    policy_digest: str | None  # of the lines as the loading process had them
    workflow_id: str  # of the workflow that carries it out
    again: bool
    loaded: bool
    asks: int
    prompt_version: str | None = None  # of the prompt that its worker asks a model by
    code_version: str | None = None  # of Keyturn, as the loading process had it
    created_at: datetime | None = None
    ended_at: datetime | None = None


class BulkStore:
    """Bulk runs in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._insert = insert_of(engine)

    async def open(self, run: Run) -> Run:
        """Write a run down, unless it is there; returns it as it is there.

        If it was not loaded whole, and from other bytes than these, what was loaded of it is thrown away.

        Raises:
            UnknownRun: the id is another tenant's.
        """
        row = {
            "run_id": run.run_id,
            "tenant_id": run.tenant_id,
            "task": run.task,
            "source": run.source,
            "source_digest": run.source_digest,
            "policy_lines": [str(ref) for ref in run.policy_lines],
            "question": run.question,
            "requested_by": run.requested_by,
            "decide_by": run.decide_by,
            "policy_digest": run.policy_digest,
            "prompt_version": run.prompt_version,
            "code_version": run.code_version,
            "again": run.again,
            "workflow_id": run.workflow_id,
            "created_at": datetime.now(UTC),
        }
        async with transaction(self.engine) as connection:
            await connection.execute(self._insert(bulk_runs).on_conflict_do_nothing(), row)
        there = await self.run(run.run_id, tenant_id=run.tenant_id)
        if not there.loaded and there.source_digest != run.source_digest:
            async with transaction(self.engine, whole=True) as connection:
                await connection.execute(delete(bulk_items).where(_items.run_id == run.run_id))
                changed = update(bulk_runs).where(_runs.run_id == run.run_id).values(source_digest=run.source_digest)
                await connection.execute(changed)
        return there

    async def run(self, run_id: str, *, tenant_id: str) -> Run:
        """Return a run; raises UnknownRun."""
        query = select(bulk_runs).where(_runs.run_id == run_id, _runs.tenant_id == tenant_id)
        async with transaction(self.engine) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise UnknownRun(f"this tenant has no run {run_id[:64]}")
        return Run(
            run_id=row["run_id"],
            tenant_id=row["tenant_id"],
            task=row["task"],
            source=row["source"],
            source_digest=row["source_digest"],
            policy_lines=tuple(_ref(text) for text in row["policy_lines"]),
            question=row["question"],
            requested_by=row["requested_by"],
            decide_by=row["decide_by"],
            policy_digest=row["policy_digest"],
            prompt_version=row["prompt_version"],
            code_version=row["code_version"],
            workflow_id=row["workflow_id"],
            again=row["again"],
            loaded=row["loaded_at"] is not None,
            asks=row["asks"] or 0,
            created_at=row["created_at"],
            ended_at=row["ended_at"],
        )

    async def names_owners(self, run_id: str) -> bool:
        """Return whether the inventory of a run names the owner of any key."""
        query = select(_items.ordinal).where(_items.run_id == run_id, _items.owner.is_not(None)).limit(1)
        return bool(await rows_of(self.engine, query))

    async def runs(
        self, *, tenant_id: str, limit: int, after: str | None = None, run_id: str | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """Return the newest runs, newest first; raises InvalidRequest for a cursor that is none.

        Args:
            tenant_id: whose.
            limit: at most so many.
            after: the cursor of the page before: `cursor_of_run` of its last run.
            run_id: this run alone; None for all.
        """
        query = select(bulk_runs).where(_runs.tenant_id == tenant_id)
        if run_id is not None:
            query = query.where(_runs.run_id == run_id)
        if after is not None:
            moment, run_id = read_cursor(after)
            bound = literal(moment, _runs.created_at.type)
            older = _runs.created_at < bound
            query = query.where(or_(older, and_(_runs.created_at == bound, _runs.run_id > run_id)))
        return await rows_of(self.engine, query.order_by(_runs.created_at.desc(), _runs.run_id).limit(limit))

    async def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write items; those that are there already stay as they are."""
        statement = self._insert(bulk_items).on_conflict_do_nothing(index_elements=["run_id", "ordinal"])
        async with transaction(self.engine, whole=True) as connection:
            await connection.execute(statement, [dict(row) for row in rows])

    async def mark_loaded(self, run_id: str, *, asks: int) -> None:
        """Say that every item is there, and how many a model is asked about."""
        changed = update(bulk_runs).where(_runs.run_id == run_id).values(loaded_at=datetime.now(UTC), asks=asks)
        async with transaction(self.engine) as connection:
            await connection.execute(changed)

    async def open_items(self, run_id: str, first: int, last: int) -> Sequence[Mapping[str, Any]]:
        """Return the items from `first` to `last` that are open, and those whose rotation was not started."""
        query = (
            select(bulk_items)
            .where(_items.run_id == run_id, _items.ask.between(first, last))
            .where(_with_outcome([*OPEN, "eligible"]))
            .order_by(_items.ask)
        )
        return await rows_of(self.engine, query)

    async def store_verdicts(
        self, run_id: str, rows: Sequence[Mapping[str, Any]], *, over: Sequence[str | None]
    ) -> None:
        """Write what became of items, by their `ordinal`; each row has the same columns.

        Only where an item's outcome is one of `over`: what an attempt writes that was frozen and woke up later is old.
        """
        if not rows:
            return
        names = [name for name in rows[0] if name != "ordinal"]
        statement = (
            update(bulk_items)
            .where(_items.run_id == run_id, _items.ordinal == bindparam("this_ordinal"), _with_outcome(over))
            .values({name: bindparam(f"set_{name}") for name in names})
        )
        values = [{f"set_{name}": row[name] for name in names} | {"this_ordinal": row["ordinal"]} for row in rows]
        async with transaction(self.engine, whole=True) as connection:
            await connection.execute(statement, values)

    async def update_job_outcomes(self, run_id: str, *, tenant_id: str) -> int:
        """Find the jobs that the run's rotations made since, or found; returns how many. Raises UnknownRun.

        One that has failed counts as such, unless the run asks again: then it is waited for its successor.
        """
        again = (await self.run(run_id, tenant_id=tenant_id)).again
        claim, held = rotation_jobs.alias(), rotation_jobs.alias()
        found = (
            select(held.c.job_id)
            .join(claim, held.c.job_id == func.coalesce(claim.c.merged_into, claim.c.job_id))
            .where(
                claim.c.tenant_id == tenant_id,
                claim.c.idempotency_key == _items.workflow_id,
                claim.c.status != WITHDRAWN,
            )
        )
        has_ended = held.c.status.in_(ENDED_WITHOUT_ROTATION)
        outcomes = {"job_created": found.where(~has_ended)} | ({} if again else {"job_failed": found.where(has_ended)})
        changed = 0
        async with transaction(self.engine) as connection:
            for outcome, jobs in outcomes.items():
                job = jobs.scalar_subquery()
                statement = (
                    update(bulk_items)
                    .where(_items.run_id == run_id, _items.outcome.in_(["started", *WAITING]), job.is_not(None))
                    .values(outcome=outcome, job_id=job)
                )
                changed += (await connection.execute(statement)).rowcount
        return changed

    async def started_items(self, run_id: str, outcome: str, *, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return rotations of which no end is known, `started` or one of WAITING, after an ordinal."""
        query = (
            select(_items.ordinal, _items.workflow_id)
            .where(_items.run_id == run_id, _items.outcome == outcome, _items.ordinal > after)
            .order_by(_items.ordinal)
            .limit(limit)
        )
        return await rows_of(self.engine, query)

    async def close_run(self, run_id: str, status: str) -> None:
        """Say that a run has ended, how, and what has become of its items."""
        figures = (await self.progress(run_id)).model_dump(mode="json")
        values = {"ended_at": datetime.now(UTC), "ended": status, "figures": figures}
        changed = update(bulk_runs).where(_runs.run_id == run_id).values(values)
        async with transaction(self.engine) as connection:
            await connection.execute(changed)

    async def progress(self, run_id: str, *, first: int = 0, last: int | None = None) -> RunProgress:
        """Return how far a run is; or those of its items that are asked about from `first` to `last`.

        With 0 as `first`, what needed no model is counted as well.
        """
        asked = func.sum(case((_items.ask.is_not(None) & _items.outcome.is_not(None), 1), else_=0))
        query = select(
            _items.outcome, func.count(), func.count(_items.ask), asked, func.sum(_items.cost_picodollars)
        ).where(_items.run_id == run_id)
        if last is not None:
            asked_there = _items.ask.between(first, last)
            query = query.where(asked_there if first else asked_there | _items.ask.is_(None))
        async with transaction(self.engine) as connection:
            rows = (await connection.execute(query.group_by(_items.outcome))).all()
        return RunProgress(
            total=sum(row[1] for row in rows),
            asks=sum(row[2] for row in rows),
            asked=sum(int(row[3] or 0) for row in rows),
            outcomes={row[0]: row[1] for row in rows if row[0] is not None},
            cost_usd=Decimal(int(sum(row[4] or 0 for row in rows))) / PICO,
        )

    async def items(
        self, run_id: str, *, after: int, limit: int, outcome: str | None = None, account_id: str | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """Return items after an ordinal, in their order.

        Args:
            run_id: of which run.
            after: the ordinal of the last one before.
            limit: at most so many.
            outcome: of this outcome; None for all.
            account_id: of this account; None for all.
        """
        query = select(bulk_items).where(_items.run_id == run_id, _items.ordinal > after)
        for column, value in ((_items.outcome, outcome), (_items.account_id, account_id)):
            if value is not None:
                query = query.where(column == value)
        return await rows_of(self.engine, query.order_by(_items.ordinal).limit(limit))

    async def batch(self, run_id: str, number: int) -> Mapping[str, Any] | None:
        """Return what is known of a batch; None if it was not about to be submitted yet."""
        query = select(bulk_batches).where(_batches.run_id == run_id, _batches.number == number)
        rows = await rows_of(self.engine, query)
        return rows[0] if rows else None

    async def intend(self, run_id: str, number: int, *, provider: str, model: str, requests: int) -> None:
        """Write down that a batch is about to be submitted."""
        row = {"run_id": run_id, "number": number, "provider": provider, "model": model, "requests": requests}
        statement = self._insert(bulk_batches).on_conflict_do_nothing()
        async with transaction(self.engine) as connection:
            await connection.execute(statement, row | {"intended_at": datetime.now(UTC)})

    async def note_batch(self, run_id: str, number: int, **columns: Any) -> None:
        """Write down a batch's id, or that it has ended."""
        changed = update(bulk_batches).where(_batches.run_id == run_id, _batches.number == number).values(**columns)
        async with transaction(self.engine) as connection:
            await connection.execute(changed)

    async def known_batches(self, provider: str) -> set[str]:
        """Return the ids of all batches that were submitted to a provider."""
        query = select(_batches.batch_id).where(_batches.provider == provider, _batches.batch_id.is_not(None))
        return {row["batch_id"] for row in await rows_of(self.engine, query)}


def cursor_of_run(row: Mapping[str, Any]) -> str:
    """Return the cursor by which a list of runs goes on behind a run."""
    return cursor_at(row["created_at"], row["run_id"])


def _with_outcome(outcomes: Sequence[str | None]) -> ColumnElement[bool]:
    """Return one comparison each: an IN cannot be used in a statement that is executed with many rows."""
    return or_(*(_items.outcome.is_(None) if name is None else _items.outcome == name for name in outcomes))


def _ref(text: str) -> PolicyRef:
    line, _, version = text.rpartition("@")
    return PolicyRef(id=line, version=int(version))
