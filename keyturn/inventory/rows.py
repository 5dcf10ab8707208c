"""What a row of an inventory becomes: a key with its evidence, or a reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from keyturn.contracts import EARLIEST_YEAR, AccountId, CredentialFacts, Idle, OwnerName


class InventoryKey(NamedTuple):
    """One key. `line` is its place, counted from 1; `idle` says why nothing need be decided of it, if so.

    `owner` is who owns it by the inventory; None if that does not say.
    """

    line: int
    account_id: str
    facts: CredentialFacts
    idle: Idle | None = None
    owner: str | None = None


class BadRow(NamedTuple):
    """A row that cannot be used, as it stood, and why. Nothing of it was used."""

    line: int
    reason: str
    raw: Mapping[str, Any]


class RowFault(Exception):
    """What is wrong with a row, in words for a person; no value is repeated but the names of columns."""


@dataclass(frozen=True)
class Origin:
    """What is the same for a whole inventory: when it was seen, and by which export."""

    observed_at: Any  # a datetime; pydantic takes it as it is
    source: str


_account = TypeAdapter(AccountId)
_owner = TypeAdapter(OwnerName)


def key_of(
    line: int, account_id: object, *, idle: Idle | None = None, owner: object = None, **facts: Any
) -> InventoryKey:
    """Return a row's key; raises RowFault if its account or a fact of it cannot be used."""
    try:
        # Validated as they come, in one pass: this runs for each of some hundred thousand rows.
        account, known = _account.validate_python(account_id), CredentialFacts(**facts)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in fault["loc"]) or (
            "account_id" if error.title != "CredentialFacts" else ""
        )
        message = _HINTS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        if fault["type"] == "string_type" and (account_id if name == "account_id" else facts.get(name)) is not None:
            message = "is no text: write it in quotation marks"
        raise RowFault(f"{name}: {message}" if name else message) from None
    return InventoryKey(line, account, known, idle, None if owner is None else _checked_owner(owner))


def _checked_owner(owner: object) -> str:
    try:
        return _owner.validate_python(owner)
    except ValidationError:
        raise RowFault("owner: may hold letters, digits and . _ @ + = / - only, 64 at most") from None


def idle_if_expired(ends: object, origin: Origin) -> Idle | None:
    """Return `expired` if a key has ended at the evidence's own time; a value that is no moment counts as unknown."""
    try:
        end = datetime.fromisoformat(str(ends))
    except ValueError:
        return None
    # The zero of Go, .NET or a computer's clock is no end.
    is_end = end.tzinfo is not None and end.year > EARLIEST_YEAR
    return "expired" if is_end and end <= origin.observed_at else None


_HINTS = {
    "string_pattern_mismatch": "may hold letters, digits and . _ : / @ + = , - only, and starts with a letter or digit",
    "timezone_aware": "needs a time zone, such as 2026-11-21T09:00:00Z",
    "string_type": "is missing",
    "missing": "is missing",
    "datetime_parsing": "is not a moment such as 2026-08-01T00:00:00Z",
    "datetime_from_date_parsing": "is not a moment such as 2026-08-01T00:00:00Z",
}
