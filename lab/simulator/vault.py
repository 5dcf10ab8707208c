"""A Vault on loopback, as far as the KV secrets engine goes: versions 1 and 2, check-and-set, policies, namespaces.

Written from published documents alone: OpenBao's API documentation (secret/kv/kv-v2 and secret/kv/kv-v1), its policy
concepts, and HashiCorp's pages on system/internal-ui-mounts, HTTP status codes and error bodies. No real Vault was
called, and no code of it is in here.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.rest_faults import RestFaults, json_of

MOST_VERSIONS = 10  # of a secret, unless its engine is configured otherwise
MISMATCH = "check-and-set parameter did not match the current version"


@dataclass
class Stored:
    """One version of a secret."""

    number: int
    data: dict[str, Any] | None
    created_time: str
    deletion_time: str = ""
    destroyed: bool = False

    def metadata(self) -> dict[str, Any]:
        """Return what every answer has of it."""
        return {
            "created_time": self.created_time,
            "custom_metadata": None,
            "deletion_time": self.deletion_time,
            "destroyed": self.destroyed,
            "version": self.number,
        }


@dataclass
class VaultSimulator:
    """The state of one Vault.

    Attributes:
        tokens: by the token, its policy: capabilities by path, a `*` at its end matches anything.
        mounts: by the mount, with a slash at its end, its KV version.
        namespace: the one that everything is in; empty for the root.
        most_versions: how many versions of a secret are retained.
        lag: how many reads after each write a standby answers, which lacks it.
        stale_reads: how many of the next reads such a standby answers.
    """

    tokens: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    mounts: dict[str, int] = field(default_factory=lambda: {"secret/": 2})
    namespace: str = ""
    most_versions: int = MOST_VERSIONS
    lag: int = 0
    stale_reads: int = 0
    faults: RestFaults = field(default_factory=RestFaults)
    secrets: dict[str, list[Stored]] = field(default_factory=dict)
    first_version: dict[str, Any] = field(default_factory=dict)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this Vault."""
        application = web.Application(middlewares=[self.faults.middleware()])
        application.router.add_get("/v1/sys/internal/ui/mounts/{path:.+}", self._show_mount)
        application.router.add_route("*", "/v1/{path:.+}", self._serve)
        return application

    def latest(self, name: str) -> dict[str, Any] | None:
        """Return what a program reads under `MOUNT/PATH`; None if there is nothing."""
        versions = self.secrets.get(name)
        return versions[-1].data if versions and not versions[-1].deletion_time else None

    def write(self, name: str, data: dict[str, Any]) -> None:
        """Add a version, as another program would."""
        versions = self.secrets.setdefault(name, [])
        versions.append(Stored(versions[-1].number + 1 if versions else 1, data, _now()))
        del versions[: -self.most_versions]
        self.stale_reads = self.lag

    def delete(self, name: str, number: int) -> None:
        """Delete a version, as a person would; its data could be brought back."""
        for version in self.secrets.get(name, []):
            if version.number == number and not version.deletion_time:
                version.deletion_time = _now()

    def destroy(self, name: str, number: int) -> None:
        """Destroy a version's data for ever."""
        for version in self.secrets[name]:
            if version.number == number:
                version.data, version.destroyed = None, True

    async def _show_mount(self, request: web.Request) -> web.Response:
        policy, path = self._policy(request), request.match_info["path"]
        mount = self._mount_of(path)
        if policy is None or mount is None or not any(allowed.startswith(mount) for allowed in policy):
            return _errors(403, "preflight capability check returned 403, please ensure client's policies grant access")
        options = {"version": str(self.mounts[mount])}
        return web.json_response({"data": {"path": mount, "type": "kv", "options": options}})

    async def _serve(self, request: web.Request) -> web.Response:
        policy, path = self._policy(request), request.match_info["path"]
        mount = self._mount_of(path)
        if policy is None or mount is None:
            return _errors(403, "permission denied")
        operation, _, rest = path.removeprefix(mount).partition("/")
        name = f"{mount}{rest}"
        is_new = name not in self.secrets and path not in self.first_version and operation == "data"
        needed = {"GET": "read"}.get(request.method, "create" if is_new else "update")
        if needed not in _capabilities(policy, path):
            return _errors(403, "permission denied")
        body = await json_of(request)
        if self.mounts[mount] == 1:
            return self._version_1(request.method, path, body)
        return self._version_2(f"{request.method} {operation}", name, body, request.query.get("version", "0"))

    def _version_2(self, operation: str, name: str, body: dict[str, Any], number: str) -> web.Response:
        match operation:
            case "GET data":
                return self._read(name, int(number))
            case "POST data":
                return self._write(name, body)
            case "POST delete":
                for one in body.get("versions", []):
                    self.delete(name, int(one))
                return web.Response(status=204)
        return _errors(405, "unsupported operation")

    def _version_1(self, method: str, path: str, body: dict[str, Any]) -> web.Response:
        if method == "GET":
            found = self.first_version.get(path)
            return _errors(404) if found is None else web.json_response({"data": found})
        self.first_version[path] = body
        return web.Response(status=204)

    def _read(self, name: str, number: int) -> web.Response:
        versions = self.secrets.get(name, [])
        if self.stale_reads > 0:
            self.stale_reads -= 1
            versions = versions[:-1]
        found = [one for one in versions if one.number == number] if number else versions[-1:]
        if not found:
            return _errors(404)
        version = found[0]
        is_gone = version.destroyed or bool(version.deletion_time)
        # Go writes the members of a map in their order.
        data = None if is_gone or version.data is None else dict(sorted(version.data.items()))
        body = {"data": {"data": data, "metadata": version.metadata()}}
        return web.json_response(body, status=404 if is_gone else 200)

    def _write(self, name: str, body: dict[str, Any]) -> web.Response:
        versions = self.secrets.get(name, [])
        current = versions[-1].number if versions else 0
        if not isinstance(body.get("data"), dict):
            return _errors(400, "no data provided")
        expected = body.get("options", {}).get("cas")
        if expected is not None and expected != current:
            return _errors(400, MISMATCH)
        self.write(name, body["data"])
        return web.json_response({"data": self.secrets[name][-1].metadata()})

    def _policy(self, request: web.Request) -> dict[str, set[str]] | None:
        if request.headers.get("X-Vault-Namespace", "") != self.namespace:
            return None
        return self.tokens.get(request.headers.get("X-Vault-Token", ""))

    def _mount_of(self, path: str) -> str | None:
        found = [mount for mount in self.mounts if path.startswith(mount)]
        return max(found, key=len) if found else None


def _capabilities(policy: dict[str, set[str]], path: str) -> set[str]:
    fit = [key for key in policy if key == path or (key.endswith("*") and path.startswith(key[:-1]))]
    return policy[max(fit, key=len)] if fit else set()


def _errors(status: int, *errors: str) -> web.Response:
    return web.json_response({"errors": list(errors)}, status=status)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"  # nanoseconds, as Go has them
