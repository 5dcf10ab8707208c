"""The database's schema: applied by command, checked at a worker's start."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

import migrations
from keyturn.errors import JobStoreUnavailable, SchemaNotCurrent


def migrate(url: URL) -> tuple[str | None, str | None]:
    """Bring the schema of the database at `url` to this program's; returns the revision before and after.

    Raises:
        JobStoreUnavailable: the database cannot be reached or written.
        SchemaNotCurrent: its schema is unknown to this release, so it belongs to a newer one.
    """
    config = _config()
    try:
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        with _engine(url).begin() as connection:
            before = _revision(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return before, _revision(connection)
    except CommandError as error:
        raise SchemaNotCurrent(f"the schema is not one that this release can bring forward: {_reason(error)}") from None
    except (SQLAlchemyError, OSError) as error:
        raise JobStoreUnavailable(f"the database cannot be migrated: {_reason(error)}") from None


def check_schema(url: URL) -> str:
    """Return the schema's revision; raises SchemaNotCurrent or JobStoreUnavailable if a worker must not start on it."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise SchemaNotCurrent(f"there is no database at {url.database}")
    head = ScriptDirectory.from_config(_config()).get_current_head()
    try:
        with _engine(url).connect() as connection:
            revision = _revision(connection)
    except SQLAlchemyError as error:
        raise JobStoreUnavailable(f"the database does not answer: {_reason(error)}") from None
    if revision is None or revision != head:
        raise SchemaNotCurrent(f"the schema is at {revision or 'nothing'}, this program needs {head}")
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def _engine(url: URL) -> Engine:
    name = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    arguments = {} if name == "sqlite" else {"connect_timeout": 5}  # seconds: a person waits for this one
    return create_engine(url.set(drivername=name), connect_args=arguments, hide_parameters=True)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _reason(error: Exception) -> str:
    """The driver's first line, which names host and cause but no statement and no parameters."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200]
