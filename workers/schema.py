"""The database's schema: applied by command, checked at a worker's start."""

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from keyturn import migrations
from keyturn.database import CLIENT
from keyturn.database_errors import map_driver_error
from keyturn.errors import DatabaseReadOnly, JobStoreRefused, SchemaNotCurrent

# The lock by which one process migrates and the others wait: any number that no other program in the database takes.
_MIGRATION_LOCK = 0x6B657974
# As long as the longest migration of a large table may take: the caller has nothing else to do.
_MIGRATION_WAIT_SECONDS = 60.0


def migrate(url: URL) -> tuple[str | None, str | None]:
    """Bring the schema of the database at `url` to this program's; returns the revision before and after.

    Raises:
        JobStoreUnavailable: the database cannot be reached or written; JobStoreRefused, if it does not let us.
        SchemaNotCurrent: its schema is unknown to this release, so it belongs to a newer one.
    """
    # A worker's start only compares revisions, and need not import it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    try:
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        with _engine(url, writes=True).begin() as connection:
            if url.get_backend_name() != "sqlite":  # a second migrator waits, and finds the work done
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            before = _revision(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return before, _revision(connection)
    except CommandError as error:
        raise SchemaNotCurrent(f"this release cannot migrate the schema: {_reason(error)}") from None
    except (SQLAlchemyError, OSError) as error:
        refused = map_driver_error(error)
        raise type(refused)(f"the database cannot be migrated: {_reason(error)}") from None


def check_schema(url: URL) -> str:
    """Return the schema's revision; raises SchemaNotCurrent or JobStoreUnavailable if a worker must not start on it."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise SchemaNotCurrent(f"there is no database at {url.database}")
    try:
        with _engine(url).connect() as connection:
            revision = _revision(connection)
            _expect_writable(connection)
            if revision == migrations.HEAD:
                _expect_rights(connection)
    except SQLAlchemyError as error:
        refused = map_driver_error(error)
        raise type(refused)(f"the schema cannot be read: {_reason(error)}") from None
    if revision is None or revision != migrations.HEAD:
        raise SchemaNotCurrent(f"the schema is at {revision or 'nothing'}, this program needs {migrations.HEAD}")
    return revision


def _engine(url: URL, *, writes: bool = False) -> Engine:
    name = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    if name != "sqlite":
        arguments = {"connect_timeout": 5, **CLIENT}  # seconds: a person waits for this one
        return create_engine(url.set(drivername=name), connect_args=arguments, hide_parameters=True)
    engine = create_engine(
        url.set(drivername=name), connect_args={"timeout": _MIGRATION_WAIT_SECONDS}, hide_parameters=True
    )
    if writes:
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _leave_transactions_to_us(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver would commit before each change of a table


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # a second migrator waits, and finds the work done


def _expect_writable(connection: Connection) -> None:
    """Raise DatabaseReadOnly at a replica: everything but the first write would go well there."""
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql and connection.execute(text("SHOW transaction_read_only")).scalar() == "on":
        raise DatabaseReadOnly("the database is read-only: a replica, or a failover is under way")


def _expect_rights(connection: Connection) -> None:
    """Raise JobStoreRefused if the role may not use a table: the first write to it would fail, perhaps days later."""
    if connection.dialect.name != "postgresql":
        return
    # Of our own tables alone: another program's may stand beside them, of the same owner, and are not ours to use.
    asked = text(
        "SELECT needed.name || ' of ' || ours.name "
        "FROM unnest(CAST(:tables AS text[])) AS ours(name), "
        "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed(name) "
        "WHERE NOT has_table_privilege(to_regclass(quote_ident(ours.name)), needed.name) ORDER BY 1"
    )
    missing = list(connection.execute(asked, {"tables": list(migrations.TABLES)}).scalars())
    if missing:
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise JobStoreRefused(f"the role of DATABASE_URL has no right to {', '.join(missing[:5])}{more}")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _reason(error: Exception) -> str:
    """The driver's first line, which names host and cause but no statement and no parameters."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200]
