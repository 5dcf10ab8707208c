"""Behind PgBouncer, as Debian ships it, in both of its modes: where a connection is another one in each transaction."""

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.database import open_database, transaction
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.pooler import PGBOUNCER, Mode, pooled
from keyturn.workers.schema import check_schema
from tests.support.cases import order
from tests.support.estates import Judge, bulk_place, estate, started

needs_it = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt install pgbouncer)")


@needs_it
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_jobs_are_made_and_carried_out_through_a_pooler(postgresql: URL, mode: Mode) -> None:
    """A hundred at once, in 16 client connections over three of the server's."""
    async with pooled(postgresql, mode) as url:
        assert check_schema(url)
        engine = open_database(url)
        store, leases = JobStore(engine), JobLeases(engine)
        made = await asyncio.gather(*(store.create_once(order(), idempotency_key=f"k{n}", fence=1) for n in range(100)))
        assert all(job.created for job in made)
        for job in made[:20]:
            claim = await leases.claim(job.job_id, tenant_id="default", owner="omar", lease=timedelta(minutes=1))
            done = await leases.complete(job.job_id, tenant_id="default", token=claim.token)
            assert done.state == "done"
        await engine.dispose()


@needs_it
async def test_a_run_of_an_inventory_is_judged_through_a_pooler(
    postgresql: URL, temporal: Client, tmp_path: Path
) -> None:
    async with pooled(postgresql, "transaction") as url:
        engine = open_database(url)
        place = bulk_place(temporal, f"test-{uuid.uuid4().hex}", engine, Judge())
        file = estate(tmp_path / "keys.jsonl", keys=200)
        asks = await place.load(file, "pooled")
        items = await place.store.items("pooled", after=0, limit=1_000)
        assert len(items) == 200
        assert sum(item["ask"] is not None for item in items) == asks > 0
        async with place.working(), asyncio.timeout(90):
            outcome = await (await started(place, "pooled")).result()
        assert outcome.progress.asked == asks
        await engine.dispose()


async def test_directly_statements_are_prepared_as_ever(postgresql: URL) -> None:
    engine = open_database(postgresql)
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT 1"))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        assert driver.prepare_threshold is not None
    await engine.dispose()
