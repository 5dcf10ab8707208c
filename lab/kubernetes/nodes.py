"""Plays a node: says of each pod what a kubelet would, and runs nothing.

A pod of a Job has succeeded at once, any other runs and is ready; a pod that is deleted is gone at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from keyturn.lab.kubernetes.servers import Kubernetes

NODE = "node-1"
LOOK_EVERY = 0.1  # seconds


@asynccontextmanager
async def played_node(server: Kubernetes) -> AsyncIterator[None]:
    """Have a node with room for every pod."""
    async with server.client() as http:
        (await http.post("/api/v1/nodes", json={"kind": "Node", "metadata": {"name": NODE}})).raise_for_status()
        playing = asyncio.create_task(_play(http))
        try:
            yield
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing


async def _play(http: httpx.AsyncClient) -> None:
    while True:
        with suppress(httpx.HTTPError):
            for pod in (await http.get("/api/v1/pods")).raise_for_status().json()["items"]:
                await _say_of(http, pod)
        await asyncio.sleep(LOOK_EVERY)


async def _say_of(http: httpx.AsyncClient, pod: dict[str, Any]) -> None:
    metadata = pod["metadata"]
    url = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    if metadata.get("deletionTimestamp"):
        await http.request("DELETE", url, json={"gracePeriodSeconds": 0})
        return
    if not pod["spec"].get("nodeName"):
        target = {"kind": "Binding", "metadata": {"name": metadata["name"]}, "target": {"kind": "Node", "name": NODE}}
        await http.post(f"{url}/binding", json=target)
    if pod["status"].get("phase") == "Pending":
        await http.patch(f"{url}/status", json={"status": _status(pod)}, headers={"content-type": _MERGE})


_MERGE = "application/merge-patch+json"


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    of_a_job = any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", ()))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    states: dict[str, Any] = {"running": {"startedAt": now}}
    if of_a_job:
        states = {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now, "reason": "Completed"}}
    ready = "False" if of_a_job else "True"
    return {
        "phase": "Succeeded" if of_a_job else "Running",
        "startTime": now,
        "conditions": [
            {"type": kind, "status": ready, "lastTransitionTime": now} for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "ready": not of_a_job,
                "started": not of_a_job,
                "restartCount": 0,
                "state": states,
            }
            for container in pod["spec"]["containers"]
        ],
    }
