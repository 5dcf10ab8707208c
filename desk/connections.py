"""The desk's connections: heads with a deadline, and a peer's share."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

import keyturn.workers.connections as allowed
from keyturn.desk.settings import Network


def protocol_for(proxies: Sequence[Network]) -> type[H11Protocol]:
    """Return the protocol of one server, with its own count; `proxies` may open as many as they like."""

    def is_proxy(peer: str) -> bool:
        return any(ip_address(peer.partition("%")[0]) in network for network in proxies)

    peers = allowed.Peers(is_proxy)

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _peer = ""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._peer = self.client[0] if self.client else ""
            if not peers.admit(self._peer):
                transport.abort()
                return
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            peers.leave(self._peer)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # what came is no whole head yet
                self._expect_head()
            else:
                self._expect_nothing()

        def _expect_head(self) -> None:
            if self._late is None:  # from its first byte on: a byte now and then prolongs nothing
                self._late = self.loop.call_later(allowed.HEAD_SECONDS, self.transport.abort)

        def _expect_nothing(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Bounded
