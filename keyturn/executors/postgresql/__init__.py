"""PostgreSQL: passwords of login roles in pairs, one of which is changed while the other one still works."""

from collections.abc import Sequence

from pydantic_settings import BaseSettings

from keyturn.execution.protocols import CloudKeys
from keyturn.jobs.executor import Executor


def _open() -> Sequence[CloudKeys]:
    from keyturn.executors.postgresql.roles import PostgresqlRoles
    from keyturn.executors.postgresql.settings import load_roles_settings

    return [PostgresqlRoles(load_roles_settings())]


def _settings() -> type[BaseSettings]:
    from keyturn.executors.postgresql.settings import RolesSettings

    return RolesSettings


EXECUTOR = Executor("postgresql", kind="system_account_password", open=_open, settings=_settings, extra="")
