"""Tokens of service accounts from Kubernetes' own API server, which makes them and writes down when they are used."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.lab.kubernetes.servers import Kubernetes, kubernetes
from keyturn.snapshots.errors import SnapshotIncomplete
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetchers import kubernetes as fetcher
from keyturn.snapshots.fetchers import load_fetchers

pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Kubernetes]:
    async with kubernetes() as started:
        yield started


async def _token_of(http: httpx.AsyncClient, account: str, name: str) -> str:
    """Make a token of an account, and return it once the controller has written it."""
    body = {
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
    }
    (await http.post("/api/v1/namespaces/prod/secrets", json=body)).raise_for_status()
    async with asyncio.timeout(30):
        while True:
            data = (await http.get(f"/api/v1/namespaces/prod/secrets/{name}")).json().get("data", {})
            if "token" in data:
                return str(data["token"])
            await asyncio.sleep(0.1)


async def test_tokens_are_fetched_with_their_last_use_and_without_themselves(
    server: Kubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a service account that may list secrets; a namespace that it may not list is named."""
    monkeypatch.setattr(fetcher, "OBJECTS_A_PAGE", 2)  # so that there are pages
    async with server.client() as http:
        await _post(http, "/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": "prod"}})
        for name in ("deployer", "reader"):
            body = {"kind": "ServiceAccount", "metadata": {"name": name}}
            await _post(http, "/api/v1/namespaces/prod/serviceaccounts", body)
        tokens = [await _token_of(http, "deployer", f"deployer-{number}") for number in range(5)]
        await _post(http, "/api/v1/namespaces/prod/secrets", {"kind": "Secret", "metadata": {"name": "no-token"}})
        await _use(server, base64.b64decode(tokens[3]).decode())
        await _let_list(http, [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]}])
        answer = await http.post(
            "/api/v1/namespaces/prod/serviceaccounts/reader/token", json={"kind": "TokenRequest", "spec": {}}
        )
        file = tmp_path / "token"
        file.write_text(answer.raise_for_status().json()["status"]["token"])
        monkeypatch.setenv("KEYTURN_KUBERNETES_URL", server.url)
        monkeypatch.setenv("KEYTURN_KUBERNETES_TOKEN_FILE", str(file))
        monkeypatch.setenv("KEYTURN_KUBERNETES_CA_FILE", str(server.authority))
        with pytest.raises(SnapshotIncomplete, match="prod: GET secrets in prod: 403 Forbidden"):
            await fetch_snapshot(load_fetchers()["kubernetes"], tmp_path / "none.jsonl")
        await _let_list(http, [{"apiGroups": [""], "resources": ["namespaces", "secrets"], "verbs": ["list"]}])
        async with asyncio.timeout(30):  # the server learns of a changed role a moment later
            while (await http.get("/api/v1/secrets", headers={"authorization": f"Bearer {file.read_text()}"})).is_error:
                await asyncio.sleep(0.1)
        began = datetime.now(UTC)
        await fetch_snapshot(load_fetchers()["kubernetes"], tmp_path / "keys.jsonl")
    rows = [row for row in read(Inventory(tmp_path / "keys.jsonl")) if isinstance(row, InventoryKey)]
    found = {row.facts.key_id: row for row in rows if row.account_id == "system:serviceaccount:prod:deployer"}
    assert sorted(found) == [f"deployer-{number}" for number in range(5)]
    assert all(began - timedelta(minutes=5) < row.facts.last_rotated_at <= began for row in found.values())  # type: ignore[operator]
    used = {name for name, row in found.items() if row.facts.last_used_at is not None}
    assert used == {"deployer-3"}
    text = (tmp_path / "keys.jsonl").read_text()
    assert not [token for token in tokens if token in text or base64.b64decode(token).decode() in text]


async def _post(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    (await http.post(url, json=body)).raise_for_status()


async def _use(server: Kubernetes, token: str) -> None:
    """Ask the server something by a token, which it notes on the token's secret."""
    context = ssl.create_default_context(cafile=str(server.authority))
    async with httpx.AsyncClient(base_url=server.url, verify=context) as http:
        answer = await http.get("/api/v1/namespaces", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == httpx.codes.FORBIDDEN


async def _let_list(http: httpx.AsyncClient, rules: list[dict[str, Any]]) -> None:
    url = "/apis/rbac.authorization.k8s.io/v1"
    role = {"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": rules}
    if (await http.post(f"{url}/clusterroles", json=role)).status_code == httpx.codes.CONFLICT:
        (await http.put(f"{url}/clusterroles/reader", json=role)).raise_for_status()
        return
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "prod"}],
    }
    await _post(http, f"{url}/clusterrolebindings", binding)
