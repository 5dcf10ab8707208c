"""The Kubernetes target against a simulated API server: entries, managers, the copy of the secret before, restarts."""

import asyncio
import base64
import datetime
import json
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr, TypeAdapter

from keyturn.errors import KeyturnError
from keyturn.execution import http
from keyturn.execution.contracts import TargetPath
from keyturn.execution.errors import (
    CloudRefused,
    CloudUnavailable,
    SecretManagedElsewhere,
    SecretNotStored,
    TargetUnusable,
)
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.lab.simulator.kubernetes import FAULTS, Cluster
from keyturn.targets import load_targets
from keyturn.targets.kubernetes import api
from keyturn.targets.kubernetes.api import ClusterApi, cluster_of_environment
from keyturn.targets.kubernetes.store import KubernetesSecrets
from tests.support.api_server import real_cluster
from tests.support.servers import fake_server

TOKEN = "a-token-of-a-service-account"
NAME = "prod/pay"
RESTARTING = "prod/pay?restart=deployment/api,statefulset/db"
URL = ("secrets", "prod", "pay")
COPY = ("secrets", "prod", "pay-keyturn-previous")
MARKS = {"resourceVersion", "uid", "creationTimestamp"}


def pair(number: int) -> SecretStr:
    return SecretStr(json.dumps({"AccessKeyId": f"AKIA{number}", "SecretAccessKey": f"very/secret+{number}"}))


PRIVATE = (TOKEN, "very/secret+", base64.b64encode(b"very/secret+1").decode()[:16])


def add_workloads(cluster: Cluster) -> None:
    for plural, name in (("deployments", "api"), ("statefulsets", "db"), ("daemonsets", "agent")):
        cluster.add_workload(plural, "prod", name)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.kubernetes)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The simulator, and Kubernetes' own API server: what holds at one holds at the other."""
    if request.param == "simulated":
        made = Cluster(TOKEN)
        add_workloads(made)
        yield made
        return
    with real_cluster(request.getfixturevalue("api_server"), TOKEN) as made:
        add_workloads(made)
        yield made


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture
async def store(cluster: Cluster, token_file: Path) -> AsyncIterator[KubernetesSecrets]:
    async with fake_server(cluster.application()) as address:
        yield KubernetesSecrets(ClusterApi(api.Cluster(address, token_file, None)))


async def refused(call: Awaitable[Any], kind: type[KeyturnError] = CloudRefused) -> str:
    """The error of a call, which says nothing private wherever one looks."""
    with pytest.raises(kind) as caught:
        await call
    error: BaseException | None = caught.value
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(vars(caught.value))
    while error is not None:
        request = getattr(error, "_request", None)
        assert request is None, "httpx's errors hold the request"
        said += str(error) + repr(error) + str(vars(error))
        error = error.__context__
    assert not [word for word in PRIVATE if word in said]
    return str(caught.value)


def annotated(form: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["metadata"].update(annotations={"keyturn.dev/fields": form})


def template_of(cluster: Cluster, plural: str, name: str) -> Any:
    return cluster.body(plural, "prod", name)["spec"]["template"]["metadata"].get("annotations")


def generations(cluster: Cluster) -> list[int]:
    objects = cluster.snapshot()
    return [body["metadata"]["generation"] for key, body in sorted(objects.items()) if key[0] != "secrets"]


async def test_a_secret_is_written_an_entry_a_field(cluster: Cluster, store: KubernetesSecrets) -> None:
    await store.put(NAME, pair(1), version="AKIA1")
    assert cluster.entries("prod", "pay") == {
        "AccessKeyId": "AKIA1",
        "SecretAccessKey": "very/secret+1",  # pragma: allowlist secret
    }
    assert cluster.body(*URL)["type"] == "Opaque"
    assert cluster.body(*URL)["metadata"]["annotations"]["keyturn.dev/version"] == "AKIA1"
    assert COPY not in cluster.snapshot(), "there was none before"


@pytest.mark.parametrize(
    "text",
    [
        '{"b": "2", "a": "1"}',
        '{"b":"2","a":"1"}',
        '{\n  "z": "\\u00e9",\n  "a": ""\n}',
        '{\n  "z": "é",\n  "a": "line\\nline"\n}',
        '{"port": 5432, "tls": true, "none": null, "hosts": ["a", {"b": 1.5}], "text": "5432"}',
    ],
)
async def test_a_secret_is_read_back_to_the_byte(store: KubernetesSecrets, text: str) -> None:
    """Otherwise a repeated `put` would give the key's other targets another text under the same version."""
    await store.put(NAME, SecretStr(text), version="v1")
    found = await store.current(NAME)
    assert found is not None
    assert found.get_secret_value() == text


async def test_a_whole_text_is_one_entry(cluster: Cluster, store: KubernetesSecrets) -> None:
    """As programs read Google's key files, with the line's end that these have."""
    text, name = '{\n  "type": "service_account", "key": "é"}\n', NAME + "?key=key.json"
    await store.put(name, SecretStr(text), version="v1")
    assert cluster.entries("prod", "pay") == {"key.json": text}
    found = await store.current(name)
    assert found is not None
    assert found.get_secret_value() == text


async def test_nothing_is_current_where_there_is_no_secret(store: KubernetesSecrets) -> None:
    assert await store.current(NAME) is None
    assert await store.current(NAME + "?key=x") is None
    await store.restore(NAME)  # nothing to forget


async def test_one_version_twice_changes_nothing(cluster: Cluster, store: KubernetesSecrets) -> None:
    await store.put(RESTARTING, pair(1), version="AKIA1")
    before, cluster.calls[:] = cluster.snapshot(), []
    await store.put(RESTARTING, pair(1), version="AKIA1")
    assert cluster.snapshot() == before
    assert all(call.startswith("GET ") for call in cluster.calls)


async def test_the_secret_before_is_stored_beside_and_restored(cluster: Cluster, store: KubernetesSecrets) -> None:
    cluster.write("prod", "pay", {}, manager="helm", type="example.com/login")
    await store.put(NAME, pair(1), version="AKIA1")
    await store.put(NAME, pair(2), version="AKIA2")
    stored = cluster.body(*COPY)
    assert cluster.entries("prod", "pay-keyturn-previous") == json.loads(pair(1).get_secret_value())
    assert stored["type"] == "example.com/login"
    assert stored["metadata"]["labels"]["keyturn.dev/copy"] == "previous"
    assert stored["metadata"]["annotations"]["keyturn.dev/version"] == "AKIA1"
    await store.restore(NAME)
    assert await store.current(NAME) == pair(1)
    before = cluster.snapshot()
    await store.restore(NAME)
    assert cluster.snapshot() == before, "a restore that is repeated restores nothing more"
    await store.put(NAME, pair(3), version="AKIA3")
    assert cluster.entries("prod", "pay-keyturn-previous") == json.loads(pair(1).get_secret_value())


async def test_the_copy_is_opaque_where_kubernetes_demands_entries(cluster: Cluster, store: KubernetesSecrets) -> None:
    """A copy of tls.key alone would be refused as kubernetes.io/tls: the certificate is another manager's."""
    cluster.write("prod", "pay", {"tls.crt": "C", "tls.key": "K0"}, manager="keyturn", type="kubernetes.io/tls")
    cluster.write("prod", "pay", {"tls.crt": "C1"}, manager="cert-manager")
    await store.put(NAME + "?key=tls.key", SecretStr("K1"), version="v1")
    assert cluster.entries("prod", "pay-keyturn-previous") == {"tls.key": "K0"}
    assert cluster.entries("prod", "pay") == {"tls.crt": "C1", "tls.key": "K1"}
    await store.restore(NAME + "?key=tls.key")
    assert cluster.entries("prod", "pay") == {"tls.crt": "C1", "tls.key": "K0"}


async def test_the_first_secret_is_forgotten_and_others_entries_stay(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    """And nothing is restarted: the pods would find no secret."""
    cluster.write("prod", "pay", {"url": "https://pay"}, manager="helm")
    await store.put(RESTARTING, pair(1), version="AKIA1")
    restarted = generations(cluster)
    await store.restore(RESTARTING)
    assert await store.current(RESTARTING) is None
    assert cluster.entries("prod", "pay") == {"url": "https://pay"}
    await store.restore(RESTARTING)
    assert generations(cluster) == restarted
    await store.put(RESTARTING, pair(2), version="AKIA2")
    assert await store.current(RESTARTING) == pair(2)


async def test_an_unknown_secret_before_is_left_to_a_person(cluster: Cluster, store: KubernetesSecrets) -> None:
    """The copy is not of this version: to restore it, or to remove the entries, would both be a guess."""
    await store.put(NAME, pair(1), version="AKIA1")
    await store.put(NAME, pair(2), version="AKIA2")
    cluster.alter(*COPY, lambda body: body["metadata"]["annotations"].update({"keyturn.dev/next-version": "AKIA9"}))
    before = cluster.snapshot()
    assert "does not hold the secret before" in await refused(store.restore(NAME), SecretNotStored)
    cluster.delete(*COPY)
    await refused(store.restore(NAME), SecretNotStored)
    del before[COPY]
    assert cluster.snapshot() == before


WRITES = ("secrets prod/pay-keyturn-previous", "secrets prod/pay", "deployments prod/api", "statefulsets prod/db")
BROKEN = ("answer_lost", "request_lost", "half_body", "etcd_timeout", "throttled", "unavailable", "page")


async def after(cluster: Cluster, store: KubernetesSecrets, step: str) -> dict[Any, Any]:
    """What one step leaves when it is repeated until it succeeds, without the versions of objects."""
    while True:
        try:
            await (store.restore(RESTARTING) if step == "restore" else store.put(RESTARTING, pair(2), version="AKIA2"))
            break
        except CloudUnavailable:
            continue
    return {key: without_marks(body) for key, body in cluster.snapshot().items()}


def without_marks(body: dict[str, Any]) -> dict[str, Any]:
    """An object without what is another in each server and at each time."""
    metadata = {name: value for name, value in body["metadata"].items() if name not in MARKS}
    owned = [{name: value for name, value in one.items() if name != "time"} for one in metadata["managedFields"]]
    owned.sort(key=json.dumps)  # a server sorts them by time, in whole seconds
    return body | {"metadata": metadata | {"managedFields": owned}}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("step", ["put", "restore"])
async def test_a_lost_call_is_repeated_with_one_effect(
    store: KubernetesSecrets, cluster: Cluster, step: str, fault: str
) -> None:
    """Whichever call is lost, and however: the same objects, and as many restarts."""

    async def begin() -> None:
        for key in cluster.snapshot():
            cluster.delete(*key)
        add_workloads(cluster)
        await store.put(RESTARTING, pair(1), version="AKIA1")
        if step == "restore":
            await store.put(RESTARTING, pair(2), version="AKIA2")

    await begin()
    cluster.calls.clear()
    expected = await after(cluster, store, step)
    calls = list(dict.fromkeys(cluster.calls))
    assert {f"PATCH {one}" for one in WRITES[step == "restore" :]} <= set(calls)
    for call in calls:
        await begin()
        cluster.faults = [(fault, call)]
        with pytest.raises(CloudUnavailable):
            await (store.restore(RESTARTING) if step == "restore" else store.put(RESTARTING, pair(2), version="AKIA2"))
        assert await after(cluster, store, step) == expected, call


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"hang", "redirect"}))
async def test_what_passes_is_unavailable_and_says_nothing_private(
    cluster: Cluster, store: KubernetesSecrets, fault: str
) -> None:
    for call in ("GET secrets prod/pay", "PATCH secrets prod/pay"):
        cluster.faults = [(fault, call)]
        assert "secrets prod/pay" in await refused(store.put(NAME, pair(1), version="AKIA1"), CloudUnavailable)
        cluster.delete(*URL)


async def test_a_call_without_an_answer_ends(
    cluster: Cluster, store: KubernetesSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.05)
    cluster.faults = [("hang", "GET secrets prod/pay")]
    async with asyncio.timeout(5):  # the call's own limit comes first
        assert "secrets prod/pay" in await refused(store.current(NAME), CloudUnavailable)


async def test_the_token_is_sent_nowhere_else(cluster: Cluster, store: KubernetesSecrets) -> None:
    arrived: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        arrived.append(request.path)
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", elsewhere)
    async with fake_server(application) as address:
        cluster.elsewhere, cluster.faults = address, [("redirect", "GET secrets prod/pay")]
        assert "307" in await refused(store.current(NAME))
    assert not arrived


@pytest.mark.parametrize(
    "right",
    [
        ("get", "secrets", "pay"),
        ("patch", "secrets", "pay"),
        ("create", "secrets", "pay-keyturn-previous"),
        ("patch", "deployments", "api"),
        ("get", "statefulsets", "db"),
    ],
)
async def test_a_missing_right_is_named(
    cluster: Cluster, store: KubernetesSecrets, right: tuple[str, str, str]
) -> None:
    await store.put(NAME, pair(1), version="AKIA1")
    cluster.forbid(right)
    said = await refused(store.put(RESTARTING, pair(2), version="AKIA2"))
    assert f"{right[1]} prod/{right[2]}: 403 Forbidden" in said
    cluster.forbid()
    await store.put(RESTARTING, pair(2), version="AKIA2")


async def test_the_token_is_read_for_each_call(cluster: Cluster, store: KubernetesSecrets, token_file: Path) -> None:
    """The kubelet replaces it long before the executor ends."""
    await store.put(NAME, pair(1), version="AKIA1")
    cluster.token = "-".join(("the", "next", "token"))
    assert "401 Unauthorized" in await refused(store.current(NAME))
    token_file.write_text(cluster.token)
    assert await store.current(NAME) == pair(1)
    for unusable in (b"", b"two words", b"\xff\xfe", b"very/secret+\x00"):
        token_file.write_bytes(unusable)
        assert "no token that can be read" in await refused(store.current(NAME))
    token_file.unlink()
    await refused(store.current(NAME))


async def test_another_managers_entry_is_never_taken(cluster: Cluster, store: KubernetesSecrets) -> None:
    cluster.write("prod", "pay", {"AccessKeyId": "AKIA0", "url": "https://pay"}, manager="kubectl-create")
    before = cluster.snapshot()
    assert "kubectl-create manages" in await refused(store.put(RESTARTING, pair(1), version="AKIA1"))
    assert cluster.snapshot() == before
    assert await store.current(NAME) is None
    cluster.delete(*URL)
    await store.put(NAME, pair(1), version="AKIA1")
    by_hand = {"SecretAccessKey": "by hand"}  # pragma: allowlist secret
    cluster.write("prod", "pay", by_hand, manager="kubectl-edit")
    assert "kubectl-edit" in await refused(store.put(NAME, pair(2), version="AKIA2"))
    assert "kubectl-edit" in await refused(store.put(NAME, pair(1), version="AKIA1"))
    assert COPY not in cluster.snapshot()
    found = await store.current(NAME)  # what the consumers read
    assert found is not None
    assert "by hand" in found.get_secret_value()


async def test_an_entry_written_at_the_same_time_is_not_taken_either(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    """The server's conflict counts: between the look and the apply another one has come."""

    def at_the_same_time(call: str) -> None:
        if call == "PATCH secrets prod/pay":
            cluster.write("prod", "pay", {"AccessKeyId": "AKIA7"}, manager="external-secrets")

    cluster.on_call = at_the_same_time
    assert "external-secrets manages" in await refused(store.put(NAME, pair(1), version="AKIA1"))
    cluster.delete(*URL)
    cluster.on_call = lambda call: None
    await store.put(NAME, pair(1), version="AKIA1")
    cluster.on_call = at_the_same_time
    assert "external-secrets manages" in await refused(
        store.put(NAME, pair(2), version="AKIA2"), SecretManagedElsewhere
    )


async def test_a_secret_that_changed_beside_our_entries_since_it_was_read_is_read_again(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    await store.put(NAME, pair(1), version="AKIA1")

    def at_the_same_time(call: str) -> None:
        if call == "PATCH secrets prod/pay":
            cluster.write("prod", "pay", {"url": "https://pay"}, manager="helm")

    cluster.on_call = at_the_same_time
    assert "changed since" in await refused(store.put(NAME, pair(2), version="AKIA2"), CloudUnavailable)
    cluster.on_call = lambda call: None
    await store.put(NAME, pair(2), version="AKIA2")
    assert await store.current(NAME) == pair(2)


async def test_what_others_manage_in_a_secret_is_named_before_anything_is_rotated(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    """`keyturn targets check` prints it; what is Keyturn's, and what another entry holds, is left out."""
    assert await store.entries_of_others(NAME) == {}
    cluster.write("prod", "pay", {"password": "x", "user": "y"}, manager="kubectl-create")
    cluster.write("prod", "pay", {"url": "z"}, manager="helm")
    both = {"helm": ["url"], "kubectl-create": ["password", "user"]}
    assert await store.entries_of_others(NAME) == both
    assert await store.entries_of_others(NAME + "?key=url") == {"helm": ["url"]}
    assert await store.entries_of_others(NAME + "?key=mine") == {}
    assert "helm manages" in await refused(store.expect_ours(NAME + "?key=url"), SecretManagedElsewhere)
    for free in (NAME, NAME + "?key=mine", "prod/absent?key=url"):
        await store.expect_ours(free)
    await store.put(NAME, pair(1), version="AKIA1")
    assert await store.entries_of_others(NAME) == both
    targets = SecretTargets({"kubernetes": lambda: OpenTarget(store, reads_back=True)})
    looked = await targets.look(f"kubernetes:{NAME}")
    assert looked.startswith("holds a secret; ")
    assert "kubectl-create manages password, user" in looked
    assert looked.endswith("which Keyturn never takes")


async def test_an_update_in_our_own_name_is_no_conflict(cluster: Cluster, store: KubernetesSecrets) -> None:
    """`kubectl edit --field-manager=keyturn` is another manager of the same name, as Kubernetes counts."""
    await store.put(NAME, pair(1), version="AKIA1")
    by_hand = {"SecretAccessKey": "by hand"}  # pragma: allowlist secret
    cluster.write("prod", "pay", by_hand, manager="keyturn")
    await store.put(NAME, pair(2), version="AKIA2")
    assert await store.current(NAME) == pair(2)


async def test_the_same_version_again_leaves_the_secret_before(cluster: Cluster, store: KubernetesSecrets) -> None:
    """What was changed by hand in between is no secret before: it would be lost that there was another one."""
    await store.put(NAME, pair(1), version="AKIA1")
    await store.put(NAME, pair(2), version="AKIA2")
    cluster.write("prod", "pay", {"AccessKeyId": "by hand"}, manager="keyturn")
    await store.put(NAME, pair(2), version="AKIA2")
    assert cluster.entries("prod", "pay-keyturn-previous") == json.loads(pair(1).get_secret_value())
    await store.restore(NAME)
    assert await store.current(NAME) == pair(1)


async def test_our_annotations_in_anothers_hands_are_not_taken(cluster: Cluster, store: KubernetesSecrets) -> None:
    """Not even with the force that our own update needs."""
    await store.put(NAME, pair(1), version="AKIA1")
    cluster.write("prod", "pay", {"AccessKeyId": "by hand"}, manager="keyturn")
    theirs = {"annotations": {"keyturn.dev/version": "AKIA7"}}
    cluster.write("prod", "pay", {}, manager="kubectl-annotate", metadata=theirs)
    assert "kubectl-annotate manages" in await refused(store.put(NAME, pair(2), version="AKIA2"))
    cluster.disown(*URL, manager="keyturn", operation="Update")
    assert "kubectl-annotate manages" in await refused(store.put(NAME, pair(2), version="AKIA2"))


@pytest.mark.parametrize("operation", ["apply", "update"])
async def test_a_secret_that_was_handed_over_is_taken_with_its_value(
    cluster: Cluster, store: KubernetesSecrets, operation: str
) -> None:
    """`kubectl apply --server-side --field-manager=keyturn`: its entries are ours, without an annotation."""
    old = json.loads(pair(0).get_secret_value())
    cluster.write("prod", "pay", old, manager="keyturn" if operation == "update" else "kubectl-create")
    if operation == "apply":
        assert await store.current(NAME) is None
        cluster.hand_over("prod", "pay", old, manager="keyturn")
    assert await store.current(NAME) == pair(0)
    if operation == "apply":  # both own what both wrote: the other one still refuses another value
        assert "kubectl-create manages" in await refused(store.put(NAME, pair(1), version="AKIA1"))
        cluster.disown(*URL, manager="kubectl-create", operation="Update")
    await store.put(NAME, pair(1), version="AKIA1")
    await store.restore(NAME)
    assert await store.current(NAME) == pair(0)


@pytest.mark.parametrize("operation", ["apply", "update"])
async def test_a_secret_that_was_handed_over_with_other_entries_is_refused(
    cluster: Cluster, store: KubernetesSecrets, operation: str
) -> None:
    """An apply would remove them: they are Keyturn's, and it does not name them."""
    old = json.loads(pair(0).get_secret_value())
    write = cluster.write if operation == "update" else cluster.hand_over
    write("prod", "pay", {**old, "database": "postgres://"}, manager="keyturn")
    before = cluster.snapshot()
    assert "other entries" in await refused(store.put(NAME, pair(1), version="AKIA1"))
    assert cluster.snapshot() == before


@pytest.mark.parametrize(("first", "second"), [("?key=a", "?key=b"), ("?key=a", ""), ("", "?key=a")])
async def test_two_keys_in_one_secret_are_refused(
    cluster: Cluster, store: KubernetesSecrets, first: str, second: str
) -> None:
    await store.put(NAME + first, pair(1), version="AKIA1")
    before = cluster.snapshot()
    assert "a Secret of its own" in await refused(store.put(NAME + second, pair(2), version="AKIA2"))
    assert cluster.snapshot() == before


async def test_an_immutable_secret_is_refused(cluster: Cluster, store: KubernetesSecrets) -> None:
    await store.put(NAME, pair(1), version="AKIA1")
    cluster.write("prod", "pay", {}, manager="kubectl", immutable=True)
    before = cluster.snapshot()
    assert "is immutable" in await refused(store.put(NAME, pair(2), version="AKIA2"))
    assert "is immutable" in await refused(store.restore(NAME))
    assert cluster.snapshot() == before
    await store.put(NAME, pair(1), version="AKIA1")  # it is there already


async def test_a_secret_made_immutable_in_between_is_refused_by_the_server(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    cluster.write(
        "prod",
        "pay-keyturn-previous",
        {},
        manager="kubectl",
        immutable=True,
        metadata={"labels": {"keyturn.dev/copy": "previous"}},
    )
    await store.put(NAME, pair(1), version="AKIA1")
    assert "422 Invalid" in await refused(store.put(NAME, pair(2), version="AKIA2"))
    assert await store.current(NAME) == pair(1)


async def test_a_secret_of_the_copys_name_is_left_alone(cluster: Cluster, store: KubernetesSecrets) -> None:
    cluster.write("prod", "pay-keyturn-previous", {"x": "y"}, manager="kubectl")
    await store.put(NAME, pair(1), version="AKIA1")
    assert "is not Keyturn's" in await refused(store.put(NAME, pair(2), version="AKIA2"))
    assert cluster.entries("prod", "pay-keyturn-previous") == {"x": "y"}
    assert await store.current(NAME) == pair(1)


async def test_values_of_others_do_no_harm(cluster: Cluster, store: KubernetesSecrets) -> None:
    cluster.write("prod", "pay", {"x": "y"}, manager="kubectl")
    cluster.alter(*URL, lambda body: body["data"].update(x=base64.b64encode(b"\xff\xfe").decode()))
    assert await store.current(NAME) is None
    assert await store.current(NAME + "?key=x") is None
    for form in (
        "",
        "[]",
        "{",
        '{"entries": 1}',
        '{"entries": {"x": "odd"}}',
        '{"entries": {"gone": "text"}}',
        "[" * 200,
    ):
        cluster.alter(*URL, annotated(form))
        assert await store.current(NAME) is None
    cluster.alter(*URL, annotated('{"entries": {"x": "json"}, "layout": 7}'))
    assert await store.current(NAME) is None
    cluster.alter(*URL, lambda body: body["data"].update(x=base64.b64encode(b"no JSON").decode()))
    assert await store.current(NAME) == SecretStr('{"x": null}')
    await refused(store.restore(NAME), SecretNotStored)


async def test_a_missing_namespace_is_refused(store: KubernetesSecrets) -> None:
    assert await store.current("absent/pay") is None
    assert "404" in await refused(store.put("absent/pay", pair(1), version="AKIA1"))


@pytest.mark.parametrize("cluster", ["simulated"], indirect=True)
@pytest.mark.parametrize(
    "path",
    [
        *("", "pay", "prod/", "/pay", "prod/pay/x", "Prod/pay", "prod/Pay", "prod/pa_y", "prod/..", "prod/.", "prod/-"),
        *("../kube-system/pay", "prod/pay%2Fx", "prod/pay#x", "prod/pay?", "prod/pay?key", "prod/pay?key=", "a.b/pay"),
        *("prod/pay?key=a&key=b", "prod/pay?other=1", "prod/pay?key=a%62", "prod/pay?key=..", "prod/pay?key=a/b"),
        *("prod/pay?restart=", "prod/pay?restart=job/x", "prod/pay?restart=deployment/", "prod/pay?restart=deployment"),
        *("prod/pay?restart=deployment/a,deployment/a", "prod/pay?restart=deployment/a,", "prod/pay?key=a?restart=b"),
        *("prod/pay?restart=deployment/../x", "prod/pay-keyturn-previous", "prod/" + "a" * 237, "a" * 64 + "/pay"),
        *("prod/svc@example.com", "prod/pay?restart=Deployment/api", "prod/pay\n", "prod/pay?key=a\n"),
    ],
)
async def test_a_path_that_is_none_reaches_no_server(cluster: Cluster, store: KubernetesSecrets, path: str) -> None:
    await refused(store.put(path, pair(1), version="AKIA1"), TargetUnusable)
    await refused(store.current(path), TargetUnusable)
    await refused(store.restore(path), TargetUnusable)
    assert not cluster.calls


@pytest.mark.parametrize("cluster", ["simulated"], indirect=True)
@pytest.mark.parametrize(
    "text",
    [
        *(
            "very/secret+1",
            "",
            "{}",
            "[]",
            '["very/secret+1"]',
            '{"a": "very/secret+1"',
            '{"a": "1", "a": "very/secret+1"}',
        ),
        *(
            '{"very/secret+1": "x"}',
            '{"": "very/secret+1"}',
            '{"a":  "very/secret+1"}',
            '{"a": 1.0e5, "b": "very/secret+1"}',
        ),
        *('{"a": "\\ud800 very/secret+1"}', '{"a": "very/secret+1\ud800"}', '{"a": ' + "[" * 2000 + '"very/secret+1"'),
    ],
)
async def test_a_text_without_a_form_is_refused_unsaid(cluster: Cluster, store: KubernetesSecrets, text: str) -> None:
    await refused(store.put(NAME, SecretStr(text), version="AKIA1"))
    assert not cluster.calls


# -- restarts ---------------------------------------------------------------------------------------------------------


async def test_each_named_workload_is_restarted_once_a_version(cluster: Cluster, store: KubernetesSecrets) -> None:
    name = RESTARTING + ",daemonset/agent"
    for number in (1, 1, 2, 2):
        await store.put(name, pair(number), version=f"AKIA{number}")
    assert generations(cluster) == [3, 3, 3]
    for plural, one in (("deployments", "api"), ("statefulsets", "db"), ("daemonsets", "agent")):
        assert template_of(cluster, plural, one) == {"keyturn.dev/restarted-for": "AKIA2"}
    await store.restore(name)
    assert template_of(cluster, "deployments", "api") == {"keyturn.dev/restarted-for": "before-AKIA2"}
    assert generations(cluster) == [4, 4, 4]


async def test_a_workload_that_is_named_later_is_restarted_too(cluster: Cluster, store: KubernetesSecrets) -> None:
    await store.put(NAME, pair(1), version="AKIA1")
    version = cluster.body(*URL)["metadata"]["resourceVersion"]
    await store.put(NAME + "?restart=deployment/api", pair(1), version="AKIA1")
    assert template_of(cluster, "deployments", "api") == {"keyturn.dev/restarted-for": "AKIA1"}
    assert cluster.body(*URL)["metadata"]["resourceVersion"] == version


async def test_a_workload_that_is_not_there_is_said_before_anything_changes(
    cluster: Cluster, store: KubernetesSecrets
) -> None:
    before = cluster.snapshot()
    said = await refused(store.put(NAME + "?restart=deployment/api,deployment/apj", pair(1), version="AKIA1"))
    assert "deployment/apj does not exist" in said
    assert cluster.snapshot() == before


@pytest.mark.parametrize(("kind", "name"), [("deployment", "api"), ("statefulset", "db"), ("daemonset", "agent")])
async def test_a_rollout_is_complete_when_every_pod_is_new(
    cluster: Cluster, store: KubernetesSecrets, kind: str, name: str
) -> None:
    path = f"{NAME}?restart={kind}/{name}"
    assert await store.unfinished_rollouts(path) is None, "there is no Secret yet"
    await store.put(path, pair(1), version="AKIA1")
    assert await store.unfinished_rollouts(path), "the controller has not seen it"
    cluster.roll_out(f"{kind}s", "prod", name)
    assert await store.unfinished_rollouts(path) == []
    assert await store.unfinished_rollouts(NAME) is None, "no workload is named"
    await store.put(path, pair(2), version="AKIA2")
    assert await store.unfinished_rollouts(path)
    cluster.roll_out(f"{kind}s", "prod", name)
    cluster.alter(f"{kind}s", "prod", name, lambda body: body["spec"]["template"]["metadata"].pop("annotations"))
    assert await store.unfinished_rollouts(path), "the template was put back"
    cluster.delete(f"{kind}s", "prod", name)
    assert await store.unfinished_rollouts(path) == [f"prod: {kind}/{name} does not exist"]


@pytest.mark.parametrize(
    ("kind", "name", "status", "spec", "reason"),
    [
        ("deployment", "api", {"updatedReplicas": 1}, {}, "1 of 2 pods are new"),
        ("deployment", "api", {"replicas": 3}, {}, "1 old ones are left"),
        ("deployment", "api", {"availableReplicas": 1}, {}, "2 of 2 pods are new"),
        ("deployment", "api", {"terminatingReplicas": 1}, {}, "1 old ones are left"),
        ("deployment", "api", {"updatedReplicas": None}, {"paused": True}, "paused"),
        ("deployment", "api", {"observedGeneration": None}, {}, "has not seen"),
        ("statefulset", "db", {"currentRevision": "db-1"}, {}, "2 of 2 pods are new"),
        ("statefulset", "db", {"readyReplicas": 1}, {}, "1 are ready"),
        ("statefulset", "db", {"updatedReplicas": 1}, {"rollingUpdate": {"partition": 1}}, "partition of 1"),
        ("statefulset", "db", {"updatedReplicas": 1}, {"type": "OnDelete"}, "by hand"),
        ("statefulset", "db", {"currentRevision": "db-1"}, {"type": "OnDelete"}, None),
        ("daemonset", "agent", {"updatedNumberScheduled": 1}, {}, "1 of 2 pods are new"),
        ("daemonset", "agent", {"numberAvailable": 1}, {}, "1 are available"),
        ("daemonset", "agent", {"updatedNumberScheduled": None}, {"type": "OnDelete"}, "by hand"),
    ],
)
async def test_a_rollout_says_what_it_waits_for(
    cluster: Cluster,
    store: KubernetesSecrets,
    kind: str,
    name: str,
    status: dict[str, Any],
    spec: dict[str, Any],
    reason: str | None,
) -> None:
    path = f"{NAME}?restart={kind}/{name}"
    await store.put(path, pair(1), version="AKIA1")
    cluster.roll_out(f"{kind}s", "prod", name)

    def change(body: dict[str, Any]) -> None:
        body["status"] = {one: value for one, value in (body["status"] | status).items() if value is not None}
        body["spec"] |= spec if kind == "deployment" or not spec else {"updateStrategy": spec}

    cluster.alter(f"{kind}s", "prod", name, change)
    found = await store.unfinished_rollouts(path)
    assert found is not None
    assert (not found) if reason is None else (reason in found[0] and f"{kind}/{name}" in found[0])


async def test_a_workload_without_pods_is_complete(cluster: Cluster, store: KubernetesSecrets) -> None:
    await store.put(RESTARTING, pair(1), version="AKIA1")
    for plural, name in (("deployments", "api"), ("statefulsets", "db")):
        cluster.alter(plural, "prod", name, lambda body: body["spec"].update(replicas=0))
        cluster.roll_out(plural, "prod", name, pods=0)
    assert await store.unfinished_rollouts(RESTARTING) == []


# -- where the cluster is ---------------------------------------------------------------------------------------------


def test_a_pod_asks_its_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    found = cluster_of_environment()
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    assert found == api.Cluster("https://10.0.0.1:6443", account / "token", account / "ca.crt")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert cluster_of_environment().url == "https://[fd00::1]:6443"
    monkeypatch.setenv("KEYTURN_KUBERNETES_URL", "https://api.example.com:6443/k8s/clusters/c1/")
    monkeypatch.setenv("KEYTURN_KUBERNETES_TOKEN_FILE", "/run/token")
    other = api.Cluster("https://api.example.com:6443/k8s/clusters/c1", Path("/run/token"), None)
    assert cluster_of_environment() == other, "another cluster is trusted by its own authority"


@pytest.mark.parametrize(
    "url",
    ["", "http://api.example.com", "https://", "https://a:b@c", "https://a?b", "ftp://a", "https://[", "https://a:x"],
)
def test_a_cluster_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KEYTURN_KUBERNETES_URL", url)
    monkeypatch.setenv("KEYTURN_KUBERNETES_TOKEN_FILE", "/run/token")
    with pytest.raises(CloudRefused, match="KEYTURN_KUBERNETES_URL"):
        cluster_of_environment()


def test_the_target_is_found_by_its_name() -> None:
    target = load_targets()["kubernetes"]
    assert target.reads_back
    assert target.for_production
    path = "kubernetes:prod/pay-aws?key=a.json&restart=deployment/pay-api,statefulset/db"
    assert TypeAdapter(TargetPath).validate_python(path) == path


def authority_of(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that is its own authority: its file, and a server's context."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = folder / f"{name}.crt"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*plain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, folder / f"{name}.key")
    return file, context


async def test_the_server_must_be_of_the_clusters_authority(cluster: Cluster, token_file: Path, tmp_path: Path) -> None:
    """And the authority's file is read anew once it was replaced: the executor need not be restarted."""
    file, context = authority_of(tmp_path, "ours")
    another, _ = authority_of(tmp_path, "another")
    ours = file.read_bytes()
    file.write_bytes(another.read_bytes())
    runner = web.AppRunner(cluster.application(), shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://localhost:{runner.addresses[0][1]}"
        store = KubernetesSecrets(ClusterApi(api.Cluster(url, token_file, file)))
        assert "certificate" in await refused(store.current(NAME))
        assert not cluster.calls
        file.write_bytes(ours)
        await store.put(NAME, pair(1), version="AKIA1")
        assert await store.current(NAME) == pair(1)
        file.write_bytes(b"no certificate")
        unreadable = KubernetesSecrets(ClusterApi(api.Cluster(url, token_file, file)))
        assert "no certificate authority" in await refused(unreadable.current(NAME))
    finally:
        await runner.cleanup()
