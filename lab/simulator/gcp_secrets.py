"""Secret Manager on loopback; no real cloud was called.

https://docs.cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets and its page on consistency.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from keyturn.lab.simulator.gcp_answers import Handler, Refused, fields_if


@dataclass
class Version:
    """A version of a secret. `hidden` counts the lists that do not show it yet."""

    data: bytes = field(repr=False)
    state: str = "ENABLED"
    hidden: int = 0


@dataclass
class SecretManager:
    """The secrets of one project, by their IDs; `hides_for` is how many lists do not show a version added from now.

    `key_is_disabled` is that of the key that encrypts them, at Cloud KMS: enabled versions cannot be read then.
    """

    secrets: dict[str, list[Version]] = field(default_factory=dict)
    hides_for: int = 0
    key_is_disabled: bool = False

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each call."""
        return {
            "secrets.create": self._create,
            "secrets.addVersion": self._add,
            "versions.list": self._list,
            "versions.access": self._access,
            "versions.get": self._get,
            "versions.disable": self._disable,
        }

    def _create(self, words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,255}", sent["secretId"]) is None or sent["replication"] != {"automatic": {}}:
            raise Refused(400, "INVALID_ARGUMENT")
        if sent["secretId"] in self.secrets:
            raise Refused(409, "ALREADY_EXISTS")
        self.secrets[sent["secretId"]] = []
        return {"name": f"projects/1/secrets/{sent['secretId']}"}

    def _add(self, words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        data = base64.b64decode(sent["payload"]["data"], validate=True)
        if str(crc32c(data)) != sent["payload"].get("dataCrc32c") or len(data) > 65_536:
            raise Refused(400, "INVALID_ARGUMENT")
        self._versions(words).append(Version(data, hidden=self.hides_for))
        number = len(self._versions(words))
        return {"name": f"projects/1/secrets/{words['secret']}/versions/{number}", "state": "ENABLED"}

    def _list(self, words: dict[str, str], _sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        shown = []
        for number, version in reversed(list(enumerate(self._versions(words), 1))):
            name = f"projects/1/secrets/{words['secret']}/versions/{number}"
            shown += [] if version.hidden else [{"name": name, "state": version.state}]
            version.hidden = max(0, version.hidden - 1)
        return fields_if(bool(shown), versions=shown) | {"totalSize": len(shown)}

    def _access(self, words: dict[str, str], _sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        version = self._version(words)
        if version.state != "ENABLED" or self.key_is_disabled:
            raise Refused(400, "FAILED_PRECONDITION")
        data = base64.b64encode(version.data).decode()
        return {"name": "a version", "payload": {"data": data, "dataCrc32c": str(crc32c(version.data))}}

    def _get(self, words: dict[str, str], _sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        return {"name": "a version", "state": self._version(words).state}

    def _disable(self, words: dict[str, str], _sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        self._version(words).state = "DISABLED"
        return {"state": "DISABLED"}

    def _versions(self, words: dict[str, str]) -> list[Version]:
        if words["secret"] not in self.secrets:
            raise Refused(404, "NOT_FOUND")
        return self.secrets[words["secret"]]

    def _version(self, words: dict[str, str]) -> Version:
        versions, number = self._versions(words), int(words["version"])
        if not 1 <= number <= len(versions):
            raise Refused(404, "NOT_FOUND")
        return versions[number - 1]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes, a bit at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
