"""The schema is applied by command and checked at a worker's start."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn import migrations
from keyturn.database import database_url, open_database, transaction
from keyturn.errors import JobStoreRefused, JobStoreUnavailable, SchemaNotCurrent, ValueRefused
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.workers.schema import check_schema, migrate
from tests.support.cases import order


def test_migrating_twice_is_migrating_once(database: URL) -> None:
    """It may stand in a start script."""
    revision = check_schema(database)
    assert migrate(database) == (revision, revision)


def test_a_worker_does_not_start_on_another_schema(database: URL) -> None:
    """Neither on an empty database nor on one of another version of this program."""
    engine = create_engine(database.set(drivername=database.drivername.replace("+aiosqlite", "")))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaNotCurrent, match="the schema is at 9999, this program needs"):
        check_schema(database)
    with pytest.raises(SchemaNotCurrent, match="this release cannot migrate the schema"):
        migrate(database)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(SchemaNotCurrent, match="the schema is at nothing"):
        check_schema(database)
    engine.dispose()


def test_the_tables_whose_rights_are_looked_at_are_those_of_the_schema(database: URL) -> None:
    engine = create_engine(database.set(drivername=database.drivername.replace("+aiosqlite", "")))
    assert sorted(inspect(engine).get_table_names()) == sorted(["alembic_version", *migrations.TABLES])
    engine.dispose()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_role_without_a_right_is_named_before_the_first_write_fails(database: URL) -> None:
    """With the table and the right; a role that has all of them is well, whoever owns the tables."""
    role, secret = f"keyturn_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD '{secret}'"))
        connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"))
        connection.execute(text("CREATE TABLE another_programs (id int)"))  # in the same schema, of the same owner
    theirs = database.set(username=role, password=secret)
    try:
        assert check_schema(theirs) == check_schema(database)
        with engine.begin() as connection:
            connection.execute(text(f"REVOKE INSERT, UPDATE ON job_audit FROM {role}"))
        with pytest.raises(JobStoreRefused, match="no right to INSERT of job_audit, UPDATE of job_audit"):
            check_schema(theirs)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE another_programs"))
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        engine.dispose()


def test_an_absent_sqlite_file_is_not_made_by_looking(tmp_path: Path) -> None:
    """Checking changes nothing."""
    with pytest.raises(SchemaNotCurrent, match="there is no database"):
        check_schema(database_url(f"sqlite:///{tmp_path}/absent.db"))
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_database_is_reported_without_its_password(tmp_path: Path) -> None:
    """By both commands."""
    url = database_url("postgresql://someone:hunter2@127.0.0.1:9/none")
    for look in (check_schema, migrate):
        with pytest.raises(JobStoreUnavailable) as caught:
            look(url)
        assert "hunter2" not in str(caught.value)
    (tmp_path / "file").write_text("not a database, but longer than its header would be " * 10)
    with pytest.raises(JobStoreUnavailable):
        migrate(database_url(f"sqlite:///{tmp_path}/file"))
    with pytest.raises(JobStoreUnavailable):
        migrate(database_url(f"sqlite:///{tmp_path}/file/below/keyturn.db"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_processes_that_migrate_at_once_one_works_and_the_others_wait(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As when a fleet starts: each finds the schema current, and exactly one brought it there."""
    if kind == "sqlite":
        address = f"sqlite:///{tmp_path}/new.db"
    else:
        server, name = request.getfixturevalue("postgresql_server"), f"test_{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        url = database_url(server).set(database=name, drivername="postgresql")
        address = url.render_as_string(hide_password=False)
    script = "from keyturn.database import database_url; from workers.schema import migrate; "
    command = [sys.executable, "-c", f"{script}print(migrate(database_url({address!r})))"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert sum(out.startswith("(None,") for out, _ in outputs) == 1
    check_schema(database_url(address))


@pytest.fixture
def stranger(postgresql: URL, postgresql_server: str) -> Iterator[URL]:
    """The database as a user sees it who may connect and do nothing else."""
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter22'".encode())  # pragma: allowlist secret
    yield postgresql.set(username=name, password="hunter22")  # pragma: allowlist secret
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {name}".encode())


async def test_a_database_that_does_not_let_us_is_no_database_that_is_away(stranger: URL, tmp_path: Path) -> None:
    """No retry fixes rights, a name, or a table that is missing: by name, at once, and without a value."""
    with pytest.raises(JobStoreRefused, match="permission denied"):
        check_schema(stranger)
    with pytest.raises(JobStoreRefused, match="does not exist"):
        check_schema(stranger.set(database="nowhere"))
    away = tmp_path / "readonly.db"
    migrate(database_url(f"sqlite:///{away}"))
    asked = {
        stranger: "SELECT * FROM rotation_jobs",
        stranger.set(database="nowhere"): "SELECT 1",
        stranger.set(username="nobody"): "SELECT 1",
        database_url(f"sqlite:///{away}"): "SELECT * FROM no_such_table",
        database_url(f"sqlite:///{tmp_path}/no/such/folder/keyturn.db"): "SELECT 1",
    }
    for url, statement in asked.items():
        engine = open_database(url)
        with pytest.raises(JobStoreRefused) as caught:
            async with transaction(engine) as connection:
                await connection.execute(text(statement))
        assert (caught.value.retryable, caught.value.parks) == (False, True)
        assert "hunter22" not in str(caught.value)
        await engine.dispose()


async def test_a_value_that_the_database_will_not_keep_is_reported_by_name_and_not_tried_again(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(ValueRefused) as caught:
        async with transaction(engine) as connection:
            await connection.execute(
                text("INSERT INTO payload_key_use (key_id, encryptions) VALUES (:id, NULL)"), {"id": "a_private_value"}
            )
    assert (caught.value.retryable, caught.value.parks) == (False, False)
    assert "a_private_value" not in str(caught.value)


async def test_a_worker_needs_no_more_than_rows(postgresql: URL, postgresql_server: str) -> None:
    """Its role may read and write rows, as docs/how-to/run-in-production.md says; tables are the migration's."""
    name = f"worker_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgresql_server, dbname=postgresql.database, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE {name} LOGIN",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}",
        ):
            connection.execute(statement.encode())
    own = postgresql.set(username=name)
    assert check_schema(own)
    engine = open_database(own)
    job = await JobStore(engine).create_once(order(), idempotency_key="rotate:x", fence=1)
    claimed = await JobLeases(engine).claim(job.job_id, tenant_id="default", owner="omar", lease=timedelta(minutes=1))
    done = await JobLeases(engine).complete(job.job_id, tenant_id="default", token=claimed.token)
    assert done.state == "done"
    for statement in ("DROP TABLE rotation_jobs", "CREATE TABLE mine (x int)", "TRUNCATE rotation_events"):
        with pytest.raises(JobStoreRefused):
            async with transaction(engine) as connection_of_worker:
                await connection_of_worker.execute(text(statement))
    await engine.dispose()
    with psycopg.connect(postgresql_server, dbname=postgresql.database, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())
