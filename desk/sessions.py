"""Sessions that ended before their time: a cookie cannot be taken back, so that its end is remembered."""

import hashlib
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, transaction
from keyturn.desk.tables import desk_ended_sessions as table

# Twice as long as a session lasts: clocks differ, and a row that is there too long does no harm.
REMEMBERED_FOR = timedelta(days=1)


class SessionRevocations:
    """The sessions that were ended by signing out, in the database behind `engine`. Raises JobStoreUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_of(engine)

    async def end(self, session_id: str) -> None:
        """Remember that a session has ended; any number of times."""
        now = datetime.now(UTC)
        row = {"session_digest": _digest(session_id), "ended_at": now}
        async with transaction(self._engine) as connection:
            await connection.execute(self._insert(table).values(row).on_conflict_do_nothing())
            await connection.execute(delete(table).where(table.c.ended_at < now - REMEMBERED_FOR))

    async def has_ended(self, session_id: str) -> bool:
        """Return whether a session was ended."""
        query = select(table.c.ended_at).where(table.c.session_digest == _digest(session_id))
        async with transaction(self._engine) as connection:
            return (await connection.execute(query)).first() is not None


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
