"""Rotating a key: each step looks at what is there, does what is missing, and may be repeated, at any cloud.

What makes that safe:

- Before a key is created, the IDs of the user's keys are written into the job's audit trail, and then that one is
  about to be created. A key that is neither on that list nor in the first target is one whose answer was lost: its
  secret is lost too, and only such a key, created since and never used, is deleted as an orphan.
- Each step proves its claim on the job before it changes anything at the cloud; a rollback claims the job anew first,
  so that a step which was frozen and wakes up is refused.
- The secret goes from the cloud's answer into the targets within one step, once the cloud knows its key. It is never
  returned, logged or raised.
- The old key is deactivated when the new one was seen in use, or its consumers have reported it, and the old one is
  quiet; it is activated again as soon as something is seen to use it.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pydantic import SecretStr

from keyturn.execution.contracts import EXECUTION, KeyRotationOrder, KeyState, KeyUse, KeyWaits, Need
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    AnotherKeyNamed,
    CloudRefused,
    CloudUnavailable,
    ForeignKey,
    Frozen,
    KeyLimit,
    KeyNotFound,
    MappedTwice,
    NewKeyMissing,
    OldKeyInUse,
    RollbackImpossible,
    TargetUnusable,
    UserGone,
)
from keyturn.execution.mapping import KeyMap, KeyMapping, KeyNames
from keyturn.execution.plans import evidence_of, plan_of, use_in_words
from keyturn.execution.protocols import CloudKey, CloudKeys
from keyturn.execution.targets import SecretTargets
from keyturn.execution.trails import (
    Record,
    Trail,
    account_in,
    created_keys,
    deactivated_at_in,
    digest_of_held,
    digests_held_before,
    is_of_user,
    named_keys,
    record_in,
    unanswered_tries,
)
from keyturn.execution.waits import is_idle, is_in_use, need_of, waits_of
from keyturn.jobs.consumers import consumers_moved
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.errors import JobClosed, StaleClaim, StateRefused
from keyturn.jobs.leases import JobLeases, claimed_job
from keyturn.jobs.outbox import BLOCKED_TOPIC, Outbox
from keyturn.jobs.states import ProgressState
from keyturn.jobs.store import creation_asked_for
from keyturn.moments import in_utc, name_by_creation
from keyturn.policy.line import PolicyLine

# As long as a lease may be. The workflow prolongs it at least twice as often while it waits.
LEASE = timedelta(hours=24)
# Providers date a use within minutes; one that was in progress when the key was deactivated is none after.
USE_IS_DATED_WITHIN = timedelta(minutes=5)
# A new key is known within seconds as a rule, and within the time for which the cloud's lists may lag, at the latest:
# who gives up before deletes a key that was about to become known, and makes another one.
KNOWN_WITHIN = timedelta(seconds=90)
# A call to create a key and the row that names it take ten seconds at most, and a stopped process may take longer.
CREATED_WITHIN = timedelta(minutes=1)
_TABLE_OF_ITS_OWN = ": give each key a table of its own"
CLOCKS_AGREE_WITHIN = timedelta(minutes=5)  # this machine's and the cloud's: signatures are refused beyond that anyway

# From the names of policy lines in a job to the lines that this process has of them.
LinesOf = Callable[[Sequence[str]], Iterable[PolicyLine]]
# From a tenant, a cloud account, and whether the key is exposed, to why nothing may be changed now; None if it may.
Freezes = Callable[[str, str, bool], Awaitable[str | None]]


class KeyRotation:
    """The steps, at one cloud account.

    Args:
        keys: the cloud's keys.
        targets: where new secrets can go.
        leases: the jobs.
        outbox: where messages to the receivers of jobs are written.
        default_targets: where a key's secret goes that the key map does not name; `{user}` stands for the user.
        key_map: returns where the others' go, as it is now.
        freezes: says why nothing may be changed in an account now; None if nothing ever forbids it.
        lines_of: the policy lines of a job, for what they say on waits.
        own_use_within: how long after our own verification the provider may still date that use.
        used_since: how long after the deactivation a use may be dated that was in progress before it.
        known_within: how long a step waits until the cloud knows a new key; None for KNOWN_WITHIN, and as long as its
            lists may lag.
        known_every: how long between two uses of a new key that the cloud does not know yet.
        created_within: how long a rotation of another key of the user may be about to create one.
    """

    def __init__(
        self,
        keys: CloudKeys,
        targets: SecretTargets,
        leases: JobLeases,
        outbox: Outbox,
        *,
        default_targets: Sequence[str],
        key_map: Callable[[], KeyMap] = KeyMap,
        freezes: Freezes | None = None,
        lines_of: LinesOf = lambda names: (),
        own_use_within: timedelta = USE_IS_DATED_WITHIN,
        used_since: timedelta = USE_IS_DATED_WITHIN,
        known_within: timedelta | None = None,
        known_every: timedelta = timedelta(seconds=1),
        created_within: timedelta = CREATED_WITHIN,
    ) -> None:
        self._keys = keys
        self._targets = targets
        self._leases = leases
        self._outbox = outbox
        self._default_targets = tuple(default_targets)
        self._key_map = key_map
        self._freezes = freezes
        self._lines_of = lines_of
        self._own_use_within = own_use_within
        self._used_since = used_since
        self._known_within = known_within or max(KNOWN_WITHIN, keys.state_shown_within)
        self._known_every = known_every
        self._created_within = created_within

    async def account(self) -> str:
        """Return the cloud account that the credentials belong to now."""
        return await self._keys.account()

    async def expect_own(self, order: KeyRotationOrder) -> None:
        """Check whether this account's executor may execute a job; nothing is changed.

        It is if its account ID names this account, if an earlier run of it was here, or, where it is a bare user name,
        if that user has the job's key here: users of the same name are in many accounts, a key is in one.

        Raises:
            AnotherAccount: it is another one's, or nothing shows that it is not.
            CloudUnavailable, CloudRefused, JobError: that could not be found out.
        """
        own = await self._expect_account(order.cloud_account)
        job, trail = await self._leases.show(order.job_id, tenant_id=order.tenant_id)
        if (account := account_in(row for row in trail if row["actor"] == _owner(order.job_id))) is not None:
            if account != own:
                raise AnotherAccount(f"the job was started in the account {account}, and these credentials are {own}'s")
            return
        named = self._keys.account_named_in(job["account_id"])
        if named is not None:
            if named != own:
                raise AnotherAccount(f"the job's user is of the account {named}, and these credentials of {own}")
            return
        try:
            user = self._keys.user_of(job["account_id"], own)
            here = _find(await self._keys.list_keys(user), job["key_id"]) is not None
        except (AccountMismatch, UserGone):  # of this account: another one may have a user of this name
            here = False
        if not here:
            raise AnotherAccount(f"the job's key is not among the user's keys in the account {own}")

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job for its workflow; earlier claims of it count no more. Raises what `expect_own` does."""
        await self.expect_own(order)
        owner, tenant_id = _owner(order.job_id), order.tenant_id
        return await self._leases.claim(order.job_id, tenant_id=tenant_id, owner=owner, lease=LEASE)

    async def record(self, order: KeyRotationOrder, job: ClaimedJob) -> KeyState:
        """Write the user's keys and their targets into the audit trail, unless an earlier run of this job has.

        Raises:
            AccountMismatch, KeyNotFound, KeyLimit: the key cannot be rotated; nothing was changed.
            MappedTwice, TargetUnusable: nothing was changed; a person fixes the key map.
            CloudUnavailable, CloudRefused, JobError: the list or the job could not be read.
        """
        trail = await self._trail_of(job.job_id, job.tenant_id)
        own = await self._keys.account()
        if (account := account_in(trail)) not in {None, own}:
            raise AnotherAccount(f"the job was started in the account {account}, and these credentials are {own}'s")
        user = self._keys.user_of(job.account_id, own)
        now = datetime.now(UTC)
        # What the key map says now may be something else, and the consumers have been asked for by what it said.
        if (recorded := record_in(trail)) is None:
            recorded = await self._record_anew(order, job, user, own, now)
        else:
            self._targets.expect_usable(recorded.targets)
        return KeyState(
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            token=job.token,
            cloud_account=own,
            user=user,
            old_key_id=recorded.old,
            old_created_at=recorded.created_at,
            keys_before=recorded.before,
            targets=recorded.targets,
            consumers=recorded.consumers,
            waits=recorded.waits,
            deactivated_at=deactivated_at_in(trail),
            recorded_at=now,
            rotate_by=job.rotate_by,
            is_compromised=job.priority == "urgent",
        )

    async def _record_anew(
        self, order: KeyRotationOrder, job: ClaimedJob, user: str, own: str, now: datetime
    ) -> "Record":
        present = await self._keys.list_keys(user)
        old = await self._expect_rotatable(job, present)
        mapping = await self._mapping_of(job, user, own, old.key_id)
        targets = self._targets_of(user, mapping, own)
        self._targets.expect_usable(targets)
        await self._expect_own_target(targets, old.key_id, present)
        record = Record(
            old=old.key_id,
            created_at=old.created_at,
            before=tuple(key.key_id for key in present),
            targets=targets,
            consumers=() if mapping is None else mapping.consumers,
            waits=self._waits_of(order, job, mapping),
        )
        evidence = {"cloud_account": own, "user": user} | record.as_evidence()
        evidence |= evidence_of(record.waits, rotate_by=job.rotate_by, now=now)
        claim: dict[str, Any] = {"tenant_id": job.tenant_id, "token": job.token, "owner": _owner(job.job_id)}
        await self._leases.heartbeat(job.job_id, **claim, lease=LEASE, state="rotating", evidence=evidence)
        return record

    async def create(self, rotation: KeyState) -> str:
        """Create the new key and store its secret; returns its ID. Deletes first what an earlier attempt lost.

        Raises:
            ForeignKey: there is a key that this rotation did not create; it was not touched.
            Frozen: nothing may be changed now.
            CloudUnavailable, CloudRefused, SecretNotStored, JobError: call again; nothing is created twice.
        """
        await self._expect_account(rotation.cloud_account)
        await self.expect_thawed(rotation)
        # Written before anything is looked at: an earlier attempt that froze and wakes up finds it, and stores nothing.
        try_id = uuid.uuid4().hex
        await self._say(rotation, evidence={"try": try_id})
        trail = await self._trail_of(rotation.job_id, rotation.tenant_id)
        present = await self._keys.list_keys(rotation.user)
        extra = await self._beside(rotation, present, trail)
        stored = await self._targets.current(rotation.targets)
        stored_of = None if stored is None else self._keys.key_in(stored)
        # What an earlier attempt created and stored is read by consumers already, even if no list shows it yet.
        ours = {*(key.key_id for key in extra), *created_keys(trail)}
        if stored is not None and stored_of is not None and stored_of in ours:
            await self._say(rotation)
            await self._targets.copy(rotation.targets, stored, version=stored_of)
            return await self._record_created(rotation, stored_of)
        held = None if stored_of is None else _find(present, stored_of)
        if held is not None and held.is_active and held != _find(present, rotation.old_key_id):
            # A rotation of another key of the user was given the same target, and stored there first.
            raise TargetUnusable(f"{rotation.targets[0]} holds another active key of the user{_TABLE_OF_ITS_OWN}")
        orphans = await self._orphans(rotation, extra, trail)
        self._expect_lists_to_be_whole(trail, orphans)
        for key in orphans:
            await self._say(rotation, evidence={"deleting_orphan": key.key_id})
            await self._keys.delete(rotation.user, key.key_id)
        others = self._others_in(await self._targets.expect_reachable(rotation.targets), rotation)
        # What a rollback may go back to, besides the old key.
        await self._say(rotation, evidence={"step": "create_key"} | ({"held_before": others} if others else {}))
        try:
            key_id, secret = await self._keys.create(rotation.user, job_id=rotation.job_id)
        except (KeyLimit, CloudRefused) as refused:
            await self._say(rotation, evidence={"step": "key_not_created"})  # no key of another's is taken for this one
            if isinstance(refused, CloudRefused):
                raise
            # The list had room: the cloud has not listed the key yet whose answer was lost.
            raise CloudUnavailable(f"{refused}: the list of keys is not consistent yet") from None
        # From here on it is known as ours, whatever uses it.
        await self._say(rotation, evidence={"created_key": key_id})
        # A consumer that reads the target at once must not get a key that the cloud does not know everywhere yet.
        await self._await_known(rotation.user, secret)
        # Another attempt has taken this one's key for lost, and deletes it.
        tries = [row["detail"].get("try") for row in await self._trail_of(rotation.job_id, rotation.tenant_id)]
        if [one for one in tries if one][-1:] != [try_id]:
            raise CloudUnavailable("a later attempt creates the key")
        await self._say(rotation)
        await self._targets.put(rotation.targets, secret, version=key_id)
        try:
            return await self._record_created(rotation, key_id)
        except (StaleClaim, JobClosed):
            # The claim was lost while the secret was on its way: consumers must not get that of a key that is deleted.
            if _find(await self._keys.list_keys(rotation.user), key_id) is None:
                await self._targets.restore(rotation.targets, self._is_of(key_id), version=key_id)
            raise

    async def verify(self, rotation: KeyState) -> datetime:
        """Use the stored secret as its consumers will, having read it back from every target; returns when.

        Raises:
            NewKeyMissing: the first target holds another secret, or the key is another user's.
            SecretNotStored: another target does not hold it.
            CloudUnavailable: the cloud does not know the new key yet, or did not answer.
        """
        await self._expect_account(rotation.cloud_account)
        known_as = await self._expect_signature(rotation)
        evidence = {"verified": _of(rotation.new_key_id), "known_as": known_as[:500]}
        await self._say(rotation, state="verifying", evidence=evidence)
        return datetime.now(UTC)

    async def expect_thawed(self, rotation: KeyState) -> None:
        """Check that nothing forbids a change now; raises Frozen. A rollback is never held up by it."""
        if self._freezes is None:
            return
        reason = await self._freezes(rotation.tenant_id, rotation.cloud_account, rotation.is_compromised)
        if reason is not None:
            raise Frozen(f"rotations are frozen: {reason}"[:500])

    async def prolong(self, rotation: KeyState) -> None:
        """Prolong the claim on the job while the workflow waits; raises a JobError."""
        await self._say(rotation)

    async def needs(self, rotation: KeyState, *, now: datetime) -> Need | None:
        """Return why the old key must stay active; None if nothing is known to need it any more.

        Raises:
            NewKeyMissing: the new key is not there, or inactive.
            CloudUnavailable, CloudRefused, JobError: that could not be found out.
        """
        await self._expect_account(rotation.cloud_account)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        self._expect_new_key(rotation, present)
        if _find(present, rotation.old_key_id) is None:
            return None  # deleted by hand
        _, trail = await self._leases.show(rotation.job_id, tenant_id=rotation.tenant_id)
        moved = consumers_moved(trail, _of(rotation.new_key_id))
        rollouts = await self._targets.unfinished_rollouts(rotation.targets)
        return need_of(
            rotation,
            old=await self._keys.use_of(rotation.user, rotation.old_key_id),
            new=await self._keys.use_of(rotation.user, _of(rotation.new_key_id)),
            missing=[*(name for name in rotation.consumers if name not in moved), *(rollouts or ())],
            is_watched=rollouts is not None,
            own_use_within=self._own_use_within,
            now=now,
        )

    async def deactivate(self, rotation: KeyState) -> datetime:
        """Deactivate the old key, once more shown that the new one works; returns when.

        Raises:
            NewKeyMissing, SecretNotStored: the new key does not work; the old one was not touched.
            OldKeyInUse: it is used again; it was not touched.
            Frozen: nothing may be changed now.
            CloudUnavailable, CloudRefused, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        await self.expect_thawed(rotation)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        self._expect_new_key(rotation, present)
        await self._expect_signature(rotation)
        old = _find(present, rotation.old_key_id)
        used = None if old is None else await self._keys.use_of(rotation.user, rotation.old_key_id)
        if used is not None and is_in_use(rotation, used, now=datetime.now(UTC)):
            raise OldKeyInUse(f"the old key was used at {use_in_words(used)}"[:500])  # since it was found to be quiet
        await self._say(rotation)  # again: what was asked in between took its time
        if old is not None:  # whatever a list shows, which may be older than an activation
            await self._keys.set_active(rotation.user, rotation.old_key_id, False)
        now = datetime.now(UTC)
        evidence = {"deactivated": rotation.old_key_id, "last_used": use_in_words(used)}
        try:
            await self._say(rotation, state="grace", evidence=evidence)
        except (StaleClaim, JobClosed):  # such as a rollback, which found it active
            if old is not None:  # whatever it was listed as: we deactivated it after it was activated, perhaps
                await self._keys.set_active(rotation.user, rotation.old_key_id, True)
            raise
        return now

    async def uses_since(self, rotation: KeyState) -> Need | None:
        """Return who has used the old key since it was deactivated, having activated it again; None if no one.

        Raises:
            CloudUnavailable, CloudRefused, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        old = _find(present, rotation.old_key_id)
        if old is None:
            return None
        if (lost := self._what_became_of_the_new_key(rotation, present)) is not None:
            if rotation.goes_regardless or not self._keys.has_inactive_state:
                raise NewKeyMissing(lost)  # a leaked key works no more, whatever that costs
            await self._say(rotation, evidence={"activating": rotation.old_key_id, "because": lost})
            await self._keys.set_active(rotation.user, rotation.old_key_id, True)
            return Need(kind="new_key_missing", by=(lost,))
        if rotation.goes_regardless:
            return None  # who uses it may be who it was leaked to
        use = await self._keys.use_of(rotation.user, rotation.old_key_id)
        if old.is_active and self._is_activated_by_hand(rotation, old):
            return Need(kind="old_key_in_use", by=("activated by hand",))
        if not self._is_used_since(use, rotation):
            await self._expect_use_to_be_known(use, rotation)
            return None
        await self._say(rotation, evidence={"activating": rotation.old_key_id, "used_by": ", ".join(use.by)[:500]})
        await self._keys.set_active(rotation.user, rotation.old_key_id, True)
        return Need(kind="old_key_in_use", by=use.by)

    async def delete(self, rotation: KeyState) -> None:
        """Delete the old key, which nothing has used since it was deactivated, and keys whose answer was lost.

        Raises:
            OldKeyInUse: it was used or activated since; it was not deleted.
            NewKeyMissing: the new key is not there; the old one was not deleted.
            Frozen: nothing may be changed now.
            CloudUnavailable, CloudRefused, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        await self.expect_thawed(rotation)
        await self._say(rotation)
        present = await self._keys.list_keys(rotation.user)
        self._expect_new_key(rotation, present)
        old = _find(present, rotation.old_key_id)
        if old is not None:
            if old.is_active and self._is_activated_by_hand(rotation, old):
                raise OldKeyInUse("the old key is active again: it was activated by hand")
            if old.is_active and self._keys.has_inactive_state and not rotation.goes_regardless:
                raise CloudUnavailable("the old key is not listed as inactive yet")
            use = await self._keys.use_of(rotation.user, rotation.old_key_id)
            is_used = not rotation.goes_regardless and self._is_used_since(use, rotation)
            if use.last_used_at is not None and is_used:
                raise OldKeyInUse(f"the old key was used at {in_utc(use.last_used_at)}, and was thought to be quiet")
            await self._expect_use_to_be_known(use, rotation)
            await self._say(rotation)
            await self._keys.delete(rotation.user, rotation.old_key_id)
        # A list that was not consistent when the key was created may have hidden one that was created before it.
        trail = await self._trail_of(rotation.job_id, rotation.tenant_id)
        left = [key for key in await self._beside(rotation, present, trail) if key.key_id != rotation.new_key_id]
        for key in await self._keys_created_here(rotation, left, trail):
            await self._say(rotation, evidence={"deleting_orphan": key.key_id})
            await self._keys.delete(rotation.user, key.key_id)
        await self._say(rotation, evidence={"deleted": rotation.old_key_id})

    async def close(self, rotation: KeyState) -> None:
        """Close the job as done, with its evidence; raises a JobError."""
        evidence = {"old_key_id": rotation.old_key_id, "new_key_id": _of(rotation.new_key_id)}
        claim: dict[str, Any] = {"tenant_id": rotation.tenant_id, "token": rotation.token}
        await self._leases.complete(rotation.job_id, **claim, owner=_owner(rotation.job_id), evidence=evidence)

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed, nothing having been changed at the cloud; raises a JobError."""
        claim: dict[str, Any] = {"tenant_id": job.tenant_id, "token": job.token, "owner": _owner(job.job_id)}
        await self._leases.fail(job.job_id, **claim, reason=reason)

    async def report_blocked(self, rotation: KeyState, need: Need) -> None:
        """Write who needs the old key into the audit trail, and send it to the receivers of jobs; raises a JobError."""
        await self._say(rotation, evidence={"blocked": need.kind, "by": ", ".join(need.by)[:500]})
        await self._outbox.add(rotation.job_id, topic=BLOCKED_TOPIC, blocked=need.model_dump(mode="json"))

    async def record_advance(self, rotation: KeyState, operator: str, reason: str) -> None:
        """Write into the audit trail who ended a wait, and why; raises a JobError."""
        await self._say(rotation, evidence={"wait_ended_by": operator, "reason": reason[:500]})

    async def roll_back(self, rotation: KeyState, reason: str) -> None:
        """Go back to the old key, and close the job as failed: first the old works again, then the new one goes.

        Raises:
            RollbackImpossible: the old key is deleted; nothing was changed.
            CloudUnavailable, CloudRefused, SecretNotStored, JobError: call again.
        """
        await self._expect_account(rotation.cloud_account)
        present = await self._keys.list_keys(rotation.user)
        old = _find(present, rotation.old_key_id)
        if old is None:
            raise RollbackImpossible("the old key is deleted")
        trail = await self._trail_of(rotation.job_id, rotation.tenant_id)
        await self._say(rotation)
        if not has_expired(old):  # first of all: nothing else may hold up what ends an outage
            await self._activate(rotation, old, trail)
        beside = await self._beside(rotation, present, trail)
        listed = [key.key_id for key in await self._keys_created_here(rotation, beside, trail)]
        if has_expired(old) and (listed or created_keys(trail)):
            raise RollbackImpossible(
                "the old key has expired, and the new one stays. If the cloud lets you, make the old one valid for "
                "longer, and roll back again"
            )
        works = {key.key_id for key in present if key.is_active and not has_expired(key)}
        known = {rotation.old_key_id, *works, *created_keys(trail)}
        may_hold = {*(digest_of_held(one, rotation.job_id) for one in known), *digests_held_before(trail)}
        # One that no list shows, or that was deleted by hand, may be in the targets all the same.
        for key_id in dict.fromkeys([*listed, *sorted(created_keys(trail))]):
            left = await self._targets.restore(
                rotation.targets,
                self._is_of(key_id),
                version=key_id,
                may_hold=partial(self._is_among, may_hold, rotation.job_id),
            )
            still = {"still_in": " ".join(left)[:500]} if left else {}
            await self._say(rotation, evidence={"deleting": key_id} | still)
            await self._keys.delete(rotation.user, key_id)
            # An attempt to create it that wakes up meanwhile, with the same claim, stores it once more.
            await self._targets.restore(rotation.targets, self._is_of(key_id), version=key_id)
        claim: dict[str, Any] = {"tenant_id": rotation.tenant_id, "token": rotation.token}
        await self._leases.fail(rotation.job_id, **claim, owner=_owner(rotation.job_id), reason=reason)

    async def _activate(self, rotation: KeyState, old: CloudKey, trail: Trail) -> None:
        """Activate the old key, unless nothing has deactivated it; a list may be older than the deactivation."""
        was_deactivated = rotation.deactivated_at is not None or deactivated_at_in(trail) is not None
        is_off = was_deactivated or not old.is_active
        if not self._keys.has_inactive_state or not (is_off or created_keys(trail)):
            return
        try:
            await self._keys.set_active(rotation.user, rotation.old_key_id, True)
        except CloudRefused:
            if is_off:
                raise
            return  # a deactivation whose answer was lost needed the same right: there was none
        if is_off:
            await self._say(rotation, evidence={"activated": rotation.old_key_id})

    async def plan(self, order: KeyRotationOrder) -> Sequence[str]:
        """Return what would be done and when, having looked at everything and changed nothing.

        Raises:
            AnotherAccount, AccountMismatch, KeyNotFound, KeyLimit, MappedTwice, TargetUnusable, CloudUnavailable,
                CloudRefused, JobError: it would not be started.
        """
        await self.expect_own(order)
        row, _ = await self._leases.show(order.job_id, tenant_id=order.tenant_id)
        job = claimed_job(row)
        user = self._keys.user_of(job.account_id, order.cloud_account)
        present = await self._keys.list_keys(user)
        old = await self._expect_rotatable(job, present)
        mapping = await self._mapping_of(job, user, order.cloud_account, old.key_id)
        targets = self._targets_of(user, mapping, order.cloud_account)
        self._targets.expect_usable(targets)
        await self._expect_own_target(targets, old.key_id, present)
        await self._targets.expect_reachable(targets)
        waits = self._waits_of(order, job, mapping)
        used = await self._keys.use_of(user, old.key_id)
        consumers = () if mapping is None else mapping.consumers
        restarts = self._targets.restart_consumers(targets)
        now = datetime.now(UTC)
        return plan_of(
            job,
            user=user,
            used=used,
            targets=targets,
            consumers=consumers,
            restarts=restarts,
            waits=waits,
            is_idle=not consumers and not restarts and is_idle(waits, used, old.created_at, at=now),
            now=now,
        )

    # -- what the steps share -----------------------------------------------------------------------------------------

    async def _say(
        self,
        rotation: KeyState,
        *,
        state: ProgressState | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Prove the claim, prolong it, and record the step. Raises StaleClaim if another holder has claimed the job."""
        words: dict[str, Any] = {
            "tenant_id": rotation.tenant_id,
            "token": rotation.token,
            "owner": _owner(rotation.job_id),
            "lease": LEASE,
            "evidence": evidence,
        }
        try:
            await self._leases.heartbeat(rotation.job_id, state=state, **words)
        except StateRefused:  # an earlier run of this job came further: its state stays
            await self._leases.heartbeat(rotation.job_id, state=None, **words)

    async def _trail_of(self, job_id: str, tenant_id: str) -> Trail:
        """What the executor itself wrote of a job: others may claim it, and what they write is no proof of a key."""
        _, trail = await self._leases.show(job_id, tenant_id=tenant_id)
        return [row for row in trail if row["actor"] == _owner(job_id)]

    async def _expect_account(self, account: str) -> str:
        """Return the credentials' account; raises AnotherAccount if it is not `account`.

        Asked each time: credentials are found anew as they expire, and a profile may be edited under a running process.
        """
        own = await self._keys.account()
        if own != account:
            raise AnotherAccount(f"the step is of the account {account}, and these credentials of {own}")
        return own

    async def _expect_rotatable(self, job: ClaimedJob, present: Sequence[CloudKey]) -> CloudKey:
        key = _find(present, job.key_id)
        if key is None:
            raise KeyNotFound("the job's key is not among the user's keys")
        asked = await creation_asked_for(self._leases.engine, job.job_id)
        if asked is not None and asked != name_by_creation(key.created_at):
            raise AnotherKeyNamed(f"the job is for {asked}, and the key that it names was created at another time")
        if not key.is_active:
            raise KeyNotFound("the job's key is inactive: nothing can use it")
        if len(present) >= self._keys.most_keys:
            raise KeyLimit(f"the user has {len(present)} keys, so no new one can be created")
        return key

    def _tables_of(self, job: ClaimedJob, user: str, own: str) -> Sequence[KeyMapping]:
        return self._key_map().find_all(KeyNames(frozenset({job.account_id, user}), job.key_id, own))

    async def _mapping_of(self, job: ClaimedJob, user: str, own: str, key_id: str) -> KeyMapping | None:
        """Return the key's table: of several, the one whose first target holds the key. Raises MappedTwice."""
        found = self._tables_of(job, user, own)
        if len(found) > 1:
            holds = [one for one in found if await self._holds(self._targets_of(user, one, own), key_id)]
            if len(holds) != 1:
                tables = self._key_map().numbers(found)
                which = "neither holds it" if not holds else "both hold it"
                raise MappedTwice(f"the key map's {tables} name the job's key, and {which} now")
            return holds[0]
        return found[0] if found else None

    async def _holds(self, targets: Sequence[str], key_id: str) -> bool:
        self._targets.expect_usable(targets)
        stored = await self._targets.current(targets)
        return stored is not None and self._keys.key_in(stored) == key_id

    async def _expect_own_target(self, targets: Sequence[str], key_id: str, present: Sequence[CloudKey]) -> None:
        """Check that the first target does not hold the secret of another key, which something may read."""
        stored = await self._targets.current(targets)
        held = None if stored is None else self._keys.key_in(stored)
        if held is None or held == key_id:
            return
        other = _find(present, held)
        if other is None:
            raise TargetUnusable(
                f"{targets[0]} holds a key that is none of this user's: correct the path, or remove it"
            )
        if other.is_active:
            raise TargetUnusable(f"{targets[0]} holds another active key of the user{_TABLE_OF_ITS_OWN}")

    def _targets_of(self, user: str, mapping: KeyMapping | None, account: str) -> tuple[str, ...]:
        paths = self._default_targets if mapping is None or not mapping.targets else mapping.targets
        names = {"{user}": _in_a_name(user), "{account}": _in_a_name(account)}
        return tuple(re.sub(r"\{user\}|\{account\}", lambda found: names[found[0]], path) for path in paths)

    def _waits_of(self, order: KeyRotationOrder, job: ClaimedJob, mapping: KeyMapping | None) -> KeyWaits:
        lines = self._lines_of(job.policy_lines)
        return waits_of(order.waits, lines=lines, mapping=mapping, is_compromised=job.priority == "urgent")

    async def _await_known(self, user: str, secret: SecretStr) -> None:
        """Use a new secret until the cloud knows its key; raises CloudUnavailable if that takes too long."""
        end = time.monotonic() + self._known_within.total_seconds()
        while True:
            try:
                await self._keys.verify(user, secret)
            except CloudUnavailable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(self._known_every.total_seconds())
            else:
                return

    async def _record_created(self, rotation: KeyState, key_id: str) -> str:
        await self._say(rotation, evidence={"new_key_id": key_id, "stored_in": " ".join(rotation.targets)[:500]})
        return key_id

    async def _beside(self, rotation: KeyState, present: Sequence[CloudKey], trail: Trail) -> list[CloudKey]:
        """Return the user's keys beside the recorded ones, without those that rotations of its other keys created.

        Raises CloudUnavailable while such a rotation is about to create one, which nothing names as its own yet.
        """
        beside = [key for key in present if key.key_id not in rotation.keys_before]
        named = named_keys(trail)
        if all(key.key_id in named or key.job_id == rotation.job_id for key in beside):
            return beside  # as a rule: what others wrote is read only where something is left to explain
        since = min(row["at"] for row in trail)
        found = await self._leases.other_trails(rotation.job_id, actor=EXECUTION, since=since, naming=rotation.user)
        others = [one for one in found if is_of_user(one, rotation)]
        for other in others:
            if any(at > datetime.now(UTC) - self._created_within for at in unanswered_tries(other)):
                raise CloudUnavailable("another rotation of this account creates a key now")
        theirs = set[str]().union(*map(named_keys, others))
        return [key for key in beside if key.key_id not in theirs]

    async def _orphans(self, rotation: KeyState, extra: Sequence[CloudKey], trail: Trail) -> Sequence[CloudKey]:
        """Of the keys beside the recorded ones, those that we created and lost; raises ForeignKey for any other."""
        ours = await self._keys_created_here(rotation, extra, trail)
        if len(ours) < len(extra):
            raise ForeignKey("the user has a key beside the old one that this rotation did not create")
        return ours

    async def _keys_created_here(self, rotation: KeyState, extra: Sequence[CloudKey], trail: Trail) -> list[CloudKey]:
        """Those that the trail or their label names as ours, or that were created at an unanswered try and never used.

        A key of which the cloud can say neither whether it was used nor that we created it is not ours by its date.
        """
        named = named_keys(trail)
        unanswered = unanswered_tries(trail)
        ours = []
        for key in extra:
            if key.key_id in named or key.job_id == rotation.job_id:
                ours.append(key)
            elif key.job_id is None and any(abs(key.created_at - at) <= CLOCKS_AGREE_WITHIN for at in unanswered):
                use = await self._keys.use_of(rotation.user, key.key_id)
                if use.was_never_used or (key.is_own and use.last_used_at is None):
                    ours.append(key)
        return ours

    def _expect_lists_to_be_whole(self, trail: Trail, orphans: Sequence[CloudKey]) -> None:
        """Wait before another key is created until the one of an earlier try would be listed, if there is one."""
        tries = [*unanswered_tries(trail), *(row["at"] for row in trail if "created_key" in row["detail"])]
        if tries and not orphans and datetime.now(UTC) < max(tries) + self._keys.visible_within:
            raise CloudUnavailable("an earlier attempt may have created a key that is not listed yet")

    def _is_activated_by_hand(self, rotation: KeyState, old: CloudKey) -> bool:
        """Whether another has activated the old key, which we deactivated; a list may be older than that."""
        since = rotation.deactivated_at
        if not (self._keys.has_inactive_state and old.is_active and since is not None):
            return False
        return datetime.now(UTC) >= since + self._keys.state_shown_within

    def _is_used_since(self, use: KeyUse, rotation: KeyState) -> bool:
        """Whether a use is one that was not known when the old key was deactivated.

        It was quiet by what the cloud said then, which is hours late: a use within the quiet time before is news, too.
        """
        if use.last_used_at is None or rotation.deactivated_at is None:
            return False
        return use.last_used_at > rotation.deactivated_at - rotation.waits.quiet + self._used_since

    async def _expect_use_to_be_known(self, use: KeyUse, rotation: KeyState) -> None:
        """Wait where the cloud said of the old key's use before it was deactivated, and does not say it any more.

        Raises CloudUnavailable. Where consumers or rollouts have shown who moved, or a person has, it need not say it.
        """
        if use.is_known or rotation.consumers or rotation.goes_regardless:
            return
        trail = await self._trail_of(rotation.job_id, rotation.tenant_id)
        said = [row["detail"]["last_used"] for row in trail if "last_used" in row["detail"]]
        if said and said[-1] != use_in_words(use) and not self._targets.restart_consumers(rotation.targets):
            raise CloudUnavailable("the cloud does not say any more whether the old key is used")

    def _expect_new_key(self, rotation: KeyState, present: Sequence[CloudKey]) -> None:
        new = _find(present, _of(rotation.new_key_id))
        verified = rotation.verified_at
        if new is None and verified is not None and datetime.now(UTC) < verified + self._keys.state_shown_within:
            raise CloudUnavailable("the new key is not listed yet")
        if (lost := self._what_became_of_the_new_key(rotation, present)) is not None:
            raise NewKeyMissing(lost)
        ends = None if new is None else new.expires_at
        # The old key is deleted then at the earliest, and nothing would be left that works; a leaked one goes anyway.
        goes = (rotation.deactivated_at or datetime.now(UTC)) + rotation.waits.grace
        if ends is not None and ends < goes and not rotation.goes_regardless:
            raise NewKeyMissing(
                f"the new key ends at {in_utc(ends)}, before the old one may be deleted at {in_utc(goes)}: let new "
                "keys live longer, or shorten the waits; then roll back, and ask again"
            )

    def _what_became_of_the_new_key(self, rotation: KeyState, present: Sequence[CloudKey]) -> str | None:
        """Why the new key does not work, as the list says; None if it does, or may not be listed yet."""
        new, verified = _find(present, _of(rotation.new_key_id)), rotation.verified_at
        if new is None:
            may_be_hidden = verified is not None and datetime.now(UTC) < verified + self._keys.state_shown_within
            return None if may_be_hidden else "the new key is deleted"
        if has_expired(new):
            return "the new key has expired"
        return None if new.is_active else "the new key is inactive"

    def _others_in(self, secrets: Iterable[SecretStr], rotation: KeyState) -> str:
        """The digests of the keys, other than the old one, that these secrets are of."""
        held = {self._keys.key_in(secret) for secret in secrets} - {None, rotation.old_key_id}
        return " ".join(sorted(digest_of_held(str(key_id), rotation.job_id) for key_id in held))

    def _is_among(self, digests: Collection[str], job_id: str, secret: SecretStr | None) -> bool:
        """Whether a secret is of a key of one of these digests, or names no key."""
        held = None if secret is None else self._keys.key_in(secret)
        return held is None or digest_of_held(held, job_id) in digests

    async def _expect_signature(self, rotation: KeyState) -> str:
        stored = await self._targets.current(rotation.targets)
        if stored is None:
            raise NewKeyMissing(f"{rotation.targets[0]} has no secret")
        if self._keys.key_in(stored) != rotation.new_key_id:
            raise NewKeyMissing(f"the secret in {rotation.targets[0]} is not the new key's")
        await self._targets.expect_current(rotation.targets, self._is_of(_of(rotation.new_key_id)))
        return await self._keys.verify(rotation.user, stored)

    def _is_of(self, key_id: str) -> Callable[[SecretStr], bool]:
        return lambda secret: self._keys.key_in(secret) == key_id


def has_expired(key: CloudKey) -> bool:
    """Return whether a key has ended by itself."""
    return key.expires_at is not None and key.expires_at <= datetime.now(UTC)


def _owner(job_id: str) -> str:
    return EXECUTION + job_id


def _find(keys: Sequence[CloudKey], key_id: str) -> CloudKey | None:
    """The key of this ID; where none has it, the one that is also called so."""
    by_id = (key for key in keys if key.key_id == key_id)
    return next(by_id, None) or next((key for key in keys if key_id in key.aliases), None)


def _in_a_name(user: str) -> str:
    """The user as a target may have it in a name, no two users alike: letters, digits and _+=@.- stay.

    What else there is becomes `_XX`, the hexadecimal code of each byte; so does a dot that starts the name, which hides
    a file or leaves its folder, and an underscore that would read as such a code.
    """
    return re.sub(r"^\.|_(?=[0-9A-F]{2})|[^A-Za-z0-9_+=.@-]", lambda found: _coded(found[0]), user)


def _coded(text: str) -> str:
    return "".join(f"_{byte:02X}" for byte in text.encode())


def _of(key_id: str | None) -> str:
    if key_id is None:
        raise NewKeyMissing("no new key was created yet")
    return key_id
