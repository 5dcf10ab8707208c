"""Executing a rotation job: its steps at one cloud account, and the store that its new secret goes to."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr

from keyturn.contracts import AccessKeyState, ClaimedJob, KeyRotationOrder


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
        """Keep the claim."""
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
