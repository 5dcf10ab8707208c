"""Cached responses in the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Executable, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.cache.key import CacheKey
from keyturn.cache.tables import response_cache as table
from keyturn.database import insert_of, transaction, within
from keyturn.errors import JobStoreUnavailable

_log = structlog.get_logger("keyturn.cache")
# A lookup may not delay a call: the database answers in a millisecond, or the model is asked.
LOOKUP_SECONDS = 1.0


class SqlCache:
    """Cached responses in the database behind `engine`. A failure of it is a miss, and logged."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Built once: building them for each call took as long as executing them.
        self._find = select(table.c.digest, table.c.answer).where(
            table.c.digest.in_(bindparam("digests", expanding=True)), table.c.expires_at > bindparam("now")
        )
        insert = insert_of(engine)(table)
        self._insert = insert.on_conflict_do_update(
            index_elements=["digest"],
            set_={column.name: insert.excluded[column.name] for column in table.c if column.name != "digest"},
            where=table.c.expires_at <= bindparam("now", type_=table.c.expires_at.type),
        )

    async def find(self, keys: Sequence[CacheKey]) -> tuple[int, str] | None:
        """Return the place in `keys` of the first that is cached, and its answer."""
        asked = {"digests": [key.digest for key in keys], "now": datetime.now(UTC)}
        try:
            kept = await within(LOOKUP_SECONDS, self._rows(asked))
        except (JobStoreUnavailable, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)
            return None
        return next(((place, kept[key.digest]) for place, key in enumerate(keys) if key.digest in kept), None)

    async def store(self, key: CacheKey, answer: str, cache_for: timedelta) -> bool:
        """Cache `answer` for this time; an expired one is replaced, another one is left. False if it could not be."""
        now = datetime.now(UTC)
        row = key._asdict() | {"answer": answer, "expires_at": now + cache_for, "now": now}
        try:
            await within(LOOKUP_SECONDS, self._execute(self._insert, row))
        except (JobStoreUnavailable, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)
            return False
        return True

    async def drop(self, key: CacheKey) -> None:
        """Forget the answer of a key; where the database does not answer, that is logged, and the caller asks anew."""
        try:
            await within(LOOKUP_SECONDS, self._execute(delete(table).where(table.c.digest == key.digest)))
        except (JobStoreUnavailable, TimeoutError) as error:
            _log.warning("cache_unavailable", cause=type(error).__name__)

    async def clear(
        self,
        *,
        task: str | None = None,
        prompt_version: str | None = None,
        catalogue_version: str | None = None,
        expired_only: bool = False,
    ) -> int:
        """Forget the answers that fit what is given, all of them if nothing is; returns how many.

        Raises JobStoreUnavailable.
        """
        statement = delete(table)
        wanted = {"task": task, "prompt_version": prompt_version, "catalogue_version": catalogue_version}
        for name, value in wanted.items():
            if value is not None:
                statement = statement.where(table.c[name] == value)
        if expired_only:
            statement = statement.where(table.c.expires_at <= datetime.now(UTC))
        return await self._execute(statement)

    async def _rows(self, asked: dict[str, Any]) -> dict[str, str]:
        async with transaction(self._engine) as connection:
            return {row.digest: row.answer for row in await connection.execute(self._find, asked)}

    async def _execute(self, statement: Executable, values: dict[str, Any] | None = None) -> int:
        async with transaction(self._engine) as connection:
            return (await connection.execute(statement, values)).rowcount
