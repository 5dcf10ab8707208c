"""Lists of namespaces and of secrets, as an API server answers them: in chunks, whole or by their metadata alone.

Written from kubernetes.io/docs/reference/using-api/api-concepts (retrieving large result sets in chunks, alternate
representations of resources); no real cluster was called.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from keyturn.lab.simulator.kubernetes_objects import Refusal

METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def listed(
    bodies: Iterable[Mapping[str, Any]], query: Mapping[str, str], accept: str, *, kind: str, version: int, oldest: int
) -> dict[str, Any]:
    """Return a chunk of a list; raises Refusal if its `continue` is of an older version than the server still has."""
    shown = [body for body in bodies if _is_selected(body, query.get("fieldSelector", ""))]
    start, at = 0, version
    if "continue" in query:
        token = json.loads(base64.urlsafe_b64decode(query["continue"]))
        start, at = token["start"], token["rv"]
        if at < oldest:
            raise Refusal(410, "Expired", "The provided continue parameter is too old")
    limit = int(query.get("limit", "0")) or len(shown)
    more = start + limit < len(shown)
    metadata: dict[str, Any] = {"resourceVersion": str(at)}
    if more:
        following = json.dumps({"v": "meta.k8s.io/v1", "rv": at, "start": start + limit})
        metadata |= {"continue": base64.urlsafe_b64encode(following.encode()).decode()}
        metadata |= {"remainingItemCount": len(shown) - start - limit}
    items = [dict(body) for body in shown[start : start + limit]]
    if accept == METADATA:
        partial = {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata"}
        items = [partial | {"metadata": item["metadata"]} for item in items]
        return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList"} | {
            "metadata": metadata,
            "items": items,
        }
    return {"apiVersion": "v1", "kind": f"{kind}List", "metadata": metadata, "items": items}


def _is_selected(body: Mapping[str, Any], selector: str) -> bool:
    if not selector:
        return True
    name, _, value = selector.partition("=")
    if name != "type":
        raise Refusal(400, "BadRequest", "field label not supported")
    return body.get("type") == value
