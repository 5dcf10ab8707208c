"""Moments in the database: in UTC, and by the database's clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Dialect,
    TypeDecorator,
    func,
)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite stores no time zone, so what it returns is given its own again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: in UTC, whatever zone it came in."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: with UTC as its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# As SQLAlchemy writes a moment on SQLite, so that they compare as text; strftime knows milliseconds.
_SQLITE_MOMENT = "%Y-%m-%d %H:%M:%f000"


def moment_from_now(span: timedelta | ColumnElement[Any], *, on_postgresql: bool) -> ColumnElement[Any]:
    """Return the moment so long from now, by the database's clock: a process's own may be days off.

    Args:
        span: how long; or a parameter for it, whose value is what `span_of` returns.
        on_postgresql: whether the statement is for PostgreSQL; else it is for SQLite.
    """
    if on_postgresql:
        return func.now() + span
    return func.strftime(_SQLITE_MOMENT, "now", span_of(span, False) if isinstance(span, timedelta) else span)


def span_of(span: timedelta | None, on_postgresql: bool) -> timedelta | str | None:
    """Return a span as `moment_from_now` takes it for a parameter."""
    return span if on_postgresql or span is None else f"{span.total_seconds():+.3f} seconds"
