"""The job store, on SQLite and on a real PostgreSQL."""

import asyncio
import importlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psycopg.sql
import pytest
from sqlalchemy import func, inspect, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.errors import IdempotencyConflict, OpenJobExists, StaleAttempt
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, outbox, rotation_jobs
from keyturn.rotations.outcomes import RotationJob
from tests.support.cases import facts, order

KEY = "rotate:default:acct_10234:key_1:P-7@1"


async def counts(engine: AsyncEngine) -> tuple[int, int, int]:
    async with engine.connect() as connection:
        found = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (rotation_jobs, job_audit, outbox)
        ]
    return found[0], found[1], found[2]


async def test_the_first_call_makes_job_audit_row_and_outbox_row(store: JobStore, engine: AsyncEngine) -> None:
    """All three stand together."""
    ordered = order(credential=facts(key_id="key_1"))
    job = await store.create_once(ordered, idempotency_key=KEY, fence=1)
    assert job.created
    assert await counts(engine) == (1, 1, 1)
    async with engine.connect() as connection:
        audit = (await connection.execute(select(job_audit))).mappings().one()
        message = (await connection.execute(select(outbox))).mappings().one()
    assert (audit["job_id"], audit["event"], audit["actor"]) == (job.job_id, "created", "unknown")
    assert audit["detail"]["decision_digest"] == ordered.decision.digest
    assert message["topic"] == "rotation_job.created"
    assert message["payload"]["idempotency_key"] == KEY
    assert message["payload"]["key_id"] == "key_1"
    assert message["delivered_at"] is None


async def test_the_same_key_brings_the_same_job(store: JobStore, engine: AsyncEngine) -> None:
    """A repeated call creates nothing, also when evidence and trace were taken again."""
    first = await store.create_once(order(credential=facts(key_id="key_1")), idempotency_key=KEY, fence=1)
    later = facts(key_id="key_1", observed_at=datetime(2026, 12, 1, tzinfo=UTC), age_days=22)
    second = await store.create_once(order(credential=later, trace_id="t2"), idempotency_key=KEY, fence=1)
    assert second == RotationJob(job_id=first.job_id, created=False)
    assert await counts(engine) == (1, 1, 1)


@pytest.mark.parametrize("changed", [{"account_id": "acct_2"}, {"credential": {"key_id": "key_2"}}])
async def test_the_same_key_for_another_job_is_a_named_conflict(
    store: JobStore, engine: AsyncEngine, changed: dict[str, Any]
) -> None:
    """It is refused and audited, and nothing else changes."""
    if "credential" in changed:
        changed = {"credential": facts(**changed["credential"])}
    first = await store.create_once(order(credential=facts(key_id="key_1")), idempotency_key=KEY, fence=1)
    other = {"credential": facts(key_id="key_1")} | changed
    with pytest.raises(IdempotencyConflict, match=first.job_id):
        await store.create_once(order(**other), idempotency_key=KEY, fence=1)
    assert await counts(engine) == (1, 2, 1)
    async with engine.connect() as connection:
        events = (await connection.execute(select(job_audit.c.event, job_audit.c.job_id))).all()
    assert Counter(map(tuple, events)) == {("created", first.job_id): 1, ("idempotency_conflict", first.job_id): 1}


async def test_200_at_once_with_one_key_make_one_job(store: JobStore, engine: AsyncEngine) -> None:
    """One wins and the others are given its job."""
    ordered = order(credential=facts(key_id="key_1"))
    jobs = await asyncio.gather(*(store.create_once(ordered, idempotency_key=KEY, fence=1) for _ in range(200)))
    assert len({job.job_id for job in jobs}) == 1
    assert sum(job.created for job in jobs) == 1
    assert await counts(engine) == (1, 1, 1)


@pytest.mark.parametrize("isolation", ["read uncommitted", "read committed", "repeatable read", "serializable"])
async def test_one_job_comes_of_many_at_once_under_every_isolation_level(postgresql: URL, isolation: str) -> None:
    """Whatever level an operator gives the database. What PostgreSQL refuses to serialize is asked again, as ever.

    Claims, a withdrawal and another key for the same credential, all at once: then one job is open at most, and each
    job that was returned has its audit row and its message.
    """
    plain = postgresql.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as operator:
        level = psycopg.sql.Literal(isolation)
        database = psycopg.sql.Identifier(postgresql.database or "")
        alter = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
        operator.execute(alter.format(database, level))
    engine = open_database(postgresql)
    store, ordered = JobStore(engine), order(credential=facts(key_id="key_1"))
    other = order(credential=facts(key_id="key_1"), trace_id="t2")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW transaction_isolation"))).scalar_one() == isolation

    async def again(step: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await step()
            except JobStoreUnavailable:
                await asyncio.sleep(0.01)
            except (OpenJobExists, StaleAttempt) as refused:
                return type(refused)

    mine = [lambda: store.create_once(ordered, idempotency_key=KEY, fence=2) for _ in range(60)]
    theirs = [lambda: store.create_once(other, idempotency_key=f"{KEY},P-8@1", fence=1) for _ in range(60)]
    withdrawn = [lambda: store.withdraw(ordered, idempotency_key=KEY, fence=1) for _ in range(3)]
    steps: list[Any] = [step for three in zip_longest(mine, theirs, withdrawn) for step in three if step is not None]
    ends = await asyncio.gather(*map(again, steps))
    created = [end for end in ends if isinstance(end, RotationJob) and end.created]
    assert len(created) == 1
    assert {end.job_id for end in ends if isinstance(end, RotationJob)} == {created[0].job_id}
    rows = await store.jobs(tenant_id="default", limit=10)
    assert [row["job_id"] for row in rows] == [created[0].job_id]
    async with engine.connect() as connection:
        made = select(func.count()).select_from(job_audit).where(job_audit.c.event == "created")
        assert (await connection.execute(made)).scalar_one() == 1
        assert (await connection.execute(select(func.count()).select_from(outbox))).scalar_one() == 1
    await engine.dispose()


async def test_200_at_once_with_another_body_are_200_conflicts(store: JobStore, engine: AsyncEngine) -> None:
    """Each is refused by name, and each attempt is in the audit."""
    await store.create_once(order(credential=facts(key_id="key_1")), idempotency_key=KEY, fence=1)
    other = order(credential=facts(key_id="key_2"))
    ends = await asyncio.gather(
        *(store.create_once(other, idempotency_key=KEY, fence=1) for _ in range(200)), return_exceptions=True
    )
    assert Counter(map(type, ends)) == {IdempotencyConflict: 200}
    assert await counts(engine) == (1, 201, 1)


async def test_two_pools_racing_for_one_key_make_one_job(database: URL) -> None:
    """Two workers are two pools: the index decides between them, not a lock in a process."""
    engines = [open_database(database) for _ in range(2)]
    ordered = order(credential=facts(key_id="key_1"))
    try:
        jobs = await asyncio.gather(
            *(JobStore(engines[n % 2]).create_once(ordered, idempotency_key=KEY, fence=1) for n in range(40))
        )
        assert sum(job.created for job in jobs) == 1
        assert await counts(engines[0]) == (1, 1, 1)
    finally:
        for engine in engines:
            await engine.dispose()


async def test_one_open_job_a_credential(store: JobStore, engine: AsyncEngine) -> None:
    """A second key for the same credential is refused by name while the first job is open, and audited on it."""
    credential = facts(key_id="key_1")
    first = await store.create_once(order(credential=credential), idempotency_key="one", fence=1)
    with pytest.raises(OpenJobExists, match=first.job_id):
        await store.create_once(order(credential=credential), idempotency_key="two", fence=1)
    assert await counts(engine) == (1, 2, 1)
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).values(status="done"))
    assert (await store.create_once(order(credential=credential), idempotency_key="two", fence=1)).created


async def test_tenants_do_not_see_each_other(store: JobStore) -> None:
    """The same key and credential of another tenant is another job, and no list shows it."""
    credential = facts(key_id="key_1")
    ours = await store.create_once(order(credential=credential), idempotency_key=KEY, fence=1)
    theirs = await store.create_once(order(credential=credential, tenant_id="other"), idempotency_key=KEY, fence=1)
    assert theirs.created
    assert theirs.job_id != ours.job_id
    assert [job["job_id"] for job in await store.jobs(tenant_id="default", limit=10)] == [ours.job_id]


async def test_times_come_back_in_utc(store: JobStore) -> None:
    """Also from SQLite, which keeps no time zone."""
    ordered = order(credential=facts(key_id="key_1"))
    await store.create_once(ordered, idempotency_key=KEY, fence=1)
    [row] = await store.jobs(tenant_id="default", limit=1)
    assert row["rotate_by"] == ordered.decision.rotate_by
    assert abs(row["created_at"] - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_unreachable_database_is_a_named_passing_failure() -> None:
    """Nothing of the URL's password or the statement is shown."""
    from keyturn.database import database_url

    engine = open_database(database_url("postgresql://someone:hunter2@127.0.0.1:9/none"))
    with pytest.raises(JobStoreUnavailable) as caught:
        await JobStore(engine).create_once(order(), idempotency_key=KEY, fence=1)
    assert "hunter2" not in str(caught.value)
    assert JobStoreUnavailable.retryable
    await engine.dispose()


async def test_migrations_make_the_tables_that_the_code_declares(engine: AsyncEngine) -> None:
    """Columns, nullability, unique constraints and indexes are the same in both."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    import keyturn.key_use
    from keyturn.database import metadata

    package = Path(keyturn.key_use.__file__).parent
    for folder, _, names in os.walk(package, followlinks=True):
        if "tables.py" in names:  # each describes its own tables on the one metadata
            importlib.import_module(".".join(("keyturn", *Path(folder).relative_to(package).parts, "tables")))
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("rotation_jobs"))
    assert [d for d in differences if "alembic_version" not in str(d)] == []
    assert "uq_rotation_jobs_open_credential" in {index["name"] for index in indexes}
