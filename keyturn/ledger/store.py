"""The ledger in SQL: one row a call, read by `keyturn calls` and summed by `keyturn costs`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, String, and_, case, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.call_errors import LedgerUnavailable
from keyturn.calls import CallRecord
from keyturn.database import insert_of, rows_of, within
from keyturn.database_cursors import cursor_at, read_cursor
from keyturn.errors import JobStoreUnavailable
from keyturn.ledger.tables import call_records as table

# Looked up before a call, within its deadline: an index makes it a millisecond.
LOOKUP_SECONDS = 2.0
# As long as a job's transaction may take. A connection whose other end has vanished is silent for a quarter of an hour.
WRITE_SECONDS = 8.0
CostsBy = Literal["task", "model", "user", "day"]


class LedgerStore:
    """Call records in the database behind `engine`. What reads them raises JobStoreUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_of(engine)

    async def write(self, calls: Sequence[tuple[str, CallRecord]]) -> None:
        """Write records under ids of the caller's; one that is there already is left as it is.

        Raises TimeoutError after WRITE_SECONDS; they may have been written, then.
        """
        statement = self._insert(table).on_conflict_do_nothing(index_elements=["call_id"])
        async with asyncio.timeout(WRITE_SECONDS), self._engine.begin() as connection:
            await connection.execute(statement, [_row(call_id, call) for call_id, call in calls])

    async def calls(
        self,
        *,
        limit: int,
        tenant_id: str | None = None,
        task: str | None = None,
        status: str | None = None,
        trace_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return at most `limit` records that fit what is given, newest first."""
        query = select(table).order_by(table.c.called_at.desc(), table.c.call_id).limit(limit)
        wanted = {"tenant_id": tenant_id, "task": task, "status": status, "trace_id": trace_id}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(table.c[name] == value)
        return [_with_cost(row) for row in await rows_of(self._engine, query)]

    async def page(
        self,
        *,
        tenant_id: str,
        task: str | None,
        status: str | None,
        limit: int,
        after: str | None,
        trace_id: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of a tenant's records, newest first, and the cursor of the next; raises InvalidRequest.

        Args:
            tenant_id: whose.
            task: of this task; None for all.
            status: of this status; None for all.
            limit: at most so many.
            after: the cursor of the page before.
            trace_id: of this trace; None for all.
        """
        query = select(table).where(table.c.tenant_id == tenant_id)
        query = query.order_by(table.c.called_at.desc(), table.c.call_id).limit(limit + 1)
        for column, value in ((table.c.task, task), (table.c.status, status), (table.c.trace_id, trace_id)):
            if value is not None:
                query = query.where(column == value)
        if after is not None:
            moment, call_id = read_cursor(after)
            same = and_(table.c.called_at == moment, table.c.call_id > call_id)
            query = query.where(or_(table.c.called_at < moment, same))
        rows = [_with_cost(row) for row in await rows_of(self._engine, query)]
        last = rows[limit - 1] if len(rows) > limit else None
        return rows[:limit], None if last is None else cursor_at(last["called_at"], last["call_id"])

    async def costs(
        self, by: CostsBy, *, since: datetime, until: datetime | None = None, tenant_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Return calls, tokens and cost from `since` on, grouped; the dearest first, days in their order.

        `unpriced` counts the calls that were answered at an unknown price: they are missing from `cost_usd`, which
        is None if there are no others.
        """
        group = self._group(by)
        unpriced = table.c.finish_reason.is_not(None) & table.c.cost_picodollars.is_(None)
        cost = func.sum(table.c.cost_picodollars).label("cost_usd")
        query = (
            select(
                group.label(by),
                func.count().label("calls"),
                func.sum(table.c.input_tokens).label("input_tokens"),
                func.sum(table.c.cached_tokens).label("cached_tokens"),
                func.sum(table.c.output_tokens).label("output_tokens"),
                func.sum(case((table.c.cache_hit, 1), else_=0)).label("cache_hits"),
                func.sum(case((table.c.status != "ok", 1), else_=0)).label("not_ok"),
                func.sum(case((unpriced, 1), else_=0)).label("unpriced"),
                cost,
            )
            .where(table.c.called_at >= since)
            .group_by(group)
            .order_by(*([group] if by == "day" else [func.coalesce(cost, 0).desc(), group]))
        )
        if until is not None:
            query = query.where(table.c.called_at < until)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        whole = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cache_hits", "not_ok", "unpriced")
        return [
            {
                **row,
                **{name: int(row[name] or 0) for name in whole},
                "cost_usd": _known_cost(row["cost_usd"], row["unpriced"]),
            }
            for row in await rows_of(self._engine, query)
        ]

    async def total_spent(
        self, *, since: datetime, tenant_id: str | None = None, user_id: str | None = None
    ) -> Decimal:
        """Return what calls have cost from `since` on, of one user or of all."""
        query = select(func.sum(table.c.cost_picodollars).label("cost")).where(table.c.called_at >= since)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        if user_id is not None:
            query = query.where(table.c.user_id == user_id)
        [row] = await rows_of(self._engine, query)
        spent: Decimal | None = row["cost"]
        return spent or Decimal(0)

    async def spent_today(self, tenant_id: str, user_id: str) -> Decimal:
        """Return what a user has spent since midnight UTC; raises LedgerUnavailable."""
        try:
            since = midnight(datetime.now(UTC))
            return await within(LOOKUP_SECONDS, self.total_spent(since=since, tenant_id=tenant_id, user_id=user_id))
        except (JobStoreUnavailable, TimeoutError) as error:
            raise LedgerUnavailable(f"the ledger did not answer: {type(error).__name__}") from None

    def _group(self, by: CostsBy) -> Column[Any] | ColumnElement[Any]:
        if by != "day":
            return table.c[{"user": "user_id"}.get(by, by)]
        if self._engine.dialect.name == "postgresql":
            return func.to_char(func.timezone("UTC", table.c.called_at), "YYYY-MM-DD")
        return func.substr(cast(table.c.called_at, String), 1, 10)


def _with_cost(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("cost_picodollars", "cost_usd"): value for name, value in row.items()}


def _known_cost(cost: Decimal | None, unpriced: int) -> Decimal | None:
    """A group whose answered calls all have an unknown price has an unknown cost, and not none."""
    return cost if cost is not None or unpriced else Decimal(0)


def midnight(moment: datetime) -> datetime:
    """Return the beginning of the day (UTC) of `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _row(call_id: str, call: CallRecord) -> dict[str, Any]:
    fields = {name: getattr(call, name) for name in type(call).model_fields}
    fields["passed_over"] = [passed.model_dump() for passed in call.passed_over]
    fields["called_at"] = call.called_at or datetime.now(UTC)
    return {"call_id": call_id, "cost_picodollars": fields.pop("cost_usd"), **fields}
