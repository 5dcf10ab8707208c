"""Restarting what reads a Secret, and whether its pods have all been replaced. Pure but for the names of fields.

Sources: kubernetes.io/docs/concepts/workloads/controllers (deployment, statefulset, daemonset), the API reference of
apps/v1, and kubernetes/kubernetes#73492: before 1.36 a StatefulSet with `OnDelete` never moves its currentRevision.
"""

from collections.abc import Mapping
from typing import Any

from keyturn.targets.kubernetes.paths import Workload

# Ours, and no time: a repeated call writes the same, and restarts nothing. `kubectl rollout restart` has another one.
RESTARTED_FOR = "keyturn.dev/restarted-for"


def restart(version: str) -> dict[str, Any]:
    """Return the change of a pod template that replaces all pods, once a version."""
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_FOR: version}}}}}


def restarted_for(live: Mapping[str, Any]) -> str | None:
    """Return the version that a workload's pod template was last restarted for."""
    found = _part(live, "spec", "template", "metadata", "annotations").get(RESTARTED_FOR)
    return None if found is None else str(found)


def unfinished(workload: Workload, live: Mapping[str, Any], version: str) -> str | None:
    """Return why a workload may still run a pod from before a version's restart; None if it has none."""
    if restarted_for(live) != version:
        return f"{workload}: its pod template is not the one of this version"
    if _count(_part(live, "status"), "observedGeneration") < _count(_part(live, "metadata"), "generation"):
        return f"{workload}: its controller has not seen the restart yet"
    spec, status = _part(live, "spec"), _part(live, "status")
    found = {"deployment": _of_deployment, "statefulset": _of_stateful_set, "daemonset": _of_daemon_set}
    reason = found[workload.kind](spec, status)
    return None if reason is None else f"{workload}: {reason}"


def _of_deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    wanted, updated = _count(spec, "replicas", default=1), _count(status, "updatedReplicas")
    # `replicas` counts every pod that is not terminating; newer clusters count those that are.
    old = _count(status, "replicas") - updated + _count(status, "terminatingReplicas")
    done = updated == wanted and old == 0 and _count(status, "availableReplicas") >= updated
    if spec.get("paused") is True:
        return None if done else "it is paused: no pod is replaced until it is resumed"
    return None if done else f"{updated} of {wanted} pods are new, {max(old, 0)} old ones are left"


def _of_stateful_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    wanted, updated = _count(spec, "replicas", default=1), _count(status, "updatedReplicas")
    ready, strategy = _count(status, "readyReplicas"), _part(spec, "updateStrategy")
    by_hand = strategy.get("type") == "OnDelete"
    is_current = by_hand or status.get("currentRevision") == status.get("updateRevision")
    if updated == wanted == _count(status, "replicas") and ready >= wanted and is_current:
        return None
    if by_hand:
        return f"OnDelete: delete its pods by hand; {updated} of {wanted} are new"
    partition = _count(_part(strategy, "rollingUpdate"), "partition")
    if partition > 0:
        return f"its partition of {partition} keeps the first pods as they are; {updated} of {wanted} are new"
    return f"{updated} of {wanted} pods are new, {ready} are ready"


def _of_daemon_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    wanted, updated = _count(status, "desiredNumberScheduled"), _count(status, "updatedNumberScheduled")
    available = _count(status, "numberAvailable")
    if updated == wanted and available >= wanted:
        return None
    if _part(spec, "updateStrategy").get("type") == "OnDelete":
        return f"OnDelete: delete its pods by hand; {updated} of {wanted} are new"
    return f"{updated} of {wanted} pods are new, {available} are available"


def _part(whole: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        part = whole.get(name)
        whole = part if isinstance(part, dict) else {}
    return whole


def _count(part: Mapping[str, Any], name: str, *, default: int = 0) -> int:
    """Return a count: the API server leaves out those that are 0."""
    found = part.get(name)
    return found if isinstance(found, int) else default
