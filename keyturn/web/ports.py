"""A port of loopback for a server that must be given its port before it starts."""

import random
import socket
from contextlib import suppress
from pathlib import Path

# From where, to where (exclusive) the system takes the ports of outgoing connections and of port 0, by default on Linux
# (ip(7)). A port from there may be a connection's own by the time that the server asks for it.
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000  # below are the ports of well-known servers
_FIRST_EPHEMERAL = 32_768  # Linux's default, and below that of every other system (IANA: 49152)
_ATTEMPTS = 100  # each is taken with a chance of some servers in thousands


def free_loopback_port() -> int:
    """Return a loopback port on which nothing listens at this moment, and that the system gives to nobody by itself.

    For servers that do not say which port they took for 0: Temporal's dev server, PgBouncer, the SDK's metrics.
    Where the system gives all ports to connections, it is one of those.
    """
    first = _FIRST_EPHEMERAL
    with suppress(OSError, ValueError, IndexError):  # not Linux
        first = int(_EPHEMERAL.read_text().split()[0])
    with socket.socket() as probe:
        for _ in range(_ATTEMPTS if first > _LOWEST else 0):
            port = random.randrange(_LOWEST, first)  # noqa: S311 - no secret
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        probe.bind(("127.0.0.1", 0))
        taken: int = probe.getsockname()[1]
        return taken
