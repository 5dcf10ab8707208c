"""`create_once` (three rows, one transaction) against a bare INSERT by the raw driver, and by SQLAlchemy."""

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
from sqlalchemy import column, insert, table
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.results import Result, compared
from keyturn.database import database_url, open_database
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.workers.schema import migrate
from tests.support.cases import facts, order

BARE = table("bare", column("k"), column("v"))
CREATE = "CREATE TABLE IF NOT EXISTS bare (k VARCHAR(64) PRIMARY KEY, v VARCHAR(64))"
Insert = Callable[[int], Awaitable[object]]


async def measure(postgresql: URL, *, rounds: int, inserts: int) -> list[Result]:
    """Return claims a second, at 1, 16 and 64 at once, on both databases."""
    with tempfile.TemporaryDirectory() as folder:
        sqlite = database_url(f"sqlite:///{folder}/keyturn.db")
        migrate(sqlite)
        return [
            *await _on_postgresql(postgresql, rounds, inserts),
            *await _on_sqlite(sqlite, Path(folder) / "keyturn.db", rounds, inserts),
        ]


async def _on_postgresql(url: URL, rounds: int, inserts: int) -> list[Result]:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    raw = [await psycopg.AsyncConnection.connect(plain, autocommit=True) for _ in range(64)]
    await raw[0].execute(CREATE)
    bare = create_async_engine(url, pool_size=16, max_overflow=0, isolation_level="AUTOCOMMIT")
    ours = open_database(url)

    async def by_driver(lane: int) -> None:
        await raw[lane].execute("INSERT INTO bare VALUES (%s, %s)", (uuid.uuid4().hex, "v"))

    try:
        return [
            *await _compare("PostgreSQL", ours, by_driver, _by_sqlalchemy(bare), rounds, inserts),
            await _claiming(ours, raw, rounds, inserts),
        ]
    finally:
        for connection in raw:
            await connection.close()
        await bare.dispose()
        await ours.dispose()


async def _on_sqlite(url: URL, file: Path, rounds: int, inserts: int) -> list[Result]:
    raw = await aiosqlite.connect(file, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        await raw.execute(f"PRAGMA {pragma}")
    await raw.execute(CREATE)
    ours, bare = open_database(url), open_database(url)

    async def by_driver(_lane: int) -> None:
        await raw.execute("INSERT INTO bare VALUES (?, ?)", (uuid.uuid4().hex, "v"))

    try:
        return await _compare("SQLite", ours, by_driver, _by_sqlalchemy(bare), rounds, inserts)
    finally:
        await raw.close()
        await bare.dispose()
        await ours.dispose()


def _by_sqlalchemy(engine: AsyncEngine) -> Insert:
    async def one(_lane: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(BARE), {"k": uuid.uuid4().hex, "v": "v"})

    return one


async def _compare(
    name: str, engine: AsyncEngine, by_driver: Insert, by_sqlalchemy: Insert, rounds: int, inserts: int
) -> list[Result]:
    store = JobStore(engine)

    async def ours(_lane: int) -> None:
        key = uuid.uuid4().hex
        await store.create_once(next(orders), idempotency_key=f"rotate:{key}", fence=1)

    results = []
    for at_once in (1, 16, 64):
        rates: tuple[list[float], list[float], list[float]] = ([], [], [])
        for number in range(rounds + 1):
            # Made before the clock starts: an order's digest is grounding's work, not the claim's.
            orders = iter([order(credential=facts()) for _ in range(inserts)])
            for side, run in enumerate((ours, by_driver, by_sqlalchemy)):
                rate = await _rate(run, inserts, at_once)
                if number:  # the first round warms up
                    rates[side].append(rate)
        promised = name == "PostgreSQL"  # SQLite is for development: measured, not promised
        results += [
            compared(
                f"create_once / driver's INSERT, {name}, {at_once} at once",
                rates[0],
                rates[1],
                unit="/s",
                at="least",
                target=0.25 if promised and at_once == 1 else None,
            ),
            compared(
                f"create_once / SQLAlchemy's INSERT, {name}, {at_once} at once",
                rates[0],
                rates[2],
                unit="/s",
                at="least",
                target=0.5 if promised and at_once == 16 else None,
            ),
        ]
    return results


async def _claiming(engine: AsyncEngine, raw: list[psycopg.AsyncConnection[Any]], rounds: int, jobs: int) -> Result:
    """`claim_next` (job and audit row) at 16 claimers, against the raw driver's own SKIP LOCKED on the same table."""
    claims, store = JobLeases(engine), JobStore(engine)
    tenants = (f"ours-{uuid.uuid4().hex[:8]}", f"raw-{uuid.uuid4().hex[:8]}")
    rates: tuple[list[float], list[float]] = ([], [])

    async def ours(_lane: int) -> None:
        assert await claims.claim_next(tenant_id=tenants[0], owner="bench", lease=timedelta(hours=1)) is not None

    async def by_driver(lane: int) -> None:
        async with raw[lane].transaction():
            found = await raw[lane].execute(_SKIP_LOCKED, (tenants[1],))
            row = await found.fetchone()
            assert row is not None
            await raw[lane].execute(_TAKEN, (row[0],))

    for number in range(rounds + 1):
        for tenant in tenants:
            for made in range(0, jobs, 16):
                await asyncio.gather(*(_job(store, tenant, f"{number}-{made + n}") for n in range(16)))
        for side, run in enumerate((ours, by_driver)):
            rate = await _rate(run, jobs, 16)
            if number:  # the first round warms up
                rates[side].append(rate)
    name = "claim_next / driver's SELECT FOR UPDATE SKIP LOCKED and UPDATE, PostgreSQL, 16 at once"
    return compared(name, *rates, unit="/s", at="least", target=0.4)


async def _job(store: JobStore, tenant: str, key: str) -> None:
    ordered = order(tenant_id=tenant, credential=facts(key_id=f"key-{key}"))
    await store.create_once(ordered, idempotency_key=f"rotate:{tenant}:{key}", fence=1)


_SKIP_LOCKED = (
    "SELECT job_id FROM rotation_jobs WHERE tenant_id = %s AND status = 'open' "
    "ORDER BY rotate_by, created_at LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_TAKEN = "UPDATE rotation_jobs SET status = 'claimed', lease_token = lease_token + 1 WHERE job_id = %s"


async def _rate(run: Insert, count: int, at_once: int) -> float:
    left = iter(range(count))

    async def lane(number: int) -> None:
        for _ in left:
            await run(number)

    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(at_once)))
    return count / (time.perf_counter() - began)
