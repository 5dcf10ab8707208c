"""A connection to PostgreSQL for one call, and what went wrong with it by name.

No connection is cached: a call that fails leaves nothing behind, and a rotation makes some twenty calls in days.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from pydantic import SecretStr

from keyturn.errors import KeyturnError
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.executors.postgresql.settings import parameters_of

Connection: TypeAlias = AsyncConnection[TupleRow]

CONNECT_SECONDS = 5  # of each host; a server that is there answers in milliseconds
CALL_SECONDS = 10.0  # a call is a few statements on the catalog: after that no answer will come
# A statement ends on the server before the caller gives up. Another executor's transaction takes milliseconds.
_LIMITS = "SELECT set_config('statement_timeout', '8s', true), set_config('lock_timeout', '5s', true)"
_DEFAULTS = {
    "application_name": "keyturn",
    "client_encoding": "utf8",
    # Roles are changed at the primary: of several hosts, a failover makes another one that.
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_SECONDS,
    # Milliseconds until a connection ends whose other end has vanished; TCP itself would try for a quarter of an hour.
    "tcp_user_timeout": 8_000,
}

# SQLSTATE's classes (https://www.postgresql.org/docs/current/errcodes-appendix.html) that no second try fixes.
_REFUSED = {"0A", "0L", "0P", "22", "23", "28", "2B", "3D", "42"}
# Within these, what another transaction did just before: a role was dropped, or created.
_RACES = {"42704", "42710"}
# A connection that is refused has no SQLSTATE in libpq; these are the server's words in English, which is the default.
_WRONG_LOGIN = re.compile(
    r"FATAL:.*(?:authentication failed|is not permitted to log in|role .* does not exist)", re.DOTALL
)
_NO_DATABASE = re.compile(r'FATAL: +(?:(permission denied) for database|database "[^"]*" does not exist)')
_NOT_LET_IN = re.compile(
    r"FATAL:.*(?:does not exist|permission denied|pg_hba\.conf)|authentication method requirement"
    r"|certificate|does not support SSL|invalid connection option|invalid sslmode",
    re.DOTALL,
)


@asynccontextmanager
async def connected(
    url: SecretStr, what: str, *, wrong_login: type[KeyturnError] = CloudRefused, **changed: Any
) -> AsyncIterator[Connection]:
    """Yield a connection in a transaction, which is committed at the end, or rolled back after any exception.

    Args:
        url: libpq's URL; what it says precedes our defaults.
        what: what it is for, in errors.
        wrong_login: what is raised if the server does not know the role by this password.
        changed: parameters of libpq in place of those of the URL; one that is None is left out.

    Raises:
        CloudRefused: a person must change something.
        CloudUnavailable: it passes, or whether it was committed is unknown. No text of the server's is repeated.
    """
    parameters = _DEFAULTS | parameters_of(url) | changed
    given: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    try:
        async with asyncio.timeout(CALL_SECONDS):
            # Nothing is prepared: a pooler may give the next transaction another session.
            connection = await AsyncConnection.connect(**given, prepare_threshold=None)
            try:
                await connection.execute(_LIMITS)
                yield connection
                await connection.commit()
            finally:
                await connection.close()  # at the server, that rolls back what was not committed
    except psycopg.Error as error:
        raise _named(error, what, wrong_login) from None
    except (TimeoutError, OSError):
        raise CloudUnavailable(f"{what}: no answer") from None


def _named(error: psycopg.Error, what: str, wrong_login: type[KeyturnError]) -> KeyturnError:
    """Return our error for the driver's, with the SQLSTATE and none of its words: these may name what was sent."""
    state = error.sqlstate
    if state is not None:
        is_refused = state[:2] in _REFUSED and state not in _RACES
        return (CloudRefused if is_refused else CloudUnavailable)(f"{what}: SQLSTATE {state[:5]}")
    words = str(error)
    if _WRONG_LOGIN.search(words):
        return wrong_login(f"{what}: the server does not let the role in by its password")
    if (database := _NO_DATABASE.search(words)) is not None:
        why = "does not exist" if database[1] is None else "is not open to the role: GRANT CONNECT ON DATABASE"
        return CloudRefused(f"{what}: the database that the URL names {why}")
    if _NOT_LET_IN.search(words) or isinstance(error, psycopg.ProgrammingError):
        return CloudRefused(f"{what}: the server's pg_hba.conf, its TLS, or the URL does not allow the connection")
    return CloudUnavailable(f"{what}: no answer")
