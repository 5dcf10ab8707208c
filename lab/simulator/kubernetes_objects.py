"""Objects of Kubernetes, and what a patch does to one: server-side apply, and a merge patch. Pure.

Written from kubernetes.io/docs/reference/using-api/server-side-apply, docs/concepts/configuration/secret (immutable
Secrets, names of entries) and RFC 7396; the tests of the target run on it and on Kubernetes 1.36.

What it knows of server-side apply:

- a field has managers, by name and operation; fields are leaves, and a list is one
- an apply that changes another manager's field is a conflict, unless it is forced; with the same value both own it
- what a manager applied before and leaves out now is removed, unless another one owns it
- an apply with a resourceVersion is refused if the object is of another one
"""

import base64
import binascii
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Leaf = tuple[str, ...]
_ENTRY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_IDENTITY = {
    ("apiVersion",),
    ("kind",),
    ("metadata", "name"),
    ("metadata", "namespace"),
    ("metadata", "resourceVersion"),
}
KINDS = {
    "secrets": "Secret",  # pragma: allowlist secret
    "deployments": "Deployment",
    "statefulsets": "StatefulSet",
    "daemonsets": "DaemonSet",
}


class Refusal(Exception):
    """A Status that the server answers with."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


@dataclass
class Stored:
    """An object, and who manages which of its fields: by the manager's name and operation."""

    body: dict[str, Any]
    owners: dict[tuple[str, str], set[Leaf]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Its resourceVersion."""
        return str(self.body["metadata"]["resourceVersion"])

    def shown(self) -> dict[str, Any]:
        """Return the object with its managedFields, as FieldsV1 has them."""
        body = copy.deepcopy(self.body)
        entries = []
        for (manager, operation), leaves in self.owners.items():
            fields: dict[str, Any] = {}
            for leaf in sorted(leaves):
                place = fields
                for name in leaf:
                    place = place.setdefault(f"f:{name}", {})
            if "f:data" in fields:
                fields["f:data"]["."] = {}
            entries.append({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields})
        return body | {"metadata": body["metadata"] | {"managedFields": entries}}


def new_object(plural: str, namespace: str, name: str) -> Stored:
    """Return an object without fields; a Secret is Opaque."""
    metadata = {"name": name, "namespace": namespace, "resourceVersion": "0"}
    version = "v1" if plural == "secrets" else "apps/v1"
    kind = {"type": "Opaque"} if plural == "secrets" else {}
    return Stored({"apiVersion": version, "kind": KINDS[plural], "metadata": metadata, **kind})


def applied(stored: Stored, intent: dict[str, Any], manager: str, *, force: bool, is_new: bool) -> Stored:
    """Return the object after a server-side apply; raises Refusal."""
    leaves = {leaf: value for leaf, value in _leaves(intent) if leaf not in _IDENTITY}
    after, own = copy.deepcopy(stored), (manager, "Apply")
    changed = {leaf for leaf, value in leaves.items() if _get(stored.body, leaf) != value}
    others = {other: held for other, held in after.owners.items() if other != own}
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{other[0]}" using v1', "field": str(leaf)}
        for other, held in others.items()
        for leaf in sorted(held & changed)
    ]
    if causes and not force:
        raise Refusal(409, "Conflict", f"Apply failed with {len(causes)} conflicts", causes=causes)
    asked = intent.get("metadata", {}).get("resourceVersion")
    if asked is not None and (is_new or asked != stored.version):  # looked at after the managers, by Kubernetes 1.36
        raise Refusal(409, "Conflict", "the object has been modified; please apply your changes to the latest version")
    for held in others.values():
        held.difference_update(changed)
    for leaf in stored.owners.get(own, set()) - set(leaves):
        if not any(leaf in held for held in others.values()):
            _remove(after.body, leaf)
    for leaf, value in leaves.items():
        _set(after.body, leaf, value)
    after.owners = {other: held for other, held in (*others.items(), (own, set(leaves))) if held}
    _expect_valid(stored.body, after.body, is_new=is_new)
    return after


def merged(stored: Stored, change: dict[str, Any], manager: str, *, is_new: bool = False) -> Stored:
    """Return the object after a merge patch, which takes what it changes from every other manager; raises Refusal."""
    after = copy.deepcopy(stored)
    for leaf, value in _leaves(change):
        if _get(stored.body, leaf) != value:
            _set(after.body, leaf, value)
            for held in after.owners.values():
                held.discard(leaf)
            after.owners.setdefault((manager, "Update"), set()).add(leaf)
    after.owners = {one: held for one, held in after.owners.items() if held}
    _expect_valid(stored.body, after.body, is_new=is_new)
    return after


def _expect_valid(before: dict[str, Any], after: dict[str, Any], *, is_new: bool) -> None:
    if after["kind"] != "Secret":
        return
    data, faults = after.get("data", {}), []
    if not is_new and before.get("immutable") and (data != before.get("data", {}) or not after.get("immutable")):
        faults.append("data: Forbidden: field is immutable when `immutable` is set")
    if not is_new and after.get("type") != before.get("type"):
        faults.append("type: Invalid value: field is immutable")
    if after.get("type") == "kubernetes.io/tls" and not {"tls.crt", "tls.key"} <= set(data):
        faults.append("data[tls.crt]: Required value")
    faults += [f"data[{name}]: Invalid value" for name in data if not _ENTRY.fullmatch(name)]
    try:
        size = sum(len(base64.b64decode(text, validate=True)) for text in data.values())
    except (binascii.Error, TypeError):
        raise Refusal(400, "BadRequest", "illegal base64 data") from None
    if size > 1 << 20:
        faults.append("data: Too long: may not be more than 1048576 bytes")
    if faults:
        raise Refusal(422, "Invalid", "; ".join(faults))


def _leaves(part: dict[str, Any], above: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _get(body: dict[str, Any], leaf: Leaf) -> Any:
    part: Any = body
    for name in leaf:
        part = part.get(name) if isinstance(part, dict) else None
    return part


def _set(body: dict[str, Any], leaf: Leaf, value: Any) -> None:
    for name in leaf[:-1]:
        body = body.setdefault(name, {})
    body[leaf[-1]] = value


def _remove(body: dict[str, Any], leaf: Leaf) -> None:
    for name in leaf[:-1]:
        body = body.get(name, {})
    body.pop(leaf[-1], None)
