"""The plain form of a key: the columns of COLUMNS, as CSV or JSON Lines, whatever wrote them."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from keyturn.contracts import CredentialFacts, CredentialKind, Idle
from keyturn.inventory.rows import InventoryKey, Origin, RowFault, key_of

# What a fixed file of rejects carries along.
NOTES = ("keyturn_line", "keyturn_reason")
_FACTS = tuple(name for name in CredentialFacts.model_fields if name != "kind")
COLUMNS = ("account_id", "kind", *_FACTS, "active", "owner")
_YES, _NO = {"true", "1", "1.0", "yes", "t"}, {"false", "0", "0.0", "no", "f"}  # the last ones are PostgreSQL's
_TRUTHS = {"stale", "compromised", "never_used", "active"}
# What spreadsheets, pandas, R and databases write for a gap.
_GAPS = {"", "nan", "nat", "none", "null", "<null>", "na", "n/a", "#n/a", "<na>", "\\n"}
# Three zeros behind a mark are a thousand somewhere: 1,000 and 1.000 are no whole number for sure.
_WHOLE = re.compile(r"(\d{1,6})(?:[.,](?:0{1,2}|0{4,6}))?", re.ASCII)
_THOUSANDS = re.compile(r"\d{1,3}(?:[.,\u0020\u00a0\u202f'\u2019]\d{3})+")
_NEVER = {"never", "never used", "-"}
# PostgreSQL, BigQuery and Snowflake write a blank or only hours where RFC 3339 has neither.
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?) ?(UTC|Z|[+-]\d\d(?::?\d\d)?)", re.ASCII | re.IGNORECASE
)
# A spreadsheet's General format of twelve digits, where the account is lost; numbers as pandas writes them beside gaps,
# or as a cell shows them.
_AS_NUMBER = re.compile(r"\d+(?:[.,]\d+)?[eE]\+\d+|\d{4,}\.0+|\d{1,3}(?:[,'\u2019\u00a0\u202f]\d{3})+", re.ASCII)


def plain_key(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
    """Return the key of one row of the plain form; raises RowFault."""
    facts: dict[str, Any] = {"observed_at": origin.observed_at, "source": origin.source}
    for name in ("kind", *_FACTS):
        value = row.get(name)
        if _is_gap(value):
            continue
        facts[name] = _truth(name, value) if name in _TRUTHS else _as_written(name, value)
    if facts.get("kind", "service_account_key") not in get_args(CredentialKind):
        raise RowFault(f"kind: is none of {', '.join(get_args(CredentialKind))}")
    active = row.get("active")
    idle: Idle | None = "inactive" if not _is_gap(active) and not _truth("active", active) else None
    for name in ("account_id", "key_id"):
        if isinstance(row.get(name), str) and _AS_NUMBER.fullmatch(row[name].strip()):
            raise RowFault(
                f"{name}: was read as a number, and may be rounded: format its column as text, and export anew"
            )
    account, owner = (None if _is_gap(row.get(name)) else row.get(name) for name in ("account_id", "owner"))
    account = account.strip(" \t") if isinstance(account, str) else account
    return key_of(line, account, idle=idle, owner=owner, **facts)


def _is_gap(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in _GAPS)  # noqa: PLR0124 - not a number


def _truth(name: str, value: Any) -> bool:
    fields = str(value).strip().lower()
    if fields not in _YES | _NO:
        raise RowFault(f"{name}: is neither true nor false")
    return fields in _YES


def _as_written(name: str, value: Any) -> Any:
    if name == "age_days":
        return _days(value)
    if name.endswith("_at"):
        return _moment(name, value)
    return value.strip(" \t") if isinstance(value, str) else value


def _moment(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowFault(f"{name}: is not a moment such as 2026-08-01T00:00:00Z")
    if name == "last_used_at" and value.strip().lower() in _NEVER:
        raise RowFault("last_used_at: is no moment: of a key that was never used, leave it empty and set never_used")
    written = _MOMENT.fullmatch(value.strip())
    if written is None:
        return value.strip(" \t")
    day, time, zone = written.groups()
    if zone.upper() in {"UTC", "Z"}:
        return f"{day}T{time}Z"
    return f"{day}T{time}{zone[:3]}:{zone[3:].lstrip(':') or '00'}"


def _days(value: Any) -> int:
    """Whole days; pandas writes them as 45.0 where a column has gaps."""
    written = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    whole = _WHOLE.fullmatch(written)
    if whole is None:
        hint = ": write it without marks between thousands" if _THOUSANDS.fullmatch(written) else ""
        raise RowFault(f"age_days: is not a whole number of days{hint}")
    return int(whole[1])
