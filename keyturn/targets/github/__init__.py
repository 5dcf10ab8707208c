"""Secrets of GitHub Actions: of a repository, an environment or an organization. They can be written and not read."""

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.github.store import ActionsSecrets

    return ActionsSecrets()


def _check(path: str) -> None:
    from keyturn.targets.github.store import place_in

    place_in(path)


def _settings() -> type[BaseSettings]:
    from keyturn.targets.github.store import GitHubSettings

    return GitHubSettings


TARGET = SecretTarget(
    "github",
    path="OWNER/REPO/NAME, OWNER/REPO/environments/ENV/NAME or orgs/ORG/NAME",
    open=_open,
    settings=_settings,
    check=_check,
    reads_back=False,
    extra="github",
)
