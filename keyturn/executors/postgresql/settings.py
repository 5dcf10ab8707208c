"""The settings of the PostgreSQL executor, from the environment."""

import ipaddress
import re
from typing import Annotated, Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults

_SUFFIX = re.compile(r"[A-Za-z0-9_-]{1,8}")
_WITH_TLS = {"require", "verify-ca", "verify-full"}


def parameters_of(url: SecretStr) -> dict[str, Any]:
    """Return libpq's parameters in a URL or a connection string; raises ValueError, which repeats nothing of it."""
    try:
        found = conninfo_to_dict(url.get_secret_value())
    except psycopg.Error:
        raise ValueError("is no connection URL of libpq, such as postgresql://user@host/database") from None
    return {"port": "5432"} | {name: value for name, value in found.items() if value not in {None, ""}}


def _database(value: SecretStr) -> SecretStr:
    parameters = parameters_of(value)
    missing = [name for name in ("host", "user", "dbname") if name not in parameters]
    if missing:
        raise ValueError(f"names no {', no '.join(missing)}")
    hosts = [*parameters["host"].split(","), *str(parameters.get("hostaddr", "")).split(",")]
    if not all(_is_local(host) for host in hosts if host) and parameters.get("sslmode") not in _WITH_TLS:
        raise ValueError("must say sslmode=verify-full, verify-ca or require: the host is another machine")
    return value


def _consumer(value: str) -> str:
    parameters = parameters_of(SecretStr(value.replace("{user}", "user")))
    if set(parameters) != {"host", "port", "dbname"}:
        raise ValueError("must be postgresql://HOST:PORT/DATABASE, without a user, a password and options")
    return value


def _suffixes(value: str) -> str:
    found = value.split(",")
    if len(found) != 2 or len(set(found)) != 2 or not all(_SUFFIX.fullmatch(one) for one in found):
        raise ValueError("must be two different suffixes of 1 to 8 letters, digits, _ or -, such as _a,_b")
    if found[0].endswith(found[1]) or found[1].endswith(found[0]):
        raise ValueError("must be two suffixes of which neither ends in the other")
    return value


def _is_local(host: str) -> bool:
    if host == "localhost" or host.startswith(("/", "@")):  # a Unix socket, and an abstract one
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RolesSettings(BaseSettings):
    """Where the roles are, what they are called, and where their consumers connect to."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    database: Annotated[SecretStr, AfterValidator(_database)] = Field(
        alias="KEYTURN_ROLES_DATABASE_URL",
        description="The PostgreSQL server whose roles are rotated: `postgresql://USER@HOST/DATABASE?sslmode=verify-full`.",
    )
    suffixes: Annotated[str, AfterValidator(_suffixes)] = Field(
        default="_a,_b",
        alias="KEYTURN_ROLES_SUFFIXES",
        description="What the names of a user's two login roles end in, by a comma.",
    )
    create: Literal["on", "off"] = Field(
        default="off",
        alias="KEYTURN_ROLES_CREATE",
        description="Whether an absent second role of a pair is created, as a member of the user's group.",
    )
    consumer: Annotated[str, AfterValidator(_consumer)] | None = Field(
        default=None,
        alias="KEYTURN_ROLES_CONSUMER_URL",
        description=(
            "Where consumers connect to, written into their secrets: postgresql://HOST:PORT/DATABASE, where {user} "
            "stands for the user; the executor's own server and database if not set."
        ),
    )

    @property
    def suffix_pair(self) -> tuple[str, str]:
        """Return the two suffixes."""
        first, second = self.suffixes.split(",")
        return first, second

    def address_for(self, user: str) -> dict[str, str]:
        """Return the host, the port and the database that a user's consumers connect to."""
        if self.consumer is None:
            found = parameters_of(self.database)
        else:
            found = parameters_of(SecretStr(self.consumer.replace("{user}", user)))
        return {name: str(found[name]) for name in ("host", "port", "dbname")}


def load_roles_settings() -> RolesSettings:
    """Return the settings of the environment; raises SettingsInvalid with every fault, and no value."""
    try:
        return RolesSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
