"""AWS, as a rotation of IAM access keys needs it: six calls of IAM, one of STS, and Secrets Manager.

Endpoint, region and credentials are found as AWS's own tools find them. No call is repeated here: whether its answer
was lost is for the step to find out, which looks at what is there before it acts (docs/explanation/executor.md).
"""

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
)
from pydantic import SecretStr

from keyturn.errors import AwsRefused, AwsUnavailable, KeyLimit, SecretLeaving, UserGone

T = TypeVar("T")
# IAM answers in tenths of a second: after 10 s no answer will come. A retry of boto3's own would hide a lost one.
_ONE_TRY = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
# What passes by itself: throttling, faults of theirs, and what IAM has not told all of its own hosts yet.
_PASSING = {
    "ConcurrentModification",
    "ConcurrentModificationException",
    "EntityTemporarilyUnmodifiable",
    "InternalError",
    "InternalFailure",
    "InternalServiceError",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceFailure",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
# A key that was made seconds ago is answered so until every host of AWS knows it.
_UNKNOWN_KEY = {"InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidAccessKeyId"}


@dataclass(frozen=True)
class AccessKey:
    """One access key of a user, without its secret."""

    key_id: str
    active: bool
    created_at: datetime


class SecretStore(Protocol):
    """Where the new secret goes, for whatever uses it. A secret is only ever in here and in a step's memory."""

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret of `name`, keeping the one before; again with the same key, nothing happens."""
        ...

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret; None if there is none."""
        ...

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again, if the current one is of `instead_of`; forget it if it was the first."""
        ...


class AwsAccessKeys:
    """IAM access keys, by AWS's own configuration; `settings` are arguments of boto3's clients, for tests."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"config": _ONE_TRY} | settings
        self._iam = _client("iam", self._settings)
        self._sts = _client("sts", self._settings)

    async def account(self) -> str:
        """Return the number of the AWS account that the credentials belong to."""
        return str((await _asked(self._sts.get_caller_identity))["Account"])

    async def list_keys(self, user: str) -> list[AccessKey]:
        """Return the user's keys, oldest first; raises UserGone if there is no such user."""
        # Two at most: never a second page.
        found = await _asked(lambda: self._iam.list_access_keys(UserName=user))
        keys = [
            AccessKey(entry["AccessKeyId"], entry["Status"] == "Active", entry["CreateDate"])
            for entry in found["AccessKeyMetadata"]
        ]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str) -> tuple[str, SecretStr]:
        """Create a key; returns its id and its secret, which AWS tells only now."""
        made = (await _asked(lambda: self._iam.create_access_key(UserName=user)))["AccessKey"]
        return made["AccessKeyId"], SecretStr(made["SecretAccessKey"])

    async def last_used(self, key_id: str) -> datetime | None:
        """Return when the key was last used; None if it never was, as far as AWS knows."""
        answer = await _asked(lambda: self._iam.get_access_key_last_used(AccessKeyId=key_id))
        moment: datetime | None = answer["AccessKeyLastUsed"].get("LastUsedDate")
        return moment

    async def set_active(self, user: str, key_id: str, active: bool) -> None:
        """Activate or deactivate a key."""
        status = "Active" if active else "Inactive"
        await _asked(lambda: self._iam.update_access_key(UserName=user, AccessKeyId=key_id, Status=status))

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key for ever."""
        with contextlib.suppress(_Absent):  # deleted already
            await _asked(
                lambda: self._iam.delete_access_key(UserName=user, AccessKeyId=key_id), absent="no such key or user"
            )

    async def signs(self, key_id: str, secret: SecretStr) -> str:
        """Sign a call with a key, and return the ARN that AWS knows it by.

        Raises:
            AwsUnavailable: AWS does not know the key, or not yet.
        """
        own = {"aws_access_key_id": key_id, "aws_secret_access_key": secret.get_secret_value()}
        # Not with a session token of the executor's own, should it have one.
        sts = await asyncio.to_thread(_client, "sts", self._settings | own | {"aws_session_token": None})
        return str((await _asked(sts.get_caller_identity, passing=_UNKNOWN_KEY))["Arn"])


class SecretsManager:
    """AWS Secrets Manager. A version's token is the key's id: a `put` whose answer was lost is repeated safely."""

    def __init__(self, **settings: Any) -> None:
        self._client = _client("secretsmanager", {"config": _ONE_TRY} | settings)

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret of `name`."""
        await self._put(name, _token(key_id), _written(key_id, secret))

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret."""
        return _read(await self._value(name, "AWSCURRENT"))

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again."""
        now = await self.current(name)
        if now is None or now[0] != instead_of:
            return
        before = await self._value(name, "AWSPREVIOUS")
        if before is not None:
            await self._put(name, _token(f"instead-of-{instead_of}"), before)
        else:
            # It was the first, and its key is about to be deleted: nothing is left to recover.
            await _asked(lambda: self._client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True))

    async def _put(self, name: str, token: str, text: str) -> None:
        arguments = {"ClientRequestToken": token, "SecretString": text}
        try:
            await _asked(lambda: self._client.put_secret_value(SecretId=name, **arguments), absent="none yet")
        except _Absent:
            await _asked(lambda: self._client.create_secret(Name=name, **arguments))

    async def _value(self, name: str, stage: str) -> str | None:
        try:
            found = await _asked(
                lambda: self._client.get_secret_value(SecretId=name, VersionStage=stage), absent="none yet"
            )
        except _Absent:
            return None
        text: str | None = found.get("SecretString")
        return text


class _Absent(Exception):
    """There is no such secret, no such version of it, or no such user."""


def _token(key_id: str) -> str:
    return key_id.ljust(32, "-")[:64]  # Secrets Manager wants 32 to 64 characters


def _written(key_id: str, secret: SecretStr) -> str:
    return json.dumps({"AccessKeyId": key_id, "SecretAccessKey": secret.get_secret_value()})


def _read(text: str | None) -> tuple[str, SecretStr] | None:
    try:
        value = json.loads(text or "null")
        return value["AccessKeyId"], SecretStr(value["SecretAccessKey"])
    except (ValueError, KeyError, TypeError):
        return None  # a secret of this name that is not ours: it is kept as the version before


# Reading AWS's description of a service takes a third of a second; a session keeps it. Making clients is not safe in
# two threads at once, using them is.
_making = threading.Lock()
_session = functools.cache(boto3.session.Session)


def _client(service: str, settings: dict[str, Any]) -> Any:
    try:
        with _making:
            return _session().client(service, **settings)
    except (BotoCoreError, ValueError) as error:
        raise AwsRefused(f"{service} cannot be asked: {_named(error)}") from None


async def _asked(call: Callable[[], T], *, passing: set[str] | None = None, absent: str | None = None) -> T:
    """Make one call in a thread; raises by name what went wrong, and repeats no text of AWS's but its error code."""
    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))[:64]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        operation = error.operation_name
        if code in {"ResourceNotFoundException", "NoSuchEntity"} and absent is not None:
            raise _Absent(absent) from None
        if code == "NoSuchEntity" and operation in {"ListAccessKeys", "CreateAccessKey"}:
            raise UserGone(f"{operation}: the user does not exist any more") from None
        if code == "NoSuchEntity":  # the key, or its user: the next attempt lists them, and sees which
            raise AwsUnavailable(f"{operation}: the key is gone since it was listed") from None
        if code == "InvalidRequestException" and "delet" in str(error.response.get("Error", {}).get("Message")):
            raise SecretLeaving(f"{operation}: a secret of this name is scheduled for deletion") from None
        if code in _PASSING | (passing or set()) or status >= 500 or status == 429:
            raise AwsUnavailable(f"{operation}: {code}") from None
        if code == "LimitExceeded" and operation == "CreateAccessKey":
            raise KeyLimit("the user has two access keys") from None
        raise AwsRefused(f"{operation}: {code}") from None
    except (NoCredentialsError, NoRegionError) as error:
        raise AwsRefused(_named(error)) from None
    except (HTTPClientError, ConnectionError) as error:
        raise AwsUnavailable(f"no answer: {_named(error)}") from None
    except BotoCoreError as error:
        raise AwsRefused(_named(error)) from None


def _named(error: Exception) -> str:
    return type(error).__name__  # its text may name an endpoint with a password, or repeat what was sent
