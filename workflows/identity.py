"""The workflow id: the idempotency key of a rotation. Pure."""

import hashlib
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from keyturn.contracts import PolicyRef
from keyturn.rotations.contracts import JobOrder

# From a name to how it is written where it stays readable: itself, or its pseudonym.
Names = Callable[[str], str]
# Temporal's own limit is 1,000; its SQL stores have columns of 255 (schema/postgresql/v12/temporal).
MAX_ID = 255


def plain(name: str) -> str:
    """Return `name`: the `Names` of an installation whose account names are no secret."""
    return name


def workflow_id_of(
    tenant_id: str, account_id: str, key_id: str, lines: Iterable[PolicyRef], names: Names = plain
) -> str:
    """Return `rotate:TENANT:ACCOUNT:KEY:LINE@VERSION[+LINE@VERSION...]`, each part percent-encoded.

    The key's id stands for the cycle: a rotated key has a new id, so the next rightful rotation has a new workflow. The
    line's version is in it because a changed policy is a new question. Two different rotations never share an id: the
    separators cannot occur within a part. Account and key are written as `names` writes them.
    """
    parts = [quote(part, safe="") for part in (tenant_id, names(account_id), names(key_id))]
    refs = "+".join(sorted(f"{quote(line.id, safe='')}@{line.version}" for line in lines))
    return _within_limit(["rotate", *parts, refs])


def shorten(name: str, longest: int) -> str:
    """Return `name`, or its start and a digest of it, by which it stays unique."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:20]
    beginning = re.sub("%[0-9A-F]?$", "", name[: longest - 21])  # no half of an escape
    return f"{beginning}~{digest}"


def _within_limit(parts: list[str]) -> str:
    """An id that fits every store of Temporal's: first account and key are shortened, then the lines."""
    kind, tenant, account, key, refs = parts
    whole = ":".join(parts)
    if len(whole) > MAX_ID:
        whole = ":".join([kind, tenant, shorten(account, 80), shorten(key, 80), refs])
    if len(whole) > MAX_ID:
        whole = ":".join([kind, tenant, shorten(account, 80), shorten(key, 80), shorten(refs, 21)])
    return whole


def rotation_ids_of(order: JobOrder, names: Names = plain) -> frozenset[str]:
    """Return the ids of the workflows that may bring `order`: by pseudonyms, or by the names themselves."""
    whose = order.tenant_id, order.account_id, order.credential.key_id, order.policy_lines
    return frozenset({workflow_id_of(*whose, names), workflow_id_of(*whose)})


def stored_id(workflow_id: str, names: Names) -> str:
    """Return the id as Temporal has it for one that a person wrote with the names of account and key.

    An id that has its pseudonyms already, and one of another form, stays as it is.
    """
    parts = workflow_id.split(":")
    if len(parts) != 5 or parts[0] != "rotate":
        return workflow_id
    kind, tenant, account, key, refs = parts
    account, key = (quote(names(unquote(part)), safe="") for part in (account, key))
    return _within_limit([kind, tenant, account, key, refs])
