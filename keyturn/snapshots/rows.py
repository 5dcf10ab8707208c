"""Rows of a snapshot: the plain form's columns (keyturn/inventory/plain.py), an object a key."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.contracts import UNOWNED
from keyturn.errors import SettingsInvalid
from keyturn.people import same_form
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults

# As rows of inventories take it: a team, an address, or a group as code hosts write it.
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+=/-]{0,63}")


class OwnerTagSettings(BaseSettings):
    """By which tags the owner of a key is known."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    tags: str = Field(
        default="owner,team",  # which most estates use
        alias="KEYTURN_OWNER_TAGS",
        pattern=r"^[^,]{1,128}(,[^,]{1,128}){0,19}$",
        description="The tags, labels and annotations that name a key's owner, separated by commas; the first counts.",
    )


def owner_tags() -> tuple[str, ...]:
    """Return the names of tags that name an owner, in small letters; raises SettingsInvalid."""
    try:
        return tuple(tag.strip().lower() for tag in OwnerTagSettings().tags.split(","))
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None


class Rows:
    """The rows of a page, and what was left out of them.

    Args:
        observed_at: the snapshot's own time.
        source: what the evidence calls the cloud's API.
        owner: of keys whose own tags name none.

    Attributes:
        younger: how many keys were created since `observed_at`.
        unusable_owners: how many keys have an owner that rows cannot hold.
        notes: what else could not be read, in words for a person.
    """

    def __init__(self, observed_at: datetime, source: str, owner: str = "") -> None:
        self._observed_at = observed_at
        self._source = source
        self._owner = owner
        self._rows: list[dict[str, Any]] = []
        self.younger = 0
        self.unusable_owners = 0
        self.notes: list[str] = []

    def add(
        self,
        account_id: str,
        key_id: str,
        *,
        kind: str = "service_account_key",
        created_at: datetime | None,
        last_used_at: datetime | None = None,
        never_used: bool = False,
        compromised: bool = False,
        is_active: bool = True,
        owner: str = "",
        observed_at: datetime | None = None,
    ) -> None:
        """Add a key, unless it is younger than the snapshot.

        `observed_at` is when the evidence of its use was made, if that was earlier; never earlier than what it says.
        """
        if created_at is not None and created_at > self._observed_at:
            self.younger += 1
            return
        # A key that is in use all the time was used since the snapshot's time: at that time, it was in use.
        used = None if last_used_at is None else min(last_used_at, self._observed_at)
        shown = max(filter(None, (min(observed_at or self._observed_at, self._observed_at), created_at, used)))
        row = {
            "account_id": account_id,
            "kind": kind,
            "key_id": key_id,
            "last_rotated_at": _text(created_at),
            "last_used_at": _text(used),
            "never_used": (never_used and used is None) or None,
            "compromised": compromised or None,
            "active": None if is_active else False,
            "owner": self._owner_of(owner),
            "observed_at": _text(shown),
            "source": self._source,
        }
        self._rows.append({name: value for name, value in row.items() if value is not None})

    def lines(self) -> list[str]:
        """Return the rows as JSON Lines, in the order of accounts and keys: clouds list them in any."""
        ordered = sorted(self._rows, key=lambda row: (row["account_id"], row["key_id"]))
        return [json.dumps(row, separators=(",", ":")) for row in ordered]

    def _owner_of(self, own: str) -> str | None:
        for named in filter(None, (own, self._owner)):
            owner = _written(named)
            if _is_owner(owner):
                return owner
            self.unusable_owners += 1
        return None


def _written(owner: str) -> str:
    """Return a tag as rows have it: "Payments Team" is how people write it, Payments-Team what the estate can name."""
    return re.sub(r"\s+", "-", owner.strip()).removeprefix("@")


def _is_owner(name: str) -> bool:
    return _OWNER.fullmatch(name) is not None and same_form(name) != UNOWNED


def owner_in(tags: Mapping[str, Any]) -> str:
    """Return the owner that tags, labels or annotations name; empty if none does."""
    named = {str(name).lower(): value for name, value in tags.items()}
    found = [str(named[tag]) for tag in owner_tags() if isinstance(named.get(tag), str) and named[tag].strip()]
    return next((one for one in found if _is_owner(_written(one))), found[0] if found else "")


def tags_of(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return tags as AWS lists them, by their names."""
    return {str(pair.get("Key")): pair.get("Value") for pair in pairs}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
