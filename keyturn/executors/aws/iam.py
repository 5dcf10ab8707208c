"""IAM, as a rotation of access keys needs it: six of its calls, and one of STS."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from keyturn.aws import ONE_TRY, Absent, ask, client_of

# A key that was made seconds ago is answered so until every host of AWS knows it.
_UNKNOWN_KEY = {"InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidAccessKeyId"}


@dataclass(frozen=True)
class AccessKey:
    """One access key of a user, without its secret."""

    key_id: str
    active: bool
    created_at: datetime


class AwsAccessKeys:
    """IAM access keys, by AWS's own configuration; `settings` are arguments of boto3's clients, for tests."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"config": ONE_TRY} | settings
        self._iam = client_of("iam", self._settings)
        self._sts = client_of("sts", self._settings)

    async def account(self) -> str:
        """Return the number of the AWS account that the credentials belong to."""
        return str((await ask(self._sts.get_caller_identity))["Account"])

    async def list_keys(self, user: str) -> list[AccessKey]:
        """Return the user's keys, oldest first; raises UserGone if there is no such user."""
        # Two at most: never a second page.
        found = await ask(lambda: self._iam.list_access_keys(UserName=user))
        keys = [
            AccessKey(entry["AccessKeyId"], entry["Status"] == "Active", entry["CreateDate"])
            for entry in found["AccessKeyMetadata"]
        ]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str) -> tuple[str, SecretStr]:
        """Create a key; returns its id and its secret, which AWS returns only now."""
        made = (await ask(lambda: self._iam.create_access_key(UserName=user)))["AccessKey"]
        return made["AccessKeyId"], SecretStr(made["SecretAccessKey"])

    async def last_used(self, key_id: str) -> datetime | None:
        """Return when the key was last used; None if it never was, as far as AWS knows."""
        answer = await ask(lambda: self._iam.get_access_key_last_used(AccessKeyId=key_id))
        moment: datetime | None = answer["AccessKeyLastUsed"].get("LastUsedDate")
        return moment

    async def set_active(self, user: str, key_id: str, active: bool) -> None:
        """Activate or deactivate a key."""
        status = "Active" if active else "Inactive"
        await ask(lambda: self._iam.update_access_key(UserName=user, AccessKeyId=key_id, Status=status))

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key for ever."""
        with contextlib.suppress(Absent):  # deleted already
            await ask(
                lambda: self._iam.delete_access_key(UserName=user, AccessKeyId=key_id), absent="no such key or user"
            )

    async def signs(self, key_id: str, secret: SecretStr) -> str:
        """Sign a call with a key, and return the ARN that AWS knows it by.

        Raises:
            AwsUnavailable: AWS does not know the key, or not yet.
        """
        own = {"aws_access_key_id": key_id, "aws_secret_access_key": secret.get_secret_value()}
        # Not with a session token of the executor's own, should it have one.
        sts = await asyncio.to_thread(client_of, "sts", self._settings | own | {"aws_session_token": None})
        return str((await ask(sts.get_caller_identity, passing=_UNKNOWN_KEY))["Arn"])
