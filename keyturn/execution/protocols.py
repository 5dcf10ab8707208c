"""What a cloud's executor and a secret target implement, and the steps that Keyturn makes of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from pydantic import SecretStr

from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyUse, Need
from keyturn.jobs.contracts import ClaimedJob


class SecretStore(Protocol):
    """Where a new secret goes, for the programs that use it. A secret is only ever in here and in a step's memory.

    Each call raises a KeyturnError: a retryable one is tried again, one that `parks` waits for a person.
    """

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret of `name`, keeping the one before; the same version twice changes nothing."""
        ...

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret; None if there is none."""
        ...

    async def restore(self, name: str) -> None:
        """Make the one before current again, or forget the name if there was none.

        The caller has looked that the current one is to be left.
        """
        ...


class CloudKey(NamedTuple):
    """One key of a user, without its secret.

    Attributes:
        key_id: its ID, which no other key of the user has, nor had.
        is_active: whether it works.
        created_at: when it was created.
        job_id: the job that created it, where the cloud has room to note that.
        aliases: what else a job may call it, as inventories do: a resource's whole name, or a role.
        is_own: whether the cloud says that these credentials created it.
        expires_at: when it ends by itself, and cannot be made to work again; None if it does not, or that is not known.
    """

    key_id: str
    is_active: bool
    created_at: datetime
    job_id: str | None = None
    aliases: tuple[str, ...] = ()
    is_own: bool = False
    expires_at: datetime | None = None


class CloudKeys(Protocol):
    """The keys of one cloud account, one call each, none of them retried here.

    Every cloud's executor is this and no more: `keyturn.execution.steps` has what makes its steps repeatable. Each
    method raises CloudUnavailable for what passes by itself, and CloudRefused for what a person must change.

    Attributes:
        most_keys: how many keys a user may have at once.
        visible_within: how long after a call the lists may not show its effect yet.
        state_shown_within: how long after a key was activated, deactivated or created the lists may still show what was
            before.
        has_inactive_state: whether a key can be deactivated and activated again. Where it cannot, the old key works
            until it is deleted.
    """

    most_keys: int
    visible_within: timedelta
    state_shown_within: timedelta
    has_inactive_state: bool

    async def account(self) -> str:
        """Return the cloud account that the credentials belong to now."""
        ...

    def account_named_in(self, account_id: str) -> str | None:
        """Return the cloud account that a job's account ID names; None if it names a user only."""
        ...

    def user_of(self, account_id: str, own: str) -> str:
        """Return the user that a job's account ID names in the account `own`; raises AccountMismatch."""
        ...

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the user's keys, oldest first; raises UserGone if there is no such user."""
        ...

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Create a key; returns its ID and its secret, in the form that consumers read. Raises KeyLimit.

        `job_id` may be written beside the key, where the cloud has room for it.
        """
        ...

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the ID of the key that a stored secret is of; None if it is not of this form."""
        ...

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Use the secret as a consumer does; returns what it was known as. Raises NewKeyMissing, CloudUnavailable."""
        ...

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return what is known of a key's use."""
        ...

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Activate or deactivate a key; nothing happens where the cloud has no such state."""
        ...

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key for ever; nothing happens if it is gone."""
        ...


class RotationSteps(Protocol):
    """The steps of rotating a key at one cloud account. Each looks at what is there first, and may be repeated.

    Each raises a KeyturnError: a retryable one is tried again, one that `parks` waits for a person, and any other
    ends the rotation, which then goes back to the old key.
    """

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job."""
        ...

    async def record(self, order: KeyRotationOrder, job: ClaimedJob) -> KeyState:
        """Write down which keys there are, where the new secret goes, and how long is waited."""
        ...

    async def create(self, rotation: KeyState) -> str:
        """Create the new key and store its secret; returns its ID."""
        ...

    async def verify(self, rotation: KeyState) -> datetime:
        """Show that the new key works; returns when."""
        ...

    async def prolong(self, rotation: KeyState) -> None:
        """Prolong the claim."""
        ...

    async def expect_thawed(self, rotation: KeyState) -> None:
        """Check that no freeze and no maintenance window forbids a change now; raises Frozen."""
        ...

    async def needs(self, rotation: KeyState, *, now: datetime) -> Need | None:
        """Return why the old key must stay active; None if nothing needs it any more."""
        ...

    async def deactivate(self, rotation: KeyState) -> datetime:
        """Deactivate the old key; returns when."""
        ...

    async def uses_since(self, rotation: KeyState) -> Need | None:
        """Return who has used the old key since it was deactivated, having activated it again; None if no one."""
        ...

    async def delete(self, rotation: KeyState) -> None:
        """Delete the old key."""
        ...

    async def close(self, rotation: KeyState) -> None:
        """Close the job as done."""
        ...

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed, nothing having been changed."""
        ...

    async def roll_back(self, rotation: KeyState, reason: str) -> None:
        """Go back to the old key, and close the job as failed."""
        ...

    async def report_blocked(self, rotation: KeyState, need: Need) -> None:
        """Write who needs the old key into the audit trail, and send it to the receivers of jobs."""
        ...

    async def record_advance(self, rotation: KeyState, operator: str, reason: str) -> None:
        """Write into the audit trail who ended a wait, and why."""
        ...


class ExecutorSteps(RotationSteps, Protocol):
    """The steps, and what an executor asks before it starts any. Each raises a KeyturnError."""

    async def account(self) -> str:
        """Return the ID of the cloud account that the credentials belong to now."""
        ...

    async def expect_own(self, order: KeyRotationOrder) -> None:
        """Look whether a job is this account's to execute; raises AnotherAccount if it is not. Changes nothing."""
        ...

    async def plan(self, order: KeyRotationOrder) -> Sequence[str]:
        """Return what executing a job would do, and when, having changed nothing."""
        ...
