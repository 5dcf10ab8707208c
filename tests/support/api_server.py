"""Kubernetes' own API server, in the place of the simulated one: what a test does to either, by the same words."""

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiohttp import web

from keyturn.lab.kubernetes.servers import Kubernetes
from keyturn.lab.simulator.kubernetes import Cluster, Key, counts_of
from keyturn.lab.simulator.kubernetes_objects import KINDS

NAMESPACE, ACCOUNT = "prod", "keyturn"
_MERGE, _APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
# By plural: what a target may do with it, and the names that a test can forbid.
_RIGHTS = {
    "secrets": ("", ("get", "patch", "create"), ("pay", "pay-keyturn-previous")),
    "deployments": ("apps", ("get", "patch"), ("api", "apj")),
    "statefulsets": ("apps", ("get", "patch"), ("db",)),
    "daemonsets": ("apps", ("get", "patch"), ("agent",)),
}


@contextmanager
def real_cluster(server: Kubernetes, token: str) -> Iterator["RealCluster"]:
    """Yield a server with the namespace `prod` and a service account with a target's rights; what it has goes after.

    Args:
        server: it may have no controllers: a test plays them.
        token: the word that stands for the service account's token in the test.
    """
    context = ssl.create_default_context(cafile=str(server.authority))
    headers = {"authorization": f"Bearer {server.token.get_secret_value()}"}
    with httpx.Client(base_url=server.url, headers=headers, verify=context, timeout=30) as http:
        cluster = RealCluster(token, http=http, plain=httpx.Client(base_url=server.url, verify=context, timeout=30))
        cluster.prepare()
        try:
            yield cluster
        finally:
            for key in cluster.snapshot():
                cluster.delete(*key)
            cluster.plain.close()


@dataclass
class RealCluster(Cluster):
    """The server, behind the simulator's faults; `http` is an administrator's, `plain` shows no token of its own."""

    http: httpx.Client = field(default_factory=httpx.Client)
    plain: httpx.Client = field(default_factory=httpx.Client)
    _account_token: str = ""

    def prepare(self) -> None:
        """Make what a target needs, where it is not there yet."""
        self._ensure("/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": NAMESPACE}})
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        self._ensure(accounts, {"kind": "ServiceAccount", "metadata": {"name": ACCOUNT}})
        self._set_rights(set())
        binding = {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        }
        self._ensure("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        answer = self.http.post(f"{accounts}/{ACCOUNT}/token", json={"kind": "TokenRequest", "spec": {}})
        self._account_token = answer.raise_for_status().json()["status"]["token"]
        self._await_rights(set())

    # -- what a test does beside the API ------------------------------------------------------------------------------

    def forbid(self, *rights: tuple[str, str, str]) -> None:
        self._set_rights(set(rights))

    def write(self, namespace: str, name: str, data: dict[str, str], *, manager: str, **fields: Any) -> None:
        entries = {one: base64.b64encode(text.encode()).decode() for one, text in data.items()}
        url, query = _url("secrets", namespace), {"fieldManager": manager}
        live = self.http.get(f"{url}/{name}")
        if live.status_code == httpx.codes.NOT_FOUND:
            made = {"kind": "Secret", "metadata": {"name": name}, "data": entries}
            self.http.post(url, params=query, json=_merged(made, fields)).raise_for_status()
            return
        body = _merged(live.raise_for_status().json(), {"data": entries, **fields})
        self.http.put(f"{url}/{name}", params=query, json=body).raise_for_status()

    def hand_over(self, namespace: str, name: str, data: dict[str, str], *, manager: str) -> None:
        entries = {one: base64.b64encode(text.encode()).decode() for one, text in data.items()}
        intent = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": entries}
        query = {"fieldManager": manager, "force": "true"}
        self.http.patch(
            f"{_url('secrets', namespace)}/{name}", params=query, json=intent, headers={"content-type": _APPLY}
        ).raise_for_status()

    def entries(self, namespace: str, name: str) -> dict[str, str] | None:
        answer = self.http.get(f"{_url('secrets', namespace)}/{name}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        data = answer.raise_for_status().json().get("data", {})
        return {one: base64.b64decode(text).decode() for one, text in data.items()}

    def add_workload(self, plural: str, namespace: str, name: str, *, pods: int = 2, **spec: Any) -> None:
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
        whole = {"selector": {"matchLabels": labels}, "template": template, **spec}
        whole |= {} if plural == "daemonsets" else {"replicas": pods}
        whole |= {"serviceName": name} if plural == "statefulsets" else {}
        body = {"kind": KINDS[plural], "metadata": {"name": name}, "spec": whole}
        self.http.post(_url(plural, namespace), json=body).raise_for_status()
        self.roll_out(plural, namespace, name, pods=pods)

    def body(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{_url(plural, namespace)}/{name}").raise_for_status().json()
        return found

    def roll_out(self, plural: str, namespace: str, name: str, *, pods: int = 2) -> None:
        body = self.body(plural, namespace, name)
        self._set_status(plural, namespace, name, counts_of(plural, body, pods) | _required(plural, pods))

    def alter(self, plural: str, namespace: str, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        body = self.body(plural, namespace, name)
        seen, status = body["metadata"].get("generation"), None
        change(body)
        if "status" in body:
            status = body.pop("status")
        url = f"{_url(plural, namespace)}/{name}"
        after = self.http.put(url, params={"fieldManager": "kubectl-edit"}, json=body).raise_for_status().json()
        if status is not None:
            if status.get("observedGeneration") == seen:  # what is to be looked at is not that the controller is late
                status["observedGeneration"] = after["metadata"]["generation"]
            self._set_status(plural, namespace, name, status)

    def snapshot(self) -> dict[Key, dict[str, Any]]:
        return {
            (plural, NAMESPACE, one["metadata"]["name"]): one
            for plural in KINDS
            for one in self.http.get(_url(plural, NAMESPACE)).raise_for_status().json()["items"]
        }

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self.http.delete(f"{_url(plural, namespace)}/{name}")

    def disown(self, plural: str, namespace: str, name: str, *, manager: str, operation: str) -> None:
        managers = self.body(plural, namespace, name)["metadata"]["managedFields"]
        at = next(at for at, one in enumerate(managers) if (one["manager"], one["operation"]) == (manager, operation))
        patch = [{"op": "remove", "path": f"/metadata/managedFields/{at}"}]
        headers = {"content-type": "application/json-patch+json"}
        url = f"{_url(plural, namespace)}/{name}"
        self.http.patch(url, content=json.dumps(patch), headers=headers).raise_for_status()

    # -- the API ------------------------------------------------------------------------------------------------------

    def _answer(self, request: web.Request, sent: bytes) -> tuple[dict[str, Any], int]:
        names = ("authorization", "accept", "content-type")
        headers = {name: value for name, value in request.headers.items() if name.lower() in names}
        if headers.get("Authorization") == f"Bearer {self.token}":
            headers["Authorization"] = f"Bearer {self._account_token}"
        answer = self.plain.request(
            request.method, request.path, params=dict(request.query), content=sent, headers=headers
        )
        body: dict[str, Any] = answer.json()
        return body, answer.status_code

    # -- parts --------------------------------------------------------------------------------------------------------

    def _ensure(self, url: str, body: dict[str, Any]) -> None:
        if (answer := self.http.post(url, json=body)).status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()

    def _set_status(self, plural: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        body = self.body(plural, namespace, name) | {"status": status}
        self.http.put(f"{_url(plural, namespace)}/{name}/status", json=body).raise_for_status()

    def _set_rights(self, forbidden: set[tuple[str, str, str]]) -> None:
        rules = []
        for plural, (group, verbs, names) in _RIGHTS.items():
            for verb in verbs:
                without = {name for one, of, name in forbidden if (one, of) == (verb, plural)}
                rule = {"apiGroups": [group], "resources": [plural], "verbs": [verb]}
                if not without:
                    rules.append(rule)
                elif left := sorted(set(names) - without):  # no names at all would mean any name
                    rules.append(rule | {"resourceNames": left})
        url = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        body = {"kind": "ClusterRole", "metadata": {"name": ACCOUNT}, "rules": rules}
        self._ensure(url, body)
        self.http.put(f"{url}/{ACCOUNT}", json=body).raise_for_status()
        if self._account_token:
            self._await_rights(forbidden)

    def _await_rights(self, forbidden: set[tuple[str, str, str]]) -> None:
        """The server learns of a changed role a moment later."""
        rights = [
            (verb, plural, name) for plural, (_, verbs, names) in _RIGHTS.items() for verb in verbs for name in names
        ]
        asked = {right: right not in forbidden for right in rights}
        until = time.monotonic() + 10
        while not all(self._may(*right) == may for right, may in asked.items()):
            assert time.monotonic() < until, "the role did not come into force"
            time.sleep(0.02)

    def _may(self, verb: str, plural: str, name: str) -> bool:
        attributes = {"verb": verb, "group": _RIGHTS[plural][0], "resource": plural, "name": name}
        review = {
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes | {"namespace": NAMESPACE}},
        }
        answer = self.plain.post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            json=review,
            headers={"authorization": f"Bearer {self._account_token}"},
        )
        return bool(answer.raise_for_status().json()["status"]["allowed"])


def _url(plural: str, namespace: str) -> str:
    return ("/api/v1" if plural == "secrets" else "/apis/apps/v1") + f"/namespaces/{namespace}/{plural}"


def _required(plural: str, pods: int) -> dict[str, Any]:
    """What the server wants in a status beside what a rollout is judged by."""
    return (
        {"currentNumberScheduled": pods, "numberMisscheduled": 0, "numberReady": pods} if plural == "daemonsets" else {}
    )


def _merged(body: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a body with the fields of `change`, down to the leaves."""
    found = dict(body)
    for name, value in change.items():
        found[name] = _merged(found.get(name) or {}, value) if isinstance(value, dict) else value
    return found
