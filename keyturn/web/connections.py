"""A server's connections: how long a request's head may take, and how many one peer may open."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from keyturn.settings import Network
from keyturn.web.problems import PROBLEM_TYPE, Refused, problem_of

_log = structlog.get_logger("keyturn.http")
# A client sends its head at once; over the worst line it is some round trips. A half-sent head occupies a place.
HEAD_SECONDS = 10.0
# Of 2,000 at the desk: a browser opens six, a stream each page included; an office of two hundred readers is one peer.
PER_PEER = 500


_MALFORMED = Refused(400, "malformed_request", "the HTTP request cannot be read")


class Peers:
    """The connections of one server, by the peer's address.

    Args:
        is_exempt: whether a peer may open as many as it likes, as a proxy does for all of its users.
    """

    def __init__(self, is_exempt: Callable[[str], bool]) -> None:
        self._held: Counter[str] = Counter()
        self._is_exempt = is_exempt

    def admit(self, peer: str) -> bool:
        """Count one more of `peer`, and return whether it may stay; it leaves in either case."""
        self._held[peer] += 1
        return self._held[peer] <= PER_PEER or self._is_exempt(peer)

    def leave(self, peer: str) -> None:
        """Count one less of `peer`."""
        self._held[peer] -= 1
        if self._held[peer] <= 0:
            del self._held[peer]


def protocol_for(proxies: Sequence[Network]) -> type[H11Protocol]:
    """Return the protocol of one server, with its own count; `proxies` may open as many as they like."""

    def is_proxy(peer: str) -> bool:
        return any(ip_address(peer.partition("%")[0]) in network for network in proxies)

    peers = Peers(is_proxy)

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _peer = ""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            # uvicorn's setting is lost where something else listens to its loggers; paths name accounts.
            self.access_log = False

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

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP, without a byte of it: it may be a token with a stray carriage return."""
            _log.warning("request_refused", status=_MALFORMED.status, kind=_MALFORMED.kind, remote=self._peer)
            for event in _malformed_answer():
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _expect_head(self) -> None:
            if self._late is None:  # from its first byte on: a byte now and then prolongs nothing
                self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

        def _expect_nothing(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Bounded


def _malformed_answer() -> Iterator[h11.Event]:
    body = json.dumps(problem_of(_MALFORMED)).encode()
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    yield h11.Response(status_code=400, headers=headers, reason=HTTPStatus(400).phrase.encode())
    yield h11.Data(data=body)
    yield h11.EndOfMessage()
