"""A waiver, and what a rotation says of the one that exempts its key."""

from typing import Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from keyturn.contracts import Contract, Identifier, Owner, Reason, ShortIdentifier

# As a key map names accounts: `*` stands for any characters.
AccountPattern = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,640}$")]


class Waiver(Contract):
    """Exempts keys from rotation. What it leaves open (None) it does not ask for; at least one condition is set.

    Attributes:
        account: a pattern of accounts, compared as a key map compares them.
        key_id: one key.
        owner: the keys of one owner.
        line: under this policy line, by its ID, alone.
        until: when it ends.
        granted_by: the approver.
        covers_compromised: whether a key that was exposed is exempt, too.
    """

    waiver_id: ShortIdentifier
    tenant_id: ShortIdentifier
    account: AccountPattern | None = None
    key_id: Identifier | None = None
    owner: Owner | None = None
    line: ShortIdentifier | None = None
    reason: Reason
    granted_by: Identifier
    granted_at: AwareDatetime
    until: AwareDatetime
    covers_compromised: bool = False

    @model_validator(mode="after")
    def _is_about_something(self) -> Self:
        if not (self.account or self.key_id or self.owner or self.line):
            raise ValueError("a waiver names an account, a key, an owner or a policy line: it is not for every key")
        return self

    @property
    def scope(self) -> str:
        """What it is about, in words."""
        parts = [f"key {self.key_id}"] if self.key_id else []
        parts += [f"account {self.account}"] if self.account else []
        parts += [f"owner {self.owner}"] if self.owner else []
        parts += [f"line {self.line}"] if self.line else []
        return ", ".join(parts) + (", compromised keys too" if self.covers_compromised else "")


class AppliedWaiver(Contract):
    """The waiver that exempts a key: of several, the one that ends first. `until` is when the key is due again."""

    waiver_id: ShortIdentifier
    granted_by: Identifier
    reason: str = Field(max_length=500)
    until: AwareDatetime
