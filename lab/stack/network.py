"""Addresses of loopback, one for each host of a cluster: 127.0.0.0/8 is all this machine's, on Linux."""

import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass

from keyturn.lab.stack.processes import StackNotStarted


@dataclass(frozen=True)
class Network:
    """Addresses of loopback that no other cluster uses: 256 of 16 million."""

    prefix: str

    def ip(self, last: int) -> str:
        """Return the address that ends with `last`, 1 to 254."""
        return f"{self.prefix}.{last}"


def free_network(port: int) -> Network:
    """Return addresses of which the first one's `port` is free; raises StackNotStarted."""
    for _ in range(50):
        network = Network(f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}")
        with socket.socket() as probe, suppress(OSError):
            probe.bind((network.ip(1), port))
            return network
    raise StackNotStarted("no addresses of 127.0.0.0/8 are free here")
