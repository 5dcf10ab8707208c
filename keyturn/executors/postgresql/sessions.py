"""Which sessions a role has now: all that PostgreSQL knows of a password's use."""

from datetime import datetime

from keyturn.execution.errors import CloudUnavailable
from keyturn.executors.postgresql.connections import Connection

# The name of our own login, whose session a pooler may leave open after us: it is no consumer's.
VERIFYING = "keyturn-verify"
MOST_NAMED = 16  # as many as a KeyUse names
# That a session exists, and as which role, every role may see; its address and its start only by these rights
# (https://www.postgresql.org/docs/current/monitoring-stats.html). A session of an earlier password is not counted.
_SESSIONS = """
SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed'), host(client_addr)
FROM pg_catalog.pg_stat_activity
WHERE usesysid = %(oid)s::bigint::oid AND application_name IS DISTINCT FROM %(own)s AND pid <> pg_backend_pid()
    AND (backend_start IS NULL OR %(since)s::timestamptz IS NULL OR backend_start >= %(since)s::timestamptz)
ORDER BY 1, 2 LIMIT %(most)s
"""
_MAY_READ = """
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') OR pg_has_role(current_user, %s::bigint::oid, 'USAGE')
"""


async def sessions_of(connection: Connection, oid: int, *, since: datetime | None) -> tuple[str, ...]:
    """Return `APPLICATION@ADDRESS` of the sessions that the role `oid` has now, 16 at most.

    Args:
        connection: to the primary.
        oid: the role's.
        since: leave out the sessions that started before.
    """
    allowed = await (await connection.execute(_MAY_READ, [oid])).fetchone()
    if allowed is None:  # a SELECT without a table has a row
        raise CloudUnavailable("sessions: no row")
    found = await connection.execute(_SESSIONS, {"oid": oid, "own": VERIFYING, "since": since, "most": MOST_NAMED})
    elsewhere = "local" if allowed[0] else "hidden"  # a Unix socket has no address
    return tuple(_one_line(f"{application}@{address or elsewhere}") for application, address in await found.fetchall())


def _one_line(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)[:200]
