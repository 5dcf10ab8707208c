"""AWS: the IAM credential report, joined with `aws iam list-access-keys` for the ids of keys.

The report (docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_getting-report.html) has two slots of access keys a
user and no key id. A key's `last_rotated` is its creation, so user and moment find its id in the other list. Without
that list a key is named by that moment: as good a name for its cycle, but none that AWS knows.
"""

import base64
import binascii
import codecs
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keyturn.inventory.documents import entries_of
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault, key_of
from keyturn.inventory.source import Entries, Inventory, Row, RowReader, Source, Table, WrappedTable
from keyturn.inventory.text import PEEK, open_text

ROOT = "<root_account>"  # as the report names it
EXPORT = "aws-credential-report"
COLUMNS = ("user", "arn", *(f"access_key_{slot}_{name}" for slot in (1, 2) for name in ("active", "last_rotated")))
# Before this day AWS did not write down when a key was used: "N/A" of an older key does not mean never.
USE_IS_KNOWN_SINCE = datetime(2015, 4, 22, tzinfo=UTC)
_NO_VALUE = {"", "N/A", "n/a", "no_information", "not_supported"}
KeyIds = Mapping[tuple[str, str], str]


def read_key_ids(file: Path) -> dict[tuple[str, str], str]:
    """Return the ids in one or more outputs of `aws iam list-access-keys`, by user and moment of creation.

    Its `AccessKeyMetadata` alone (`--query 'AccessKeyMetadata[]'`) is read, too. Root's own keys have no user's name.

    Raises:
        InventoryInvalid: the file is no such output.
    """
    found: dict[tuple[str, str], str] = {}
    try:
        for entry in entries_of(file):
            row = {} if isinstance(entry, BadRow) else entry[1]
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


class _CredentialReport:
    """The rows of a report whose header is `header`."""

    def __init__(self, header: Sequence[str], origin: Origin, key_ids: KeyIds | None) -> None:
        self._origin = origin
        self._key_ids = key_ids
        place = {name: index for index, name in enumerate(header)}
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

    def keys(self, line: int, row: Sequence[str]) -> Iterator[InventoryKey]:
        """Yield the access keys of one user, none to two; raises RowFault."""
        seen: set[str] = set()
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

    def _id(self, user: str, slot: int, made: datetime) -> str:
        if self._key_ids is None:
            return f"access_key.{_second(made)}Z"  # the same as CredentialFacts.name_by_creation
        found = self._key_ids.get((user, _second(made)))
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


# The members of an answer of `aws iam get-credential-report`, in any order.
_ANSWER = re.compile(r'\{\s*"(?:Content|ReportFormat|GeneratedTime|ResponseMetadata)"\s*:')
_GENERATED = re.compile(r'"GeneratedTime"\s*:\s*"([^"\\]{1,64})"')
_CONTENT = re.compile(r'"Content"\s*:\s*"')
_NO_BASE64 = re.compile(r"\\[nr/]|\s")


def _is_answer(head: str) -> bool:
    """Return True if a text that starts so is the answer of `aws iam get-credential-report`."""
    return _ANSWER.match(head) is not None


def _generation_time(file: Path) -> str | None:
    """Return when the report in an answer was made, as it says; None if it does not."""
    with open_text(file) as text:
        around = ""
        while piece := text.read(PEEK):
            around = around[-200:] + piece
            if found := _GENERATED.search(around):
                return found[1]
    return None


def _report_in(file: Path) -> Iterator[str]:
    """Yield the text of the report in an answer, piece by piece: it has some 300 bytes a user, in Base64.

    Raises:
        InventoryInvalid: it contains no report.
    """
    fault = InventoryInvalid(f"{file} is not the output of get-credential-report")
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with open_text(file) as text:
        around, begun = "", None
        while begun is None and (piece := text.read(PEEK)):
            around = around[-200:] + piece
            begun = _CONTENT.search(around)
        if begun is None:
            raise fault
        rest, ended = around[begun.end() :], False
        try:
            while not ended:
                rest, quote, _ = rest.partition('"')
                ended = bool(quote)
                whole = _NO_BASE64.sub(lambda found: "/" if found[0] == "\\/" else "", rest)
                usable = len(whole) if ended else (len(whole) - (1 if whole.endswith("\\") else 0)) // 4 * 4
                yield decode(base64.b64decode(whole[:usable], validate=True), final=ended)
                if not ended:
                    piece = text.read(PEEK)
                    if not piece:
                        raise fault
                    rest = whole[usable:] + piece
        except (ValueError, binascii.Error):
            raise fault from None


def _knows(names: Collection[str]) -> bool:
    return set(COLUMNS) <= set(names)


def _open(inventory: Inventory, header: Sequence[str], observed: str | None) -> RowReader:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InventoryInvalid(f"{inventory.file} is no credential report: it has no column {missing[0]}")
    key_ids = None if inventory.access_keys is None else read_key_ids(inventory.access_keys)
    return _CredentialReport(header, inventory.origin(EXPORT, observed), key_ids).keys


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
        open=_open,
        wrapped=WrappedTable(_is_answer, _report_in, _generation_time),
    ),
)
