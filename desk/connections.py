"""The desk's connections: how long a request may take to arrive, and how many one peer may hold."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from desk.settings import Network

# A browser sends its head at once; over the worst line it is some round trips. Half-sent heads hold a place in silence.
HEAD_SECONDS = 10.0
# Of 2,000 in all: a browser opens six, a stream each page included; an office of two hundred readers is one address.
PER_PEER = 500


def protocol_for(proxies: Sequence[Network]) -> type[H11Protocol]:
    """Return the protocol of one server, with a count of its own; `proxies` may hold as many as they like."""
    held: Counter[str] = Counter()

    def is_proxy(peer: str) -> bool:
        return any(ip_address(peer.partition("%")[0]) in network for network in proxies)

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _peer = ""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._peer = self.client[0] if self.client else ""
            held[self._peer] += 1
            if held[self._peer] > PER_PEER and not is_proxy(self._peer):
                transport.abort()
                return
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            held[self._peer] -= 1
            if held[self._peer] <= 0:
                del held[self._peer]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # what came is no whole head yet
                self._expect_head()
            else:
                self._expect_nothing()

        def _expect_head(self) -> None:
            if self._late is None:  # from its first byte on: a byte now and then prolongs nothing
                self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

        def _expect_nothing(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Bounded
