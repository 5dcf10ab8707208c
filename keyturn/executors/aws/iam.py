"""IAM, as a rotation of access keys needs it: six of its calls, one of STS, and one of CloudTrail."""

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from pydantic import SecretStr

from keyturn.aws import ONE_TRY, Absent, ask, client_of
from keyturn.execution.contracts import KeyUse
from keyturn.execution.errors import AccountMismatch, CloudRefused, CloudUnavailable, NewKeyMissing
from keyturn.execution.protocols import CloudKey

# A key that was made seconds ago is answered so until every host of AWS knows it.
_UNKNOWN_KEY = {"InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidAccessKeyId"}
# A use of a week ago is none that anything waits for: then no one need be named.
NAMED_FOR = timedelta(days=7)
MOST_USERS = 16
_USER_ARN = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):user/(?:[!-\x7f]*/)?([A-Za-z0-9_+=,.@-]{1,64})")
_USER_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")


class AwsAccessKeys:
    """IAM access keys of one AWS account.

    Args:
        session: whose credentials are used; None for those that AWS's own tools find.
        settings: arguments of boto3's clients, for tests.
    """

    most_keys = 2
    # At the limit of two keys a third is refused, so that a list that is not consistent yet does no harm.
    visible_within = timedelta(0)
    # IAM is eventually consistent, without a bound: others report seconds (docs.aws.amazon.com/IAM/latest/UserGuide/
    # troubleshoot.html, "changes that I make are not always immediately visible").
    state_shown_within = timedelta(minutes=2)
    has_inactive_state = True

    def __init__(self, session: boto3.session.Session | None = None, **settings: Any) -> None:
        self._settings = {"config": ONE_TRY} | settings
        self._session = session
        self._asked_of: str | None = None  # the access key that `_account` is of
        self._account = ""
        self._trails: dict[str, Any] = {}  # clients of CloudTrail, by region
        self._iam = client_of("iam", self._settings, session)
        self._sts = client_of("sts", self._settings, session)

    async def account(self) -> str:
        """Return the number of the AWS account that the credentials belong to now; STS is asked once for each of them.

        Credentials are renewed, and may then be others; of one access key, the account is the same for ever.
        """
        credentials = self._sts._get_credentials()
        frozen = None if credentials is None else await ask(credentials.get_frozen_credentials)
        if frozen is None or frozen.access_key != self._asked_of:
            self._account = str((await ask(self._sts.get_caller_identity))["Account"])
            self._asked_of = None if frozen is None else frozen.access_key
        return self._account

    def account_named_in(self, account_id: str) -> str | None:
        """Return the account's number in an ARN, whatever it is of; None for a bare user name."""
        if not account_id.startswith("arn:"):
            return None
        return account_id.split(":")[4] if account_id.count(":") >= 5 else "unknown"

    def user_of(self, account_id: str, own: str) -> str:
        """Return the IAM user's name in an account ID: a bare name, or an ARN of the account `own`."""
        arn = _USER_ARN.fullmatch(account_id)
        if arn is not None and arn[1] == own:
            return arn[2]
        if _USER_NAME.fullmatch(account_id) is None:
            raise AccountMismatch(f"the job's account is neither the name nor the ARN of an IAM user of {own}")
        return account_id

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the user's keys, oldest first; raises UserGone if there is no such user."""
        # Two at most: never a second page.
        found = await ask(lambda: self._iam.list_access_keys(UserName=user))
        keys = [
            CloudKey(entry["AccessKeyId"], entry["Status"] == "Active", entry["CreateDate"])
            for entry in found["AccessKeyMetadata"]
        ]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Create a key; AWS returns its secret only now. It has no room for a job's ID."""
        made = (await ask(lambda: self._iam.create_access_key(UserName=user)))["AccessKey"]
        secret = {"AccessKeyId": made["AccessKeyId"], "SecretAccessKey": made["SecretAccessKey"]}
        return made["AccessKeyId"], SecretStr(json.dumps(secret))

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the access key's ID in a stored secret."""
        pair = _pair(secret)
        return None if pair is None else pair[0]

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return when the key was last used, by AWS's record, and at which service and region."""
        answer = (await ask(lambda: self._iam.get_access_key_last_used(AccessKeyId=key_id)))["AccessKeyLastUsed"]
        moment: datetime | None = answer.get("LastUsedDate")
        service, region = answer.get("ServiceName", "N/A"), answer.get("Region", "N/A")
        if moment is None or "N/A" in {service, region}:  # as AWS writes it of a key that was never used
            return KeyUse(last_used_at=moment)
        by = await self._events_of(key_id, region, moment) if datetime.now(UTC) - moment < NAMED_FOR else ()
        return KeyUse(last_used_at=moment, by=by or (f"{service} in {region}"[:200],))

    async def _events_of(self, key_id: str, region: str, moment: datetime) -> tuple[str, ...]:
        """Return what CloudTrail's latest events by a key in a region name; nothing where that may not be read.

        CloudTrail has events of management only, some minutes late, and answers two such questions a second.
        """
        wanted = {
            "LookupAttributes": [{"AttributeKey": "AccessKeyId", "AttributeValue": key_id}],
            "StartTime": moment - timedelta(days=1),
            "MaxResults": 50,  # the most of a page; older ones name no one else, as a rule
        }
        try:
            client = await asyncio.to_thread(self._trail_in, region)
            found = await ask(lambda: client.lookup_events(**wanted))
        except (CloudRefused, CloudUnavailable):
            return ()
        users = dict.fromkeys(filter(None, (_user_in(event) for event in found.get("Events", []))))
        return tuple(users)[:MOST_USERS]

    def _trail_in(self, region: str) -> Any:
        if region not in self._trails:
            self._trails[region] = client_of("cloudtrail", self._settings | {"region_name": region}, self._session)
        return self._trails[region]

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Activate or deactivate a key."""
        status = "Active" if is_active else "Inactive"
        await ask(lambda: self._iam.update_access_key(UserName=user, AccessKeyId=key_id, Status=status))

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key for ever."""
        with contextlib.suppress(Absent):  # deleted already
            await ask(
                lambda: self._iam.delete_access_key(UserName=user, AccessKeyId=key_id), absent="no such key or user"
            )

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Sign a call with the secret, and return the ARN that AWS knows it by.

        Raises:
            NewKeyMissing: it is another user's.
            CloudUnavailable: AWS does not know the key, or not yet.
        """
        pair = _pair(secret)
        if pair is None:
            raise NewKeyMissing("the stored secret is no access key")
        own = {"aws_access_key_id": pair[0], "aws_secret_access_key": pair[1]}
        # Not with a session token of the executor's own, should it have one.
        sts = await asyncio.to_thread(client_of, "sts", self._settings | own | {"aws_session_token": None})
        known = await ask(sts.get_caller_identity, passing=_UNKNOWN_KEY)
        arn = _USER_ARN.fullmatch(str(known["Arn"]))
        if arn is None or arn[2] != user or arn[1] != await self.account():
            raise NewKeyMissing("the new key does not sign for the job's user")
        return str(known["Arn"])


def _user_in(event: Mapping[str, Any]) -> str | None:
    """Who used a key, where and from where, of a record of CloudTrail; it is of a foreign service, and may lack it."""
    try:
        record = json.loads(event["CloudTrailEvent"])
        identity = record.get("userIdentity", {})
        who = str(identity.get("arn") or identity.get("userName") or "unknown")
        text = f"{who} at {record.get('eventSource')} in {record.get('awsRegion')} from {record.get('sourceIPAddress')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def _pair(secret: SecretStr) -> tuple[str, str] | None:
    try:
        value = json.loads(secret.get_secret_value())
        return str(value["AccessKeyId"]), str(value["SecretAccessKey"])
    except (ValueError, KeyError, TypeError):
        return None  # a secret that we did not write: it stays as the version before
