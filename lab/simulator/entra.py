"""Microsoft's cloud on loopback, as far as rotating client secrets needs it: one tenant and any number of vaults.

GET       /v1.0/applications                                        Graph: a page of applications with their secrets
GET       /v1.0/applications/ID, /v1.0/applications(appId='ID')     Graph: an application and its secrets
POST      .../addPassword, .../removePassword                       Graph: create and remove a secret
GET       /beta/reports/appCredentialSignInActivities               Graph: sign-ins by secret
POST      /TENANT/oauth2/v2.0/token                                 the sign-in service, client credentials
GET, PUT  /VAULT/secrets/NAME, .../NAME/VERSION, .../NAME/versions  Key Vault; PATCH of a version

What each is written from stands in entra_directory.py and entra_vault.py. No real cloud was called.

A test drives the object itself: `fail` and `lose` make calls fail, the directory's `next_` attributes let its replicas
lag. Whoever presents no token of `token_for` is answered 401.
"""

import base64
import json
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

from aiohttp import web

from keyturn.lab.simulator.entra_directory import Directory
from keyturn.lab.simulator.entra_vault import Vaults, error_answer

# `answer_lost`: the effect is there, and the connection is aborted; `half_body`: the same in the middle of the body.
How = Literal["answer_lost", "request_lost", "half_body", "throttled", "unavailable", "forbidden", "conflict"]
_APPLICATION = re.compile(r"/v1\.0/applications(?:/([0-9a-f-]{36})|\(appId='([0-9a-f-]{36})'\))(?:/(\w+))?")
_SECRET = re.compile(r"/([\w-]+)/secrets/([0-9A-Za-z-]+)(?:/(\w+))?")
_TOKEN = re.compile(r"/([\w.-]+)/oauth2/v2\.0/token")
_STATUSES: Mapping[str, tuple[int, str]] = {
    "throttled": (429, "TooManyRequests"),
    "unavailable": (503, "ServiceUnavailable"),
    "forbidden": (403, "Authorization_RequestDenied"),
    "conflict": (409, "Directory_ConcurrencyViolation"),
}
Handle = Callable[[], web.Response]


class Entra:
    """A tenant, its vaults and the network before them; `calls` are the operations in the order of their arrival."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.vaults = Vaults()
        self.calls: list[str] = []
        self.after_each: Callable[[], None] = lambda: None
        self._faults: dict[str, list[How]] = {}
        self._lose: tuple[int, How] | None = None
        self._tokens = {audience: self._token(audience) for audience in ("graph", "vault")}

    def token_for(self, scope: str) -> str:
        """Return the executor's token for a scope: a JSON Web Token with the tenant in it, as Entra's are."""
        return self._tokens["vault" if "vault" in scope else "graph"]

    def fail(self, operation: str, how: How, times: int = 1) -> None:
        """Let the next calls of an operation fail."""
        self._faults.setdefault(operation, []).extend([how] * times)

    def lose(self, number: int, how: How) -> None:
        """Let the call of this number fail, counted from 1 from now on."""
        self.calls.clear()
        self._lose = (number, how)

    def serve(self) -> web.Application:
        """Return the aiohttp application that serves all of it."""
        served = web.Application(client_max_size=1 << 20)
        served.router.add_route("*", "/{path:.*}", self._answer)
        return served

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        operation, handle = self._route(request, await request.read())
        self.calls.append(operation)
        faults = self._faults.get(operation)
        fault = faults.pop(0) if faults else None
        if self._lose is not None and self._lose[0] == len(self.calls):
            fault, self._lose = self._lose[1], None
        if fault is not None and fault in _STATUSES:
            status, code = _STATUSES[fault]
            return error_answer(status, code, retry_after=17 if fault == "throttled" else None)
        if fault == "request_lost":
            _abort(request)
            return web.Response()
        answer = handle()
        self.after_each()
        if fault == "answer_lost":
            _abort(request)
        return await _half(request, answer) if fault == "half_body" else answer

    def _route(self, request: web.Request, body: bytes) -> tuple[str, Handle]:
        """Return the operation that a request asks for, and what answers it."""
        path = request.path
        if (found := _TOKEN.fullmatch(path)) is not None:
            tenant, form = found[1], dict(parse_qsl(body.decode()))
            return "token", lambda: self.directory.sign_in(tenant, form)
        sent = json.loads(body) if body else {}
        if path in {"/v1.0/applications", "/beta/reports/appCredentialSignInActivities"}:
            return self._route_listing(request)
        if (found := _APPLICATION.fullmatch(path)) is not None:
            application = self.directory.find(found[1], found[2])
            operation = found[3] or "application"
            return operation, self._guarded(
                request, "graph", lambda: self.directory.graph(operation, application, sent)
            )
        if (found := _SECRET.fullmatch(path)) is not None:
            return self._route_secret(request, f"{found[1]}/{found[2]}", found[3], sent)
        return "unknown", lambda: error_answer(404, "ResourceNotFound")

    def _route_listing(self, request: web.Request) -> tuple[str, Handle]:
        query, url = request.query, f"{request.scheme}://{request.host}{request.path}"
        if request.path == "/v1.0/applications":
            return "applications", self._guarded(request, "graph", lambda: self.directory.list_page(query, url))
        if "$filter" in query:
            return "report", self._guarded(request, "graph", lambda: self.directory.report(query["$filter"]))
        return "report", self._guarded(request, "graph", lambda: self.directory.report_page(query, url))

    def _route_secret(self, request: web.Request, place: str, version: str | None, sent: Any) -> tuple[str, Handle]:
        named = {"PUT": "set", "PATCH": "update"}
        operation = named.get(request.method, "versions" if version == "versions" else "get")
        return f"{operation} secret", self._guarded(
            request, "vault", lambda: self.vaults.handle(operation, place, version, sent, request)
        )

    def _guarded(self, request: web.Request, audience: str, handle: Handle) -> Handle:
        if request.headers.get("Authorization") == f"Bearer {self._tokens[audience]}":
            return handle
        return lambda: error_answer(401, "InvalidAuthenticationToken" if audience == "graph" else "Unauthorized")

    def _token(self, audience: str) -> str:
        claims = {"tid": self.directory.tenant, "aud": audience, "jti": uuid.uuid4().hex}
        part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return f"e30.{part}.{secrets.token_urlsafe(12)}"


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _half(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Announce the whole body, send half of it and drop the connection."""
    whole = answer.body if isinstance(answer.body, bytes) and answer.body else b"{}"
    headers = {"Content-Type": "application/json", "Content-Length": str(len(whole))}
    sent = web.StreamResponse(status=200, headers=headers)
    await sent.prepare(request)
    await sent.write(whole[: len(whole) // 2])
    if request.transport is not None:
        request.transport.close()
    return sent
