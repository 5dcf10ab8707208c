"""What our small servers share: refusals that have a name."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

import keyturn.workers.connections as allowed

_log = structlog.get_logger("keyturn.http")
# A body of 8 MiB at 7 Mbit/s, or a database that is slow; a request that takes longer occupies a place.
ANSWER_SECONDS = 10.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is not answered: its HTTP status, its name, and a sentence for its sender."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class DiscreetProtocol(web.RequestHandler):
    """aiohttp's protocol of a connection, without a byte of a malformed request in its log or in its answer.

    The parser's message quotes the line that it fails at, which may be a bearer token with a stray carriage return. A
    handler's unforeseen failure may quote what was sent: only its kind and place are logged.
    """

    _late: asyncio.TimerHandle | None = None
    _peer: str | None = None
    peers: allowed.Peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a head within some seconds, of a peer that has not taken its share."""
        super().connection_made(transport)
        self._peer = str((transport.get_extra_info("peername") or ("",))[0])
        if self.peers.admit(self._peer):
            self._expect_head()
        elif self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Expect nothing more."""
        self._expect_nothing()
        if self._peer is not None:
            self.peers.leave(self._peer)
            self._peer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came: if it is no whole head yet, the rest of it has a deadline."""
        super().data_received(data)
        if not self._messages and self._waiter is not None and not self._waiter.done():  # none has started
            self._expect_head()
        else:
            self._expect_nothing()

    def _expect_head(self) -> None:
        if self._late is None and self.transport is not None:  # a byte now and then prolongs nothing
            self._late = asyncio.get_running_loop().call_later(allowed.HEAD_SECONDS, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return what a request that failed is answered."""
        if isinstance(exc, ConnectionError):  # the client went away: not this server's failure, and no one to answer
            raise exc
        _log.error("request_failed", status=status, error=type(exc).__name__, where=where(exc), remote=request.remote)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has started already")
        if status < 500:
            answer = refusal(status, "malformed_request", "the HTTP request cannot be read")
        else:
            answer = refusal(status, "unforeseen", "the server failed; its log of this time says why")
        answer.force_close()
        return answer


def where(error: BaseException | None) -> str | None:
    """Return file and line of an unforeseen failure: its message may quote what is private."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def refusal(status: int, kind: str, message: str) -> web.Response:
    """Return the answer to a request that is refused."""
    return web.json_response({"error": kind, "message": message}, status=status)


async def answer_request(request: web.Request, handler: Handler, *, max_bytes: int) -> web.StreamResponse:
    """Return what `handler` answers, or the refusal; a refused request is logged, without its content."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            response = await handler(request)
    except TimeoutError:
        response = refusal(408, "too_slow", f"the request did not arrive, or was not answered, in {ANSWER_SECONDS:g} s")
        response.force_close()
    except Refused as refused:
        response = refusal(refused.status, refused.kind, str(refused))
    except web.HTTPRequestEntityTooLarge:
        response = refusal(413, "too_large", f"a request may have {max_bytes:,} bytes")
    except web.HTTPException as other:
        response = refusal(other.status, "not_found" if other.status == 404 else "not_allowed", other.reason)
    if response.status >= 400:
        _log.warning("request_refused", status=response.status, path=request.path[:64], remote=request.remote)
    response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    return response
