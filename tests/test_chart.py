"""The Helm chart: every part is accepted by Kubernetes' own schemas, and every setting of `.env.example` reaches it.

Helm is built by `make tools`, which needs Go: without it these tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic_settings import BaseSettings

from keyturn.desk.settings import load_desk_settings
from keyturn.lab.documentation.settings import MODELS
from keyturn.policy.catalogue import load_catalogue
from keyturn.workers.codec_settings import load_codec_settings
from keyturn.workers.executor_settings import load_executor_settings
from keyturn.workers.jobs_settings import load_jobs_settings
from keyturn.workers.leaks_settings import load_leaks_settings
from keyturn.workers.settings import load_settings
from keyturn.workflows.registry import OF_WORKERS
from tests.support.keys import KEYS_TEXT

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "keyturn"
EXAMPLE = ROOT / "deploy" / "helm" / "example.yaml"
BUILT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyturn" / "tools" / "helm"
HELM = shutil.which("helm") or (str(BUILT) if BUILT.exists() else None)
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (make tools)")
COMPONENTS = ("worker", "executor", "desk", "jobs", "codec", "leaks")
# Of compose's own containers, and of a person's shell.
NOT_OF_COMPONENTS = {"GRAFANA_PASSWORD", "KEYTURN_DB_PASSWORD", "POSTGRES_PASSWORD", "TEMPORAL_DB_PASSWORD"}


def helm(*arguments: str, values: Mapping[str, Any] = {}) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run(
        # One that `go install` built takes the cluster for a very old one.
        [HELM, *arguments, "--kube-version", "1.31.0", "--values", str(EXAMPLE), "--values", "-"],
        input=json.dumps(dict(values)),  # which YAML is, and which leaves no text without quotes
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rendered(values: Mapping[str, Any] = {}) -> list[dict[str, Any]]:
    done = helm("template", "r", str(CHART), values=values)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def named(resources: list[dict[str, Any]], kind: str, component: str) -> dict[str, Any]:
    [found] = [one for one in resources if one["kind"] == kind and one["metadata"]["name"] == f"r-keyturn-{component}"]
    return found


def environment_of(resource: dict[str, Any], resources: list[dict[str, Any]]) -> dict[str, Any]:
    [container] = resource["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = {}
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"].removeprefix("r-keyturn-")
        found |= named(resources, "ConfigMap", name)["data"]
    return found | {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def pods(resources: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in resources
        if one["kind"] in {"Deployment", "Job", "WorkerDeployment"}
    ]


@needs_helm
def test_every_part_fits_kubernetes_schemas() -> None:
    """With everything on; the parts of operators have no schema there."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not installed (make tools)")
    resources = rendered({"worker": {"autoscaling": {"by": "cpu"}}})
    kinds = {one["kind"] for one in resources}
    assert kinds > {"Deployment", "Job", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"}
    assert kinds > {"HorizontalPodAutoscaler", "ServiceAccount"}
    of_operators = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "WorkerDeployment"}
    for one in resources:
        if one["kind"] not in of_operators:
            kubernetes_validate.validate(one, "1.31", strict=True)


@needs_helm
def test_no_process_is_root_or_writes_but_to_its_tmp() -> None:
    """Every pod, the jobs of an upgrade included."""
    found = pods(rendered())
    assert len(found) == len(COMPONENTS) + 2
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name  # its variables would look like misspelt settings
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
        assert writable == ["/tmp"], name


@needs_helm
def test_every_variable_of_the_example_reaches_every_component() -> None:
    """As a setting or as a secret, however it is named."""
    text = (ROOT / ".env.example").read_text()
    variables = sorted(set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE)) - NOT_OF_COMPONENTS)
    assert len(variables) > 120
    schema = json.loads((CHART / "values.schema.json").read_text())
    secret = schema["definitions"]["settings"]["propertyNames"]["allOf"][1]["not"]["pattern"]
    kept_as_secrets = {name for name in variables if re.search(secret, name)}
    assert {"KEYTURN_PAYLOAD_KEYS", "KEYTURN_DESK_TOKENS", "KEYTURN_REDIS_URL"} <= kept_as_secrets
    assert not {"KEYTURN_TOKENS_PER_USER_HOUR", "KEYTURN_PAYLOAD_KEYS_FILE", "VAULT_TOKEN_FILE"} & kept_as_secrets
    resources = rendered(
        {
            "settings": {name: "x" for name in variables if name not in kept_as_secrets},
            "secrets": {name: {"secret": "s", "key": "k", "components": None} for name in kept_as_secrets},
        }
    )
    for component in COMPONENTS:
        environment = environment_of(named(resources, "Deployment", component), resources)
        assert set(variables) <= set(environment), component
        for name in kept_as_secrets:
            assert "secretKeyRef" in environment[name], (component, name)


@needs_helm
def test_a_secret_reaches_its_components_alone() -> None:
    """The desk has no provider's key, and the codec server no database."""
    resources = rendered()
    having = {
        name: [one for one in COMPONENTS if name in environment_of(named(resources, "Deployment", one), resources)]
        for name in ("OPENAI_API_KEY", "DATABASE_URL", "KEYTURN_DESK_TOKENS")
    }
    assert having["OPENAI_API_KEY"] == ["worker"]
    assert having["DATABASE_URL"] == ["worker", "executor", "desk", "jobs", "leaks"]
    assert having["KEYTURN_DESK_TOKENS"] == ["desk"]


@needs_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": {"repository": ""}}, "image.repository: build Keyturn's image"),
        ({"settings": {"KEYTURN_ROUTES": ""}}, "settings.KEYTURN_ROUTES is not set"),
        ({"secrets": {"KEYTURN_PAYLOAD_KEYS": None}}, "secrets.KEYTURN_PAYLOAD_KEYS is not set"),
        ({"settings": {"DATABASE_URL": "postgresql://user:secret@host/db"}}, "DATABASE_URL"),
        ({"worker": {"settings": {"OPENAI_API_KEY": "user:secret"}}}, "OPENAI_API_KEY"),
        ({"secrets": {"KEYTURN_JOBS_TOKENS": None}}, "jobs is enabled and needs KEYTURN_JOBS_TOKENS"),
        ({"settings": {"lower_case": "x"}}, "lower_case"),
        ({"settings": {"KEYTURN_BUILD_ID": 42798}}, "KEYTURN_BUILD_ID"),
        ({"secrets": {"OPENAI_API_KEY": {"secret": "s", "key": "k", "components": ["wroker"]}}}, "components"),
        ({"replicas": 3}, "replicas"),
        ({"worker": {"kind": "controller"}}, "worker.controller.connection"),
        ({"worker": {"controller": {"steps": [{"rampPercentage": 100, "pauseDuration": "5m"}]}}}, "rampPercentage"),
    ],
    ids=[
        "image",
        "routes",
        "keys",
        "a secret as a setting",
        "a secret of one",
        "tokens",
        "a name",
        "octal",
        "a component",
        "a value",
        "connection",
        "steps",
    ],
)
def test_what_an_installation_lacks_is_said_before_it_is_made(values: dict[str, Any], said: str) -> None:
    """And never with the value of a secret."""
    done = helm("template", "r", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr
    assert "user:secret" not in done.stderr


@needs_helm
def test_the_controller_rolls_a_build_out_in_steps_behind_a_gate() -> None:
    """The gate is a workflow that workers have; the rest of the pod is the plain Deployment's."""
    plain = rendered()
    resources = rendered({"worker": {"kind": "controller", "controller": {"connection": "temporal"}}})
    deployment = named(resources, "WorkerDeployment", "worker")
    assert deployment["spec"]["rollout"]["steps"][0] == {"rampPercentage": 10, "pauseDuration": "5m"}
    assert deployment["spec"]["rollout"]["gate"]["workflowType"] in {one.__name__ for one in OF_WORKERS}
    pod = named(plain, "Deployment", "worker")["spec"]["template"]
    # Pods of a plain Deployment continue each other's rotations; the controller's keep to the build that it gives them.
    pod["spec"]["containers"][0]["env"].remove({"name": "KEYTURN_BUILD_ID", "value": ""})
    assert deployment["spec"]["template"] == pod
    assert not [one for one in resources if one["kind"] == "Deployment" and "worker" in one["metadata"]["name"]]


@needs_helm
def test_what_scales_a_worker_sets_how_many_there_are() -> None:
    """A number of ours beside it would take its decision back with each upgrade."""
    resources = rendered({"worker": {"autoscaling": {"by": "keda", "maxReplicas": 5}}})
    assert "replicas" not in named(resources, "Deployment", "worker")["spec"]
    [scaler] = [one for one in resources if one["kind"] == "ScaledObject"]
    assert scaler["spec"]["maxReplicaCount"] == 5
    assert scaler["spec"]["triggers"][0]["metadata"]["taskQueue"] == "keyturn"


@needs_helm
@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("KEYTURN_TOKENS_PER_USER_HOUR", 1_000_000, "1000000"),
        ("KEYTURN_USD_PER_CALL", 0.05, "0.05"),
        ("KEYTURN_LABELS", False, "off"),
        ("KEYTURN_RETENTION", True, "on"),
        ("TEMPORAL_TLS", True, "true"),
        ("KEYTURN_AWS_ACCOUNTS", "012345678901", "012345678901"),
    ],
    ids=["a million", "a part", "off", "on", "of Temporal", "an account"],
)
def test_a_value_means_what_was_written(name: str, given: object, text: str) -> None:
    """YAML has its own ideas: a million is 1e+06 to Helm, and `off` is false, which no setting is."""
    resources = rendered({"settings": {name: given}})
    assert named(resources, "ConfigMap", "settings")["data"][name] == text


def test_each_setting_that_is_a_number_may_be_written_as_one() -> None:
    """By its annotation; a misnamed one would refuse an installation with its next upgrade."""
    schema = json.loads((CHART / "values.schema.json").read_text())["definitions"]["settings"]
    [numbers] = schema["patternProperties"]
    fields = [field for model, _ in MODELS.values() for field in model.model_fields.values()]
    named = {
        str(field.alias) for field in fields if {int, float, Decimal} & {field.annotation, *get_args(field.annotation)}
    }
    assert "KEYTURN_DESK_WAIT_SECONDS" in named
    assert [name for name in sorted(named) if name.startswith("KEYTURN_") and not re.search(numbers, name)] == []


@needs_helm
def test_the_clouds_identity_is_for_those_that_call_the_cloud() -> None:
    """A page that strangers reach has no role that rotates keys."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/rotator"}
    resources = rendered({"serviceAccount": {"annotations": role}})
    accounts = {one["metadata"]["name"]: one["metadata"] for one in resources if one["kind"] == "ServiceAccount"}
    having = {name for name, metadata in accounts.items() if metadata.get("annotations") == role}
    for component in COMPONENTS:
        account = named(resources, "Deployment", component)["spec"]["template"]["spec"]["serviceAccountName"]
        assert account in accounts
        assert (account in having) == (component in {"worker", "executor"}), component


@needs_helm
def test_a_file_of_secrets_reaches_its_components_alone() -> None:
    """Payload keys in a file are not mounted beside the jobs API."""
    files = {"keys": {"secret": "s", "mountPath": "/secrets/keys", "components": ["worker", "namespace"]}}
    having = [name for name, pod in pods(rendered({"secretFiles": files})) if "/secrets/keys" in str(pod)]
    assert having == ["r-keyturn-worker", "r-keyturn-namespace"]


def test_the_policy_of_the_example_is_one(tmp_path: Path) -> None:
    """Who starts from it has workers that start."""
    for name, text in yaml.safe_load(EXAMPLE.read_text())["policy"].items():
        (tmp_path / name).write_text(text)
    assert "OWN-1" in {line.id for line in load_catalogue(tmp_path)}


@needs_helm
@pytest.mark.parametrize(
    ("component", "load"),
    [
        ("worker", load_settings),
        ("executor", load_executor_settings),
        ("desk", load_desk_settings),
        ("jobs", load_jobs_settings),
        ("codec", load_codec_settings),
        ("leaks", load_leaks_settings),
    ],
)
def test_each_component_starts_with_the_settings_of_the_example(
    component: str, load: Callable[[], BaseSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its secrets in the form that the guide gives them."""
    example = yaml.safe_load(EXAMPLE.read_text())
    for name, text in example["policy"].items():
        (tmp_path / name).write_text(text)
    token = "t" * 32
    secrets = {
        "DATABASE_URL": "postgresql://keyturn@db.example.com/keyturn",
        "KEYTURN_PAYLOAD_KEYS": KEYS_TEXT,
        "OPENAI_API_KEY": "sk-of-a-test",  # pragma: allowlist secret
        "KEYTURN_DESK_TOKENS": f"luna:{token}",
        "KEYTURN_JOBS_TOKENS": f"default/rotator:{token}",
        "KEYTURN_CODEC_TOKENS": f"luna:{token}",
    }
    assert set(secrets) == set(example["secrets"])
    resources = rendered()
    for name, value in environment_of(named(resources, "Deployment", component), resources).items():
        given = secrets[name] if isinstance(value, dict) else value
        monkeypatch.setenv(name, str(tmp_path) if given == "/config/policy" else given)
    load()


@needs_helm
def test_the_alerts_are_those_of_the_monitoring() -> None:
    """A chart has its files within itself: its copy is the same."""
    [rule] = [one for one in rendered() if one["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


@needs_helm
def test_figures_and_pages_are_for_the_peers_that_are_named() -> None:
    """A pod that serves none of them is reached by no one."""
    resources = rendered()
    policies = {one["metadata"]["name"]: one["spec"] for one in resources if one["kind"] == "NetworkPolicy"}
    of_clients = policies["r-keyturn-desk"]["ingress"][0]["from"]
    assert of_clients[0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}
    of_figures = policies["r-keyturn-worker"]["ingress"][0]["from"]
    assert of_figures[0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    closed = rendered({"networkPolicy": {"clients": None}})
    assert {one["metadata"]["name"]: one["spec"] for one in closed if one["kind"] == "NetworkPolicy"}["r-keyturn-desk"][
        "ingress"
    ] == []
