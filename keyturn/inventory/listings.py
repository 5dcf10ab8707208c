"""Entries of other clouds' listings, and the plain form: an object a key. Each says by its members what it is.

Google Cloud: `gcloud iam service-accounts keys list --format=json`, its REST form, `gcloud asset search-all-resources`
and a Cloud Asset export. Azure: `az ad app credential list`, which names no application, `az ad app list` and Microsoft
Graph's applications, whose credentials are nested; before az 2.37 dates had other names. Plain: the columns of COLUMNS,
as CSV or JSON Lines.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from keyturn.contracts import CredentialFacts, CredentialKind, Idle
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault, key_of

# In a listing as it is; in an asset's full resource name behind the service's.
_GCLOUD_NAME = re.compile(r"(?://iam\.googleapis\.com/)?projects/[^/]+/serviceAccounts/([^/]+)/keys/([^/]+)")
_ASSET_TYPE = "iam.googleapis.com/ServiceAccountKey"
# Google disables a key that was found in public by itself: age does not matter then, and neither does that it is off.
_EXPOSED = ("EXPOSED", "COMPROMISE_DETECTED")
_NESTED = ("passwordCredentials", "keyCredentials")
# What a fixed file of rejects carries along.
NOTES = ("keyturn_line", "keyturn_reason")
_FACTS = tuple(name for name in CredentialFacts.model_fields if name != "kind")
COLUMNS = ("account_id", "kind", *_FACTS, "active")
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_TRUTHS = {"stale", "compromised", "never_used", "active"}
# What spreadsheets and pandas write for a gap.
_GAPS = {"", "nan", "nat", "none", "null", "n/a", "#n/a"}
_WHOLE = re.compile(r"(\d{1,6})(?:[.,]0{1,6})?", re.ASCII)


def format_of(row: Mapping[str, Any]) -> Literal["gcloud", "azure", "jsonl"]:
    """Return whose listing has such an entry; the plain form's name, if nobody's."""
    if "keyId" in row or any(name in row for name in _NESTED):
        return "azure"
    return "gcloud" if _is_googles(row) else "jsonl"


def keys_of(
    line: int, row: Mapping[str, Any], origin: Origin, account_id: str | None
) -> Iterator[InventoryKey | BadRow]:
    """Yield the keys of an entry, one, or those of an application; or a BadRow with the reason.

    Args:
        line: where the entry stands.
        row: the entry.
        origin: of the whole inventory.
        account_id: the Azure application that the listing is of, where it does not name one.
    """
    for raw in _credentials_in(row):
        try:
            yield _key_of(line, raw, origin, account_id)
        except RowFault as fault:
            yield BadRow(line, str(fault), raw)


def _credentials_in(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    nested = [name for name in _NESTED if name in row and isinstance(row[name], list | None)]
    if not nested:
        yield row
    for name in nested:
        for credential in row[name] or ():
            yield {"appId": row.get("appId"), **(credential if isinstance(credential, dict) else {})}


def _key_of(line: int, row: Mapping[str, Any], origin: Origin, account_id: str | None) -> InventoryKey:
    if "AccessKeyId" in row:
        raise RowFault(
            "is an entry of `aws iam list-access-keys`: give that file by --access-keys, beside the credential report"
        )
    if "keyId" in row or "appId" in row:
        return _azure_key(line, row, Origin(origin.observed_at, "azure"), account_id)
    if _is_googles(row):
        return _gcloud_key(line, row, Origin(origin.observed_at, "gcloud"))
    if not {"account_id", "key_id"} & row.keys():
        raise RowFault("is none of ours: it has neither keyId (Azure), name (Google Cloud), nor account_id and key_id")
    unknown = [name for name in row if name not in (*COLUMNS, *NOTES)]
    if unknown:
        raise RowFault(f"{str(unknown[0])[:40]!a} is no column; there are {', '.join(COLUMNS)}")
    return _plain_key(line, row, origin)


def _is_googles(row: Mapping[str, Any]) -> bool:
    return "account_id" not in row and ("name" in row or "keyType" in row)


def _gcloud_key(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
    """Return the key of an entry of gcloud's listing, or of an asset; raises RowFault."""
    kind = row.get("assetType", row.get("asset_type", _ASSET_TYPE))
    if kind != _ASSET_TYPE:
        raise RowFault("is an asset of another type than a service-account key")
    resource = row.get("resource")
    data = resource.get("data") if isinstance(resource, dict) else None
    fields: Mapping[str, Any] = data if isinstance(data, dict) else row
    # An asset's own name has the account's number; what it was made from, or its shown name, has its address.
    names = [_GCLOUD_NAME.fullmatch(str(one)) for one in (fields.get("name"), row.get("displayName"), row.get("name"))]
    known = [name for name in names if name is not None]
    if not known:
        raise RowFault("name: is not projects/P/serviceAccounts/E/keys/K")
    name = next((one for one in known if "@" in one[1]), known[0])
    marks = f"{fields.get('disableReason', '')} {fields.get('extendedStatus', '')}"
    exposed = any(reason in marks for reason in _EXPOSED)
    by_google = fields.get("keyType") == "SYSTEM_MANAGED"
    idle: Idle | None = "system_managed" if by_google else "inactive" if fields.get("disabled") is True else None
    return key_of(
        line,
        name[1],
        idle=idle or _expired(fields.get("validBeforeTime"), origin),
        key_id=name[2],
        kind="service_account_key",
        # Google makes its own keys ahead of their time, and rotates them: their dates say nothing to us.
        last_rotated_at=None if by_google else fields.get("validAfterTime") or row.get("createTime"),
        compromised=True if exposed else None,
        observed_at=origin.observed_at,
        source=origin.source,
    )


def _azure_key(line: int, row: Mapping[str, Any], origin: Origin, account_id: str | None) -> InventoryKey:
    """Return the credential of one entry of az's listing, whose application is `account_id`; raises RowFault.

    Its `hint`, the first letters of the secret, and `secretText` are not read. startDate is az's before 2.37.
    """
    if not row.get("appId") and not account_id:
        raise RowFault("the listing names no application: give it by --account (it is the appId)")
    return key_of(
        line,
        row.get("appId") or account_id,
        idle=_expired(row.get("endDateTime") or row.get("endDate"), origin),
        key_id=row.get("keyId"),
        kind="service_account_key",
        last_rotated_at=row.get("startDateTime") or row.get("startDate"),
        observed_at=origin.observed_at,
        source=origin.source,
    )


def _expired(ends: object, origin: Origin) -> Idle | None:
    """`expired`, if a key is worth nothing any more at the evidence's own time; a moment that is none says nothing."""
    try:
        end = datetime.fromisoformat(str(ends))
    except ValueError:
        return None
    return "expired" if end.tzinfo is not None and end <= origin.observed_at else None


def _plain_key(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
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
    account = row.get("account_id")
    return key_of(line, None if _is_gap(account) else account, idle=idle, **facts)


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
    if name.endswith("_at") and not isinstance(value, str):
        raise RowFault(f"{name}: is not a moment such as 2026-08-01T00:00:00Z")
    return value.strip(" \t") if isinstance(value, str) else value


def _days(value: Any) -> int:
    """Whole days; pandas writes them as 45.0 where a column has gaps."""
    written = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    whole = _WHOLE.fullmatch(written)
    if whole is None:
        raise RowFault("age_days: is not a whole number of days")
    return int(whole[1])
