"""AWS Secrets Manager, by the credentials and the region that AWS's own tools find."""

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.secretsmanager.store import SecretsManager

    return SecretsManager()


TARGET = SecretTarget("secretsmanager", path="NAME", open=_open, extra="aws")
