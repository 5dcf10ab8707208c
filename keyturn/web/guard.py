"""What stands before every handler: checks, a body of bounded size and time, an answer in bounded time, headers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyturn.web.problems import Refuse, Refused

# A body of 8 MiB at 7 Mbit/s, or one of 64 KiB at modem's pace; a body that never ends occupies a place.
BODY_SECONDS = 10.0
# A transaction's 8 s and the 5 s until its statement is cancelled.
ANSWER_SECONDS = 15.0
HEALTH = "/healthz"  # probes ask by the address, and a probe that is refused would take a server away that works


class Guard:
    """The ASGI application around another one.

    Args:
        app: what answers.
        check: raises Refused for a request that is not executed; it runs before the body is read.
        refuse: makes the answer to what is refused.
        headers: what every answer carries.
        max_body_bytes: how long a body may be.
        answer_seconds: how long `app` may take until its answer starts; a stream may go on.
        late_hint: what to do when it took longer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        check: Callable[[Request], Awaitable[None]],
        refuse: Refuse,
        headers: Callable[[Request], Mapping[str, str]],
        max_body_bytes: int,
        answer_seconds: float = ANSWER_SECONDS,
        late_hint: str = "Send it again.",
    ) -> None:
        self._app = app
        self._check = check
        self._refuse = refuse
        self._headers = headers
        self._max_body_bytes = max_body_bytes
        self._answer_seconds = answer_seconds
        self._late_hint = late_hint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        send_with_headers = self._with_headers(request, send)
        try:
            _expect_path(request)
            if request.url.path != HEALTH:
                await self._check(request)
            body = await _body(request, self._max_body_bytes)
        except ClientDisconnect:
            return  # no one is left to be answered
        except Refused as refused:
            await self._refuse(request, refused)(scope, receive, send_with_headers)
            return
        # The failure was answered and logged; the server would log it again, with its message, which may be private.
        with contextlib.suppress(Exception):
            await self._in_time(request, _replay_body(body, receive), send_with_headers)

    async def _in_time(self, request: Request, receive: Receive, send: Send) -> None:
        """Answer, or say that this takes too long. An answer that has started, such as a stream, may take longer."""
        too_late = asyncio.timeout(self._answer_seconds)

        async def send_in_time(message: Message) -> None:
            if not too_late.expired():
                too_late.reschedule(None)
            await send(message)

        try:
            async with too_late:
                await self._app(request.scope, receive, send_in_time)
        except TimeoutError:
            if not too_late.expired():
                raise
            detail = f"there was no answer within {self._answer_seconds:g} s"
            refused = Refused(503, "too_late", detail, hint=self._late_hint, headers={"Retry-After": "5"})
            await self._refuse(request, refused)(request.scope, receive, send)

    def _with_headers(self, request: Request, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {"X-Content-Type-Options": "nosniff", **self._headers(request)}
                MutableHeaders(scope=message).update(headers)
            await send(message)

        return send_with_headers


def host_of(request: Request) -> str:
    """Return the name by which a request asks, without its port, in small letters."""
    host = request.headers.get("host", "")
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isascii() and port.isdigit() else host).lower()


def _expect_path(request: Request) -> None:
    """Refuse a target that is no path: an absolute URI is for a proxy; no database stores a NUL."""
    path, query = request.scope["path"], request.scope["query_string"]
    if not path.startswith("/") or "\0" in path or "\ufffd" in path or b"%00" in query:
        raise Refused(400, "malformed_request", "the address is no path, or is not UTF-8")


async def _body(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if not announced.isdigit() or int(announced) <= max_bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > max_bytes:
                        break
                else:
                    return bytes(body)
        except TimeoutError:
            detail = f"the request's body did not arrive within {BODY_SECONDS:g} s"
            raise Refused(408, "too_slow", detail, headers={"Connection": "close"}) from None
    raise Refused(413, "too_large", f"a request may have {max_bytes:,} bytes")


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return what gives the handlers the body that was read, and then what the connection says: that it was closed."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
