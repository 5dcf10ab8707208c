"""The key map: where each key's new secret goes, who uses it, and who owns it.

A TOML file, with a table a key:

    [[key]]
    account = "arn:aws:iam::123456789012:user/svc-pay"
    owner = "payments"
    targets = ["secretsmanager:prod/pay/aws", "kubernetes:prod/pay-aws?restart=deployment/pay-api"]
    consumers = ["pay-api"]

A key that no table names goes to the targets of KEYTURN_EXECUTOR_TARGETS, and is refused if there are none. Where an
account has several keys, each has a table of its own, and a key's table is the one whose first target holds it now. If
that names none or two, the rotation is refused before anything is created: which is right, only a person knows.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from keyturn.contracts import Contract, OwnerName, ShortIdentifier
from keyturn.execution.contracts import MAX_CONSUMERS, MAX_TARGETS, CloudAccount, TargetPath
from keyturn.execution.errors import KeyMapInvalid, MappedTwice
from keyturn.patterns import Pattern
from keyturn.settings import field_faults
from keyturn.toml_files import read_toml

_PARTS = re.compile("[:/]")  # of a resource's name, such as `arn:aws:iam::123456789012:user/svc-pay`
_BRACES = re.compile(r"\{[^{}]*\}?|\}")
Hours = Annotated[float, Field(ge=0, le=2_160, strict=True)]


class KeyNames(NamedTuple):
    """What a key map may call a key: its account as the job has it, and its user's name in the cloud account."""

    accounts: frozenset[str]
    key_id: str
    cloud_account: str | None = None


class KeyMapping(Contract):
    """A table of the key map.

    Attributes:
        account: the key's account as jobs have it, the user's name, or its resource name in the cloud, such as an ARN;
            `*` stands for any characters.
        cloud_account: only in this cloud account: a user's name is in many.
        key_id: only this key of the account; None for each.
        owner: the team that owns the key, for lists, reports and messages.
        targets: where the new secret goes. The first one must be readable: the others are filled from it.
        consumers: who must report that they use the new key before the old one goes.
        overlap_hours: how long both keys work at least; None for the executor's setting.
        grace_hours: how long the old key is inactive at least before it is deleted; None for the executor's setting.
    """

    # A blank at its end would name no key, in silence.
    account: str = Field(pattern=r"^[!-~]{1,640}$")
    cloud_account: CloudAccount | None = None
    key_id: str | None = Field(default=None, pattern=r"^[!-~]{1,256}$")
    owner: OwnerName | None = None
    targets: tuple[TargetPath, ...] = Field(default=(), max_length=MAX_TARGETS)
    consumers: tuple[ShortIdentifier, ...] = Field(default=(), max_length=MAX_CONSUMERS)
    overlap_hours: Hours | None = None
    grace_hours: Hours | None = None

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for name in ("targets", "consumers"):
            entries = [entry.partition("?")[0] for entry in getattr(self, name)]
            if len(set(entries)) < len(entries):
                raise ValueError(f"{name} has an entry twice")
        for target in self.targets:
            if "*" in self.account and target.count("{user}") != 1:
                raise ValueError(f"{target}: a table for many accounts has {{user}} once in each target")
            if set(_BRACES.findall(target)) - {"{user}", "{account}"}:
                raise ValueError(f"{target}: only {{user}} and {{account}} are replaced")
        return self

    def names(self, key: KeyNames) -> bool:
        """Whether this table is about a key."""
        if self.key_id not in {None, key.key_id} or self.cloud_account not in {None, key.cloud_account}:
            return False
        if "*" in self.account:
            return any(Pattern(self.account).matches(name) for name in key.accounts)
        return self.account in key.accounts or self._names_resource(key)

    def _names_resource(self, key: KeyNames) -> bool:
        """Whether this table has the whole name of what a job calls by its last part alone, in the cloud account."""
        *whole, last = _PARTS.split(self.account)
        if not whole or last not in key.accounts:
            return False
        if key.cloud_account is None:  # as in an inventory: a name alone may be of any account, a whole one is exact
            return not any(_PARTS.search(name) for name in key.accounts)
        return f":{key.cloud_account}:" in f":{self.account.replace('/', ':')}"


class KeyMap:
    """All tables of a file."""

    def __init__(self, mappings: Sequence[KeyMapping] = ()) -> None:
        self._mappings = tuple(mappings)
        # Of ten thousand tables, each key is compared with those of its own names, and with patterns.
        self._named: dict[str, list[int]] = {}
        self._patterns: list[int] = []
        for number, mapping in enumerate(self._mappings):
            if "*" in mapping.account:
                self._patterns.append(number)
            else:
                for name in {mapping.account, _PARTS.split(mapping.account)[-1]}:
                    self._named.setdefault(name, []).append(number)

    def __iter__(self) -> Iterator[KeyMapping]:
        return iter(self._mappings)

    def find_all(self, key: KeyNames) -> Sequence[KeyMapping]:
        """Return the tables about a key: more than one where an account has several keys, each with its own target."""
        return [one for one in self._candidates(key.accounts) if one.names(key)]

    def find(self, key: KeyNames) -> KeyMapping | None:
        """Return the one table about a key; None if there is none. Raises MappedTwice."""
        found = self.find_all(key)
        if len(found) > 1:
            raise MappedTwice(f"the key map's {self.numbers(found)} both name the job's key")
        return found[0] if found else None

    def owner_of(self, account_id: str, key_id: str) -> str | None:
        """Return who owns a key, by its names in an inventory or a job; None if no table says."""
        accounts = names_of(account_id)
        for mapping in self._candidates(accounts):
            if mapping.owner and mapping.names(KeyNames(accounts, key_id, mapping.cloud_account)):
                return mapping.owner
        return None

    def _candidates(self, accounts: frozenset[str]) -> Iterator[KeyMapping]:
        """The tables that may be about an account, in the order of the file."""
        numbers = {*self._patterns, *(number for name in accounts for number in self._named.get(name, ()))}
        return (self._mappings[number] for number in sorted(numbers))

    def numbers(self, mappings: Sequence[KeyMapping]) -> str:
        """Return which tables these are, for a message."""
        return "tables " + " and ".join(str(self._mappings.index(one) + 1) for one in mappings[:2])


@lru_cache(maxsize=65_536)  # asked for by each waiver and rule that is compared with an account
def names_of(account_id: str) -> frozenset[str]:
    """Return what a key map may call an account, without asking its cloud: an ARN ends in its user's name."""
    return frozenset({account_id, account_id.rpartition("/")[2]})


def load_key_map(file: Path | None) -> KeyMap:
    """Return the key map of a file, an empty one for None; raises KeyMapInvalid with every fault."""
    if file is None:
        return KeyMap()
    content = read_toml(file, KeyMapInvalid)
    unknown = sorted(set(content) - {"key"})
    tables = content.get("key")
    if unknown or not isinstance(tables, list) or not tables:
        fault = f"has {', '.join(unknown)[:100]}, which nothing reads" if unknown else "has no [[key]]"
        raise KeyMapInvalid(f"{file} {fault}: each key is a table [[key]]")
    mappings, faults = [], []
    for number, table in enumerate(tables, 1):
        try:
            mappings.append(KeyMapping.model_validate(table))
        except ValidationError as error:
            faults += [f"{file}, [[key]] {number}: {fault}" for fault in field_faults(error)]
    seen: dict[str, int] = {}
    for number, mapping in enumerate(mappings, 1):
        same = f"{mapping.account} {mapping.key_id} {mapping.cloud_account} {mapping.targets[:1]}"
        places = [target.partition("?")[0] for target in mapping.targets if "{user}" not in target]
        for name in (same, *places):
            first = seen.setdefault(name, number)
            if first != number:
                what = f"the target {name}" if name in places else "the same key"
                faults.append(f"{file}, [[key]] {number}: names {what} as [[key]] {first} does")
    if faults:
        raise KeyMapInvalid("\n".join(faults[:20]))
    return KeyMap(mappings)
