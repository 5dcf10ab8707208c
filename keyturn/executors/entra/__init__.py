"""Microsoft Entra ID: client secrets of applications, by the credentials that Azure's own tools find."""

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.executor import Executor


def _open() -> Sequence[CloudKeys]:
    from keyturn.executors.entra.secrets import EntraSecrets

    return [EntraSecrets()]


def _settings() -> type[BaseSettings]:
    from keyturn.azure.settings import AzureSettings

    return AzureSettings


EXECUTOR = Executor("entra", kind="service_account_key", open=_open, settings=_settings, extra="azure")
