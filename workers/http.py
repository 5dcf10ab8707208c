"""What our small servers share: refusals that have a name."""

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

_log = structlog.get_logger("keyturn.http")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is not answered: its HTTP status, its name, and a sentence for whoever sent it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


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
