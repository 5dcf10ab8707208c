"""HashiCorp Vault and OpenBao: the KV secrets engine, version 2. VAULT_ADDR and VAULT_TOKEN say where and by whom."""

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.vault.store import VaultSecrets

    return VaultSecrets()


def _settings() -> type[BaseSettings]:
    from keyturn.targets.vault.store import VaultSettings

    return VaultSettings


TARGET = SecretTarget("vault", path="MOUNT/PATH", open=_open, settings=_settings)
