"""What a driver's errors mean: which are refused for good, and which pass."""

import re
import sqlite3

from keyturn.errors import DatabaseReadOnly, JobStoreRefused, JobStoreUnavailable, ValueRefused

# SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html): what no second try fixes. A read-only
# transaction (25006) is a server that has just become a standby, and a unique value (23505) a race: those pass.
_NOT_ALLOWED = {"28000", "28P01", "3D000", "42501", "42P01", "42703", "3F000"}


_NOT_STORED = {"23502", "23514"}


# When a connection is refused, there is no code, and libpq's words are the server's.
_NOT_LET_IN = re.compile(
    r"FATAL:.*(?:authentication failed|does not exist|permission denied|no pg_hba.conf entry)", re.DOTALL
)


# libpq's words where target_session_attrs asks for a primary, and none of the hosts is one.
_NO_PRIMARY = re.compile(r"session is read-only|server is in hot standby mode")


_SQLITE_NOT_ALLOWED = re.compile(r"readonly|unable to open|not a database|malformed|no such (?:table|column)")


_SQLITE_NOT_STORED = re.compile(r"NOT NULL|CHECK constraint|datatype mismatch|too big")


def map_driver_error(error: Exception) -> JobStoreUnavailable:
    """Return our error for a driver's error. The message repeats the driver's text only where that names no value."""
    own = getattr(error, "orig", None) or error
    state = getattr(own, "sqlstate", None) or ""
    said = str(own)
    of_sqlite = isinstance(own, sqlite3.Error)
    if state in _NOT_ALLOWED or _NOT_LET_IN.search(said) or (of_sqlite and _SQLITE_NOT_ALLOWED.search(said)):
        return JobStoreRefused(f"the database refuses: {_first_line(said)}")
    if state.startswith("22") or state in _NOT_STORED or (of_sqlite and _SQLITE_NOT_STORED.search(said)):
        return ValueRefused(f"the database refuses a value: {state or type(own).__name__}")
    if state == "25006" or _NO_PRIMARY.search(said):  # it passes during a failover, and never at a replica
        return DatabaseReadOnly("the database is read-only: a replica, or a failover is under way")
    # SQLite's own messages name tables and no values: that it is locked, or the disk full.
    cause = _first_line(said) if isinstance(own, sqlite3.OperationalError) else type(error).__name__
    return JobStoreUnavailable(f"the database did not answer: {cause}")


def _first_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[0][:200]
