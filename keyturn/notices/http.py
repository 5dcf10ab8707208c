"""One request to a service that takes notices, and its answer classified: for channels that speak HTTP."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from keyturn.backoff import wait_asked_for
from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.settings import is_one_word

SEND_SECONDS = 15.0  # a chat's or tracker's API answers in one; one that takes longer is asked again
MAX_ANSWER_BYTES = 64 * 1024
_PASSING = {408, 423, 425, 429}
_REFUSING = {423, 425, 429}  # by which a server says that it did nothing; after a 408 or 5xx no one knows


class Answer:
    """What a service answered: its status, and its body if it was JSON."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body


async def call(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    service: str,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    accepts: frozenset[int] = frozenset(),
    most_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """Send one request; returns the answer if it is 2xx or one of `accepts`.

    Args:
        http: a client that follows no redirect.
        method: of HTTP.
        url: whole; it may be a secret, and is repeated nowhere.
        service: its name, for messages.
        json: the body.
        headers: beside those of the body.
        accepts: statuses beside 2xx that the caller reads itself.
        most_bytes: of a body that is read; the body of a longer answer is None.

    Raises:
        ReceiverUnavailable: no answer, or one that asks for patience.
        ReceiverRefused: any other one: the same request would be refused again.
    """
    from aiohttp import ClientConnectorError, ClientError  # with the first request: most commands send none

    try:
        async with asyncio.timeout(SEND_SECONDS):
            response = await http.request(method, url, json=json, headers=dict(headers or {}))
    # asyncio's TimeoutError is an OSError; an answer that is no HTTP is aiohttp's own error, which httpx does not map.
    except (httpx.HTTPError, OSError, ClientError) as error:
        # Then no byte has left. httpx's own class does not tell: a connection that breaks has the same one.
        never_connected = isinstance(error.__cause__, ClientConnectorError)
        said = f"{service} did not answer: {type(error).__name__}"
        raise ReceiverUnavailable(said, took_nothing=never_connected) from None
    status = response.status_code
    if 200 <= status < 300 or status in accepts:
        return Answer(status, _json_of(response, most_bytes))
    if status in _PASSING or status >= 500:
        wait = wait_asked_for(response.headers)
        raise ReceiverUnavailable(f"{service} answered {status}", retry_after=wait, took_nothing=status in _REFUSING)
    raise ReceiverRefused(f"{service} answered {status}")


def _json_of(response: httpx.Response, most_bytes: int) -> Any:
    if len(response.content) > most_bytes:
        return None
    try:
        return response.json()
    except ValueError:
        return None


def split_named(value: str, *, what: str = "SECRET") -> dict[str, str]:
    """Return what a list of NAME:SECRET names, separated by commas; raises ValueError, which repeats no secret."""
    found: dict[str, str] = {}
    for entry in filter(None, (entry.strip() for entry in value.split(","))):
        name, colon, secret = entry.partition(":")
        if not colon or not re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", name):
            raise ValueError(f"is not NAME:{what}, NAME:{what}, a name of small letters, digits and . _ -")
        if name in found:
            raise ValueError(f"{name} is listed twice")
        if not secret or not is_one_word(secret) or " " in secret:
            raise ValueError(f"what {name} stands for is empty, or holds a blank")
        found[name] = secret
    if not found:
        raise ValueError(f"is not NAME:{what}, NAME:{what}")
    return found


def named_urls(value: SecretStr) -> SecretStr:
    """Return a list of NAME:URL, separated by commas; raises ValueError, without a URL: each is a secret."""
    for name, text in split_named(value.get_secret_value(), what="URL").items():
        if text.startswith("//"):
            raise ValueError("is not NAME:URL, NAME:URL: a name comes before each URL")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise ValueError(f"what {name} stands for is no URL") from None
        if url.scheme != "https" and not (url.scheme == "http" and url.host in {"localhost", "127.0.0.1", "::1"}):
            raise ValueError(f"the URL of {name} must use https, or http on loopback")
    return value


def named_keys(value: SecretStr) -> SecretStr:
    """Return a list of NAME:KEY, separated by commas; raises ValueError with what is wrong, and no key."""
    split_named(value.get_secret_value(), what="KEY")
    return value


def basic_user(value: str) -> str:
    """Return a user's name if Basic authentication can carry it (RFC 7617, 2); raises ValueError."""
    if not is_one_word(value) or ":" in value:
        raise ValueError("must be the user's name alone, without a colon or a line break")
    return value


def addresses_of(value: SecretStr | None) -> Mapping[str, str]:
    """Return what a list of NAME:SECRET names, by name; empty if it is not set."""
    return {} if value is None else split_named(value.get_secret_value())


def address_in(named: Mapping[str, str], address: str, *, setting: str) -> str:
    """Return what an address stands for; raises ReceiverRefused for one that the setting does not name."""
    if address not in named:
        raise ReceiverRefused(f"{setting} does not name {address or 'an address'}")
    return named[address]
