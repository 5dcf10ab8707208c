"""A rotation job: its message and its claim."""

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from keyturn.contracts import (
    ONE_LINE,
    AccountId,
    Contract,
    CredentialKind,
    Digest,
    Identifier,
    Owner,
    ShortIdentifier,
    expect_no_secret,
)
from keyturn.rotations.contracts import JobPriority

# What was done, in names and figures for the audit trail: key ids, request ids, times. Never a secret.
Evidence = dict[
    Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)],
    Annotated[str, StringConstraints(max_length=500, pattern=ONE_LINE), AfterValidator(expect_no_secret)],
]


class ClaimedJob(Contract):
    """A rotation job as its executor sees it. `token` proves the claim; each later call must bring it."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    account_id: AccountId
    key_id: Identifier
    credential_kind: CredentialKind
    policy_lines: tuple[str, ...] = ()
    rotation_window_days: int | None = None
    rotate_by: AwareDatetime | None = None
    priority: JobPriority = "normal"
    state: str = Field(max_length=16)
    token: int = Field(ge=0)
    lease_until: AwareDatetime | None = None


class JobMessage(Contract):
    """What a receiver is sent of a new job: the `data` of its CloudEvent. Fields are added, never changed."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    idempotency_key: str = Field(max_length=1_000)
    account_id: AccountId
    key_id: Identifier
    credential_kind: CredentialKind
    policy_lines: tuple[str, ...]
    rotation_window_days: int | None
    decision_digest: Digest
    requested_by: Identifier
    approved_by: Identifier | None
    trace_id: ShortIdentifier
    created_at: AwareDatetime
    rotate_by: AwareDatetime | None
    priority: JobPriority = "normal"
    owner: Owner | None = None
    # The job that failed or was cancelled, if this one was asked for in its place.
    replaces: ShortIdentifier | None = None


class Delivery(Contract):
    """Which job's message is to be delivered."""

    job_id: ShortIdentifier
