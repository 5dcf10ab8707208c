"""What is read from Microsoft's answers, and from a stored secret. Pure: whatever is in them, nothing is raised.

Formats: https://learn.microsoft.com/graph/api/resources/passwordcredential and
https://learn.microsoft.com/graph/api/resources/appcredentialsigninactivity (beta).
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from keyturn.execution.contracts import KeyUse
from keyturn.execution.protocols import CloudKey
from keyturn.foreign_json import read_json

_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_WHOLE_GUID = re.compile(_GUID)
# An application as jobs name it: its appId alone, as inventories do, or as Graph's paths do; or with its tenant.
ACCOUNT = re.compile(
    rf"/?(?:tenants/(?P<tenant>[A-Za-z0-9.-]{{1,128}})/)?"
    rf"(?:(?:applications/)?(?P<id>{_GUID})|applications\(appId='(?P<app_id>{_GUID})'\))"
)
_LABEL = re.compile(r"keyturn ([A-Za-z0-9][A-Za-z0-9._@+=-]{0,63})")
UNKNOWN_USE = KeyUse(is_known=False)


def label_of(job_id: str) -> str:
    """Return the name of a client secret that a job creates."""
    return f"keyturn {job_id}"


def key_of(entry: Mapping[str, Any]) -> CloudKey:
    """Return the key of a passwordCredential; `hint`, the first letters of the secret, is not read."""
    label = _LABEL.fullmatch(str(entry.get("displayName")))
    # Graph has no time of creation. Without a start it counts as old, and is never taken for one of ours by its date.
    created = moment_of(entry.get("startDateTime")) or datetime(1970, 1, 1, tzinfo=UTC)
    expires = moment_of(entry.get("endDateTime"))
    is_active = expires is None or expires > datetime.now(UTC)
    job_id = None if label is None else label[1]
    return CloudKey(str(entry.get("keyId")), is_active, created, job_id, expires_at=expires)


def use_in(body: Any, key_id: str) -> KeyUse:
    """Return what a report says of a secret: the latest sign-in of its rows, of which each is for one resource.

    Unknown if there is no row, or one that cannot be read, or more pages: the latest could be there. The documents
    show a lone row without the list that others are in.
    """
    if not isinstance(body, dict) or "@odata.nextLink" in body:
        return UNKNOWN_USE
    listed = body.get("value", [body])
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    uses = []
    for row in rows:
        if row.get("keyId") != key_id:
            continue
        activity = row.get("signInActivity")
        moment = moment_of(activity.get("lastSignInDateTime")) if isinstance(activity, dict) else None
        if moment is None:
            return UNKNOWN_USE
        uses.append((moment, row.get("resourceId")))
    if not uses:
        return UNKNOWN_USE
    moment, resource = max(uses, key=lambda use: use[0])
    return KeyUse(last_used_at=moment, by=(f"a sign-in for the resource {resource}",) if is_guid(resource) else ())


def stored_in(secret: SecretStr) -> dict[str, str] | None:
    """Return the members of a secret as this executor stores it; None for any other."""
    try:
        value = read_json(secret.get_secret_value())
        stored = {name: value[name] for name in ("tenantId", "clientId", "keyId", "clientSecret")}
    except (ValueError, KeyError, TypeError):
        return None  # a secret that we did not write: it stays as the version before
    return stored if all(isinstance(text, str) for text in stored.values()) else None


def tenant_in(token: SecretStr) -> str | None:
    """Return the `tid` of an access token; its signature is not checked, for Entra has just issued it to us."""
    try:
        payload = token.get_secret_value().split(".")[1]
        tenant = read_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["tid"]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return str(tenant).lower() if is_guid(tenant) else None


def is_guid(value: Any) -> bool:
    """Return True if `value` is a GUID, the form of every ID of Entra's."""
    return isinstance(value, str) and _WHOLE_GUID.fullmatch(value) is not None


def moment_of(text: Any) -> datetime | None:
    """Return a moment as Graph writes it; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None
