"""Who owns each key: for lists, reports, messages, waivers, and the limits of executors.

The first that says so: the key map's table of the key (`owner`, see `keyturn.execution.mapping`); the inventory, in
its column `owner`; the file of KEYTURN_OWNERS. A key that none of them names is unowned, and a report says so.

The file has a pattern and an owner a line, as a CODEOWNERS file does; the last line that matches counts, and a pattern
without an owner takes the owner away:

    # account, its resource name or the last part of it    owner
    *                                                      platform
    svc-pay-*                                              payments
    arn:aws:iam::123456789012:user/*                       @infra
    svc-sandbox-*
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings

from keyturn.contracts import UNOWNED, Owner
from keyturn.errors import KeyturnError
from keyturn.execution.mapping import KeyMap, load_key_map, names_of
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT

_owner = TypeAdapter(Owner)


class OwnersInvalid(KeyturnError):
    """The file of owners cannot be used: nothing is started by it."""

    kind = "owners_invalid"
    next_step = "fail_and_fix_request"
    hint = "Fix the file of KEYTURN_OWNERS: a pattern and one owner a line, such as `svc-pay-* payments`."


class OwnerRule(NamedTuple):
    """A line of the file: the accounts that it is about, and who owns their keys; None for no one."""

    accounts: re.Pattern[str]
    owner: str | None


class Owners:
    """The owners of keys.

    Args:
        key_map: the key map, whose tables name owners.
        rules: the lines of the owners' file, in its order.
    """

    def __init__(self, key_map: KeyMap | None = None, rules: Sequence[OwnerRule] = ()) -> None:
        self._key_map = key_map or KeyMap()
        self._rules = tuple(reversed(rules))

    def owner_of(self, account_id: str, key_id: str, recorded: str | None = None) -> str | None:
        """Return who owns a key; None if it is unowned.

        Args:
            account_id: as an inventory or a job has it.
            key_id: as an inventory or a job has it.
            recorded: the owner by the inventory, if it names one.
        """
        mapped = self._key_map.owner_of(account_id, key_id) or recorded
        if mapped:
            return mapped
        names = names_of(account_id)
        for rule in self._rules:
            if any(rule.accounts.fullmatch(name) for name in names):
                return rule.owner
        return None


class OwnerSettings(BaseSettings):
    """Where owners of keys are written."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    key_map: Path | None = Field(
        default=None, alias="KEYTURN_KEY_MAP", description="The key map, whose tables may name the owners of keys."
    )
    owners: Path | None = Field(
        default=None,
        alias="KEYTURN_OWNERS",
        description="The file of owners: a pattern of accounts and an owner a line, the last match counts.",
    )


def load_owners(settings: OwnerSettings | None = None) -> Owners:
    """Return the owners that settings name, by default the environment's; raises KeyMapInvalid, OwnersInvalid."""
    settings = settings or OwnerSettings()
    return Owners(load_key_map(settings.key_map), [] if settings.owners is None else read_rules(settings.owners))


def read_rules(file: Path) -> list[OwnerRule]:
    """Return the lines of a file of owners; raises OwnersInvalid with every fault."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # editors of Windows write a mark before the text
    except OSError as error:
        raise OwnersInvalid(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OwnersInvalid(f"{file} is not UTF-8: save it with this encoding (PowerShell: -Encoding utf8)") from None
    rules, faults = list[OwnerRule](), list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            rules.append(_rule(words))
        except ValueError as error:
            faults.append(f"{file}, line {number}: {error}")
    if not rules and not faults:
        faults = [f"{file} names no owner"]
    if faults:
        raise OwnersInvalid("\n".join(faults[:20]))
    return rules


def _rule(words: Sequence[str]) -> OwnerRule:
    pattern, *owners = words
    if len(owners) > 1:
        raise ValueError("names several owners: one team answers for a key")
    if not re.fullmatch("[!-~]{1,640}", pattern):
        raise ValueError("the pattern holds characters that no account has")
    try:
        owner = _owner.validate_python(owners[0].removeprefix("@")) if owners else None
    except ValidationError:
        raise ValueError("an owner has letters, digits and . _ @ + = / - only, 64 at most") from None
    if owner == UNOWNED:
        raise ValueError(f"leave the owner out to say that no one owns such keys: {UNOWNED} is no name of a team")
    return OwnerRule(re.compile(".*".join(map(re.escape, pattern.split("*")))), owner)
