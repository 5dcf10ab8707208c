"""Executing a rotation job: its order, its state between steps, and how it ends."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from keyturn.contracts import ONE_LINE, Contract, Identifier, ShortIdentifier

MAX_WAIT = timedelta(days=90)  # longer than a quarter, no one remembers what the old key was
EXECUTION = "execute:"  # starts the ID of the workflow that executes a job, which is also the owner of its claim
ROLLED_BACK = "rolled back by "  # starts the reason of a job that an operator rolled back
MAX_TARGETS = 16
MAX_CONSUMERS = 32
# A target and what it calls the secret: `secretsmanager:keyturn/svc-pay`.
TargetPath = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*:[!-~]{1,400}$", max_length=440)]
# An AWS account's number, a project's or a subscription's id.
CloudAccount = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$")]


class KeyWaits(Contract):
    """How long a rotation waits at least, and what must be seen before the old key goes.

    Attributes:
        overlap: both keys work for at least so long, for the new secret to be read.
        grace: the old key is inactive for at least so long before it is deleted, and can be activated again.
        quiet: the old key was not used for so long when it is deactivated; no less than the overlap.
        idle: a key that was not used for so long, and is no younger, has no consumer: none need be seen to use the new
            one.
        check_every: how often is looked whether the old key is used. Three calls a key: an hour is far below limits.
        cut_short_by: the policy line on compromised keys that made the waits shorter; None if none did.
    """

    overlap: timedelta = Field(default=timedelta(days=1), ge=timedelta(0), le=MAX_WAIT)
    grace: timedelta = Field(default=timedelta(days=7), ge=timedelta(0), le=MAX_WAIT)
    quiet: timedelta = Field(default=timedelta(days=1), ge=timedelta(0), le=MAX_WAIT)
    idle: timedelta = Field(default=timedelta(days=90), ge=timedelta(0), le=timedelta(days=3_650))
    check_every: timedelta = Field(default=timedelta(hours=1), ge=timedelta(seconds=1), le=timedelta(hours=12))
    cut_short_by: ShortIdentifier | None = None


class KeyRotationOrder(Contract):
    """Which job's key is to be rotated, in which cloud account, with which waits unless its line or mapping says."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier = "default"
    # Whose executor: a step on any other account changes nothing.
    cloud_account: CloudAccount
    waits: KeyWaits = KeyWaits()


class KeyState(Contract):
    """The state of a key's rotation, as each step gets it. `token` proves the claim on the job."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    token: int = Field(ge=1)
    cloud_account: CloudAccount
    user: Identifier
    old_key_id: Identifier
    keys_before: tuple[Identifier, ...] = Field(max_length=16)
    # Where the new secret goes, the first of them readable; and who must have moved to it.
    targets: tuple[TargetPath, ...] = Field(min_length=1, max_length=MAX_TARGETS)
    consumers: tuple[ShortIdentifier, ...] = Field(default=(), max_length=MAX_CONSUMERS)
    waits: KeyWaits
    recorded_at: AwareDatetime
    # None where the cloud does not say it any more.
    old_created_at: AwareDatetime | None = None
    rotate_by: AwareDatetime | None = None
    # Only what is compromised may be cut short by a person.
    is_compromised: bool = False
    new_key_id: Identifier | None = None
    # A person has ended a wait of a compromised key.
    was_advanced: bool = False
    verified_at: AwareDatetime | None = None
    deactivated_at: AwareDatetime | None = None

    @property
    def goes_regardless(self) -> bool:
        """Whether a use of the old key is no reason to leave it: it is compromised, and a line or a person said so."""
        return self.is_compromised and (self.was_advanced or self.waits.cut_short_by is not None)


class KeyUse(Contract):
    """What the provider knows of a key's use.

    Attributes:
        last_used_at: None if no use is known.
        by: what used it, as far as that is known.
        is_known: False where the provider cannot say: that is no proof of anything.
        is_whole: False where some uses are never seen, as Google's Policy Analyzer sees Cloud APIs alone: then no
            known use is no proof that there was none.
    """

    last_used_at: AwareDatetime | None = None
    by: tuple[Annotated[str, Field(max_length=200, pattern=ONE_LINE)], ...] = Field(default=(), max_length=16)
    is_known: bool = True
    is_whole: bool = True

    @property
    def was_never_used(self) -> bool:
        """Whether the provider says that it was never used."""
        return self.is_known and self.is_whole and self.last_used_at is None


# Why an old key must stay.
NeedKind = Literal["old_key_in_use", "new_key_not_seen", "consumers_not_moved", "key_use_unknown", "new_key_missing"]


class Need(Contract):
    """Why the old key must stay, and what shows it: who uses it, or who has not moved."""

    kind: NeedKind
    by: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=16)


class KeyRotationOutcome(Contract):
    """How the rotation of a key ended.

    `superseded`: another holder closed the job or executes it; nothing was touched since that was known.
    """

    status: Literal["done", "failed", "rolled_back", "superseded"]
    job_id: ShortIdentifier
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None
    reason: str | None = Field(default=None, max_length=500)


class KeyRotationStatus(Contract):
    """What the rotation of a key is at; `blocked` is the kind of the failure that it waits with.

    `until` is when it resumes, or retries, by itself.
    """

    step: str = Field(max_length=32)
    since: AwareDatetime
    until: AwareDatetime | None = None
    blocked: str | None = Field(default=None, max_length=64)
    # What was wrong, in words; None where `blocked_by` and `hint` say all.
    because: str | None = Field(default=None, max_length=500)
    # Who uses the old key, or has not moved to the new one.
    blocked_by: tuple[str, ...] = Field(default=(), max_length=32)
    # When the waits end at the earliest, if that is after the job's date: they are never shortened for it.
    late_until: AwareDatetime | None = None
    hint: str | None = Field(default=None, max_length=500)
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None
