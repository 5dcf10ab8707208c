"""AWS: the IAM credential report, joined with `aws iam list-access-keys` for the ids of keys.

The report (docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_getting-report.html) has two slots of access keys a
user and no key id. A key's `last_rotated` is its creation, so user and moment find its id in the other list. Without
that list a key is named by that moment: as good a name for its cycle, but none that AWS knows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keyturn.inventory.answers import is_answer, reports_in
from keyturn.inventory.documents import entries_of
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow, Origin, RowFault, key_of
from keyturn.inventory.source import Entries, Inventory, Row, Source, Table, WrappedTables

ROOT = "<root_account>"  # as the report names it
EXPORT = "aws-credential-report"
COLUMNS = ("user", "arn", *(f"access_key_{slot}_{name}" for slot in (1, 2) for name in ("active", "last_rotated")))
# Before this day AWS did not write down when a key was used: "N/A" of an older key does not mean never.
USE_IS_KNOWN_SINCE = datetime(2015, 4, 22, tzinfo=UTC)
_NO_VALUE = {"", "N/A", "n/a", "no_information", "not_supported", "NULL", "null", "\\N"}  # the last three by databases


def read_key_ids(file: Path) -> dict[tuple[str, str], str]:
    """Return the ids in one or more outputs of `aws iam list-access-keys`, by user and moment of creation.

    Its `AccessKeyMetadata` alone (`--query 'AccessKeyMetadata[]'`) and an array of outputs (`jq -s`) are read, too.
    Root's own keys have no user's name.

    Raises:
        InventoryInvalid: the file is no such output, or one page of several.
    """
    found: dict[tuple[str, str], str] = {}
    try:
        for row in _listed(file):
            moment = report_moment("CreateDate", str(row["CreateDate"]))
            if moment is not None:
                key_id, of = str(row["AccessKeyId"]), (str(row.get("UserName", ROOT)), _second(moment))
                # Two keys of one user and second cannot be distinguished: neither is joined.
                found[of] = key_id if found.get(of, key_id) == key_id else ""
    except (KeyError, RowFault):
        raise InventoryInvalid(f"{file} is not the output of `aws iam list-access-keys`") from None
    if not found:
        raise InventoryInvalid(f"{file} holds no access key: it is no output of `aws iam list-access-keys`")
    return found


def _listed(file: Path) -> Iterator[Mapping[str, Any]]:
    for entry in entries_of(file):
        if isinstance(entry, BadRow):
            raise InventoryInvalid(f"{file}: entry {entry.line} {entry.reason}")
        within = entry[1].get("AccessKeyMetadata")
        if entry[1].get("IsTruncated") is True:
            raise InventoryInvalid(f"{file}: an output is one page of several (IsTruncated): list all of them")
        if isinstance(within, list):
            yield from (one if isinstance(one, dict) else {} for one in within)
        else:
            yield entry[1]


class _CredentialReports:
    """The rows of the reports of one inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._key_ids = None if inventory.access_keys is None else read_key_ids(inventory.access_keys)
        self._left = dict(self._key_ids or {})

    def begin(self, header: Sequence[str], observed: str | None) -> None:
        """Start a report; raises InventoryInvalid if a column is missing."""
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise InventoryInvalid(f"{self._inventory.file} is no credential report: it has no column {missing[0]}")
        self._origin = self._inventory.origin(EXPORT, observed)
        self._header = header
        place = {name: index for index, name in enumerate(header)}
        self._more = place.get("additional_credentials_info")
        self._user, self._arn = place["user"], place["arn"]
        self._slots = [
            (
                slot,
                place[f"access_key_{slot}_active"],
                place[f"access_key_{slot}_last_rotated"],
                place.get(f"access_key_{slot}_last_used_date"),
            )
            for slot in (1, 2)
        ]

    def keys(self, line: int, row: Sequence[str]) -> Iterator[Row]:
        """Yield the access keys of one user, none to two, and what is left out of it; raises RowFault."""
        seen: set[str] = set()
        if self._more is not None and row[self._more] not in _NO_VALUE:
            reason = (
                "additional_credentials_info: the report leaves out further access keys or certificates of this user"
            )
            yield BadRow(line, f"{reason}: see `aws iam list-access-keys`", dict(zip(self._header, row, strict=True)))
        for slot, active_at, rotated_at, used_at in self._slots:
            active = _truth(f"access_key_{slot}_active", row[active_at])
            made = report_moment(f"access_key_{slot}_last_rotated", row[rotated_at])
            if made is None:
                if active:
                    raise RowFault(f"access_key_{slot}_last_rotated: an active key has a date")
                continue  # there is no key in this slot
            used = None if used_at is None else report_moment(f"access_key_{slot}_last_used_date", row[used_at])
            name = self._id(row[self._user], slot, made)
            if name in seen:
                raise RowFault("two access keys were created in one second: give --access-keys")
            seen.add(name)
            never = (
                used is None and used_at is not None and row[used_at] in {"N/A", "n/a"} and made >= USE_IS_KNOWN_SINCE
            )
            yield key_of(
                line,
                row[self._arn],
                idle=None if active else "inactive",
                key_id=name,
                kind="access_key",
                last_rotated_at=made,
                last_used_at=used,
                never_used=never,
                observed_at=self._origin.observed_at,
                source=self._origin.source,
            )

    def rest(self) -> Iterator[Row]:
        """Yield the listed keys that no report has: a report is made every four hours, and has two keys a user."""
        for (user, moment), key_id in self._left.items():
            raw = {"UserName": user, "AccessKeyId": key_id, "CreateDate": moment}
            yield BadRow(0, "is in the list of access keys, and in no report: take both anew", raw)

    def _id(self, user: str, slot: int, made: datetime) -> str:
        if self._key_ids is None:
            return f"access_key.{_second(made)}Z"  # the same as CredentialFacts.name_by_creation
        found = self._key_ids.get((user, _second(made)))
        is_taken = self._left.pop((user, _second(made)), None) is None
        if found and is_taken:
            raise RowFault(
                f"access_key_{slot}: another account's user of this name has a key of this creation date, and the list "
                "of access keys names no account: read each account alone"
            )
        if not found:
            what = "has none" if found is None else "has two"
            raise RowFault(f"access_key_{slot}: the list of access keys {what} of this user and creation date")
        return found


def _second(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S")


def _truth(name: str, value: str) -> bool:
    match value.lower():
        case "true":
            return True
        case "false" | "n/a" | "not_supported":
            return False
    raise RowFault(f"{name}: is neither true nor false")


def report_moment(name: str, value: str) -> datetime | None:
    """Return a moment of a credential report; None if it has none. Raises RowFault, which calls it `name`."""
    if value in _NO_VALUE:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            moment.astimezone(UTC)  # the first and the last day of all have hours that UTC has not
    except (ValueError, OverflowError):
        raise RowFault(f"{name}: is not a moment such as 2026-08-01T00:00:00+00:00") from None
    if moment.tzinfo is None:
        raise RowFault(f"{name}: has no time zone")
    return moment


def _knows(names: Collection[str]) -> bool:
    return set(COLUMNS) <= set(names)


def _lists_keys(row: Mapping[str, Any]) -> bool:
    return "AccessKeyId" in row


def _refuse(_line: int, _row: Mapping[str, Any], _inventory: Inventory, _origin: Origin) -> Iterator[Row]:
    raise RowFault(
        "is an entry of `aws iam list-access-keys`: give that file as --access-keys, with the credential report"
    )


SOURCE = Source(
    "aws",
    exports="the IAM credential report, as a CSV or as `aws iam get-credential-report` prints it; with the output of "
    "`aws iam list-access-keys` as `--access-keys` for the IDs of keys",
    entries=Entries(_lists_keys, "AccessKeyId (AWS)", _refuse),
    table=Table(
        columns=COLUMNS,
        knows=_knows,
        looked_for="with AWS's user, arn and access_key_1_active",
        open=_CredentialReports,
        wrapped=WrappedTables(is_answer, reports_in),
    ),
)
