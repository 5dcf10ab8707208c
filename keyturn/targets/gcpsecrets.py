"""Google Secret Manager, by the credentials that Google's own tools find.

Formats and limits: https://docs.cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions.
"""

import base64
import functools
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget

if TYPE_CHECKING:
    from keyturn.gcp.api import GoogleCloud

_PATH = re.compile(r"projects/([a-z0-9][a-z0-9.:-]{0,127})/secrets/([!-.0-~]{1,255})")
MOST_BYTES = 65_536  # https://docs.cloud.google.com/secret-manager/quotas
# The newest come first, and the one before the current one is among the next: older pages are never needed.
_PAGE = 100
# How many versions may have been added that the list does not show yet: one a rotation, and a few that were repeated.
_UNLISTED = 16


class _Version(NamedTuple):
    """A version that can be read: its number, and what it holds."""

    number: int
    data: bytes


class GcpSecrets:
    """Secrets of Secret Manager, each `projects/P/secrets/S`; the newest enabled version is the current one.

    Adding a version and reading it by its number is consistent; the list and `latest` may be hours behind
    (https://docs.cloud.google.com/secret-manager/docs/reference/consistency). So versions are read by number, the ones
    after the newest that is listed as well: numbers are counted up without a gap.

    Nothing is ever destroyed. In S, what Secret Manager does not allow is written as its code, `@` as `_40`.
    """

    def __init__(self, google_cloud: "GoogleCloud") -> None:
        self._google = google_cloud

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret of `name`, unless it is: a repeated call adds no version.

        A secret that does not exist is created, replicated automatically, where the executor may do so.
        """
        data = secret.get_secret_value().encode()
        if len(data) > MOST_BYTES:
            raise SecretNotStored(f"{name}: Secret Manager takes {MOST_BYTES} bytes at most")
        path = _path(name)
        newest = await self._newest(path)
        if newest is not None and newest.data == data:
            return
        if not await self._add(path, data):
            await self._create(path)
            if not await self._add(path, data):
                raise CloudUnavailable("secrets.addVersion: the new secret is not known yet")

    async def current(self, name: str) -> SecretStr | None:
        """Return the newest enabled version; None if there is none. Bytes that are no UTF-8 are replaced."""
        newest = await self._newest(_path(name))
        return None if newest is None else SecretStr(newest.data.decode(errors="replace"))

    async def restore(self, name: str) -> None:
        """Add the one before as the newest version, or disable the versions of the current one if it was the first.

        Versions that hold the same are one: an addition whose answer was lost may have been repeated.
        """
        path = _path(name)
        same: list[_Version] = []
        async with aclosing(self._enabled(path)) as versions:
            async for version in versions:
                if same and version.data != same[0].data:
                    if not await self._add(path, version.data):
                        raise CloudUnavailable("secrets.addVersion: the secret was deleted since it was read")
                    return
                same.append(version)
        for version in same:
            url = self._url(f"{path}/versions/{version.number}:disable")
            await self._google.ask("versions.disable", "POST", url, json={})

    async def _newest(self, path: str) -> _Version | None:
        async with aclosing(self._enabled(path)) as versions:
            async for version in versions:
                return version
        return None

    async def _enabled(self, path: str) -> AsyncGenerator[_Version, None]:
        """Yield the versions that can be read, the newest first."""
        listed = await self._listed(path)
        newest = max(listed, default=0)
        unlisted: list[_Version | None] = []
        for number in range(newest + 1, newest + 1 + _UNLISTED):
            is_there, version = await self._read(path, number)
            if not is_there:
                break
            unlisted.append(version)
        for version in reversed(unlisted):
            if version is not None:
                yield version
        for number in sorted(listed, reverse=True):
            if not listed[number]:
                continue
            version = (await self._read(path, number))[1]
            if version is not None:
                yield version
            elif await self._is_enabled(path, number):  # else it was disabled or destroyed since it was listed
                raise CloudRefused(
                    f"versions.access: version {number} is enabled and cannot be read: is its encryption key disabled?"
                )

    async def _listed(self, path: str) -> dict[int, bool]:
        """Return whether each version is enabled, by its number; none for a secret that is not there, or not yet."""
        url, params = self._url(f"{path}/versions"), {"pageSize": str(_PAGE)}
        reply = await self._google.ask("versions.list", "GET", url, params=params, expected=frozenset({404}))
        found = ((str(one.get("name")).rpartition("/")[2], one.get("state")) for one in reply.entries("versions"))
        return {int(number): state == "ENABLED" for number, state in found if number.isascii() and number.isdigit()}

    async def _read(self, path: str, number: int) -> tuple[bool, _Version | None]:
        """Return whether a version exists, and the version if it is enabled."""
        url = self._url(f"{path}/versions/{number}:access")
        reply = await self._google.ask("versions.access", "GET", url, expected=frozenset({400, 404}))
        if reply.status == 404:
            return False, None
        if reply.status == 400:
            if reply.code != "FAILED_PRECONDITION":  # which is answered for one that is disabled or destroyed
                raise CloudRefused(reply.in_words("versions.access"))
            return True, None
        payload = reply.body.get("payload")
        data = _decoded(payload if isinstance(payload, dict) else {})
        if data is None:
            raise CloudUnavailable("versions.access: the payload was damaged on its way")
        return True, _Version(number, data)

    async def _is_enabled(self, path: str, number: int) -> bool:
        url = self._url(f"{path}/versions/{number}")
        reply = await self._google.ask("versions.get", "GET", url, expected=frozenset({403, 404}))
        # Without the right to ask, it is what the list says.
        return reply.status == 403 or (reply.status != 404 and reply.body.get("state") == "ENABLED")

    async def _add(self, path: str, data: bytes) -> bool:
        """Add a version; returns False if there is no such secret."""
        # Google refuses a payload that does not have this checksum.
        payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": str(crc32c(data))}
        url = self._url(f"{path}:addVersion")
        reply = await self._google.ask(
            "secrets.addVersion", "POST", url, json={"payload": payload}, expected=frozenset({404})
        )
        return reply.status != 404

    async def _create(self, path: str) -> None:
        project, _, secret_id = path.rpartition("/secrets/")
        reply = await self._google.ask(
            "secrets.create",
            "POST",
            self._url(f"{project}/secrets"),
            params={"secretId": secret_id},
            json={"replication": {"automatic": {}}},
            expected=frozenset({403, 409}),
        )
        if reply.status == 403:
            raise CloudRefused(f"{reply.in_words('secrets.create')}: {path} does not exist and may not be created")

    def _url(self, path: str) -> str:
        return f"{self._google.settings.secrets_url}/v1/{path}"


def _path(name: str) -> str:
    """Return the resource name of a secret; its ID is of letters, digits, `_` and `-`. Raises TargetUnusable."""
    found = _PATH.fullmatch(name)
    secret_id = re.sub(r"[^A-Za-z0-9_-]", lambda one: f"_{ord(one[0]):02X}", "" if found is None else found[2])
    if found is None or len(secret_id) > 255:
        raise TargetUnusable(f"{name[:400]}: a secret of Secret Manager is projects/P/secrets/S")
    return f"projects/{found[1]}/secrets/{secret_id}"


def _decoded(payload: dict[str, object]) -> bytes | None:
    try:
        data = base64.b64decode(str(payload.get("data", "")), validate=True)
    except ValueError:
        return None
    return data if str(payload.get("dataCrc32c", crc32c(data))) == str(crc32c(data)) else None


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes, by Castagnoli's polynomial (RFC 3720, appendix B.4)."""
    table, value = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@functools.cache
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in table]
    return table


def _check(path: str) -> None:
    _path(path)


def _open() -> SecretStore:
    from keyturn.gcp.api import GoogleCloud

    return GcpSecrets(GoogleCloud())


def _settings() -> type[BaseSettings]:
    from keyturn.gcp.settings import GcpSettings

    return GcpSettings


TARGET = SecretTarget(
    "gcpsecrets", path="projects/P/secrets/S", open=_open, settings=_settings, check=_check, extra="gcp"
)
