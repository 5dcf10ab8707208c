"""Key Vault's secrets on loopback, for the simulator of Entra: versions, disabled ones, names of deleted ones.

Written from Key Vault's REST reference of secrets (learn.microsoft.com/rest/api/keyvault/secrets), 2025-07-01; what it
answers for a disabled or a deleted secret is as public recordings of others have it. No real cloud was called.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass
class Version:
    """A version of a secret in a vault."""

    version_id: str
    value: str
    content_type: str | None
    tags: dict[str, str]
    created: int
    enabled: bool = True


class Vaults:
    """The secrets of any number of vaults, by VAULT/NAME, the oldest version first."""

    def __init__(self) -> None:
        self.secrets: dict[str, list[Version]] = {}
        self.deleted: dict[str, str] = {}  # by VAULT/NAME, the code that its name is refused with
        self.clock: Callable[[], float] = time.time
        self.page_size = 25

    def handle(self, operation: str, place: str, version: str | None, sent: Any, request: web.Request) -> web.Response:
        """Answer one operation: get, set, update or versions."""
        if operation == "set":
            return self._set(place, sent, request)
        if operation == "versions":
            return self._versions(place, request)
        found = self._version(place, version)
        if found is None:
            return error_answer(404, "SecretNotFound")
        if operation == "update":
            found.enabled = sent.get("attributes", {}).get("enabled", found.enabled)
            return web.json_response(_bundle(request, place, found))
        if not found.enabled:
            return error_answer(403, "Forbidden", inner="SecretDisabled")
        return web.json_response(_bundle(request, place, found) | {"value": found.value})

    def _set(self, place: str, sent: Any, request: web.Request) -> web.Response:
        if place in self.deleted:
            return error_answer(409, "Conflict", inner=self.deleted[place])
        enabled = sent.get("attributes", {}).get("enabled", True)
        created = int(self.clock())
        new = Version(uuid.uuid4().hex, sent["value"], sent.get("contentType"), sent.get("tags", {}), created, enabled)
        self.secrets.setdefault(place, []).append(new)
        return web.json_response(_bundle(request, place, new) | {"value": new.value})

    def _versions(self, place: str, request: web.Request) -> web.Response:
        start = int(request.query.get("$skiptoken", "0"))
        # In no order: Key Vault promises none.
        listed = sorted(self.secrets.get(place, []), key=lambda one: one.version_id)
        page: dict[str, Any] = {
            "value": [_bundle(request, place, one) for one in listed[start : start + self.page_size]]
        }
        following = start + self.page_size
        more = f"{request.url.origin()}{request.path}?api-version=2025-07-01&$skiptoken={following}"
        return web.json_response(page | {"nextLink": more if following < len(listed) else None})

    def _version(self, place: str, version: str | None) -> Version | None:
        if place in self.deleted:
            return None
        versions = self.secrets.get(place, [])
        if version is None:
            return versions[-1] if versions else None
        return next((one for one in versions if one.version_id == version), None)


def _bundle(request: web.Request, place: str, version: Version) -> dict[str, Any]:
    vault, name = place.split("/")
    attributes = {"enabled": version.enabled, "created": version.created, "updated": version.created}
    address = f"{request.url.origin()}/{vault}/secrets/{name}/{version.version_id}"
    return {"id": address, "contentType": version.content_type, "tags": version.tags, "attributes": attributes}


def error_answer(
    status: int, code: str, *, inner: str | None = None, message: str = "", retry_after: int | None = None
) -> web.Response:
    """Return an error as Graph and Key Vault write it; the text is one that no client may repeat."""
    error: dict[str, Any] = {"code": code, "message": message or "a text that may repeat what was sent"}
    if inner is not None:
        error["innererror"] = {"code": inner}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response({"error": error}, status=status, headers=headers)
