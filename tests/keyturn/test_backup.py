"""A backup of SQLite as the documents describe it; that of PostgreSQL is in tests/workers/test_managed_database.py."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from keyturn.database import database_url
from tests.support.backups import AFTER, BEFORE, create_job, expect_as_it_was


async def test_sqlite_is_restored_from_a_copy_that_was_made_while_it_was_open(sqlite: URL, tmp_path: Path) -> None:
    """The file alone may lack what its write-ahead log has; VACUUM INTO copies both."""
    job_id, _ = await create_job(sqlite, BEFORE)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(str(sqlite.database))) as connection:
        connection.execute(f"VACUUM INTO '{backup}'")
    await create_job(sqlite, AFTER)
    await expect_as_it_was(database_url(f"sqlite:///{backup}"), job_id)
