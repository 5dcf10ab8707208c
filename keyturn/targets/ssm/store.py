"""The calls of Parameter Store, a part of AWS Systems Manager.

Source of names, sizes and errors: the API reference of PutParameter and GetParameter, as botocore has it.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import SecretStr

from keyturn.aws import ONE_TRY, ask, client_of
from keyturn.errors import KeyturnError
from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable

T = TypeVar("T")

STANDARD_BYTES, ADVANCED_BYTES = 4_096, 8_192  # of a value, in the two tiers
# Equal versions that are skipped on the way to the one before: a lost answer and a late read leave one more.
MOST_EQUAL = 10
# DescribeParameters answers on a best-effort basis: a page may be empty, with another one behind it.
MOST_PAGES = 10
# A colon would select a version, and an ARN another account's parameter.
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,1011}")
_PASSING = {"ParameterAlreadyExists", "TooManyUpdates"}


class ParameterStore:
    """SecureString parameters. A parameter has no check-and-set: `put` reads first, so that a repeat adds no version.

    `settings` are arguments of boto3's client, for tests.
    """

    def __init__(self, **settings: Any) -> None:
        self._client = client_of("ssm", {"config": ONE_TRY} | settings)

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current value of the parameter `name`, with the KMS key that it has.

        Raises:
            TargetUnusable, SecretNotStored: the name is none, or the value is too long.
            CloudRefused: a right is missing, or the parameter is no SecureString: its value would be stored in clear.
            CloudUnavailable: call again.
        """
        expect_name(name)
        text = secret.get_secret_value()
        if len(text.encode()) > ADVANCED_BYTES:
            raise SecretNotStored(f"a parameter takes {ADVANCED_BYTES} bytes, and the secret has more")
        now = await self._read(name)
        if now is not None and now["Type"] != "SecureString":
            raise CloudRefused(f"the parameter is a {now['Type'][:64]}: delete it, or name another; nothing was stored")
        if now is None or now["Value"] != text:
            await self._write(name, text, is_new=now is None)

    async def current(self, name: str) -> SecretStr | None:
        """Return the current value; None if there is no such parameter."""
        expect_name(name)
        found = await self._read(name)
        return None if found is None else SecretStr(str(found["Value"]))

    async def restore(self, name: str) -> None:
        """Write the value of the version before again, or delete the parameter if there was none.

        Raises SecretNotStored where the version before is deleted: AWS retains the newest 100.
        """
        expect_name(name)
        now = await self._read(name)
        if now is None:
            return
        number = int(now["Version"]) - 1
        for selected in range(number, max(number - MOST_EQUAL, 0), -1):
            before = await self._read(f"{name}:{selected}")
            if before is None:
                break
            if before["Value"] != now["Value"]:
                await self._write(name, str(before["Value"]), is_new=False)
                return
        else:
            if number <= MOST_EQUAL:  # each version is this value, so that there was none before it
                await self._delete(name)
                return
        raise SecretNotStored("the version before is deleted: write the old secret into the parameter by hand")

    async def _read(self, selector: str) -> dict[str, Any] | None:
        errors = self._client.exceptions

        def read() -> dict[str, Any] | None:
            try:
                found = self._client.get_parameter(Name=selector, WithDecryption=True)["Parameter"]
            except (errors.ParameterNotFound, errors.ParameterVersionNotFound):
                return None
            return dict(found)

        return await _ask(read)

    async def _write(self, name: str, text: str, *, is_new: bool) -> None:
        arguments: dict[str, Any] = {"Name": name, "Value": text, "Type": "SecureString", "Overwrite": not is_new}
        # Intelligent-Tiering never makes an advanced parameter a standard one, which AWS refuses.
        arguments["Tier"] = "Advanced" if len(text.encode()) > STANDARD_BYTES else "Intelligent-Tiering"
        key_id = None if is_new else await self._key_of(name)
        if key_id is not None:
            arguments["KeyId"] = key_id
        stored = await _ask(lambda: self._client.put_parameter(**arguments))
        shown = await self._read(name)
        if shown is None or int(shown["Version"]) < int(stored["Version"]):
            raise CloudUnavailable("the parameter does not show its new version yet")

    async def _key_of(self, name: str) -> str | None:
        """Return the KMS key of a parameter: a write without one may fall back to the account's default key."""
        arguments: dict[str, Any] = {"ParameterFilters": [{"Key": "Name", "Option": "Equals", "Values": [name]}]}
        for _ in range(MOST_PAGES):
            page = await _ask(lambda: self._client.describe_parameters(**arguments))
            for found in page.get("Parameters", []):
                return None if found.get("KeyId") is None else str(found["KeyId"])
            if "NextToken" not in page:
                break
            arguments["NextToken"] = page["NextToken"]
        raise CloudUnavailable("DescribeParameters does not show the parameter yet")

    async def _delete(self, name: str) -> None:
        errors = self._client.exceptions

        def delete() -> None:
            try:
                self._client.delete_parameter(Name=name)
            except errors.ParameterNotFound:
                return  # deleted already

        await _ask(delete)
        if await self._read(name) is not None:
            raise CloudUnavailable("the parameter is still shown")


async def _ask(call: Callable[[], T]) -> T:
    """Make one call, as `ask` does; its error has no context, because botocore's has the request with the secret."""
    try:
        return await ask(call, passing=_PASSING)
    except KeyturnError as error:
        failure = error
    failure.__context__ = None
    raise failure


def expect_name(name: str) -> None:
    """Check that a parameter may be called so; raises TargetUnusable."""
    if not _NAME.fullmatch(name):
        raise TargetUnusable("a parameter's name is of letters, digits and _ . - /")
