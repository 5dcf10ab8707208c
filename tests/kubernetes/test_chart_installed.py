"""The Helm chart on Kubernetes' own API server, in a namespace of the strictest Pod Security Standard.

Its controllers make the pods; a node is played, so that nothing of Keyturn runs.
"""

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from keyturn.lab.kubernetes.nodes import played_node
from keyturn.lab.kubernetes.programs import DEFINITIONS, build_kubernetes
from keyturn.lab.kubernetes.servers import Kubernetes, kubernetes
from keyturn.lab.stack.go import built_folder

pytestmark = pytest.mark.kubernetes
ROOT = Path(__file__).resolve().parents[2]
CHART, EXAMPLE = ROOT / "deploy" / "helm" / "keyturn", ROOT / "deploy" / "helm" / "example.yaml"
# What a release may make, by its URL.
KINDS = {
    **dict.fromkeys(("configmaps", "services", "serviceaccounts", "pods"), "/api/v1"),
    **dict.fromkeys(("deployments", "replicasets"), "/apis/apps/v1"),
    **{"jobs": "/apis/batch/v1", "poddisruptionbudgets": "/apis/policy/v1"},
    **{"networkpolicies": "/apis/networking.k8s.io/v1", "horizontalpodautoscalers": "/apis/autoscaling/v2"},
    **{"scaledobjects": "/apis/keda.sh/v1alpha1"},
    **dict.fromkeys(("servicemonitors", "prometheusrules"), "/apis/monitoring.coreos.com/v1"),
}


@dataclass
class Release:
    """A release of the chart in a namespace of its own."""

    server: Kubernetes
    http: httpx.AsyncClient
    namespace: str

    async def helm(self, *arguments: str, values: Mapping[str, Any] = {}) -> tuple[int, str]:
        """Run Helm; returns its status and what it printed."""
        helm = shutil.which("helm") or str(built_folder("tools") / "helm")
        given = ["--values", str(EXAMPLE), "--values", "-"] if arguments[0] in {"install", "upgrade"} else []
        process = await asyncio.create_subprocess_exec(
            *(helm, *arguments, "--namespace", self.namespace, *given),
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.server.folder),
                "KUBECONFIG": str(self.server.kubeconfig),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate(json.dumps(dict(values)).encode())
        return process.returncode or 0, printed.decode()

    async def upgrade(self, values: Mapping[str, Any] = {}) -> str:
        """Install or upgrade, wait until all pods are ready, and return what Helm printed; it has to succeed."""
        status, printed = await self.helm(
            "upgrade", "--install", "r", str(CHART), "--wait", "--timeout", "60s", values=values
        )
        assert status == 0, printed
        return printed

    async def list(self, kind: str) -> list[dict[str, Any]]:
        """Return the namespace's objects of a kind, without Kubernetes' own."""
        answer = await self.http.get(f"{KINDS[kind]}/namespaces/{self.namespace}/{kind}")
        items = answer.raise_for_status().json()["items"]
        own = {"kube-root-ca.crt", "default"}
        return [one for one in items if one["metadata"]["name"] not in own]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Kubernetes]:
    """A server with controllers, a node, and what the operators of the chart's options define."""
    async with kubernetes() as started, started.client() as http:
        folder = await asyncio.to_thread(build_kubernetes)
        for file in [Path(one).name for files in DEFINITIONS.values() for one in files]:
            definition = yaml.safe_load((folder / file).read_text())
            url = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            (await http.post(url, json=definition)).raise_for_status()
            await _served(http, definition)
        async with played_node(started):
            yield started


async def _served(http: httpx.AsyncClient, definition: Mapping[str, Any]) -> None:
    spec = definition["spec"]
    async with asyncio.timeout(30):
        while (
            await http.get(f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}")
        ).is_error:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _release(server: Kubernetes) -> AsyncIterator[Release]:
    namespace = f"keyturn-{uuid.uuid4().hex[:8]}"
    async with server.client() as http:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
        (await http.post("/api/v1/namespaces", json=body)).raise_for_status()
        async with asyncio.timeout(30):  # no pod is made before the namespace has its account
            while (await http.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")).is_error:
                await asyncio.sleep(0.05)
        yield Release(server, http, namespace)


@pytest.fixture
async def release(server: Kubernetes) -> AsyncIterator[Release]:
    async with _release(server) as made:
        yield made


async def test_every_component_of_the_example_is_admitted_and_becomes_available(release: Release) -> None:
    """The hooks have run and are gone; what reads figures and alerts has its parts."""
    await release.upgrade()
    found = {one["metadata"]["name"]: one["status"] for one in await release.list("deployments")}
    assert found.keys() == {f"r-keyturn-{name}" for name in ("worker", "executor", "desk", "jobs", "codec", "leaks")}
    assert all(status["availableReplicas"] == status["replicas"] for status in found.values())
    assert await release.list("jobs") == []
    assert {kind: len(await release.list(kind)) for kind in ("servicemonitors", "prometheusrules")} == {
        "servicemonitors": 1,
        "prometheusrules": 1,
    }
    pods = await release.list("pods")
    assert len(pods) == 11
    assert not [name for pod in pods for name in pod["spec"]["volumes"] if "serviceAccountToken" in json.dumps(name)]


async def test_a_changed_setting_starts_its_pods_anew_and_a_rollback_takes_it_back(release: Release) -> None:
    """Nothing of a release is left after it is uninstalled, and the Secrets are a person's own."""
    await release.upgrade()
    before = {pod["metadata"]["name"] for pod in await release.list("pods")}
    await release.upgrade({"settings": {"KEYTURN_ROUTES": "anthropic:claude-sonnet-4-5"}})
    after = {pod["metadata"]["name"] for pod in await release.list("pods")}
    assert not before & after
    status, printed = await release.helm("rollback", "r", "1", "--wait", "--timeout", "60s")
    assert status == 0, printed
    [settings] = [one for one in await release.list("configmaps") if one["metadata"]["name"] == "r-keyturn-settings"]
    assert settings["data"]["KEYTURN_ROUTES"] == "openai:gpt-5-mini"
    status, printed = await release.helm("uninstall", "r", "--wait", "--timeout", "60s")
    assert status == 0, printed
    async with asyncio.timeout(60):  # the collector takes the pods after their owners
        while await release.list("pods"):
            await asyncio.sleep(0.1)
    assert {kind: await release.list(kind) for kind in KINDS} == {kind: [] for kind in KINDS}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"worker": {"autoscaling": {"by": "cpu"}}}, "horizontalpodautoscalers"),
        ({"worker": {"autoscaling": {"by": "keda", "authenticationRef": "temporal"}}}, "scaledobjects"),
    ],
    ids=["cpu", "keda"],
)
async def test_what_scales_the_worker_is_accepted(release: Release, values: dict[str, Any], kind: str) -> None:
    """By the server, and by the operator's own definition."""
    await release.upgrade(values)
    [made] = await release.list(kind)
    [worker] = [one for one in await release.list("deployments") if one["metadata"]["name"] == "r-keyturn-worker"]
    assert made["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]


@pytest.mark.parametrize("by", ["none", "cpu", "keda"])
async def test_no_field_of_the_chart_is_unknown_to_the_server(release: Release, by: str) -> None:
    """A misspelt field would be dropped in silence, with all that it was to protect. The hooks are looked at, too."""
    values = {"worker": {"autoscaling": {"by": by}}}
    command = ("upgrade", "--install", "r", str(CHART), "--dry-run=client", "--output=json")
    status, printed = await release.helm(*command, values=values)
    assert status == 0, printed
    rendered = json.loads(printed)
    bodies = list(filter(None, yaml.safe_load_all(rendered["manifest"])))
    bodies += [yaml.safe_load(hook["manifest"]) for hook in rendered["hooks"]]
    assert {"Job", "Deployment"} <= {body["kind"] for body in bodies}
    for body in bodies:
        kind = body["kind"].lower()
        plural = kind.removesuffix("y") + "ies" if kind.endswith("y") else f"{kind}s"
        answer = await release.http.post(
            f"{KINDS[plural]}/namespaces/{release.namespace}/{plural}",
            params={"dryRun": "All", "fieldValidation": "Strict"},
            json=body,
        )
        assert answer.is_success, answer.json()["message"]
