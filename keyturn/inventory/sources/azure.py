"""Azure: credentials of applications.

`az ad app credential list`, which names no application, `az ad app list` and Microsoft Graph's applications, whose
credentials are nested; before az 2.37 dates had other names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.inventory.documents import APPLICATION_IDS, LISTS
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault, idle_if_expired, key_of
from keyturn.inventory.source import Entries, Inventory, Row, Source

_NESTED = ("passwordCredentials", "keyCredentials")


def _knows(row: Mapping[str, Any]) -> bool:
    return "keyId" in row or "appId" in row or any(name in row for name in _NESTED) or bool(_own_listing(row))


def _own_listing(row: Mapping[str, Any]) -> list[str]:
    """Return the members by which an application has its own listing beside its ID."""
    if APPLICATION_IDS.isdisjoint(row):
        return []
    return [name for name in LISTS if isinstance(row.get(name), list)]


def _keys_of(line: int, row: Mapping[str, Any], inventory: Inventory, origin: Origin) -> Iterator[Row]:
    nested = [*(name for name in _NESTED if name in row), *_own_listing(row)]
    seen = Origin(origin.observed_at, "azure")
    application = next((row[name] for name in sorted(APPLICATION_IDS) if row.get(name)), None)
    if not nested:
        # It names no application: that is the caller's.
        yield _key_of(line, row, seen, application or inventory.account_id, "give its appId as --account")
        return
    for credential in _credentials_in(row, nested):
        if isinstance(credential, str):
            yield BadRow(line, credential, {"appId": application})
            continue
        try:
            yield _key_of(line, credential, seen, application, "select appId, too")
        except RowFault as fault:
            yield BadRow(line, str(fault), {"appId": application, **credential})


def _credentials_in(row: Mapping[str, Any], nested: list[str]) -> Iterator[Mapping[str, Any] | str]:
    """Yield an application's credentials, or why there are none to read.

    PowerShell writes a list of one credential as the credential, or as an object of its count and the list, and at its
    depth's end a text.
    """
    for name in nested:
        found = row[name]
        if isinstance(found, dict):
            found = found["value"] if isinstance(found.get("value"), list) else [found]
        if found is not None and not isinstance(found, list):
            yield f"{name}: is no list of credentials"
            continue
        for credential in found or ():
            if isinstance(credential, dict):
                yield credential
            else:
                yield f"{name}: holds no credentials, but texts: in PowerShell, write with ConvertTo-Json -Depth 5"


def _key_of(line: int, row: Mapping[str, Any], origin: Origin, application: object, remedy: str) -> InventoryKey:
    """Return a credential of an application; raises RowFault, with the remedy where the application is not known.

    Its `hint`, the first letters of the secret, and `secretText` are not read. startDate is az's before 2.37.
    """
    if not application:
        raise RowFault(f"the listing names no application: {remedy}")
    if isinstance(row.get("keyId"), list):
        raise RowFault("keyId: is a list: write an object for each credential")
    return key_of(
        line,
        application,
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
