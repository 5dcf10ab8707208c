"""What our small servers share: refusals that have a name."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

_log = structlog.get_logger("keyturn.http")
# A client sends its request's head at once; over the worst line it is some round trips.
REQUEST_SECONDS = 10.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is not answered: its HTTP status, its name, and a sentence for whoever sent it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class DiscreetProtocol(web.RequestHandler):
    """aiohttp's protocol of a connection, without a byte of a malformed request in its log or in its answer.

    The parser's message quotes the line that it fails at, which may be a bearer token with a stray carriage return. A
    handler's unforeseen failure may quote what was sent: its kind and place are told.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a request within some seconds: half-sent ones hold a place in silence."""
        super().connection_made(transport)
        self._late = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self._expect_begun)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Expect nothing more."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _expect_begun(self) -> None:
        if self._request_count == 0 and self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return what a request that failed is answered."""
        frame = traceback.extract_tb(exc.__traceback__)[-1] if exc is not None and exc.__traceback__ else None
        where = f"{Path(frame.filename).name}:{frame.lineno}" if frame else None
        _log.error("request_failed", status=status, error=type(exc).__name__, where=where, remote=request.remote)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if status < 500:
            answer = refusal(status, "malformed_request", "this is no HTTP request that can be read")
        else:
            answer = refusal(status, "unforeseen", "the server failed; its log says more at this time")
        answer.force_close()
        return answer


def refusal(status: int, kind: str, message: str) -> web.Response:
    """Return the answer to a request that is refused."""
    return web.json_response({"error": kind, "message": message}, status=status)


async def answered(request: web.Request, handler: Handler, *, max_bytes: int) -> web.StreamResponse:
    """Return what `handler` answers, or the refusal; a refused request is logged, without its content."""
    try:
        response = await handler(request)
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
