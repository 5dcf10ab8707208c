"""The workflow id: the idempotency key of a rotation. Pure."""

from collections.abc import Iterable
from urllib.parse import quote

from keyturn.contracts import PolicyRef


def workflow_id_of(tenant_id: str, account_id: str, key_id: str, lines: Iterable[PolicyRef]) -> str:
    """Return `rotate:TENANT:ACCOUNT:KEY:LINE@VERSION[+LINE@VERSION...]`, each part percent-encoded.

    The key's id stands for the cycle: a rotated key has a new id, so the next rightful rotation has a new workflow. The
    line's version is in it because a changed policy is a new question. Two different rotations never share an id: the
    separators cannot occur within a part.
    """
    parts = [quote(part, safe="") for part in (tenant_id, account_id, key_id)]
    refs = "+".join(sorted(f"{quote(line.id, safe='')}@{line.version}" for line in lines))
    return ":".join(["rotate", *parts, refs])
