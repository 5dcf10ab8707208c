"""Google Cloud on loopback: service-account keys, the token endpoint, what sees their use, and Secret Manager.

Written from the published documents that its parts name; no real cloud was called. A call is named as its method is,
such as `keys.create`; `token` is one by a user's key, `executor.token` one by the executor's.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from keyturn.lab.simulator.gcp_answers import Refused, decoded, fields_if, page_of
from keyturn.lab.simulator.gcp_iam import Iam
from keyturn.lab.simulator.gcp_secrets import SecretManager

PROJECT = "keyturn-lab"
FaultName = Literal[
    "answer_lost", "request_lost", "half_body", "rate_limit", "unavailable", "html", "precondition", "not_found"
]
_KEYS = r"/v1/projects/(?P<project>[^/]+)/serviceAccounts/(?P<account>[^/]+)/keys"
_KEY = _KEYS + r"/(?P<key>[^/:]+)"
_SECRETS = r"/v1/projects/(?P<project>[^/]+)/secrets"
_SECRET = _SECRETS + r"/(?P<secret>[^/:]+)"
_VERSION = _SECRET + r"/versions/(?P<version>\d+)"
_ROUTES: dict[str, tuple[str, str]] = {
    "assets.search": ("GET", r"/v1/(?P<scope>(?:folders|organizations)/\d+|projects/[^/:]+):searchAllResources"),
    "accounts.list": ("GET", r"/v1/projects/(?P<project>[^/]+)/serviceAccounts"),
    "keys.list": ("GET", _KEYS),
    "keys.create": ("POST", _KEYS),
    "keys.disable": ("POST", _KEY + ":disable"),
    "keys.enable": ("POST", _KEY + ":enable"),
    "keys.delete": ("DELETE", _KEY),
    "activities.query": (
        "GET",
        r"/v1/projects/(?P<project>[^/]+)/locations/global/activityTypes/serviceAccountKeyLastAuthentication"
        r"/activities:query",
    ),
    "timeSeries.list": ("GET", r"/v3/projects/(?P<project>[^/]+)/timeSeries"),
    "secrets.create": ("POST", _SECRETS),
    "secrets.addVersion": ("POST", _SECRET + ":addVersion"),
    "versions.list": ("GET", _SECRET + "/versions"),
    "versions.access": ("GET", _VERSION + ":access"),
    "versions.get": ("GET", _VERSION),
    "versions.disable": ("POST", _VERSION + ":disable"),
}


@dataclass
class GcpSimulator:
    """One project and others beside it, their APIs, and what goes wrong with them.

    Attributes:
        iam: its service accounts; the executor's own is one of them.
        secret_manager: its secrets.
        others: the service accounts of other projects, by the projects' IDs.
        labels: of projects that have some.
        closing: the projects that are to be deleted.
        denied: the calls that the executor has no right to; `CALL PROJECT` for one project's alone.
        faults: each a call's name and what goes wrong with the next one of it.
        calls: the names of the calls so far.
    """

    iam: Iam = field(default_factory=lambda: Iam(PROJECT))
    secret_manager: SecretManager = field(default_factory=SecretManager)
    others: dict[str, Iam] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    closing: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    faults: list[tuple[str, FaultName]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    executor: str = f"executor@{PROJECT}.iam.gserviceaccount.com"

    def executor_file(self, address: str) -> str:
        """Return a key file of the executor's own account, which asks this simulator for tokens."""
        self.iam.accounts.setdefault(self.executor, {})
        return self.iam.key_file(self.executor, self.iam.create_key(self.executor), f"{address}/token")

    def application(self) -> web.Application:
        """Return the aiohttp application that serves all of its APIs."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call, words = self._route(request, body)
        self.calls.append(call)
        fault = next((one for one in self.faults if one[0] == call), None)
        if fault is not None:
            self.faults.remove(fault)
        name = None if fault is None else fault[1]
        if name == "request_lost":
            return _lost(request)
        if name in _INSTEAD:
            return _INSTEAD[name]()
        try:
            status, answer = 200, self._do(call, words, request, body)
        except Refused as refused:
            status, answer = refused.status, refused.body
        if name == "answer_lost":
            return _lost(request)
        if name == "half_body":
            return await _half(request, status, json.dumps(answer).encode())
        return web.json_response(answer, status=status)

    def _route(self, request: web.Request, body: bytes) -> tuple[str, dict[str, str]]:
        if request.path == "/token":
            form = dict(pair.split("=", 1) for pair in body.decode().split("&"))
            issuer = decoded(form.get("assertion", "..").split(".")[1]).get("iss")
            return ("executor.token" if issuer == self.executor else "token"), form
        for call, (method, pattern) in _ROUTES.items():
            found = re.fullmatch(pattern, request.path)
            if found is not None and method == request.method:
                return call, found.groupdict()
        return "unknown", {}

    def _do(self, call: str, words: dict[str, str], request: web.Request, body: bytes) -> dict[str, Any]:
        if call.endswith("token"):
            return self.iam.token(words)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in self.iam.tokens:
            raise Refused(401, "UNAUTHENTICATED")
        if call in self.denied or f"{call} {words.get('project')}" in self.denied:
            raise Refused(403, "PERMISSION_DENIED", {"reason": "IAM_PERMISSION_DENIED"})
        if call == "assets.search":
            return self._search({**request.query, **words})
        iam = ({self.iam.project: self.iam} | self.others).get(words.get("project", ""))
        if iam is None:
            raise Refused(404, "NOT_FOUND")
        handlers = iam.handlers() | (self.secret_manager.handlers() if iam is self.iam else {})
        sent = json.loads(body) if body else {}
        return handlers[call](words, sent | dict(request.query), self.iam.tokens[token])

    def _search(self, sent: dict[str, str]) -> dict[str, Any]:
        """Answer as Cloud Asset Inventory does of projects."""
        shown = [
            {
                "name": f"//cloudresourcemanager.googleapis.com/projects/{project}",
                "assetType": "cloudresourcemanager.googleapis.com/Project",
                "state": "DELETE_REQUESTED" if project in self.closing else "ACTIVE",
                "additionalAttributes": {"projectId": project},
            }
            | fields_if(project in self.labels, labels=self.labels.get(project))
            for project in (self.iam.project, *self.others)
            if sent["scope"] == f"projects/{project}" or not sent["scope"].startswith("projects/")
        ]
        return page_of("results", shown, sent, most=500)


def _error(refused: Refused, **headers: str) -> web.Response:
    return web.json_response(refused.body, status=refused.status, headers=headers)


# What is answered in place of doing anything; `precondition` is the bare refusal of an eleventh key.
_INSTEAD: dict[FaultName | None, Callable[[], web.Response]] = {
    "rate_limit": lambda: _error(Refused(429, "RESOURCE_EXHAUSTED"), **{"retry-after": "30"}),
    "unavailable": lambda: _error(Refused(503, "UNAVAILABLE")),
    "html": lambda: web.Response(text="<html>a proxy</html>", content_type="text/html"),
    "not_found": lambda: _error(Refused(404, "NOT_FOUND")),
    "precondition": lambda: _error(Refused(400, "FAILED_PRECONDITION")),
}


def _lost(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, status: int, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"content-length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
