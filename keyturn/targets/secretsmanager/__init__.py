"""AWS Secrets Manager, by the credentials and the region that AWS's own tools find."""

from keyturn.execution.contracts import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open(_place: str) -> SecretStore:
    from keyturn.targets.secretsmanager.store import SecretsManager

    return SecretsManager()


TARGET = SecretTarget("secretsmanager", open=_open, extra="aws")
