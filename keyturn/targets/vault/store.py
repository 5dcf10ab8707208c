"""Secrets of the KV secrets engine, version 2, of HashiCorp Vault and of OpenBao.

Source of paths, statuses and check-and-set: OpenBao's API documentation, secret/kv/kv-v2, and Vault's
system/internal-ui-mounts, by which Vault's own command line finds a path's mount and version.

Neither a field nor custom metadata notes the version: a field would reach every program that reads the whole secret,
custom metadata are the path's and not a version's, and need a second write and one more right. The data themselves
say whether they are stored already, and check-and-set that no other writer came between.
"""

import json
import re
import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from keyturn.authorities import public_authorities
from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.rest import Answer, RestApi, is_passing, settings_from_environment
from keyturn.foreign_json import read_json
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Key, is_one_word, secure_url

VALUE = "value"  # the field of a secret that is no JSON object
MISMATCH = "check-and-set parameter did not match the current version"
_NAME = re.compile(r"[!-~]+(?:/[!-~]+)+")


def _one_word(value: str) -> str:
    if not is_one_word(value):
        raise ValueError("must be printable ASCII without blanks around it")
    return value


class VaultSettings(BaseSettings):
    """Which Vault, and by which token: the variables of Vault's own command line."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    address: Annotated[str, AfterValidator(secure_url)] = Field(
        alias="VAULT_ADDR", description="The URL of Vault or OpenBao: https, or http on loopback."
    )
    token: Key | None = Field(default=None, alias="VAULT_TOKEN", description="The executor's token.")
    token_file: Path | None = Field(
        default=None,
        alias="VAULT_TOKEN_FILE",
        description="The file of the executor's token, such as a Vault Agent's sink; read before each request.",
    )
    namespace: Annotated[str, AfterValidator(_one_word)] | None = Field(
        default=None, alias="VAULT_NAMESPACE", description="The namespace that every mount is in."
    )
    authorities: Path | None = Field(
        default=None, alias="VAULT_CACERT", description="The PEM file of the authority of the server's certificate."
    )


class Version(NamedTuple):
    """A version of a secret: 0 if there never was one; `data` is None where there are none, or none any more."""

    number: int
    data: dict[str, Any] | None = None
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    is_destroyed: bool = False


class VaultSecrets:
    """Secrets of KV version 2, whole: fields that others added to a secret go with the version that has them.

    A secret that is a JSON object has its members as fields, any other one the field `value`.
    """

    def __init__(self, settings: VaultSettings | None = None) -> None:
        self._settings = settings or settings_from_environment(VaultSettings)
        if self._settings.token is None and self._settings.token_file is None:
            raise CloudRefused("VAULT_TOKEN or VAULT_TOKEN_FILE is not set")
        _authorities(self._settings.authorities)  # a file that is missing is refused before anything is created
        self._api = RestApi(
            "Vault",
            f"{self._settings.address}/v1/",
            headers=self._headers,
            authorities=lambda: _authorities(self._settings.authorities),
            authorities_named="VAULT_CACERT",
            passing=_is_passing,
        )
        self._mounts: dict[str, str] = {}

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current version of `MOUNT/PATH`, if no other writer comes between.

        Raises:
            TargetUnusable, SecretNotStored: the path is none of KV version 2; nothing was stored.
            CloudRefused: the token has no right to it.
            CloudUnavailable: call again.
        """
        now, data = await self._read(name), _data_of(secret)
        if now.data is None or _canonical(now.data) != _canonical(data):
            await self._write(name, data, instead_of=now.number)

    async def current(self, name: str) -> SecretStr | None:
        """Return the current version, as JSON text where it has other fields than `value`; None if there is none."""
        data = (await self._read(name)).data
        return None if data is None else SecretStr(_text_of(data))

    async def restore(self, name: str) -> None:
        """Write the data of the version before again, or delete the current one if there was none then.

        Raises SecretNotStored where the version before was deleted or destroyed after the current one was written.
        """
        now = await self._read(name)
        if now.data is None:
            return
        before = Version(0) if now.number == 1 else await self._read(name, now.number - 1)
        if before.data is not None:
            await self._write(name, before.data, instead_of=now.number)
        elif now.number == 1 or _was_deleted_before(before, now):
            await self._delete(name, now.number)
        else:
            raise SecretNotStored(
                f"version {now.number - 1} is deleted: undelete it, or write the old secret by hand; then resume"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _read(self, name: str, number: int = 0) -> Version:
        """Return a version, the latest one for 0."""
        path = await self._path(name, "data")
        params = {"version": str(number)} if number else None
        answer = await self._api.ask("GET", path, params=params, accept=(200, 404))
        metadata = answer.member("data", "metadata")
        if isinstance(metadata, dict):  # a deleted version answers 404, with its metadata
            data = answer.member("data", "data")
            return _version(metadata, data if isinstance(data, dict) else None)
        if answer.status == 404 and answer.member("errors") == []:
            return Version(0)
        raise SecretNotStored(f"Vault answered {answer.status}, and no secret of KV version 2")

    async def _write(self, name: str, data: dict[str, Any], *, instead_of: int) -> None:
        body = {"data": data, "options": {"cas": instead_of}}
        await self._api.ask("POST", await self._path(name, "data"), body=body)
        # A standby may be behind, and the next step reads: better wait here than find the old secret there.
        if (await self._read(name)).number <= instead_of:
            raise CloudUnavailable("Vault does not show the new version yet")

    async def _delete(self, name: str, number: int) -> None:
        # By its number, so that a version which another writer adds meanwhile stays.
        await self._api.ask("POST", await self._path(name, "delete"), body={"versions": [number]}, accept=(200, 204))
        now = await self._read(name)
        if now.number == number and now.data is not None:
            raise CloudUnavailable("Vault still shows the deleted version")

    async def _path(self, name: str, operation: str) -> str:
        """Return the path of an operation on a secret; its mount may have slashes, and is looked up once."""
        if not _NAME.fullmatch(name) or {"", ".", ".."} & set(name.split("/")):
            raise TargetUnusable("a Vault secret is named MOUNT/PATH")
        if name not in self._mounts:
            answer = await self._api.ask("GET", f"sys/internal/ui/mounts/{quote(name)}")
            mount = answer.member("data", "path")
            # On version 1, a write for version 2 succeeds, as another secret that no program looks for.
            if answer.member("data", "options", "version") != "2" or not name.startswith(str(mount)):
                raise TargetUnusable("the path is not in a mount of the KV secrets engine, version 2")
            self._mounts[name] = str(mount)
        mount = self._mounts[name]
        return f"{quote(mount)}{operation}/{quote(name.removeprefix(mount))}"

    def _headers(self) -> dict[str, str]:
        # An agent before Vault may ask for X-Vault-Request, against forged requests.
        headers = {"X-Vault-Request": "true", "X-Vault-Token": self._token()}
        if self._settings.namespace is not None:
            headers["X-Vault-Namespace"] = self._settings.namespace
        return headers

    def _token(self) -> str:
        if self._settings.token is not None:
            return self._settings.token.get_secret_value()
        token = ""
        if self._settings.token_file is not None:
            with suppress(OSError, ValueError):
                token = self._settings.token_file.read_text(encoding="utf-8").strip()
        if not token or not is_one_word(token):
            raise CloudRefused("the file of VAULT_TOKEN_FILE cannot be read, or holds no token")
        return token


def _authorities(file: Path | None) -> ssl.SSLContext:
    with suppress(OSError, ValueError):  # an SSLError is an OSError
        return public_authorities() if file is None else ssl.create_default_context(cafile=file)
    raise CloudRefused("the file of VAULT_CACERT cannot be read, or holds no certificate")


def _is_passing(answer: Answer) -> bool:
    # 412: a standby has not caught up. A mismatch: another writer, and the next attempt looks.
    # While a mount is upgraded, and in OpenBao after each restart: "will be unavailable for a brief period".
    said = str(answer.member("errors"))
    passes = MISMATCH in said or "Upgrading from non-versioned to versioned" in said
    return is_passing(answer) or answer.status == 412 or (answer.status == 400 and passes)


def _version(metadata: dict[str, Any], data: dict[str, Any] | None) -> Version:
    number = metadata.get("version")
    if not isinstance(number, int):
        raise SecretNotStored("Vault answered without the number of a version")
    return Version(
        number,
        data,
        _moment(metadata.get("created_time")),
        _moment(metadata.get("deletion_time")),
        metadata.get("destroyed") is True,
    )


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _was_deleted_before(one: Version, other: Version) -> bool:
    """Whether a version was deleted when the next one was written; nothing says when one was destroyed."""
    if one.is_destroyed or one.deleted_at is None or other.created_at is None:
        return False
    return one.deleted_at <= other.created_at


def _data_of(secret: SecretStr) -> dict[str, Any]:
    text = secret.get_secret_value()
    try:
        value = read_json(text)
    except ValueError:
        return {VALUE: text}
    # An object whose only member is `value` is stored as text, or it would be read back as that member.
    return value if isinstance(value, dict) and value and set(value) != {VALUE} else {VALUE: text}


def _text_of(data: dict[str, Any]) -> str:
    if set(data) == {VALUE} and isinstance(data[VALUE], str):
        return str(data[VALUE])
    return json.dumps(data, ensure_ascii=False)


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True)  # 1, 1.0 and true are equal for Python
