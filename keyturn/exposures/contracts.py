"""A report that a key was exposed, and the key that it is about."""

from typing import Annotated, NamedTuple

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from keyturn.contracts import (
    ONE_LINE,
    AccountId,
    Contract,
    CredentialKind,
    Identifier,
    ShortIdentifier,
    expect_no_secret,
)

Place = Annotated[str, StringConstraints(max_length=1_000, pattern=ONE_LINE), AfterValidator(expect_no_secret)]


class Exposure(Contract):
    """A key that was exposed: where it was found, and who says so. Never the secret itself.

    Attributes:
        account_id: whose key it is; None where no inventory and no job says so.
        source: what found it, such as `github` or `gitleaks`.
        reported_by: who reported it.
        reported_at: when.
        place: where it was found, such as the address of a file; None if that was not said.
    """

    tenant_id: ShortIdentifier
    account_id: Annotated[AccountId, AfterValidator(expect_no_secret)] | None
    key_id: Annotated[Identifier, AfterValidator(expect_no_secret)]
    source: Annotated[ShortIdentifier, AfterValidator(expect_no_secret)]
    reported_by: Identifier
    reported_at: AwareDatetime
    place: Place | None = None


class KnownKey(NamedTuple):
    """A key by an inventory or a job: whose it is, and of which kind."""

    account_id: str
    key_id: str
    kind: CredentialKind
    owner: str | None = None


class ReportedKey(Contract):
    """What became of a report of one key: the rotation that started for it."""

    account_id: AccountId
    key_id: Identifier
    workflow_id: str = Field(max_length=1_000)
    policy_lines: tuple[str, ...]
    is_new: bool  # False where the key was known to be exposed
