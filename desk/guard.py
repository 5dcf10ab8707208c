"""The checks before every handler: hosts, sizes, other sites, rates, and the headers of every answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyturn.application.answers import UPDATE_TIMEOUT
from keyturn.desk.people import Person, SignIn
from keyturn.desk.problems import Refused
from keyturn.desk.settings import DeskSettings
from keyturn.errors import JobStoreUnavailable
from keyturn.people import same_form

# A question has 4,000 characters at most; the rest of a form is some hundred.
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0  # 64 KiB at modem's pace; a body that never ends occupies a place
HEALTH = "/healthz"  # probes ask by the address, whatever the host's names are
SIGN_IN = "/session"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    # Nothing but this server's own files, forms and connections; no script or style within a page; no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """The ASGI application around the others; `refuse` makes a refusal's answer."""

    def __init__(
        self, app: ASGIApp, settings: DeskSettings, sign_in: SignIn, refuse: Callable[[Request, Refused], Response]
    ) -> None:
        self._app = app
        self._settings = settings
        self._sign_in = sign_in
        self._refuse = refuse
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._limit = RateLimitItemPerMinute(settings.requests_per_minute)
        # What a question waits for its outcome, or a person's word for a worker; and what the rest takes.
        self._answer_seconds = max(settings.wait_seconds, UPDATE_TIMEOUT.total_seconds()) + 3

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        send_with_headers = self._with_headers(request, send)
        try:
            _expect_path(request)
            if request.url.path != HEALTH:
                self._expect_host(request)
            self._expect_same_site(request)
            person = None if request.url.path == HEALTH else await self._person(request)
            scope.setdefault("state", {})["person"] = person
            if request.url.path != HEALTH:  # a probe that is refused would take a desk away that works
                await self._expect_rate(_bucket(request, person))
            body = await _body(request)
        except ClientDisconnect:
            return  # no one is left to be answered
        except Refused as refused:
            await self._refuse(request, refused)(scope, receive, send_with_headers)
            return
        # The failure was answered and logged; the server would log it again, with its message, which may be private.
        with contextlib.suppress(Exception):
            await self._in_time(request, _replay_body(body, receive), send_with_headers)

    async def _person(self, request: Request) -> Person | None:
        try:
            return await self._sign_in.person(request)
        except JobStoreUnavailable as error:
            raise Refused.of(error) from None

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
            detail = f"Temporal or the database did not answer within {self._answer_seconds:g} s"
            hint = "Send it again: the same Idempotency-Key finds what was started."
            refused = Refused(503, "too_late", detail, hint=hint, headers={"Retry-After": "5"})
            await self._refuse(request, refused)(request.scope, receive, send)

    def _expect_host(self, request: Request) -> None:
        # Who answers to any name can be spoken to by a page whose name was pointed here (DNS rebinding).
        if _without_port(request.headers.get("host", "")) not in self._settings.allowed_hosts:
            detail = "the desk does not answer under this name"
            raise Refused(421, "unknown_host", detail, hint="Add it to KEYTURN_DESK_HOSTS.")

    def _expect_same_site(self, request: Request) -> None:
        """Refuse a change that another site's page asks for (OWASP, Cross-Site Request Forgery Prevention, 2025).

        Every browser since 2023 sends Sec-Fetch-Site, older ones Origin. What sends neither is no browser, and carries
        nothing that a browser would add by itself.
        """
        if request.method in SAFE:
            return
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            allowed = site in {"same-origin", "none"}
        else:
            allowed = origin is None or origin.partition("://")[2] == request.headers.get("host", "")
        if not allowed:
            raise Refused(403, "another_site", "a page of another site sent this request")

    async def _expect_rate(self, who: str) -> None:
        if not await self._limiter.hit(self._limit, who):
            detail = f"more than {self._settings.requests_per_minute} requests within a minute"
            raise Refused(429, "too_many_requests", detail, headers={"Retry-After": "20"})

    def _with_headers(self, request: Request, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not request.url.path.startswith("/static/"):
                    headers["Cache-Control"] = "no-store"
                if self._settings.environment == "production":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        return send_with_headers


def _bucket(request: Request, person: Person | None) -> str:
    """What is counted together: a person, a peer, and a peer's tries to sign in, which cost no one else requests."""
    peer = request.client.host if request.client else ""
    if request.url.path == SIGN_IN:
        return f"sign-in {peer}"
    return f"person {same_form(person.name)}" if person else f"peer {peer}"


def _expect_path(request: Request) -> None:
    """Refuse a target that is no path: an absolute URI is for a proxy; no database stores a NUL."""
    path, query = request.scope["path"], request.scope["query_string"]
    if not path.startswith("/") or "\0" in path or "\ufffd" in path or b"%00" in query:
        raise Refused(400, "malformed_request", "the address is no path, or is not UTF-8")


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if not announced.isdigit() or int(announced) <= MAX_BODY_BYTES:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        break
                else:
                    return bytes(body)
        except TimeoutError:
            detail = f"the request's body did not arrive within {BODY_SECONDS:g} s"
            raise Refused(408, "too_slow", detail, headers={"Connection": "close"}) from None
    raise Refused(413, "too_large", f"a request may have {MAX_BODY_BYTES:,} bytes")


def _replay_body(body: bytes, receive: Receive) -> Callable[[], Awaitable[Any]]:
    """Return what gives the handlers the body that was read, and then what the connection says: that it was closed."""
    logged = False

    async def replay() -> Message:
        nonlocal logged
        if not logged:
            logged = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon and int(port) >= 0:
            return name.lower()
    return host.lower()
