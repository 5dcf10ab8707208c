"""One request to a vendor's REST API, one try, and what went wrong by name; for targets and clouds without a library.

No call is repeated here: whether its answer was lost is for the caller to find out, which looks at what is there before
it acts (docs/explanation/executor.md). Errors are raised outside of `except`, so that not even their context holds the
request, whose headers and body have the credential and the secret.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import httpx
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from keyturn.authorities import public_authorities
from keyturn.backoff import wait_asked_for
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.foreign_json import read_json
from keyturn.settings import field_faults

S = TypeVar("S", bound=BaseSettings)
CONNECT_SECONDS = 5.0  # a TCP and a TLS handshake over three continents take one
CALL_SECONDS = 10.0  # these APIs answer in tenths of a second: after 10 s no answer will come
LONGEST_WINDOW = timedelta(hours=1)  # of GitHub's primary limit; a time beyond it is of a clock that is wrong
WITHOUT_A_WORD = timedelta(minutes=1)
MAX_ANSWER_BYTES = 1 << 20  # a Vault secret may have 1 MiB by its default; every other answer is smaller


class Answer(NamedTuple):
    """A whole answer. `body` is its JSON; None where it has none."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def member(self, *names: str) -> Any:
        """Return a member of the body by its path of names; None if there is none."""
        value = self.body
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def is_passing(answer: Answer) -> bool:
    """Whether a failure passes by itself at every vendor: throttling, a timeout, or a fault of the server's own."""
    return answer.status in {408, 429} or answer.status >= 500


def wait_of(answer: Answer) -> timedelta | None:
    """Return how long the vendor asks to wait before another request; None if it asks for nothing.

    By Retry-After, or else, where no request is left, by the end of the window as GitHub (x-ratelimit-reset) and GitLab
    (ratelimit-reset) say it, in seconds since 1970. A limit without either asks for a minute, as GitHub's documentation
    of secondary limits does.
    """
    if answer.status not in {403, 429, 503}:
        return None
    if (asked := wait_asked_for(answer.headers)) is not None:
        return asked
    for prefix in ("x-ratelimit", "ratelimit"):
        reset = answer.headers.get(f"{prefix}-reset", "")
        if answer.headers.get(f"{prefix}-remaining") == "0" and reset.isascii() and reset.isdigit():
            left = float(reset[:12]) - time.time()
            return timedelta(seconds=min(max(left, 0.0), LONGEST_WINDOW.total_seconds()))
    return None if answer.status == 503 else WITHOUT_A_WORD


class RestApi:
    """A vendor's REST API; its HTTP client is opened by the first request.

    Args:
        vendor: its name, for messages.
        url: what every path is appended to, without a slash at its end.
        headers: returns the headers of each request, with the credential as it is now; raises CloudRefused.
        authorities: what the server's certificate is checked against; None for the public ones.
        passing: which failures pass by themselves.
    """

    def __init__(
        self,
        vendor: str,
        url: str,
        *,
        headers: Callable[[], Mapping[str, str]],
        authorities: ssl.SSLContext | None = None,
        passing: Callable[[Answer], bool] = is_passing,
    ) -> None:
        self._vendor = vendor
        self._url = url
        self._headers = headers
        self._authorities = authorities
        self._passing = passing
        self._http: httpx.AsyncClient | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        accept: Collection[int] = (200,),
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Make one request and return its answer.

        Args:
            method: of HTTP.
            path: with its parts percent-encoded.
            accept: the statuses to return; any other is raised.
            params: of the query: never a secret, because proxies log URLs.
            body: sent as JSON.

        Raises:
            CloudUnavailable: there was no whole answer, or one of a failure that passes by itself.
            CloudRefused: a person must change something.
        """
        headers = {"accept-encoding": "identity"} | dict(self._headers())
        failure, answer = None, None
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await self._send(method, path, headers, params, body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # a TimeoutError is an OSError
            failure = self._failure(error)
        if answer is None:
            raise failure or CloudUnavailable(f"{self._vendor}: no answer")
        if answer.status in accept:
            return answer
        if self._passing(answer):
            raise CloudUnavailable(f"{self._vendor} answered {answer.status}", retry_after=wait_of(answer))
        raise CloudRefused(f"{self._vendor} answered {answer.status} to {method}{_hint(answer.status)}")

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        if self._http is None:
            limits = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
            self._http = httpx.AsyncClient(
                verify=self._authorities or public_authorities(), timeout=limits, follow_redirects=False
            )
        text = b""
        url = self._url + path
        async with self._http.stream(method, url, headers=headers, params=params, json=body) as response:
            async for chunk in response.aiter_raw():
                text += chunk
                if len(text) > MAX_ANSWER_BYTES:
                    raise ValueError("too long")
            answer = Answer(response.status_code, response.headers, None)
        if not text:
            return answer
        try:
            return answer._replace(body=read_json(text))
        except ValueError:
            if answer.status >= 300:  # a proxy's page: the status says what it is
                return answer
            raise

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return CloudRefused(f"{self._vendor}: no trusted authority has issued the server's certificate")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return CloudRefused(f"{self._vendor}: its URL cannot be used")
        if isinstance(error, ValueError):
            return CloudUnavailable(f"{self._vendor}: the answer is too long, or no JSON")
        return CloudUnavailable(f"{self._vendor}: no answer: {type(error).__name__}")


def _hint(status: int) -> str:
    if 300 <= status < 400:  # a credential goes to the server that was named, and to no other
        return ": a redirect is not followed"
    hints = {
        401: "the credential is not valid",
        403: "a right is missing",
        404: "it does not exist, or the credential may not see it",
    }
    return f": {hints[status]}" if status in hints else ""


def settings_from_environment(model: type[S]) -> S:
    """Return a target's settings; raises CloudRefused with every fault, and no value of any."""
    faults: list[str] = []
    try:
        return model()
    except ValidationError as error:
        faults = field_faults(error)
    raise CloudRefused("; ".join(faults))
