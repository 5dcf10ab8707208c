"""Secrets of Kubernetes, by the service account of the pod, or by a token file outside of the cluster.

Outside of a cluster: KEYTURN_KUBERNETES_URL, KEYTURN_KUBERNETES_TOKEN_FILE and KEYTURN_KUBERNETES_CA_FILE. A kubeconfig
is not read, so that no plugin of one (`exec`) is started: write the token that it returns into a file.
"""

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.kubernetes.store import KubernetesSecrets

    return KubernetesSecrets()


def _check(path: str) -> None:
    from keyturn.targets.kubernetes.paths import parse_path

    parse_path(path)


def _settings() -> type[BaseSettings]:
    from keyturn.targets.kubernetes.api import KubernetesSettings

    return KubernetesSettings


TARGET = SecretTarget(
    "kubernetes",
    path="NAMESPACE/SECRET[?key=ENTRY&restart=deployment/NAME,statefulset/NAME,daemonset/NAME]",
    open=_open,
    settings=_settings,
    check=_check,
)
