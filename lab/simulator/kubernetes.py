"""The part of a Kubernetes API server that writing a Secret and restarting a workload meets.

The target's tests run on it and on Kubernetes' own server, where that is built (`make kubernetes-test`).

GET        /api/v1/namespaces, /api/v1/namespaces/NS/secrets (kubernetes_lists.py)
GET, PATCH /api/v1/namespaces/NS/secrets/NAME
GET, PATCH /apis/apps/v1/namespaces/NS/{deployments,statefulsets,daemonsets}/NAME

Written from kubernetes.io/docs/reference/using-api (server-side-apply; api-concepts: optimistic locking, Status, 409,
422, 429 with Retry-After), the API reference of Secret v1 and of apps/v1, and docs/reference/access-authn-authz/rbac.
An apply creates what does not exist, by the right `create` on that very name (kubernetes/kubernetes#80295).

A read without a resourceVersion returns the most recent state of a cluster, so that none is stale here. A test plays
the controllers: `generation` advances with `spec`, and `status` only by `roll_out`, or by hand.
"""

import asyncio
import base64
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.kubernetes_lists import listed
from keyturn.lab.simulator.kubernetes_objects import Refusal, Stored, applied, merged, new_object

Key = tuple[str, str, str]  # plural, namespace, name
FAULTS = {
    "answer_lost": "the connection drops after the effect",
    "request_lost": "the connection drops before any effect",
    "half_body": "the connection drops in the middle of the answer, after the effect",
    "hang": "no answer until the caller goes away",
    "throttled": "429 TooManyRequests with Retry-After",
    "etcd_timeout": "500 with etcd's timeout, after the effect: the server does not know of it",
    "unavailable": "503 ServiceUnavailable",
    "page": "200 with a page of HTML, as from a proxy",
    "redirect": "307 to another host",
}


@dataclass
class Cluster:
    """One cluster: its objects, who may ask, and the faults to come.

    Attributes:
        forbidden: rights that the caller lacks, as (verb, plural, name).
        faults: (name, the call that it meets, such as `PATCH secrets prod/pay`), each for one call.
        labels: what else the metadata of a namespace has.
        lists_whole_objects: whether the server does not know how to list metadata alone.
        oldest_version: of which a list can still be continued.
        on_call: called with each call before it has any effect, as others act at the same time.
    """

    token: str
    namespaces: set[str] = field(default_factory=lambda: {"prod"})
    objects: dict[Key, Stored] = field(default_factory=dict)
    forbidden: set[tuple[str, str, str]] = field(default_factory=set)
    faults: list[tuple[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda call: None
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    lists_whole_objects: bool = False
    oldest_version: int = 0
    elsewhere: str = "http://127.0.0.1:9"
    _versions: int = 100

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this cluster."""
        application = web.Application(client_max_size=3 << 20)  # the API server's own limit of a request
        for prefix, plurals in (("/api/v1", "secrets"), ("/apis/apps/v1", "deployments|statefulsets|daemonsets")):
            path = prefix + f"/namespaces/{{namespace}}/{{plural:{plurals}}}/{{name}}"
            application.router.add_route("*", path, self._serve)
        application.router.add_get("/api/v1/{plural:namespaces}", self._serve)
        application.router.add_get("/api/v1/namespaces/{namespace}/{plural:secrets}", self._serve)
        return application

    # -- what a test does beside the API ------------------------------------------------------------------------------

    def write(self, namespace: str, name: str, data: dict[str, str], *, manager: str, **fields: Any) -> None:
        """Write entries of a Secret as `manager` does with an update, creating it if there is none."""
        key = ("secrets", namespace, name)
        before = self.objects.get(key) or new_object(*key)
        entries = {one: base64.b64encode(text.encode()).decode() for one, text in data.items()}
        self._store(key, merged(before, {"data": entries, **fields}, manager, is_new=key not in self.objects))

    def hand_over(self, namespace: str, name: str, data: dict[str, str], *, manager: str) -> None:
        """Do what `kubectl apply --server-side --force-conflicts --field-manager=MANAGER` does to a Secret."""
        entries = {one: base64.b64encode(text.encode()).decode() for one, text in data.items()}
        self._apply(("secrets", namespace, name), {"data": entries}, manager, True)

    def entries(self, namespace: str, name: str) -> dict[str, str] | None:
        """Return the entries of a Secret, decoded; None if there is none."""
        stored = self.objects.get(("secrets", namespace, name))
        if stored is None:
            return None
        return {one: base64.b64decode(text).decode() for one, text in stored.body.get("data", {}).items()}

    def add_workload(self, plural: str, namespace: str, name: str, *, pods: int = 2, **spec: Any) -> None:
        """Create a workload whose pods are all up."""
        stored = new_object(plural, namespace, name)
        replicas = {} if plural == "daemonsets" else {"replicas": pods}
        stored.body["metadata"]["generation"] = 1
        stored.body["spec"] = {**replicas, "template": {"metadata": {"labels": {"app": name}}, "spec": {}}, **spec}
        self.objects[plural, namespace, name] = stored
        self.roll_out(plural, namespace, name, pods=pods)

    def body(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """Return an object as it is now, to look at."""
        return self.objects[plural, namespace, name].body

    def roll_out(self, plural: str, namespace: str, name: str, *, pods: int = 2) -> None:
        """Do what the controllers do in the end: every pod is of the present template, and available."""
        body = self.objects[plural, namespace, name].body
        body["status"] = counts_of(plural, body, pods)

    def forbid(self, *rights: tuple[str, str, str]) -> None:
        """Take these rights from the caller, as (verb, plural, name), and no others."""
        self.forbidden = set(rights)

    def alter(self, plural: str, namespace: str, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change an object beside the API, or as another one does by it."""
        change(self.objects[plural, namespace, name].body)

    def snapshot(self) -> dict[Key, dict[str, Any]]:
        """Return every object as it is shown now."""
        return copy.deepcopy({key: stored.shown() for key, stored in self.objects.items()})

    def delete(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object, if it is there."""
        self.objects.pop((plural, namespace, name), None)

    def disown(self, plural: str, namespace: str, name: str, *, manager: str, operation: str) -> None:
        """Take all fields from a manager, as a patch of `metadata.managedFields` does."""
        self.objects[plural, namespace, name].owners.pop((manager, operation), None)

    # -- the API ------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info
        place = f"{where['namespace']}/{where['name']}" if "name" in where else where.get("namespace", "")
        call = f"{request.method} {where['plural']} {place}".rstrip()
        self.calls.append(call)
        self.on_call(call)
        at_fault = next((at for at, (_, met) in enumerate(self.faults) if call == met), None)
        fault = "" if at_fault is None else self.faults.pop(at_fault)[0]
        if fault == "request_lost":
            return _dropped(request)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault in {"throttled", "unavailable", "page", "redirect"}:
            return self._instead(fault)
        try:
            body, status = self._answer(request, await request.read())
        except Refusal as refusal:
            body, status = refusal.body, refusal.code
        if fault == "answer_lost":
            return _dropped(request)
        if fault == "etcd_timeout":
            body, status = Refusal(500, "", "etcdserver: request timed out").body, 500
        if fault == "half_body":
            return await _half(request, body)
        return web.json_response(body, status=status)

    def _instead(self, fault: str) -> web.Response:
        if fault == "page":
            return web.Response(text="<html>Log in</html>", content_type="text/html")
        if fault == "redirect":
            return web.Response(status=307, headers={"Location": self.elsewhere})
        if fault == "throttled":
            refusal = Refusal(429, "TooManyRequests", "please try again later", retryAfterSeconds=1)
            return web.json_response(refusal.body, status=429, headers={"Retry-After": "1"})
        return web.json_response(Refusal(503, "ServiceUnavailable", "apiserver not ready").body, status=503)

    def _answer(self, request: web.Request, sent: bytes) -> tuple[dict[str, Any], int]:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if "name" not in request.match_info:
            return self._list(request), 200
        namespace, plural, name = (request.match_info[one] for one in ("namespace", "plural", "name"))
        self._expect_right({"GET": "get", "PATCH": "patch"}.get(request.method, "other"), plural, name)
        stored = self.objects.get((plural, namespace, name))
        if request.method == "GET":
            if stored is None:
                raise Refusal(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
            return stored.shown(), 200
        manager = request.query.get("fieldManager", "")
        if request.content_type == "application/apply-patch+yaml" and manager:
            intent, force = json.loads(sent), request.query.get("force") == "true"
            return self._apply((plural, namespace, name), intent, manager, force)
        if request.content_type != "application/merge-patch+json":
            raise Refusal(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        if stored is None:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
        return self._store((plural, namespace, name), merged(stored, json.loads(sent), manager)).shown(), 200

    def _list(self, request: web.Request) -> dict[str, Any]:
        plural, namespace = request.match_info["plural"], request.match_info.get("namespace", "")
        self._expect_right("list", plural, namespace)
        bodies = [stored.body for key, stored in sorted(self.objects.items()) if key[:2] == (plural, namespace)]
        if plural == "namespaces":
            bodies = [{"metadata": {"name": name, **self.labels.get(name, {})}} for name in sorted(self.namespaces)]
        accept = "" if self.lists_whole_objects else request.headers.get("Accept", "")
        kind = {"secrets": "Secret", "namespaces": "Namespace"}[plural]  # pragma: allowlist secret
        return listed(bodies, request.query, accept, kind=kind, version=self._versions, oldest=self.oldest_version)

    def add_token(self, namespace: str, name: str, account: str, *, labels: dict[str, str], created_at: str) -> None:
        """Create a secret with a token of a service account, as the token controller does."""
        metadata = {"creationTimestamp": created_at, "labels": labels}
        metadata |= {"annotations": {"kubernetes.io/service-account.name": account}} if account else {}
        self.write(namespace, name, {"token": f"token-of-{account}"}, manager="kube-controller-manager")
        body = self.objects["secrets", namespace, name].body
        body["metadata"] |= metadata
        body["type"] = "kubernetes.io/service-account-token"

    def _apply(self, key: Key, intent: dict[str, Any], manager: str, force: bool) -> tuple[dict[str, Any], int]:
        plural, namespace, name = key
        stored = self.objects.get(key)
        if stored is None:
            self._expect_right("create", plural, name)
            if namespace not in self.namespaces:
                message = f'namespaces "{namespace}" not found'
                raise Refusal(404, "NotFound", message, name=namespace, kind="namespaces")
        before = stored or new_object(plural, namespace, name)
        after = applied(before, intent, manager, force=force, is_new=stored is None)
        return self._store(key, after).shown(), 201 if stored is None else 200

    def _store(self, key: Key, after: Stored) -> Stored:
        """Store an object, unless the patch changed nothing: then it has no new version."""
        before = self.objects.get(key)
        if after != before:
            if before is not None and after.body.get("spec") != before.body.get("spec"):
                after.body["metadata"]["generation"] += 1
            self._versions += 1
            after.body["metadata"]["resourceVersion"] = str(self._versions)
            self.objects[key] = after
        return self.objects[key]

    def _expect_right(self, verb: str, plural: str, name: str) -> None:
        if (verb, plural, name) in self.forbidden:
            raise Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: cannot {verb}', name=name, kind=plural)


def counts_of(plural: str, body: dict[str, Any], pods: int) -> dict[str, Any]:
    """Return what the controllers say of a workload of which every pod is new, and available."""
    revision = f"{body['metadata']['name']}-{json.dumps(body['spec']['template'])}"
    counts: dict[str, dict[str, Any]] = {
        "deployments": {"replicas": pods, "updatedReplicas": pods, "readyReplicas": pods, "availableReplicas": pods},
        "statefulsets": {
            **{"replicas": pods, "updatedReplicas": pods, "readyReplicas": pods},
            **{"currentRevision": revision, "updateRevision": revision},
        },
        "daemonsets": {"desiredNumberScheduled": pods, "updatedNumberScheduled": pods, "numberAvailable": pods},
    }
    return {"observedGeneration": body["metadata"]["generation"], **counts[plural]}


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    whole = json.dumps(body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(whole))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
