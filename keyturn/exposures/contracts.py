"""A report that a key was exposed, and the key that it is about."""

from typing import Annotated, NamedTuple

from pydantic import AfterValidator, AwareDatetime, Field

from keyturn.contracts import AccountId, Contract, CredentialKind, Identifier, ShortIdentifier, expect_no_secret


class Exposure(Contract):
    """A key that was exposed: where it was found, and who says so. Never the secret itself.

    Attributes:
        source: what found it, such as `github` or `gitleaks`.
        reported_by: who reported it.
        reported_at: when.
    """

    tenant_id: ShortIdentifier
    account_id: Annotated[AccountId, AfterValidator(expect_no_secret)]
    key_id: Annotated[Identifier, AfterValidator(expect_no_secret)]
    source: Annotated[ShortIdentifier, AfterValidator(expect_no_secret)]
    reported_by: Identifier
    reported_at: AwareDatetime


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
