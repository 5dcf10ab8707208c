"""Which database cluster a connection is to: the cloud account of its roles, which all of its databases share."""

import re

from keyturn.executors.postgresql.connections import Connection
from keyturn.executors.postgresql.settings import RolesSettings, parameters_of

# Every role may call it unless an administrator has revoked that; some servers that speak PostgreSQL do not have it.
_MAY_ASK = "SELECT has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE')"
_IDENTIFIER = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"


async def cluster_of(connection: Connection, settings: RolesSettings) -> str:
    """Return the system identifier, which initdb writes and failover does not change; HOST:PORT:DATABASE without it.

    A copy of a cluster, such as a restored snapshot, has the identifier of its original.
    """
    allowed = await (await connection.execute(_MAY_ASK)).fetchone()
    if allowed is not None and allowed[0]:
        row = await (await connection.execute(_IDENTIFIER)).fetchone()
        if row is not None:
            return str(row[0])
    parameters = parameters_of(settings.database)
    # Of several hosts, the first one that the URL names: which one answers changes with a failover.
    first = [str(parameters[name]).split(",")[0] for name in ("host", "port", "dbname")]
    # Only what a CloudAccount may hold: a Unix socket's path has slashes, an IPv6 address starts with a colon.
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9:._-]", "_", ":".join(first)).lstrip("_")[:128]
