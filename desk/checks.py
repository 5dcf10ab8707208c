"""What the desk checks before every handler: hosts, other sites, people, rates; and the headers of its answers."""

from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import Request

from keyturn.desk.people import Person, SignIn
from keyturn.desk.settings import DeskSettings
from keyturn.errors import JobStoreUnavailable
from keyturn.people import same_form
from keyturn.web.guard import host_of
from keyturn.web.problems import Refused

# A question has 4,000 characters at most; the rest of a form is some hundred.
MAX_BODY_BYTES = 64 * 1024
SIGN_IN = "/session"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    # Nothing but this server's own files, forms and connections; no script or style within a page; no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Checks:
    """Who sends a request, and whether it may pass."""

    def __init__(self, settings: DeskSettings, sign_in: SignIn) -> None:
        self._settings = settings
        self._sign_in = sign_in
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._limit = RateLimitItemPerMinute(settings.requests_per_minute)

    async def check(self, request: Request) -> None:
        """Find the person, as `request.state.person`; raises Refused for a request that may not pass."""
        self._expect_host(request)
        self._expect_same_site(request)
        try:
            person = await self._sign_in.person(request)
        except JobStoreUnavailable as error:
            raise Refused.of(error) from None
        request.state.person = person
        await self._expect_rate(_bucket(request, person))

    def headers(self, request: Request) -> Mapping[str, str]:
        """Return the headers of an answer."""
        headers = dict(HEADERS)
        if not request.url.path.startswith("/static/"):
            headers["Cache-Control"] = "no-store"
        if self._settings.environment == "production":
            headers["Strict-Transport-Security"] = "max-age=31536000"
        return headers

    def _expect_host(self, request: Request) -> None:
        # Who answers to any name can be spoken to by a page whose name was pointed here (DNS rebinding).
        if host_of(request) not in self._settings.allowed_hosts:
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


def _bucket(request: Request, person: Person | None) -> str:
    """What is counted together: a person, a peer, and a peer's tries to sign in, which cost no one else requests."""
    peer = request.client.host if request.client else ""
    if request.url.path == SIGN_IN:
        return f"sign-in {peer}"
    return f"person {same_form(person.name)}" if person else f"peer {peer}"
