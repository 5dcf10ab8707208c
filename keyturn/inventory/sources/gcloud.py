"""Google Cloud: listings of service-account keys, and assets.

`gcloud iam service-accounts keys list --format=json`, its REST form, `gcloud asset search-all-resources` and a Cloud
Asset export.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.contracts import Idle
from keyturn.foreign_json import read_json
from keyturn.inventory.rows import InventoryKey, Origin, RowFault, idle_if_expired, key_of
from keyturn.inventory.source import Entries, Inventory, Row, Source

# In a listing as it is; in an asset's full resource name behind the service's.
_NAME = re.compile(r"(?://iam\.googleapis\.com/)?projects/[^/]+/serviceAccounts/([^/]+)/keys/([^/]+)")
_ASSET_TYPE = "iam.googleapis.com/ServiceAccountKey"
# Google disables a key that was found in public by itself: age does not matter then, and neither does that it is off.
_EXPOSED = ("EXPOSED", "COMPROMISE_DETECTED")
_SYSTEM_MANAGED = 2  # of the enumeration, as protobuf's plain objects have it
# How a protobuf Struct names its values; what a key has is none of the last two.
_TYPED = {
    f"{kind}{value}" for kind in ("string", "bool", "number", "null", "list", "struct") for value in ("Value", "_value")
}
_CAMEL = {
    "key_type": "keyType",
    "valid_after_time": "validAfterTime",
    "valid_after": "validAfterTime",  # Terraform's
    "valid_before": "validBeforeTime",
    "valid_before_time": "validBeforeTime",
    "disable_reason": "disableReason",
    "extended_status": "extendedStatus",
}


def _knows(row: Mapping[str, Any]) -> bool:
    return "account_id" not in row and bool({"name", "keyType", "key_type"} & row.keys())


def _keys_of(line: int, row: Mapping[str, Any], _inventory: Inventory, origin: Origin) -> Iterator[Row]:
    yield _key_of(line, row, Origin(origin.observed_at, "gcloud"))


def _key_of(line: int, row: Mapping[str, Any], origin: Origin) -> InventoryKey:
    """Return the key of an entry of gcloud's listing, or of an asset; raises RowFault."""
    kind = row.get("assetType", row.get("asset_type", _ASSET_TYPE))
    if kind != _ASSET_TYPE:
        raise RowFault("is an asset of another type than a service-account key")
    fields = _spelt(_fields_of(row))
    # An asset's own name has the account's number; what it was made from, or its shown name, has its address.
    names = [_NAME.fullmatch(str(one)) for one in (fields.get("name"), _shown_name(row), row.get("name"))]
    known = [name for name in names if name is not None]
    if not known:
        raise RowFault("name: is not projects/P/serviceAccounts/E/keys/K")
    name = next((one for one in known if "@" in one[1]), known[0])
    exposed = is_exposed(fields)
    by_google = fields.get("keyType") in ("SYSTEM_MANAGED", _SYSTEM_MANAGED)
    idle: Idle | None = "system_managed" if by_google else "inactive" if fields.get("disabled") is True else None
    return key_of(
        line,
        name[1],
        idle=idle or idle_if_expired(fields.get("validBeforeTime"), origin),
        key_id=name[2],
        kind="service_account_key",
        # Google makes its own keys ahead of their time, and rotates them: their dates say nothing to us.
        last_rotated_at=None
        if by_google
        else fields.get("validAfterTime") or row.get("createTime") or row.get("create_time"),
        compromised=True if exposed else None,
        observed_at=origin.observed_at,
        source=origin.source,
    )


def _fields_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the key's own members: in an asset, in a search with its resource, or as they are; raises RowFault."""
    resource, versions = row.get("resource"), row.get("versionedResources", row.get("versioned_resources"))
    data = resource.get("data") if isinstance(resource, dict) else None
    if isinstance(data, str):  # as a table of BigQuery has it for all types of assets
        try:
            data = read_json(data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise RowFault("resource.data: is no object")
    for version in versions if isinstance(versions, list) else ():
        if data is None and isinstance(version, dict) and isinstance(version.get("resource"), dict):
            data = version["resource"]
    return _plain_struct(data) if isinstance(data, dict) else row


def _plain_struct(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the members of a protobuf Struct as any JSON has them: some clients write each with its type.

    Raises RowFault for what is neither (protobuf.dev/reference/protobuf/google.protobuf/#struct).
    """
    fields = data.get("fields")
    if set(data) != {"fields"} or not isinstance(fields, dict):
        return data
    plain = {}
    for name, value in fields.items():
        if not isinstance(value, dict) or len(value) != 1 or not set(value) <= _TYPED:
            raise RowFault(f"resource.data: {name[:40]!a} has no type of protobuf's values")
        plain[name] = next(iter(value.values()))
    return plain


def _spelt(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the members by the names of the REST API: Google's Python client and CloudQuery write them_like_this."""
    return {**fields, **{_CAMEL[name]: value for name, value in fields.items() if name in _CAMEL}}


def _shown_name(row: Mapping[str, Any]) -> Any:
    return row.get("displayName", row.get("display_name"))


def is_exposed(key: Mapping[str, Any]) -> bool:
    """Return whether Google has found a key in public, by what its API says of the key."""
    marks = f"{key.get('disableReason', '')} {key.get('extendedStatus', '')}"
    return any(reason in marks for reason in _EXPOSED)


SOURCE = Source(
    "gcloud",
    exports="`gcloud iam service-accounts keys list --format=json` and its REST form, "
    "`gcloud asset search-all-resources` and a Cloud Asset export of service-account keys",
    entries=Entries(_knows, "name (Google Cloud)", _keys_of),
)
