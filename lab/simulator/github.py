"""GitHub's REST API on loopback, as far as secrets of Actions go. It decrypts what it gets, as a workflow's run would.

Written from published documents alone: docs.github.com, REST API endpoints for GitHub Actions secrets, Encrypting
secrets for the REST API, Rate limits for the REST API, and Troubleshooting the REST API; that an organization's secret
loses its repositories where a write leaves them out is from external-secrets/external-secrets#6514. No real GitHub was
called.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from keyturn.lab.simulator.rest_faults import RestFaults, json_of

KEY_ID = "568250167242549743"


@dataclass
class Secret:
    """A secret, as a workflow's run reads it, and who may; `writes` counts how often it was written."""

    value: str
    visibility: str | None = None
    repositories: list[int] = field(default_factory=list)
    writes: int = 1


@dataclass
class GitHubSimulator:
    """The state of one GitHub.

    Attributes:
        tokens: by the token, the paths that it may use, by their beginning.
        places: where secrets can be: a repository, an environment or an organization, by its path.
        secrets: by the path of a place and the name.
        limited: the headers, and the message, of a 403 that is a rate limit; it meets every call until it is None.
        page: how many repositories the pages of a list have at most.
    """

    tokens: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    secrets: dict[str, Secret] = field(default_factory=dict)
    limited: tuple[dict[str, str], str] | None = None
    page: int = 100
    faults: RestFaults = field(default_factory=RestFaults)
    key: PrivateKey = field(default_factory=PrivateKey.generate)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this GitHub."""
        application = web.Application(middlewares=[self.faults.middleware()])
        router = application.router
        for place in (
            "/repos/{owner}/{repo}/actions/secrets",
            "/repos/{owner}/{repo}/environments/{environment}/secrets",
            "/orgs/{org}/actions/secrets",
        ):
            router.add_get(f"{place}/public-key", self._public_key)
            router.add_get(f"{place}/{{name}}", self._show)
            router.add_put(f"{place}/{{name}}", self._write)
        router.add_get("/orgs/{org}/actions/secrets/{name}/repositories", self._repositories)
        return application

    def read(self, place: str, name: str) -> str | None:
        """Return what a workflow's run reads; None if there is no such secret."""
        found = self.secrets.get(f"{place}/{name}")
        return None if found is None else found.value

    def _refusal(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        allowed = self.tokens.get(token)
        if self.limited is not None:
            return web.json_response({"message": self.limited[1]}, status=403, headers=self.limited[0])
        if not request.headers.get("User-Agent") or request.headers.get("X-GitHub-Api-Version") != "2022-11-28":
            return _message(400, "Unsupported API version, or no User-Agent")
        if scheme != "Bearer" or allowed is None:
            return _message(401, "Bad credentials")
        place = _place(request)
        if place not in self.places:
            return _message(404, "Not Found")
        is_allowed = any(place.startswith(path) for path in allowed)
        return None if is_allowed else _message(403, "Resource not accessible by personal access token")

    async def _public_key(self, request: web.Request) -> web.Response:
        key = base64.b64encode(bytes(self.key.public_key)).decode()
        return self._refusal(request) or web.json_response({"key_id": KEY_ID, "key": key})

    async def _show(self, request: web.Request) -> web.Response:
        found = self.secrets.get(_name(request))
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if found is None:
            return _message(404, "Not Found")
        shown: dict[str, Any] = {"name": request.match_info["name"], "created_at": "2026-01-01T00:00:00Z"}
        return web.json_response(shown | ({"visibility": found.visibility} if found.visibility else {}))

    async def _repositories(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        ids = self.secrets[_name(request)].repositories
        size = min(int(request.query.get("per_page", "30")), self.page)
        start = (int(request.query.get("page", "1")) - 1) * size
        listed = [{"id": one, "name": f"repository-{one}"} for one in ids[start : start + size]]
        return web.json_response({"total_count": len(ids), "repositories": listed})

    async def _write(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body, name = await json_of(request), _name(request)
        if body.get("key_id") != KEY_ID:
            return _message(422, "Validation Failed")
        try:
            value = SealedBox(self.key).decrypt(base64.b64decode(body["encrypted_value"])).decode()
        except (CryptoError, ValueError, KeyError):
            return _message(422, "Validation Failed")
        before = self.secrets.get(name)
        self.secrets[name] = secret = Secret(value, writes=1 if before is None else before.writes + 1)
        if name.startswith("/orgs/"):
            if body.get("visibility") not in {"all", "private", "selected"}:
                return _message(422, "Invalid request. visibility is missing")
            secret.visibility = body["visibility"]
            secret.repositories = list(body.get("selected_repository_ids", []))
        return web.json_response({}, status=201) if before is None else web.Response(status=204)


def _place(request: web.Request) -> str:
    return request.path.partition("/actions/secrets")[0].partition("/secrets/")[0]


def _name(request: web.Request) -> str:
    return f"{_place(request)}/{request.match_info['name']}"


def _message(status: int, message: str) -> web.Response:
    return web.json_response({"message": message, "documentation_url": "https://docs.github.com/rest"}, status=status)
