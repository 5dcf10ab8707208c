"""Who owns each key: for lists, reports, messages, waivers, and the limits of executors.

The first that says so: the key map's table of the key (`owner`, see `keyturn.execution.mapping`); the inventory, in
its column `owner`; the file of KEYTURN_OWNERS. A key that none of them names is unowned, and a report says so.

The file has a pattern of accounts and an owner a line. As in a CODEOWNERS file, the last line that matches counts, and
a pattern without an owner takes the owner away:

    # account, its resource name or the last part of it    owner
    *                                                      platform
    svc-pay-*                                              payments
    arn:aws:iam::123456789012:user/*                       @infra
    svc-sandbox-*
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings

from keyturn.contracts import OwnerName
from keyturn.errors import KeyturnError
from keyturn.execution.mapping import KeyMap, load_key_map, names_of
from keyturn.patterns import Pattern
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT

_owner = TypeAdapter(OwnerName)


class OwnersInvalid(KeyturnError):
    """The file of owners cannot be used: nothing is started by it."""

    kind = "owners_invalid"
    next_step = "fail_and_fix_request"
    hint = "Fix the file of KEYTURN_OWNERS: a pattern and one owner a line, such as `svc-pay-* payments`."


class OwnerRule(NamedTuple):
    """A line of the file: the accounts that it is about, and who owns their keys; None for no one."""

    accounts: Pattern
    owner: str | None


class Owners:
    """The owners of keys.

    Args:
        key_map: the key map, whose tables name owners.
        rules: the lines of the owners' file, in its order.
    """

    def __init__(self, key_map: KeyMap | None = None, rules: Sequence[OwnerRule] = ()) -> None:
        self._key_map = key_map or KeyMap()
        self._rules = tuple(rules)
        # Of thousands of lines, an account is compared with those that begin as it does.
        self._by_prefix: dict[str, list[int]] = defaultdict(list)
        for number, rule in enumerate(self._rules):
            self._by_prefix[rule.accounts.text if rule.accounts.is_exact else rule.accounts.prefix].append(number)
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix})

    @property
    def names(self) -> frozenset[str]:
        """All owners that the two files name; inventories may name others."""
        return frozenset(one.owner for one in (*self._key_map, *self._rules) if one.owner)

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
        last = max(self._matching(account_id), default=None)
        return None if last is None else self._rules[last].owner

    def _matching(self, account_id: str) -> Iterator[int]:
        for name in names_of(account_id):
            for length in self._lengths:
                for number in self._by_prefix.get(name[:length], ()):
                    if self._rules[number].accounts.matches(name):
                        yield number


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
        words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()  # a comment begins a word, as in CODEOWNERS
        if not words:
            continue
        try:
            rules.append(_rule(words))
        except ValueError as error:
            faults.append(f"{file}, line {number}: {error}")
    if not faults and all(rule.owner is None for rule in rules):
        faults = [f"{file} names no owner: a line is a pattern of accounts, a blank, and one owner"]
    if faults:
        raise OwnersInvalid("\n".join(faults[:20]))
    return rules


def _rule(words: Sequence[str]) -> OwnerRule:
    pattern, *owners = words
    if len(owners) > 1:
        raise ValueError("names several owners: one team answers for a key")
    if pattern[0] in "/!^" or "[" in pattern or "**" in pattern:
        raise ValueError("a pattern is of accounts: no path, negation, section or class of characters")
    if not re.fullmatch("[!-~]{1,640}", pattern):
        raise ValueError("the pattern holds characters that no account has")
    try:
        owner = _owner.validate_python(owners[0]) if owners else None
    except ValidationError as error:
        said = error.errors(include_input=False, include_url=False)[0]
        if said["type"] == "value_error":
            raise ValueError(said["msg"].removeprefix("Value error, ")) from None
        raise ValueError("an owner has letters, digits and . _ @ + = / - only, 64 at most") from None
    return OwnerRule(Pattern(pattern), owner)
