"""The calls of Secrets Manager."""

from typing import Any

from pydantic import SecretStr

from keyturn.aws import ONE_TRY, Absent, ask, client_of
from keyturn.execution.errors import SecretNotStored
from keyturn.execution.targets import is_same_secret


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
            await self._put(name, _token(f"instead-of-{now[0]}"), before[1])
            return
        described = await ask(lambda: self._client.describe_secret(SecretId=name))
        if len(described.get("VersionIdsToStages") or {}) > 1:
            raise SecretNotStored("the secret has no version AWSPREVIOUS to go back to")
        # It was the first, and its key is about to be deleted: nothing is left to recover.
        await ask(lambda: self._client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True))

    async def _put(self, name: str, token: str, text: str) -> None:
        arguments = {"ClientRequestToken": token, "SecretString": text}
        try:
            await ask(lambda: self._client.put_secret_value(SecretId=name, **arguments), absent="none yet")
        except Absent:
            await ask(lambda: self._client.create_secret(Name=name, **arguments))

    async def _value(self, name: str, stage: str) -> tuple[str, str] | None:
        """The version's ID and its text; None if there is no such version."""
        try:
            found = await ask(
                lambda: self._client.get_secret_value(SecretId=name, VersionStage=stage), absent="none yet"
            )
        except Absent:
            return None
        return str(found["VersionId"]), str(found.get("SecretString", ""))


def _token(version: str) -> str:
    return version.ljust(32, "-")[:64]  # Secrets Manager wants 32 to 64 characters
