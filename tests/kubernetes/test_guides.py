"""What the guides tell a person to do on a cluster, done on Kubernetes' own API server."""

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import SecretStr

from keyturn.execution.errors import SecretManagedElsewhere
from keyturn.lab.kubernetes.servers import Kubernetes
from keyturn.targets.kubernetes.api import Cluster as Place
from keyturn.targets.kubernetes.api import ClusterApi
from keyturn.targets.kubernetes.store import KubernetesSecrets
from tests.support.api_server import RealCluster, real_cluster

pytestmark = pytest.mark.kubernetes
_APPLY, _PATCH = "application/apply-patch+yaml", "application/json-patch+json"
GUIDES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


@pytest.fixture
def cluster(api_server: Kubernetes) -> Iterator[RealCluster]:
    with real_cluster(api_server, "unused") as made:
        made.add_workload("deployments", "prod", "pay-api")
        yield made


@pytest.fixture
def store(cluster: RealCluster, api_server: Kubernetes, tmp_path: Path) -> KubernetesSecrets:
    """The target, with the rights of the guide's Role and no others."""
    guide = (GUIDES / "run-on-kubernetes.md").read_text()
    [text] = [text for text in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "kind: Role\n" in text]
    role, binding = yaml.safe_load_all(text)
    [subject] = binding["subjects"]
    _make(cluster.http, "/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": subject["namespace"]}})
    accounts = f"/api/v1/namespaces/{subject['namespace']}/serviceaccounts"
    _make(cluster.http, accounts, {"kind": "ServiceAccount", "metadata": {"name": subject["name"]}})
    for body, plural in ((role, "roles"), (binding, "rolebindings")):
        _make(cluster.http, f"/apis/rbac.authorization.k8s.io/v1/namespaces/prod/{plural}", body)
    asked = cluster.http.post(f"{accounts}/{subject['name']}/token", json={"kind": "TokenRequest", "spec": {}})
    file = tmp_path / "token"
    file.write_text(asked.raise_for_status().json()["status"]["token"])
    return KubernetesSecrets(ClusterApi(Place(api_server.url, file, api_server.authority)))


def _make(http: httpx.Client, url: str, body: dict[str, Any]) -> None:
    if (answer := http.post(url, json=body)).status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()


async def test_a_secret_that_exists_is_handed_over_by_the_guides_patch(
    cluster: RealCluster, store: KubernetesSecrets
) -> None:
    """With the rights of the guide's Role: written, read back, its reader restarted, and the secret before restored."""
    name = "prod/pay-db?restart=deployment/pay-api"
    cluster.write("prod", "pay-db", {"username": "pay_a", "password": "old"}, manager="kubectl-create")
    new = SecretStr(json.dumps({"username": "pay_b", "password": "new"}))
    with pytest.raises(SecretManagedElsewhere, match="kubectl-create") as refused:
        await store.put(name, new, version="v2")
    assert "rotate-keys.md#a-kubernetes-secret-that-exists" in refused.value.hint
    guide = (GUIDES / "rotate-keys.md").read_text()
    assert "### A Kubernetes Secret that exists\n" in guide
    url = "/api/v1/namespaces/prod/secrets/pay-db"
    cluster.http.patch(url, content=_patch(), headers={"content-type": _PATCH}).raise_for_status()
    await store.put(name, new, version="v2")
    assert await store.current(name) == new
    template = cluster.body("deployments", "prod", "pay-api")["spec"]["template"]
    assert template["metadata"]["annotations"] == {"keyturn.dev/restarted-for": "v2"}
    await store.restore(name)
    assert cluster.entries("prod", "pay-db") == {"username": "pay_a", "password": "old"}


async def test_a_secret_of_a_gitops_tool_keeps_its_labels_and_its_type_when_it_is_handed_over(
    cluster: RealCluster, store: KubernetesSecrets
) -> None:
    """Such a tool applies: what Keyturn then managed beside the entries, its own apply would remove."""
    intent = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": {"name": "pay-db", "labels": {"team": "pay"}, "annotations": {"reload": "true"}},
        "data": {"username": "cGF5X2E=", "password": "b2xk"},
    }
    url = "/api/v1/namespaces/prod/secrets/pay-db"
    applied = cluster.http.patch(
        url, params={"fieldManager": "kubectl-create"}, json=intent, headers={"content-type": _APPLY}
    )
    applied.raise_for_status()
    cluster.http.patch(url, content=_patch(), headers={"content-type": _PATCH}).raise_for_status()
    new = SecretStr(json.dumps({"username": "pay_b", "password": "new"}))
    await store.put("prod/pay-db", new, version="v2")
    live = cluster.body("secrets", "prod", "pay-db")
    assert (live["type"], live["metadata"]["labels"]) == ("kubernetes.io/basic-auth", {"team": "pay"})
    assert live["metadata"]["annotations"]["reload"] == "true"
    assert cluster.entries("prod", "pay-db") == {"username": "pay_b", "password": "new"}


def _patch() -> str:
    """The patch of the guide, which hands a Secret over."""
    guide = (GUIDES / "rotate-keys.md").read_text()
    [patch] = re.findall(r"--type json --patch \\\n     '(.*?)'", guide, re.DOTALL)
    return str(patch)


async def test_the_guides_role_allows_nothing_else(
    cluster: RealCluster, store: KubernetesSecrets, api_server: Kubernetes
) -> None:
    """No other Secret of the namespace is read."""
    context = ssl.create_default_context(cafile=str(api_server.authority))
    cluster.write("prod", "other", {"password": "x"}, manager="helm")
    with httpx.Client(base_url=api_server.url, verify=context) as http:
        token = cluster.http.post(
            "/api/v1/namespaces/keyturn/serviceaccounts/keyturn-keyturn/token",
            json={"kind": "TokenRequest", "spec": {}},
        )
        bearer = {"authorization": f"Bearer {token.raise_for_status().json()['status']['token']}"}
        for path in ("secrets/other", "secrets", "configmaps"):
            answer = http.get(f"/api/v1/namespaces/prod/{path}", headers=bearer)
            assert answer.status_code == httpx.codes.FORBIDDEN, path
        refused = [
            http.delete("/api/v1/namespaces/prod/secrets/pay-db", headers=bearer),
            http.post("/api/v1/namespaces/prod/secrets", json={"metadata": {"name": "planted"}}, headers=bearer),
            http.patch(
                "/api/v1/namespaces/prod/secrets/planted",
                params={"fieldManager": "keyturn"},
                json={"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"}},
                headers={**bearer, "content-type": "application/apply-patch+yaml"},
            ),
        ]
        assert {answer.status_code for answer in refused} == {httpx.codes.FORBIDDEN}
