"""Google Cloud: service-account keys of one or many projects, by the credentials that Google's own tools find."""

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.executor import Executor


def _open() -> Sequence[CloudKeys]:
    from keyturn.executors.gcp.keys import GcpServiceAccountKeys
    from keyturn.gcp.api import GoogleCloud

    google = GoogleCloud()  # one set of credentials, whose account has its roles in each project
    named = (google.settings.projects or "").split()
    return [GcpServiceAccountKeys(google, project) for project in named] or [GcpServiceAccountKeys(google)]


def _settings() -> type[BaseSettings]:
    from keyturn.gcp.settings import GcpSettings

    return GcpSettings


EXECUTOR = Executor("gcp", kind="service_account_key", open=_open, settings=_settings, extra="gcp")
