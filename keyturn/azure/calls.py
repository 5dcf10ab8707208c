"""Calls of Microsoft's cloud, one request each, and what went wrong by name. The default tokens need the extra `azure`.

Of an error answer only the status and the error code are repeated, and nothing of what was sent.
"""

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import SecretStr

from keyturn.backoff import wait_asked_for
from keyturn.errors import SettingsInvalid
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.execution.http import CALL_SECONDS, CONNECT_SECONDS, MAX_ANSWER_BYTES, VendorHttp
from keyturn.foreign_json import read_json

# From a scope, such as https://graph.microsoft.com/.default, to an access token for it.
TokenProvider = Callable[[str], Awaitable[SecretStr]]

_PASSING = {408, 409, 423, 425, 429}  # 409: Directory_ConcurrencyViolation, and Key Vault's changes under way
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# The directory is away, by https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
_PASSING_SIGN_INS = {"AADSTS90006", "AADSTS90033"}


class Reply(NamedTuple):
    """An answer of whatever status; `body` is None if it has no JSON, `retry_after` if it has no Retry-After."""

    operation: str
    status: int
    body: Any
    retry_after: timedelta | None = None

    @property
    def code(self) -> str:
        """The most specific error code, as Graph, Key Vault or the sign-in service writes it; `unknown` if none."""
        error = _member(self.body, "error")
        numbers = _member(self.body, "error_codes")
        if isinstance(numbers, list) and numbers:
            return _code(f"AADSTS{numbers[0]}")
        return _code(_member(_member(error, "innererror"), "code") or _member(error, "code") or error)

    @property
    def message(self) -> str:
        """The server's text, to be looked at and never to be repeated."""
        return str(_member(_member(self.body, "error"), "message"))

    def expect(self, *statuses: int) -> Any:
        """Return the body of an answer of one of these statuses; raises CloudUnavailable, CloudRefused."""
        text = f"{self.operation}: {self.status} {self.code}"
        if self.status in statuses:
            return self.body
        if self.status in _PASSING or self.status >= 500:
            raise CloudUnavailable(text, retry_after=self.retry_after)
        raise CloudRefused(text)

    def unreadable(self) -> CloudUnavailable:
        """Return the error for an answer that lacks what it must have."""
        return CloudUnavailable(f"{self.operation}: {self.status}, and the answer cannot be read")


class AzureCalls:
    """Requests with a token of the executor's own; connections are opened by the first of them.

    Args:
        token: gives the access tokens.
        most_bytes: of an answer; what is longer is none.
    """

    def __init__(self, token: TokenProvider, most_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.token = token
        self._http = VendorHttp(most_bytes=most_bytes)

    async def ask(
        self,
        operation: str,
        method: str,
        url: str,
        *,
        scope: str | None = None,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and return its answer, whatever its status.

        Args:
            operation: what errors call it.
            scope: what the token is for; None sends none.

        Raises:
            CloudUnavailable: no answer, or one that ends early or is too long.
            CloudRefused: the executor has no credentials.
        """
        headers = {} if scope is None else {"Authorization": f"Bearer {(await self.token(scope)).get_secret_value()}"}
        received = await self._http.send(operation, method, url, headers=headers, params=params, json=json, form=form)
        return Reply(operation, received.status, _json(received.content), wait_asked_for(received.headers))

    async def close(self) -> None:
        """Close the connections; the next request opens others."""
        await self._http.close()


@functools.cache
def default_tokens() -> TokenProvider:
    """Return tokens of the credentials that azure-identity finds: environment, workload identity, managed identity.

    One for all objects of a process: it caches the tokens.

    Raises:
        ModuleNotFoundError: the extra `azure` is missing.
        SettingsInvalid: azure-identity takes its variables for wrong.
    """
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    times = {"connection_timeout": CONNECT_SECONDS, "read_timeout": CALL_SECONDS, "process_timeout": int(CALL_SECONDS)}
    try:
        credential = DefaultAzureCredential(retry_total=0, **times)
    except ValueError:
        raise SettingsInvalid("an AZURE_ variable is wrong: azure-identity cannot use it") from None

    async def token(scope: str) -> SecretStr:
        try:
            return SecretStr((await asyncio.to_thread(credential.get_token, scope)).token)
        except AzureError as error:
            text, name = str(error.message), type(error).__name__
        found = re.search(r"AADSTS\d{1,12}", text)
        if found is not None and found[0] not in _PASSING_SIGN_INS:
            raise CloudRefused(f"the executor's own sign-in: {found[0]}")
        # azure-identity says so of credentials that are there, and nothing of the kind of those that are not.
        if found is not None or "Authentication failed" in text or name.startswith("Service"):
            raise CloudUnavailable(f"the executor's own sign-in: no answer ({name})")
        raise CloudRefused(f"the executor has no credentials ({name})")

    return token


def _json(content: bytes) -> Any:
    try:
        return read_json(content)
    except ValueError:
        return None


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _code(value: Any) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else "unknown"
