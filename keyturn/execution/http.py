"""One HTTP request to a vendor's API, one try: the transport of every cloud and target without a library of its own.

No call is repeated here: whether its answer was lost is for the caller to find out, which looks at what is there before
it acts (docs/explanation/executor.md). Errors are raised outside of `except`, so that not even their context holds the
request, whose headers and body have the credential and the secret.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpx

from keyturn.authorities import public_authorities
from keyturn.execution.errors import CloudRefused, CloudUnavailable

CONNECT_SECONDS = 5.0  # a TCP and a TLS handshake over three continents take one
CALL_SECONDS = 10.0  # these APIs answer in tenths of a second: after 10 s no answer will come
# A Vault secret may have 1 MiB by its default, an application of Entra's with a thousand credentials has a third of it.
MAX_ANSWER_BYTES = 1 << 20


class Received(NamedTuple):
    """A whole answer, of whatever status."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class VendorHttp:
    """Sends requests; its connections are opened by the first one.

    Args:
        most_bytes: of an answer; what is longer is none.
        authorities: returns what servers' certificates are checked against. Others than the public ones are asked for
            anew after a certificate that is not of them: a cluster's authority may be replaced.
        authorities_named: the setting that names them, for the message of a certificate that is not of them.
        trust_env: whether proxies of the environment are used.
    """

    def __init__(
        self,
        *,
        most_bytes: int = MAX_ANSWER_BYTES,
        authorities: Callable[[], ssl.SSLContext] = public_authorities,
        authorities_named: str = "SSL_CERT_FILE",
        trust_env: bool = True,
    ) -> None:
        self._most_bytes = most_bytes
        self._authorities = authorities
        self._authorities_named = authorities_named
        self._trust_env = trust_env
        self._http: httpx.AsyncClient | None = None

    async def send(
        self,
        call: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Received:
        """Send one request and return its answer, whatever its status; a redirect is returned, and not followed.

        Args:
            call: what errors call it.
            method: of HTTP.
            url: with its parts percent-encoded.
            headers: the credential among them.
            params: of the query: never a secret, because proxies log URLs.
            json, form, content: the body, at most one of them.

        Raises:
            CloudUnavailable: there was no answer, or one that ends early or is too long.
            CloudRefused: the URL cannot be used, or the server's certificate is not to be trusted.
        """
        headers = {"accept-encoding": "identity"} | dict(headers)
        client, failure = self._client(), None
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                client.stream(
                    method, url, headers=headers, params=params, json=json, data=form, content=content
                ) as answer,
            ):
                # Some proxies compress what was asked for plain: of the 64 kB that come at once, a bomb makes 64 MB.
                text = bytearray()
                async for chunk in answer.aiter_bytes():
                    text += chunk
                    if len(text) > self._most_bytes:
                        raise _TooLong
                return Received(answer.status_code, answer.headers, bytes(text))
        # A TimeoutError is an OSError, a UnicodeError a host's name or a header that cannot be sent, and a RuntimeError
        # what httpx says of a client that was closed meanwhile.
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, RuntimeError) as error:
            failure, is_untrusted = self._failure(call, error), _wrong_certificate(error) is not None
        if is_untrusted and self._authorities is not public_authorities and self._http is client:
            self._http = None  # not closed: others may be in the middle of a call, and let go of it then
        raise failure

    async def close(self) -> None:
        """Close the connections; the next request opens others."""
        client, self._http = self._http, None
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                verify=self._authorities(),
                timeout=httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS),
                follow_redirects=False,  # a credential goes to the server that was named, and to no other
                trust_env=self._trust_env,
            )
        return self._http

    def _failure(self, call: str, error: Exception) -> CloudUnavailable | CloudRefused:
        if (reason := _wrong_certificate(error)) is not None:
            named = f"{self._authorities_named} names the authorities"
            return CloudRefused(f"{call}: the server's certificate is refused: {reason} ({named})")
        if isinstance(error, _TooLong):
            return CloudUnavailable(f"{call}: the answer is too long")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | ValueError):
            return CloudRefused(f"{call}: its URL or a header of it cannot be used")
        return CloudUnavailable(f"{call}: no answer ({type(error).__name__})")


class _TooLong(ValueError):
    """An answer that is longer than any that was asked for."""


def _wrong_certificate(error: BaseException | None) -> str | None:
    """Return why a connection failed by the server's certificate, which no repetition changes; None if it did not."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return None if error is None else str(error.verify_message)[:200]
