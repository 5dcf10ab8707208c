"""A vendor's REST API of JSON and statuses, and what went wrong by name; for targets without a library."""

import ssl
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from keyturn.authorities import public_authorities
from keyturn.backoff import wait_asked_for
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.execution.http import VendorHttp
from keyturn.foreign_json import read_json
from keyturn.settings import field_faults

S = TypeVar("S", bound=BaseSettings)
LONGEST_WINDOW = timedelta(hours=1)  # of GitHub's primary limit; a time beyond it is of a clock that is wrong
WITHOUT_A_WORD = timedelta(minutes=1)


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
    """A vendor's REST API; its connections are opened by the first request.

    Args:
        vendor: its name, for messages.
        url: what every path is appended to, without a slash at its end.
        headers: returns the headers of each request, with the credential as it is now; raises CloudRefused.
        authorities: returns what the server's certificate is checked against.
        authorities_named: the setting that names them.
        passing: which failures pass by themselves.
    """

    def __init__(
        self,
        vendor: str,
        url: str,
        *,
        headers: Callable[[], Mapping[str, str]],
        authorities: Callable[[], ssl.SSLContext] = public_authorities,
        authorities_named: str = "SSL_CERT_FILE",
        passing: Callable[[Answer], bool] = is_passing,
    ) -> None:
        self._vendor = vendor
        self._url = url
        self._headers = headers
        self._passing = passing
        self._http = VendorHttp(authorities=authorities, authorities_named=authorities_named)

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
        received = await self._http.send(
            self._vendor, method, self._url + path, headers=self._headers(), params=params, json=body
        )
        answer = Answer(received.status, received.headers, self._json_in(received.status, received.content))
        if answer.status in accept:
            return answer
        if self._passing(answer):
            raise CloudUnavailable(f"{self._vendor} answered {answer.status}", retry_after=wait_of(answer))
        raise CloudRefused(f"{self._vendor} answered {answer.status} to {method}{_hint(answer.status)}")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _json_in(self, status: int, content: bytes) -> Any:
        try:
            return read_json(content) if content else None
        except ValueError:  # which holds the answer: nothing is raised from here
            is_broken = status < 300  # else it is a proxy's page: the status says what it is
        if is_broken:
            raise CloudUnavailable(f"{self._vendor}: the answer is no JSON")
        return None


def _hint(status: int) -> str:
    if 300 <= status < 400:
        return ": a redirect is not followed"
    hints = {
        401: "the credential is not valid",
        403: "a right is missing, or the credential has expired",
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
