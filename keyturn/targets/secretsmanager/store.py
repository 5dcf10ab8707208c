"""The calls of Secrets Manager."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from keyturn.aws import ONE_TRY, Absent, ask, client_of
from keyturn.execution.errors import SecretNotStored
from keyturn.execution.targets import is_same_secret

# A secret that is created with a value has its first version at once.
_AT_ONCE = timedelta(seconds=10)


class SecretsManager:
    """AWS Secrets Manager. A version's token is the key's ID: a `put` whose answer was lost is repeated safely."""

    def __init__(self, **settings: Any) -> None:
        self._client = client_of("secretsmanager", {"config": ONE_TRY} | settings)

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret of `name`; the same version twice changes nothing.

        AWS ignores such a repeat, and refuses it for ever if the text differs: it does where an earlier attempt had the
        secret from the cloud, and this one from another target, which writes a JSON object in its own layout. Others
        that speak its API move AWSPREVIOUS with a repeat, and lose the one before.
        """
        token, text = _token(version), secret.get_secret_value()
        now = await self._value(name, "AWSCURRENT")
        if now is None or now[0] != token or not is_same_secret(now[1], text):
            await self._put(name, token, text)

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret."""
        found = await self._value(name, "AWSCURRENT")
        return None if found is None else SecretStr(found[1])

    async def restore(self, name: str) -> None:
        """Make the one before current again."""
        now, before = await self._value(name, "AWSCURRENT"), await self._value(name, "AWSPREVIOUS")
        if before is not None and now is not None:
            if not before[1]:
                raise SecretNotStored(f"{name}: the version before holds no text: make it current by hand, and resume")
            await self._put(name, _token(f"instead-of-{now[0]}"), before[1])
            return
        described = await ask(lambda: self._client.describe_secret(SecretId=name))
        if len(described.get("VersionIdsToStages") or {}) > 1:
            raise SecretNotStored("the secret has no version AWSPREVIOUS to go back to")
        if now is None or not _is_as_old_as(described.get("CreatedDate"), now[2]):
            # It was there before, without a value: its policy, tags and replicas are its owner's.
            raise SecretNotStored(
                f"{name} was empty before: store the old key's secret there, or delete it, and resume"
            )
        # We created it, and its key is about to be deleted: nothing is left to recover.
        await ask(lambda: self._client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True))

    async def _put(self, name: str, token: str, text: str) -> None:
        arguments = {"ClientRequestToken": token, "SecretString": text}
        try:
            await ask(lambda: self._client.put_secret_value(SecretId=name, **arguments), absent="none yet")
        except Absent:
            await ask(lambda: self._client.create_secret(Name=name, **arguments))

    async def _value(self, name: str, stage: str) -> tuple[str, str, Any] | None:
        """The version's ID, its text, and when it was created; None if there is no such version."""
        try:
            found = await ask(
                lambda: self._client.get_secret_value(SecretId=name, VersionStage=stage), absent="none yet"
            )
        except Absent:
            return None
        return str(found["VersionId"]), str(found.get("SecretString", "")), found.get("CreatedDate")


def _is_as_old_as(secret: Any, version: Any) -> bool:
    """Whether a secret was created with this version, by their dates."""
    return isinstance(secret, datetime) and isinstance(version, datetime) and abs(version - secret) <= _AT_ONCE


def _token(version: str) -> str:
    """Return a version as Secrets Manager wants it, of 32 to 64 characters; no two alike."""
    if len(version) > 64:
        return f"{version[:23]}.{hashlib.sha256(version.encode()).hexdigest()[:40]}"
    return version.ljust(32, "-")
