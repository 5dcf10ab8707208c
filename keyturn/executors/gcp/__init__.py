"""Google Cloud: service-account keys, by the credentials and the project that Google's own tools find."""

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.executor import Executor


def _open() -> Sequence[CloudKeys]:
    from keyturn.executors.gcp.keys import GcpServiceAccountKeys

    return [GcpServiceAccountKeys()]


def _settings() -> type[BaseSettings]:
    from keyturn.gcp.settings import GcpSettings

    return GcpSettings


EXECUTOR = Executor("gcp", kind="service_account_key", open=_open, settings=_settings, extra="gcp")
