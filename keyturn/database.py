"""The one place that opens the database (SQLite by default, PostgreSQL by its URL), and what its tables share."""

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    event,
    make_url,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from keyturn.database_errors import map_driver_error
from keyturn.errors import SettingsInvalid

# How long one SQLite writer waits for another process's lock. Longer than any of our transactions, shorter than the
# activity's start-to-close timeout, so that a stuck lock is reported and not cut off.
SQLITE_BUSY_MILLISECONDS = 5_000
# A caller waits this long for a connection of the pool; below the activity's timeout for the same reason.
POOL_WAIT_SECONDS = 5

# A connection whose other end is gone answers never. 8 s outlast the 5 s that a lock or a connection is waited for. The
# statement is then cancelled, for which psycopg waits 5 s more: the caller gets the error in 13 s.
TRANSACTION_SECONDS = 8.0
# What was sent and is not acknowledged in this time, or is not answered by a host that sleeps, ends its connection
# (https://www.postgresql.org/docs/current/libpq-connect.html): TCP itself would try for a quarter of an hour.
_TCP = {"tcp_user_timeout": 8_000, "keepalives_idle": 5, "keepalives_interval": 2}

T = TypeVar("T")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)
# As long as an ARN with IAM's longest path. SQLite stores texts of any length; a figure would rebuild its tables.
account_name = String(640).with_variant(String(256), "sqlite")
row_id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER


def database_url(value: str) -> URL:
    """Return `value` with the driver that Keyturn ships; raises SettingsInvalid for any other kind of database."""
    try:
        # Stripped: a Secret made of a file has that file's last line break, which would be a part of the name.
        url = make_url(_with_hosts_as_libpq_writes_them(value.strip()))
    except (ArgumentError, ValueError):
        raise SettingsInvalid("DATABASE_URL is not a database URL such as postgresql://user@host/keyturn") from None
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise SettingsInvalid("DATABASE_URL names an in-memory SQLite: jobs need a file, sqlite:///path")
            return url.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            url = url.set(drivername="postgresql+psycopg")
            try:
                url.get_dialect()().create_connect_args(url)
            except (ArgumentError, ValueError):  # its text may contain a part of the password
                raise SettingsInvalid("DATABASE_URL names an invalid host or port") from None
            return url
        case other:
            raise SettingsInvalid(f"DATABASE_URL names {other!r}: use postgresql://... or sqlite:///path")


# libpq's URI for several hosts (PostgreSQL's manual, 34.1.1.2), of which a failover makes another one the primary.
# No `@` behind the first slash: there, what stands before it is a password.
_SEVERAL_HOSTS = re.compile(
    r"(postgres(?:ql)?(?:\+\w+)?://(?:[^@/]*@)?)([^/?@]*,[^/?@]*)(/[^?@]*)?(?:\?(.*))?", re.DOTALL
)


# A server of the encoding SQL_ASCII, as initdb makes in the locale C, returns bytes unless a client asks for text.
CLIENT = {"client_encoding": "utf8"}


def _with_hosts_as_libpq_writes_them(value: str) -> str:
    """Return a URL of several hosts as SQLAlchemy takes it, with a `host=` each; any other one as it is."""
    found = _SEVERAL_HOSTS.fullmatch(value)
    if found is None:
        return value
    before, hosts, path, query = found.groups()
    named = "&".join(f"host={host}" for host in hosts.split(","))
    return f"{before}{path or '/'}?{named}{'&' + query if query else ''}"


def open_database(url: URL, *, pool_size: int = 16) -> AsyncEngine:
    """Return the engine for `url`; connects only when first used. Dispose of it when done."""
    try:
        if url.get_backend_name() != "sqlite":
            # Every claim is one statement, so its own transaction is all that it needs: no BEGIN or COMMIT to wait for.
            pooled = create_async_engine(
                url,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=POOL_WAIT_SECONDS,
                isolation_level="AUTOCOMMIT",
                # When all have lost their other end, a caller meets one of them, and not one after the other.
                pool_use_lifo=True,
                connect_args={"connect_timeout": POOL_WAIT_SECONDS, **CLIENT, **_TCP},
                hide_parameters=True,
            )
            event.listen(pooled.sync_engine, "connect", _expect_a_pooler)
            return pooled
        # SQLite has one writer at a time: one connection queues writers here, where waiting is fair and cheap.
        engine = create_async_engine(
            url, pool_size=1, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS, hide_parameters=True
        )
    except NoSuchModuleError:
        raise SettingsInvalid(f"no driver for {url.drivername}") from None
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    event.listen(engine.sync_engine, "invalidate", _roll_back)
    return engine


def insert_of(engine: AsyncEngine) -> Callable[[Table], Any]:
    """Return the `insert` of the engine's database, which knows ON CONFLICT."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert

        return insert
    from sqlalchemy.dialects.sqlite import insert as insert_into_sqlite

    return insert_into_sqlite


@asynccontextmanager
async def transaction(engine: AsyncEngine, *, whole: bool = False) -> AsyncIterator[AsyncConnection]:
    """Yield a connection for bounded time; raises JobStoreUnavailable, or what `map_driver_error` makes of the failure.

    On PostgreSQL each statement is its own transaction, unless `whole` makes one of all: two round trips more.
    """
    if whole and engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    try:
        async with asyncio.timeout(TRANSACTION_SECONDS), engine.begin() as connection:
            yield connection
    except (DBAPIError, PoolTimeout, OSError) as error:  # asyncio's TimeoutError is an OSError
        raise map_driver_error(error) from error


async def rows_of(engine: AsyncEngine, query: Executable) -> list[dict[str, Any]]:
    """Return the rows of a query; raises as `transaction`."""
    async with transaction(engine) as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


def answers(engine: AsyncEngine) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a check for probes: it returns if the database answers, and raises if it does not."""

    async def check() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))

    return check


def _expect_a_pooler(connection: Any, _record: Any) -> None:
    """Prepare no statement where PgBouncer, or another pooler, gives each transaction another connection.

    A prepared statement belongs to a connection of the server. A pooler shows by the process that it names at the
    start: its own, or none, and not the one that answers (https://www.pgbouncer.org/features.html).
    """
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    [server_pid] = cursor.fetchone()
    cursor.close()
    connection.rollback()
    driver = connection.driver_connection
    if driver.info.backend_pid != server_pid:
        driver.prepare_threshold = None


# synchronous: NORMAL may lose a commit at a power cut, and then the job would be made twice.
_SQLITE_SETTINGS = f"""
PRAGMA busy_timeout={SQLITE_BUSY_MILLISECONDS};
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA foreign_keys=ON;
"""


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver opens no transaction itself; `_begin_immediate` does
    # As one script, which ends each of its statements. A new file is locked until the change to WAL has ended, and a
    # caller that was cancelled before it had would keep the lock as long as its error.
    connection.run_async(_run_settings)


async def _run_settings(driver: Any) -> None:
    """Prepare a connection. SQLite lets no one wait who turns a new file to WAL while another one writes to it."""
    last = time.monotonic() + SQLITE_BUSY_MILLISECONDS / 1000
    while True:
        try:
            await driver.executescript(_SQLITE_SETTINGS)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > last:
                raise
            await asyncio.sleep(0.01)  # of the milliseconds that a write takes
        else:
            return


def _roll_back(connection: Any, _record: object, _error: BaseException | None) -> None:
    """Let go of the lock before a connection is closed whose statement was cancelled.

    SQLite keeps a closed connection's transaction open as long as any of its cursors lives, and the cancellation's
    traceback references one: every other writer would find the database locked.
    """
    with contextlib.suppress(Exception):  # it is closed all the same
        connection.rollback()


def _begin_immediate(connection: Any) -> None:
    # A deferred transaction that reads first cannot be upgraded while another writes: it fails instead of waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, or raise TimeoutError after so long and let it end by itself.

    Cancelling a database driver waits until it has released its connection, and that may be what takes so long. Work
    that is left running occupies one: so `work` bounds itself, as a `transaction` does.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        # Its exception is read, or asyncio would log it.
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise TimeoutError
    return task.result()
