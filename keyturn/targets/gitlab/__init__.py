"""CI/CD variables of GitLab projects, by GITLAB_URL and GITLAB_TOKEN."""

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import SecretStore
from keyturn.jobs.executor import SecretTarget


def _open() -> SecretStore:
    from keyturn.targets.gitlab.store import ProjectVariables

    return ProjectVariables()


def _check(path: str) -> None:
    from keyturn.targets.gitlab.store import place_in

    place_in(path)


def _settings() -> type[BaseSettings]:
    from keyturn.targets.gitlab.store import GitLabSettings

    return GitLabSettings


TARGET = SecretTarget("gitlab", path="PROJECT_ID_OR_PATH/KEY?environment_scope=SCOPE", open=_open, settings=_settings)
