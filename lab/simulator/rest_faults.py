"""Faults of a simulated REST API, and the calls that it has got: middleware of the simulators of secret targets."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAULTS = {
    "answer_lost": "the connection drops after the effect, before the answer",
    "request_lost": "the connection drops before the effect",
    "half_body": "the connection drops in the middle of the answer, after the effect",
    "throttled": "429 with Retry-After, without an effect",
    "unavailable": "503 with a page of HTML, without an effect",
    "page": "200 with a page of HTML, without an effect",
    "redirect": "307 to `elsewhere`, without an effect",
}


@dataclass
class RestFaults:
    """The next call that a fault meets, counted from 1 since `lose`, and every call's method and path.

    Attributes:
        calls: of each request, its method and path, as they arrived.
        elsewhere: where a redirect points.
    """

    calls: list[str] = field(default_factory=list)
    elsewhere: str = ""
    _fault: str = ""
    _at: int = 0

    def lose(self, call: int, fault: str) -> None:
        """Let a fault meet the call of this number, and forget the calls until now."""
        if fault and fault not in FAULTS:
            raise ValueError(f"{fault} is none of {', '.join(FAULTS)}")
        self.calls.clear()
        self._at, self._fault = call, fault

    def middleware(self) -> Middleware:
        """Return the middleware that counts calls and lets the fault happen."""

        @web.middleware
        async def interfere(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.calls.append(f"{request.method} {request.rel_url.raw_path}")
            fault = self._fault if len(self.calls) == self._at else ""
            if fault in {"answer_lost", "half_body"}:
                return await _break_off(fault, request, await handler(request))
            return self._instead(fault, request) or await handler(request)

        return interfere

    def _instead(self, fault: str, request: web.Request) -> web.Response | None:
        """Return the answer of a fault by which the request has no effect."""
        match fault:
            case "throttled":
                return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "1"})
            case "unavailable":
                return web.Response(status=503, text="<html>maintenance</html>", content_type="text/html")
            case "page":
                return web.Response(text="<html>sign in</html>", content_type="text/html")
            case "redirect":
                return web.Response(status=307, headers={"Location": self.elsewhere + request.rel_url.raw_path})
            case "request_lost":
                _drop(request)
                return web.Response()
        return None


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _break_off(fault: str, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    if fault == "answer_lost":
        _drop(request)
        return answer
    body = answer.body if isinstance(answer, web.Response) else None
    whole = bytes(body) if isinstance(body, bytes | bytearray) else b"{}"
    half = web.StreamResponse(status=answer.status or 200, headers={"Content-Type": "application/json"})
    half.content_length = len(whole) + 2
    await half.prepare(request)
    await half.write(whole[: len(whole) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


async def json_of(request: web.Request) -> dict[str, Any]:
    """Return a request's JSON object; an empty one where it has none."""
    try:
        body = json.loads(await request.text())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
