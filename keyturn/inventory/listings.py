"""Listings of other clouds, and the plain form: an object a key.

Google Cloud: `gcloud iam service-accounts keys list --format=json` (an array), or `{"keys": [...]}` as over REST.
Azure: `az ad app credential list`, which names no application. Plain: the columns of COLUMNS, as CSV or JSON Lines.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

from keyturn.contracts import CredentialFacts, CredentialKind
from keyturn.inventory.rows import InventoryKey, Origin, RowFault, key_of

_GCLOUD_NAME = re.compile(r"projects/[^/]+/serviceAccounts/([^/]+)/keys/([^/]+)")
# Google disables a key that was found in public by itself: age does not matter then, and neither does that it is off.
_EXPOSED = ("EXPOSED", "COMPROMISE_DETECTED")
# What a mended file of rejects carries along.
NOTES = ("keyturn_line", "keyturn_reason")
_FACTS = tuple(name for name in CredentialFacts.model_fields if name != "kind")
COLUMNS = ("account_id", "kind", *_FACTS, "active")
_TRUTHS = {"stale", "compromised", "never_used", "active"}


def gcloud_key(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
    """Return the key of one entry of gcloud's listing; raises RowFault."""
    name = _GCLOUD_NAME.fullmatch(str(row.get("name", "")))
    if name is None:
        raise RowFault("name: is not projects/P/serviceAccounts/E/keys/K")
    exposed = any(reason in str(row.get("disableReason", "")) for reason in _EXPOSED)
    idle = None
    if row.get("keyType") == "SYSTEM_MANAGED":
        idle = "system_managed"
    elif row.get("disabled") is True:
        idle = "inactive"
    return key_of(
        line,
        name[1],
        idle=idle,
        key_id=name[2],
        kind="service_account_key",
        last_rotated_at=row.get("validAfterTime"),
        compromised=True if exposed else None,
        observed_at=origin.observed_at,
        source=origin.source,
    )


def azure_key(line: int, row: Mapping[str, Any], origin: Origin, account_id: str | None) -> InventoryKey:
    """Return the credential of one entry of az's listing, whose application is `account_id`; raises RowFault.

    Its `hint`, the first letters of the secret, and `secretText` are not read.
    """
    return key_of(
        line,
        row.get("appId") or account_id,
        key_id=row.get("keyId"),
        kind="service_account_key",
        last_rotated_at=row.get("startDateTime"),
        observed_at=origin.observed_at,
        source=origin.source,
    )


def plain_key(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
    """Return the key of one row of the plain form; raises RowFault."""
    facts: dict[str, Any] = {"observed_at": origin.observed_at, "source": origin.source}
    for name in ("kind", *_FACTS):
        value = row.get(name)
        if value in (None, ""):
            continue
        facts[name] = _truth(name, value) if name in _TRUTHS else _as_written(name, value)
    if facts.get("kind", "service_account_key") not in get_args(CredentialKind):
        raise RowFault(f"kind: is none of {', '.join(get_args(CredentialKind))}")
    active = row.get("active")
    idle = "inactive" if active not in (None, "") and not _truth("active", active) else None
    return key_of(line, row.get("account_id") or None, idle=idle, **facts)


def _truth(name: str, value: Any) -> bool:
    told = str(value).lower()
    if told not in {"true", "false"}:
        raise RowFault(f"{name}: is neither true nor false")
    return told == "true"


def _as_written(name: str, value: Any) -> Any:
    if name == "age_days" and isinstance(value, str):
        if not value.isascii() or not value.isdigit() or len(value) > 6:
            raise RowFault("age_days: is not a whole number of days")
        return int(value)
    if name.endswith("_at") and not isinstance(value, str):
        raise RowFault(f"{name}: is not a moment such as 2026-08-01T00:00:00Z")
    return value
