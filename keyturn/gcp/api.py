"""Calls of Google's APIs, one request each, by the credentials that Google's own tools find.

These are Application Default Credentials: a file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own, or the
metadata server; impersonation and workload identity federation come with them
(https://docs.cloud.google.com/docs/authentication/application-default-credentials). The project is
GOOGLE_CLOUD_PROJECT, or the credentials' own.

No call is repeated here: whether its answer was lost is for the caller to find out, which looks at what is there before
it acts. Only google-auth asks up to three times for the executor's own token, which changes nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import google.auth
import google.auth.credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import Request

from keyturn.backoff import wait_asked_for
from keyturn.execution.errors import CloudRefused, CloudUnavailable, CredentialsMissing
from keyturn.execution.http import CALL_SECONDS, VendorHttp
from keyturn.gcp.replies import Reply, expect_success, read_reply
from keyturn.gcp.settings import GcpSettings, gcp_settings

T = TypeVar("T")
SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # the only one that Policy Analyzer and Secret Manager take
# 500 projects of an organization with all their labels (64 of 127 bytes each) have 4 MiB.
MOST_BYTES = 8 << 20
NOTHING: frozenset[int] = frozenset()


class GoogleCloud:
    """Google's APIs. Credentials and connections are opened when they are first needed, one of each an object."""

    def __init__(self, settings: GcpSettings | None = None) -> None:
        self.settings = settings or gcp_settings()
        self._http = VendorHttp(most_bytes=MOST_BYTES)
        self._found: tuple[google.auth.credentials.Credentials, str | None] | None = None
        self._refreshing = asyncio.Lock()

    async def project(self) -> str:
        """Return the ID of the project that is worked on; raises CloudRefused, CloudUnavailable."""
        _, project = await self._credentials()
        if not project:
            raise CloudRefused("the credentials name no project: set GOOGLE_CLOUD_PROJECT")
        return project

    async def identity(self) -> str | None:
        """Return the email address of the service account that makes the calls; None if none does."""
        credentials = await self._valid_credentials()
        email = getattr(credentials, "service_account_email", None)
        return email if isinstance(email, str) and "@" in email else None

    async def ask(
        self,
        call: str,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        expected: frozenset[int] = NOTHING,
    ) -> Reply:
        """Make one call by the executor's own credentials.

        Args:
            call: its name in errors.
            method: GET, POST or DELETE.
            url: without a query.
            params: the query.
            json: the body.
            expected: the error statuses that are the caller's to understand: they are returned.

        Raises:
            CloudUnavailable: no answer, or a fault that passes by itself.
            CloudRefused: a right is missing, the credentials are wrong, or the request is.
        """
        headers: dict[str, str] = {}
        (await self._valid_credentials()).apply(headers)  # type: ignore[no-untyped-call]
        reply = await self._send(call, method, url, params=params, json=json, headers=headers)
        if reply.status == 401:
            self._found = None  # revoked, or replaced under a running process: found anew next time
        return expect_success(call, reply, expected)

    async def exchange(self, form: Mapping[str, str], *, expected: frozenset[int]) -> Reply:
        """Ask the token endpoint by what the form proves alone; raises as `ask` does."""
        reply = await self._send("token", "POST", self.settings.token_url, headers={}, form=form)
        return expect_success("token", reply, expected)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _send(self, call: str, method: str, url: str, **words: Any) -> Reply:
        received = await self._http.send(call, method, url, **words)
        return read_reply(call, received.status, received.content, wait_asked_for(received.headers))

    async def _credentials(self) -> tuple[google.auth.credentials.Credentials, str | None]:
        if self._found is None:
            self._found = await _in_thread(lambda: google.auth.default(scopes=[SCOPE], request=_Request()))
        return self._found

    async def _valid_credentials(self) -> google.auth.credentials.Credentials:
        async with self._refreshing:  # one token for all of the calls that wait for it
            credentials, _ = await self._credentials()
            if not credentials.valid:
                await _in_thread(lambda: credentials.refresh(_Request()))  # type: ignore[no-untyped-call]
            return credentials


class _Request(Request):
    """google-auth's way to the network, which by itself waits for two minutes."""

    def __call__(self, *args: Any, **words: Any) -> Any:
        return super().__call__(*args, **{**words, "timeout": CALL_SECONDS})  # type: ignore[no-untyped-call]


async def _in_thread(call: Callable[[], T]) -> T:
    """Let google-auth do its work; raises CloudUnavailable or CloudRefused, with no text of its own."""
    passes = True
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await asyncio.to_thread(call)
    except DefaultCredentialsError:  # there are none, or the file that is named cannot be used
        raise CredentialsMissing("Google finds no credentials here: DefaultCredentialsError") from None
    except GoogleAuthError as error:
        failure, passes = type(error).__name__, error.retryable or isinstance(error, TransportError)
    except TimeoutError as error:
        failure = type(error).__name__
    except (OSError, ValueError) as error:  # a file of credentials that cannot be read
        failure, passes = type(error).__name__, False
    if passes:
        raise CloudUnavailable(f"the executor's credentials: no answer: {failure}")
    raise CloudRefused(f"the executor's credentials: {failure}")
