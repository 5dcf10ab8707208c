"""What a command does with the database."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")


def with_database(work: Callable[["AsyncEngine"], Awaitable[T]], *, pool_size: int = 1) -> T:
    """Return what `work` does with the database of DATABASE_URL, whose schema must be current."""
    from keyturn.database import open_database
    from keyturn.workers.local_settings import load_database_url
    from keyturn.workers.schema import check_schema

    async def run() -> T:
        engine = open_database(url, pool_size=pool_size)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    url = load_database_url()
    check_schema(url)
    return asyncio.run(run())
