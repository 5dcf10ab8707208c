"""Rotating an IAM access key: each step looks at what is there, does what is missing, and may be repeated.

What makes that safe:

- Before a key is created, the ids of the user's keys are written into the job's audit trail, and then that one is
  about to be created. A key that is neither on that list nor in the secret store is one whose answer was lost: its
  secret is lost too, and only such a key, created since and never used, is deleted as an orphan.
- Each step proves its claim on the job before it changes anything at AWS; a rollback claims the job anew first, so
  that a step which was frozen and wakes up is refused.
- The secret goes from AWS's answer into the secret store within one step. It is never returned, logged or raised.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pydantic import SecretStr

from keyturn.execution.contracts import AccessKeyState, KeyRotationOrder, SecretStore
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    AwsUnavailable,
    ForeignKey,
    KeyLimit,
    KeyNotFound,
    NewKeyMissing,
    OldKeyInUse,
    RollbackImpossible,
    UserGone,
)
from keyturn.executors.aws.iam import AccessKey
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.errors import StateRefused
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.states import ProgressState
from keyturn.moments import in_utc

# As long as a lease may be. The workflow prolongs it twice as often while it waits.
LEASE = timedelta(hours=24)
# AWS records a key's last use within minutes; a use that was in progress when the key was deactivated is none after.
USE_IS_WRITTEN_WITHIN = timedelta(minutes=5)
CLOCKS_AGREE_WITHIN = timedelta(minutes=5)  # this machine's and AWS's: signatures are refused beyond that anyway
_USER_ARN = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):user/(?:[!-\x7f]*/)?([A-Za-z0-9_+=,.@-]{1,64})")
_USER_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")


class AccessKeys(Protocol):
    """IAM's access keys of users; see `keyturn.executors.aws.iam.AwsAccessKeys`."""

    async def account(self) -> str: ...  # noqa: D102
    async def list_keys(self, user: str) -> list[AccessKey]: ...  # noqa: D102
    async def create(self, user: str) -> tuple[str, SecretStr]: ...  # noqa: D102
    async def last_used(self, key_id: str) -> datetime | None: ...  # noqa: D102
    async def set_active(self, user: str, key_id: str, active: bool) -> None: ...  # noqa: D102
    async def delete(self, user: str, key_id: str) -> None: ...  # noqa: D102
    async def signs(self, key_id: str, secret: SecretStr) -> str: ...  # noqa: D102


class AccessKeyRotation:
    """The steps, on one AWS account.

    Args:
        keys: IAM.
        secrets: where new secrets go.
        leases: the jobs.
        secret_name: the secret's name, in which `{user}` stands for the user.
    """

    def __init__(self, keys: AccessKeys, secrets: SecretStore, leases: JobLeases, *, secret_name: str) -> None:
        self._keys = keys
        self._secrets = secrets
        self._leases = leases
        self._secret_name = secret_name

    async def account(self) -> str:
        """Return the number of the AWS account that the credentials belong to now."""
        return await self._keys.account()

    async def expect_own(self, order: KeyRotationOrder) -> None:
        """Check whether this account's executor may execute a job; nothing is changed.

        It is if its account is an ARN of this one, if an earlier run of it was here, or, where the account is a bare
        user name, if that user has the job's key here: users of the same name are in many accounts, a key is in one.

        Raises:
            AnotherAccount: it is another one's, or nothing shows that it is not.
            AwsUnavailable, AwsRefused, JobError: that could not be found out.
        """
        own = await self._expect_account(order.cloud_account)
        job, trail = await self._leases.show(order.job_id, tenant_id=order.tenant_id)
        if (account := _account_in(row for row in trail if row["actor"] == _owner(order.job_id))) is not None:
            if account != own:
                raise AnotherAccount(
                    f"the job was started in the AWS account {account}, and these credentials are {own}'s"
                )
            return
        arn = _USER_ARN.fullmatch(job["account_id"])
        if arn is not None or job["account_id"].startswith("arn:"):
            of = job["account_id"].split(":")[4] if job["account_id"].count(":") >= 5 else "unknown"
            if of != own:
                raise AnotherAccount(f"the job's user is of the AWS account {of}, and these credentials of {own}")
            return
        named = _USER_NAME.fullmatch(job["account_id"]) is not None
        try:
            here = named and _find(await self._keys.list_keys(job["account_id"]), job["key_id"]) is not None
        except UserGone:  # of this AWS account: another one may have a user of this name
            here = False
        if not here:
            raise AnotherAccount(f"the job's key is not among the user's keys in the AWS account {own}")

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job for its workflow; earlier claims of it count no more. Raises what `expect_own` does."""
        await self.expect_own(order)
        owner, tenant_id = _owner(order.job_id), order.tenant_id
        return await self._leases.claim(order.job_id, tenant_id=tenant_id, owner=owner, lease=LEASE)

    async def record(self, job: ClaimedJob) -> AccessKeyState:
        """Write the user's keys into the audit trail, unless an earlier run of this job has.

        Raises:
            AccountMismatch, KeyNotFound, KeyLimit: the key cannot be rotated; nothing was changed.
            AwsUnavailable, AwsRefused, JobError: the list or the job could not be read.
        """
        trail = await self._trail_of(job.job_id, job.tenant_id)
        own = await self._keys.account()
        if (account := _account_in(trail)) not in {None, own}:
            raise AnotherAccount(f"the job was started in the AWS account {account}, and these credentials are {own}'s")
        user = _user(job.account_id, own)
        before = _list_in(trail)
        if before is None:
            present = await self._keys.list_keys(user)
            _expect_rotatable(job.key_id, present)
            before = tuple(key.key_id for key in present)
            evidence = {"aws_account": own, "iam_user": user, "keys_before": ",".join(before)}
            await self._leases.heartbeat(
                job.job_id, tenant_id=job.tenant_id, token=job.token, lease=LEASE, state="rotating", evidence=evidence
            )
        return AccessKeyState(
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            token=job.token,
            cloud_account=own,
            user=user,
            old_key_id=job.key_id,
            keys_before=before,
        )

    async def create(self, rotation: AccessKeyState) -> str:
        """Create the new key and store its secret; returns its id. Deletes first what an earlier attempt lost.

        Raises:
            ForeignKey: there is a key that this rotation did not make; it was not touched.
            AwsUnavailable, AwsRefused, SecretNotKept, JobError: call again; nothing is created twice.
        """
        await self._expect_account(rotation.cloud_account)
        extra = await self._beside(rotation)
        kept = await self._secrets.current(self._name(rotation))
        for key in extra:
            if kept is not None and kept[0] == key.key_id:
                return await self._record_created(rotation, key.key_id)
        for key in await self._orphans(rotation, extra):
            await self._say(rotation, evidence={"deleting_orphan": key.key_id})
            await self._keys.delete(rotation.user, key.key_id)
        try_id = uuid.uuid4().hex
        await self._say(rotation, evidence={"step": "create_access_key", "try": try_id})
        try:
            key_id, secret = await self._keys.create(rotation.user)
        except KeyLimit:
            # The list had room: IAM has not listed the key yet whose answer was lost.
            raise AwsUnavailable("CreateAccessKey: the list of keys is not consistent yet") from None
        # An attempt that froze here and wakes up beside another one would store the secret of a key that is deleted.
        tries = [row["detail"].get("try") for row in await self._trail_of(rotation.job_id, rotation.tenant_id)]
        if [one for one in tries if one][-1:] != [try_id]:
            raise AwsUnavailable("CreateAccessKey: a later attempt creates the key")
        await self._secrets.put(self._name(rotation), key_id, secret)
        return await self._record_created(rotation, key_id)

    async def verify(self, rotation: AccessKeyState) -> None:
        """Sign a call with the stored secret, as whatever uses it will.

        Raises:
            NewKeyMissing: the store holds another secret, or the key signs for another user.
            AwsUnavailable: AWS does not know the new key yet, or did not answer.
        """
        await self._expect_account(rotation.cloud_account)
        arn = await self._expect_signature(rotation)
        await self._say(rotation, state="verifying", evidence={"verified": _of(rotation.new_key_id), "signed_as": arn})

    async def prolong(self, rotation: AccessKeyState) -> None:
        """Prolong the claim on the job while the workflow waits; raises a JobError."""
        await self._say(rotation)

    async def deactivate(self, rotation: AccessKeyState) -> datetime:
        """Deactivate the old key, once more shown that the new one works; returns when.

        Raises:
            NewKeyMissing: the new key does not work; the old one was not touched.
            AwsUnavailable, AwsRefused, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        self._expect_new_key(rotation, present)
        await self._expect_signature(rotation)
        old = _find(present, rotation.old_key_id)
        used = None if old is None else await self._keys.last_used(rotation.old_key_id)
        await self._say(rotation)  # again: what was asked in between took its time
        if old is not None and old.active:
            await self._keys.set_active(rotation.user, rotation.old_key_id, False)
        now = datetime.now(UTC)
        evidence = {"deactivated": rotation.old_key_id, "last_used": "never" if used is None else used.isoformat()}
        await self._say(rotation, state="grace", evidence=evidence)
        return now

    async def delete(self, rotation: AccessKeyState) -> None:
        """Delete the old key, which nothing has used since it was deactivated.

        Raises:
            OldKeyInUse: it was used or activated since; it was not deleted.
            NewKeyMissing: the new key is not there; the old one was not deleted.
            AwsUnavailable, AwsRefused, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        self._expect_new_key(rotation, present)
        old = _find(present, rotation.old_key_id)
        if old is not None:
            if old.active:
                raise OldKeyInUse("the old key is active again: it was activated by hand")
            used = await self._keys.last_used(rotation.old_key_id)
            since = rotation.deactivated_at
            if used is not None and since is not None and used > since + USE_IS_WRITTEN_WITHIN:
                raise OldKeyInUse(f"the old key was used at {in_utc(used)}, after it was deactivated")
            await self._say(rotation)
            await self._keys.delete(rotation.user, rotation.old_key_id)
        await self._say(rotation, evidence={"deleted": rotation.old_key_id})

    async def close(self, rotation: AccessKeyState) -> None:
        """Close the job as done, with its evidence; raises a JobError."""
        evidence = {"old_key_id": rotation.old_key_id, "new_key_id": _of(rotation.new_key_id)}
        await self._leases.complete(
            rotation.job_id, tenant_id=rotation.tenant_id, token=rotation.token, evidence=evidence
        )

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed, nothing having been changed at AWS; raises a JobError."""
        await self._leases.fail(job.job_id, tenant_id=job.tenant_id, token=job.token, reason=reason)

    async def roll_back(self, rotation: AccessKeyState, reason: str) -> None:
        """Go back to the old key, and close the job as failed: first the old works again, then the new one goes.

        Raises:
            RollbackImpossible: the old key is deleted; nothing was changed.
            AwsUnavailable, AwsRefused, SecretNotKept, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        present = await self._keys.list_keys(rotation.user)
        old = _find(present, rotation.old_key_id)
        if old is None:
            raise RollbackImpossible("the old key is deleted")
        await self._say(rotation)
        if not old.active:
            await self._keys.set_active(rotation.user, rotation.old_key_id, True)
            await self._say(rotation, evidence={"activated": rotation.old_key_id})
        ours = await self._keys_created_here(
            rotation, [key for key in present if key.key_id not in rotation.keys_before]
        )
        for key in ours:
            await self._secrets.restore(self._name(rotation), instead_of=key.key_id)
            await self._say(rotation, evidence={"deleting": key.key_id})
            await self._keys.delete(rotation.user, key.key_id)
        await self._leases.fail(rotation.job_id, tenant_id=rotation.tenant_id, token=rotation.token, reason=reason)

    async def plan(self, order: KeyRotationOrder) -> Sequence[str]:
        """Return what would be done, having looked at everything and changed nothing.

        Raises:
            AnotherAccount, AccountMismatch, KeyNotFound, KeyLimit, AwsUnavailable, AwsRefused, JobError: it would not
                be started.
        """
        await self.expect_own(order)
        job, _ = await self._leases.show(order.job_id, tenant_id=order.tenant_id)
        user = _user(job["account_id"], order.cloud_account)
        present = await self._keys.list_keys(user)
        _expect_rotatable(job["key_id"], present)
        old = job["key_id"]
        used = await self._keys.last_used(old)
        due = job["rotate_by"]
        last = "never" if used is None else in_utc(used)
        return (
            f"record the keys of {user}: {old}, last used {last}",
            "create a second access key",
            f"store its secret as {self._name_of(user)}",
            f"sign a call with it, as {user}",
            f"wait {_trail_of(order.overlap)} while both keys work",
            f"deactivate {old}",
            f"wait {_trail_of(order.grace)}" + (f", to finish before {in_utc(due)}" if due else ""),
            f"delete {old}, unless it was used since",
            f"close {order.job_id} as done",
        )

    # -- what the steps share -----------------------------------------------------------------------------------------

    async def _say(
        self, rotation: AccessKeyState, *, state: ProgressState | None = None, evidence: Evidence | None = None
    ) -> None:
        """Prove the claim, prolong it, and record the step. Raises StaleClaim if another holder has claimed the job."""
        words: dict[str, Any] = {
            "tenant_id": rotation.tenant_id,
            "token": rotation.token,
            "lease": LEASE,
            "evidence": evidence,
        }
        try:
            await self._leases.heartbeat(rotation.job_id, state=state, **words)
        except StateRefused:  # an earlier run of this job came further: its state stays
            await self._leases.heartbeat(rotation.job_id, state=None, **words)

    async def _trail_of(self, job_id: str, tenant_id: str) -> Sequence[Mapping[str, Any]]:
        """What the executor itself wrote of a job: others may claim it, and what they write is no proof of a key."""
        _, trail = await self._leases.show(job_id, tenant_id=tenant_id)
        return [row for row in trail if row["actor"] == _owner(job_id)]

    async def _expect_account(self, account: str) -> str:
        """Return the credentials' account; raises AnotherAccount if it is not `account`.

        Asked each time: credentials are found anew as they expire, and a profile may be edited under a running process.
        """
        own = await self._keys.account()
        if own != account:
            raise AnotherAccount(f"the step is of the AWS account {account}, and these credentials of {own}")
        return own

    async def _record_created(self, rotation: AccessKeyState, key_id: str) -> str:
        await self._say(rotation, evidence={"new_key_id": key_id, "secret": self._name(rotation)})
        return key_id

    async def _beside(self, rotation: AccessKeyState) -> list[AccessKey]:
        return [key for key in await self._keys.list_keys(rotation.user) if key.key_id not in rotation.keys_before]

    async def _orphans(self, rotation: AccessKeyState, extra: Sequence[AccessKey]) -> Sequence[AccessKey]:
        """Of the keys beside the recorded ones, those that we made and lost; raises ForeignKey if another is there."""
        ours = await self._keys_created_here(rotation, extra)
        if len(ours) < len(extra):
            raise ForeignKey("the user has a key beside the old one that this rotation did not create")
        return ours

    async def _keys_created_here(self, rotation: AccessKeyState, extra: Sequence[AccessKey]) -> list[AccessKey]:
        """Those that the trail names as created here, or that were created since our first try and never used."""
        if not extra:
            return []
        trail = await self._trail_of(rotation.job_id, rotation.tenant_id)
        named = {row["detail"].get("new_key_id") for row in trail}
        started = [row["at"] for row in trail if row["detail"].get("step") == "create_access_key"]
        ours = []
        for key in extra:
            since = bool(started) and key.created_at >= min(started) - CLOCKS_AGREE_WITHIN
            if key.key_id in named or (since and await self._keys.last_used(key.key_id) is None):
                ours.append(key)
        return ours

    def _expect_new_key(self, rotation: AccessKeyState, present: Sequence[AccessKey]) -> None:
        new = _find(present, _of(rotation.new_key_id))
        if new is None or not new.active:
            raise NewKeyMissing("the new key is " + ("deleted" if new is None else "inactive"))

    async def _expect_signature(self, rotation: AccessKeyState) -> str:
        kept = await self._secrets.current(self._name(rotation))
        if kept is None:
            raise NewKeyMissing(f"the secret {self._name(rotation)} is missing in the store")
        if kept[0] != rotation.new_key_id:
            raise NewKeyMissing("the stored secret is not the new key's")
        arn = await self._keys.signs(*kept)
        known = _USER_ARN.fullmatch(arn)
        if known is None or (known[1], known[2]) != (rotation.cloud_account, rotation.user):
            raise NewKeyMissing("the new key does not sign for the job's user")
        return arn

    def _name(self, rotation: AccessKeyState) -> str:
        return self._name_of(rotation.user)

    def _name_of(self, user: str) -> str:
        # A comma may stand in a user's name and not in a secret's.
        return self._secret_name.format(user=user.replace(",", "_2C"))


def _owner(job_id: str) -> str:
    return f"execute:{job_id}"


def _find(keys: Sequence[AccessKey], key_id: str) -> AccessKey | None:
    return next((key for key in keys if key.key_id == key_id), None)


def _expect_rotatable(key_id: str, present: Sequence[AccessKey]) -> None:
    key = _find(present, key_id)
    if key is None:
        raise KeyNotFound("the job's key is not among the user's keys")
    if not key.active:
        raise KeyNotFound("the job's key is inactive: nothing can use it")
    if len(present) > 1:
        raise KeyLimit("the user has two access keys, so no new one can be created")


def _user(account_id: str, own: str) -> str:
    """The IAM user's name in an account id, as a bare name or in an ARN of this AWS account; raises AccountMismatch."""
    arn = _USER_ARN.fullmatch(account_id)
    if arn is not None and arn[1] == own:
        return arn[2]
    if _USER_NAME.fullmatch(account_id) is None:
        raise AccountMismatch(f"the job's account is neither the name nor the ARN of an IAM user of {own}")
    return account_id


def _account_in(trail: Iterable[Mapping[str, Any]]) -> str | None:
    return next((str(row["detail"]["aws_account"]) for row in trail if "aws_account" in row["detail"]), None)


def _list_in(trail: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    for row in trail:
        if "keys_before" in row["detail"]:
            return tuple(str(row["detail"]["keys_before"]).split(","))
    return None


def _of(key_id: str | None) -> str:
    if key_id is None:
        raise NewKeyMissing("no new key was created yet")
    return key_id


def _trail_of(span: timedelta) -> str:
    hours = span.total_seconds() / 3_600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
