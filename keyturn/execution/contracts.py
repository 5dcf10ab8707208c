"""Executing a rotation job: its steps at one cloud account, and the store that its new secret goes to."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal, Protocol

from pydantic import AwareDatetime, Field, SecretStr

from keyturn.contracts import Contract, Identifier, ShortIdentifier
from keyturn.jobs.contracts import ClaimedJob

# An AWS account's number, a project's or a subscription's id.
CloudAccount = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$")]


class KeyRotationOrder(Contract):
    """Which job's access key is to be rotated, and how long the old key stays.

    `overlap` is how long both keys work, for the new secret to be read; `grace` is how long the old one is inactive
    and can be brought back. Both shrink where the job's date is nearer.
    """

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier = "default"
    # Whose executor: a step on any other account changes nothing.
    cloud_account: CloudAccount
    overlap: timedelta = Field(default=timedelta(days=1), ge=timedelta(0), le=timedelta(days=90))
    grace: timedelta = Field(default=timedelta(days=7), ge=timedelta(0), le=timedelta(days=90))


class AccessKeyState(Contract):
    """The state of an access key's rotation, as each step gets it. `token` proves the claim on the job."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    token: int = Field(ge=1)
    cloud_account: CloudAccount
    user: Identifier
    old_key_id: Identifier
    keys_before: tuple[Identifier, ...] = Field(max_length=16)
    new_key_id: Identifier | None = None
    deactivated_at: AwareDatetime | None = None


class KeyRotationOutcome(Contract):
    """How the rotation of an access key ended.

    `superseded`: another holder closed the job or executes it; nothing was touched since that was known.
    """

    status: Literal["done", "failed", "rolled_back", "superseded"]
    job_id: ShortIdentifier
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None
    reason: str | None = Field(default=None, max_length=500)


class KeyRotationStatus(Contract):
    """What the rotation of an access key is at; `blocked` is the kind of the failure that it waits with.

    `until` is when it resumes, or retries, by itself.
    """

    step: str = Field(max_length=32)
    since: AwareDatetime
    until: AwareDatetime | None = None
    blocked: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None


class SecretStore(Protocol):
    """Where the new secret goes, for the programs that use it. A secret is only ever in here and in a step's memory."""

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret of `name`, keeping the one before; again with the same key, nothing happens."""
        ...

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret; None if there is none."""
        ...

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again, if the current one is of `instead_of`; forget it if it was the first."""
        ...


class RotationSteps(Protocol):
    """The steps of rotating a key at one cloud account. Each looks at what is there first, and may be repeated.

    Each raises a KeyturnError: a retryable one is tried again, one that `parks` waits for a person, and any other
    ends the rotation, which then goes back to the old key.
    """

    async def claim(self, order: KeyRotationOrder) -> ClaimedJob:
        """Claim the job."""
        ...

    async def record(self, job: ClaimedJob) -> AccessKeyState:
        """Write down which keys there are."""
        ...

    async def create(self, rotation: AccessKeyState) -> str:
        """Create the new key and store its secret; returns its id."""
        ...

    async def verify(self, rotation: AccessKeyState) -> None:
        """Show that the new key works."""
        ...

    async def prolong(self, rotation: AccessKeyState) -> None:
        """Prolong the claim."""
        ...

    async def deactivate(self, rotation: AccessKeyState) -> datetime:
        """Deactivate the old key; returns when."""
        ...

    async def delete(self, rotation: AccessKeyState) -> None:
        """Delete the old key."""
        ...

    async def close(self, rotation: AccessKeyState) -> None:
        """Close the job as done."""
        ...

    async def refuse(self, job: ClaimedJob, reason: str) -> None:
        """Close the job as failed, nothing having been changed."""
        ...

    async def roll_back(self, rotation: AccessKeyState, reason: str) -> None:
        """Go back to the old key, and close the job as failed."""
        ...


class ExecutorSteps(RotationSteps, Protocol):
    """The steps, and what an executor asks before it starts any. Each raises a KeyturnError."""

    async def account(self) -> str:
        """Return the id of the cloud account that the credentials belong to now."""
        ...

    async def expect_own(self, order: KeyRotationOrder) -> None:
        """Look whether a job is this account's to execute; raises AnotherAccount if it is not. Changes nothing."""
        ...

    async def plan(self, order: KeyRotationOrder) -> Sequence[str]:
        """Return what would be done, a line a step, having looked at everything and changed nothing."""
        ...
