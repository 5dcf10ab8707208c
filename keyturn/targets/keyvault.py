"""Azure Key Vault, by the credentials that Azure's own tools find.

Each put is a new version of the secret. Its tags say which key it is of and which version was current before: a put
whose answer was lost is recognised by the one, and `restore` goes back by the other. Versions have their time of
creation in whole seconds only, so that two of one second have no order.

Formats: https://learn.microsoft.com/rest/api/keyvault/secrets, set, get, update and list versions.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudUnavailable, SecretLeaving, SecretNotStored, TargetUnusable
from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget

if TYPE_CHECKING:  # they import httpx, and modules of this package are imported at every start
    from keyturn.azure.calls import Reply, TokenProvider
    from keyturn.azure.settings import AzureSettings

_API_VERSION = {"api-version": "2025-07-01"}
_VERSION_TAG, _BEFORE_TAG, _NONE = "keyturn-version", "keyturn-before", "none"
# A vault's name (3 to 24 characters), or its host in one of Microsoft's clouds: a token is sent to no other.
_PATH = re.compile(
    r"(?P<vault>[A-Za-z0-9-]{3,24})(?:\.(?P<domain>vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net))?"
    r"/(?P<name>[0-9A-Za-z-]{1,127})"
)
_VERSION_ID = re.compile(r"[0-9A-Za-z]{1,64}")
# A vault has 25 versions a page: who rotates daily for three years has 44 pages.
_MOST_PAGES = 50


class _Place(NamedTuple):
    """Where a secret is: its address, and what the token for it is for."""

    url: str
    scope: str


class _Version(NamedTuple):
    """One version with its value."""

    version_id: str
    value: SecretStr
    content_type: str | None
    tags: Mapping[str, str]


class KeyVault:
    """Secrets of key vaults, by `VAULT/NAME`.

    It never deletes a secret: the name of a deleted one is blocked for the 7 to 90 days of its soft delete, and who
    may purge it could destroy any. `restore` of a first version disables it instead, and the name can be used again.

    Args:
        settings: those of the environment, unless given.
        token: where access tokens come from; azure-identity's chain, unless given.
    """

    def __init__(self, settings: "AzureSettings | None" = None, token: "TokenProvider | None" = None) -> None:
        from keyturn.azure.calls import AzureCalls, default_tokens
        from keyturn.azure.settings import azure_settings

        self._template = (settings or azure_settings()).vault_url
        self._calls = AzureCalls(token or default_tokens())

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret of `name`; the same version with the same value twice changes nothing.

        Raises:
            SecretLeaving: the name is of a deleted secret, which must be recovered or purged first.
            CloudUnavailable, CloudRefused: call again.
        """
        place = self._place(name)
        now = await self._get(place)
        text = secret.get_secret_value()
        if now is not None and now.tags.get(_VERSION_TAG) == version and now.value.get_secret_value() == text:
            return
        # Tags of others, such as an owner's, belong to the secret: a new version starts without any.
        tags = {} if now is None else dict(now.tags)
        tags |= {_VERSION_TAG: version, _BEFORE_TAG: _NONE if now is None else now.version_id}
        await self._set(place, text, content_type="application/json", tags=tags)

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret; None if there is none, or it is disabled."""
        found = await self._get(self._place(name))
        return None if found is None else found.value

    async def restore(self, name: str) -> None:
        """Make the one before current again, as a new version; where there is none, disable the current one."""
        place = self._place(name)
        now = await self._get(place)
        if now is None:
            return
        before_id = now.tags.get(_BEFORE_TAG) or await self._version_before(place, now.version_id)
        is_named = before_id != _NONE and _VERSION_ID.fullmatch(before_id) is not None
        before = await self._get(place, before_id) if is_named else None
        if is_named and before is None:
            raise SecretNotStored(
                f"{name}: the version before, {before_id}, is disabled or gone: enable it, and resume"
            )
        if before is not None:
            # With the tags that it had: the one before it is still the one to go back to from it.
            await self._set(place, before.value.get_secret_value(), before.content_type, tags=before.tags)
            return
        url = f"{place.url}/{now.version_id}"
        disabled = {"attributes": {"enabled": False}}
        reply = await self._calls.ask(
            "update secret", "PATCH", url, scope=place.scope, params=_API_VERSION, json=disabled
        )
        reply.expect(200)

    async def close(self) -> None:
        """Close the connections to the vaults."""
        await self._calls.close()

    def _place(self, path: str) -> _Place:
        found = _parse(path)
        template = self._template if found["domain"] is None else f"https://{{vault}}.{found['domain']}"
        domain = (urlsplit(template).hostname or "").partition("{vault}.")[2] or "vault.azure.net"
        vault_url = template.replace("{vault}", found["vault"])
        return _Place(f"{vault_url}/secrets/{found['name']}", f"https://{domain}/.default")

    async def _get(self, place: _Place, version_id: str = "") -> _Version | None:
        """Return a version, the current one unless named; None if it is not there, or disabled."""
        url = f"{place.url}/{version_id}" if version_id else place.url
        reply = await self._calls.ask("get secret", "GET", url, scope=place.scope, params=_API_VERSION)
        if reply.status == 404 or (reply.status == 403 and reply.code == "SecretDisabled"):
            return None
        return _version_in(reply, reply.expect(200))

    async def _set(self, place: _Place, text: str, content_type: str | None, tags: Mapping[str, str]) -> None:
        wanted: dict[str, Any] = {"value": text, "tags": dict(tags), "attributes": {"enabled": True}}
        if content_type is not None:
            wanted["contentType"] = content_type
        reply = await self._calls.ask(
            "set secret", "PUT", place.url, scope=place.scope, params=_API_VERSION, json=wanted
        )
        if reply.status == 409 and reply.code == "ObjectIsDeletedButRecoverable":
            error = SecretLeaving("set secret: a secret of this name is deleted and can be recovered")
            error.hint = (
                "Recover it (`az keyvault secret recover --vault-name VAULT --name NAME`) or purge it: "
                "then the rotation continues."
            )
            raise error
        reply.expect(200)

    async def _version_before(self, place: _Place, version_id: str) -> str:
        """Return the enabled version that was created last before one without our tags; `none` if there is none."""
        url: str | None = f"{place.url}/versions?api-version={_API_VERSION['api-version']}"
        created: dict[str, int] = {}
        for _ in range(_MOST_PAGES):
            reply = await self._calls.ask("list versions", "GET", str(url), scope=place.scope)
            page, url = _page_in(reply, reply.expect(200))
            created |= page
            if url is None:
                created.pop(version_id, None)  # the current one is the latest
                return max(created, key=created.__getitem__, default=_NONE)
            if _origin(url) != _origin(place.url):
                raise reply.unreadable()  # the token is for this vault only
        raise CloudUnavailable(f"list versions: more than {_MOST_PAGES} pages")


def _version_in(reply: "Reply", body: Any) -> _Version:
    """Return the version of a secret bundle, whose `id` is `https://VAULT/secrets/NAME/VERSION`."""
    if not isinstance(body, dict) or not isinstance(body.get("value"), str):
        raise reply.unreadable()
    version_id = _version_id(body.get("id"))
    if version_id is None:
        raise reply.unreadable()
    tags, content_type = body.get("tags"), body.get("contentType")
    texts = {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {}
    return _Version(
        version_id, SecretStr(body["value"]), content_type if isinstance(content_type, str) else None, texts
    )


def _page_in(reply: "Reply", body: Any) -> tuple[dict[str, int], str | None]:
    """Return the enabled versions of a page by their IDs, each with its second of creation; and the next page."""
    entries = body.get("value") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise reply.unreadable()
    created = {}
    for entry in entries:
        attributes = entry.get("attributes") if isinstance(entry, dict) else None
        version_id = _version_id(entry.get("id")) if isinstance(entry, dict) else None
        if isinstance(attributes, dict) and version_id is not None and attributes.get("enabled") is True:
            moment = attributes.get("created")
            created[version_id] = moment if isinstance(moment, int) else 0
    return created, str(body["nextLink"]) if body.get("nextLink") else None


def _version_id(address: Any) -> str | None:
    last = str(address).rpartition("/")[2]
    return last if _VERSION_ID.fullmatch(last) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _parse(path: str) -> re.Match[str]:
    found = _PATH.fullmatch(path)
    if found is None:
        raise TargetUnusable("keyvault: the path is not VAULT/NAME, of letters, digits and -")
    return found


def _check(path: str) -> None:
    _parse(path)


def _open() -> SecretStore:
    return KeyVault()


def _settings() -> type[BaseSettings]:
    from keyturn.azure.settings import AzureSettings

    return AzureSettings


TARGET = SecretTarget("keyvault", path="VAULT/NAME", open=_open, settings=_settings, check=_check, extra="azure")
