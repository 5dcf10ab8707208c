"""Azure: credentials of applications.

`az ad app credential list`, which names no application, `az ad app list` and Microsoft Graph's applications, whose
credentials are nested; before az 2.37 dates had other names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.inventory.documents import LISTS
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault, idle_if_expired, key_of
from keyturn.inventory.source import Entries, Inventory, Row, Source

_NESTED = ("passwordCredentials", "keyCredentials")


def _knows(row: Mapping[str, Any]) -> bool:
    return "keyId" in row or "appId" in row or any(name in row for name in _NESTED)


def _keys_of(line: int, row: Mapping[str, Any], inventory: Inventory, origin: Origin) -> Iterator[Row]:
    for credential in _credentials_in(row):
        if isinstance(credential, str):
            yield BadRow(line, f"{credential}: is no list of credentials", {"appId": row.get("appId")})
            continue
        try:
            yield _key_of(line, credential, Origin(origin.observed_at, "azure"), inventory.account_id)
        except RowFault as fault:
            yield BadRow(line, str(fault), credential)


def _credentials_in(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | str]:
    """Yield an entry's credentials, or the name of a member that has none to read.

    PowerShell writes a list of one credential as the credential, or as an object of its count and the list.
    """
    nested = [name for name in _NESTED if name in row]
    nested += [name for name in LISTS if isinstance(row.get(name), list)]  # an application beside its own listing
    if not nested:
        yield row
    for name in nested:
        found = row[name]
        if isinstance(found, dict):
            found = found["value"] if isinstance(found.get("value"), list) else [found]
        if found is not None and not isinstance(found, list):
            yield name
            continue
        for credential in found or ():
            yield {"appId": row.get("appId"), **(credential if isinstance(credential, dict) else {})}


def _key_of(line: int, row: Mapping[str, Any], origin: Origin, account_id: str | None) -> InventoryKey:
    """Return the credential of one entry of az's listing, whose application is `account_id`; raises RowFault.

    Its `hint`, the first letters of the secret, and `secretText` are not read. startDate is az's before 2.37.
    """
    if not row.get("appId") and not account_id:
        raise RowFault("the listing names no application: give its appId as --account")
    return key_of(
        line,
        row.get("appId") or account_id,
        idle=idle_if_expired(row.get("endDateTime") or row.get("endDate"), origin),
        key_id=row.get("keyId"),
        kind="service_account_key",
        last_rotated_at=row.get("startDateTime") or row.get("startDate"),
        observed_at=origin.observed_at,
        source=origin.source,
    )


SOURCE = Source(
    "azure",
    exports="`az ad app credential list` (with `--account`), `az ad app list` and Microsoft Graph's applications",
    entries=Entries(_knows, "keyId (Azure)", _keys_of),
)
