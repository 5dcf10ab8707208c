"""The schema is applied by command and checked at a worker's start."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from keyturn.database import database_url
from keyturn.errors import JobStoreUnavailable, SchemaNotCurrent
from workers.schema import check_schema, migrate


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
    with pytest.raises(SchemaNotCurrent, match="not one that this release can bring forward"):
        migrate(database)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(SchemaNotCurrent, match="the schema is at nothing"):
        check_schema(database)
    engine.dispose()


def test_an_absent_sqlite_file_is_not_made_by_looking(tmp_path: Path) -> None:
    """Checking changes nothing."""
    with pytest.raises(SchemaNotCurrent, match="there is no database"):
        check_schema(database_url(f"sqlite:///{tmp_path}/absent.db"))
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_database_is_told_without_its_password(tmp_path: Path) -> None:
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
