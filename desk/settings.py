"""Every setting of the desk, from the environment, checked at start with all faults in one message."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings

from keyturn.contracts import ShortIdentifier
from keyturn.errors import SettingsInvalid
from keyturn.people import doubles
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Network, field_faults, host_and_port
from keyturn.tokens import parse_tokens

Role = Literal["asker", "approver", "operator"]
ROLES: tuple[Role, ...] = ("asker", "approver", "operator")


def _tokens(value: SecretStr) -> SecretStr:
    parse_tokens(value.get_secret_value())
    return value


def _proxies(value: str) -> str:
    parse_networks(value)
    return value


def _roles(value: str) -> str:
    parse_roles(value)
    return value


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", value):
        raise ValueError("is not a header's name, such as X-Forwarded-User")
    return value


def _ui(value: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not the address of Temporal's UI, such as https://temporal.example.com")
    return value.rstrip("/")


class DeskSettings(BaseSettings):
    """The desk's settings. The field's alias is the variable's name."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    environment: Literal["development", "production"] = Field(
        default="development", alias="KEYTURN_ENVIRONMENT", description="Production refuses a desk without sign-in."
    )
    address: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8404", alias="KEYTURN_DESK_ADDRESS", description="HOST:PORT on which the desk listens."
    )
    # The names under which browsers reach it, beside its address: a page of another name may not speak to it.
    hosts: str = Field(
        default="",
        alias="KEYTURN_DESK_HOSTS",
        description="Further names, separated by commas, under which browsers reach the desk.",
    )
    tokens: Annotated[SecretStr, AfterValidator(_tokens)] | None = Field(
        default=None,
        alias="KEYTURN_DESK_TOKENS",
        description="Who may sign in: NAME:TOKEN, separated by commas, each token of 32 characters or more.",
    )
    identity_header: Annotated[str, AfterValidator(_header)] | None = Field(
        default=None,
        alias="KEYTURN_DESK_IDENTITY_HEADER",
        description="The header by which a reverse proxy names the signed-in user.",
    )
    proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        default="",
        alias="KEYTURN_DESK_PROXIES",
        description="The addresses and networks, separated by commas, whose identity header is trusted.",
    )
    roles_text: Annotated[str, AfterValidator(_roles)] = Field(
        default="*=asker",
        alias="KEYTURN_DESK_ROLES",
        description="The roles of each user, of asker, approver and operator: NAME=ROLE+ROLE; *=ROLE.",
    )
    tenant: ShortIdentifier = Field(
        default="default", alias="KEYTURN_TENANT", description="The tenant that the desk serves."
    )
    temporal_ui: Annotated[str, AfterValidator(_ui)] | None = Field(
        default=None,
        alias="KEYTURN_TEMPORAL_UI",
        description="The address of Temporal's UI, for a link to each history.",
    )
    # A person clicks a few times a minute, and a page looks once a second while a request is in progress.
    requests_per_minute: int = Field(
        default=300,
        ge=10,
        le=100_000,
        alias="KEYTURN_DESK_REQUESTS_PER_MINUTE",
        description="The most requests a minute of one user.",
    )
    # Users look away after some seconds: then the page names what is waited for, and continues by itself.
    wait_seconds: float = Field(
        default=8.0,
        gt=0,
        le=60,
        alias="KEYTURN_DESK_WAIT_SECONDS",
        description="The seconds to wait for an outcome before a page shows the status; the decision continues.",
    )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        host = self.address.rpartition(":")[0].strip("[]")
        return host in {"127.0.0.1", "::1", "localhost"}

    @property
    def open_to_all(self) -> bool:
        """Whether no one needs to sign in: in development, on loopback."""
        return self.tokens is None and self.identity_header is None

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The values of `Host` that are answered, without their ports."""
        own = {"127.0.0.1", "localhost", "[::1]"} if self.on_loopback else {self.address.rpartition(":")[0]}
        return frozenset(own | {host.strip().lower() for host in self.hosts.split(",") if host.strip()})

    @model_validator(mode="after")
    def _expect_sign_in_method(self) -> Self:
        if self.open_to_all and (self.environment == "production" or not self.on_loopback):
            raise ValueError(
                "no user would have to sign in: set KEYTURN_DESK_TOKENS, or KEYTURN_DESK_IDENTITY_HEADER and "
                "KEYTURN_DESK_PROXIES; without them the desk serves on loopback and in development only"
            )
        if self.identity_header is not None and not self.proxies:
            raise ValueError(
                "KEYTURN_DESK_PROXIES is not set: the addresses whose KEYTURN_DESK_IDENTITY_HEADER is trusted"
            )
        return self


def parse_networks(value: str) -> tuple[Network, ...]:
    """Return addresses and networks of a list separated by commas; raises ValueError."""
    try:
        return tuple(ipaddress.ip_network(one.strip()) for one in value.split(",") if one.strip())
    except ValueError:
        raise ValueError("has an entry that is no address or network, such as 10.0.0.0/24") from None


def parse_roles(value: str) -> Mapping[str, frozenset[Role]]:
    """Return roles by name from `luna=asker; omar=approver+operator; *=asker`; raises ValueError."""
    found: dict[str, frozenset[Role]] = {}
    for entry in filter(None, (entry.strip() for entry in value.split(";"))):
        name, equals, listed = (part.strip() for part in entry.partition("="))
        roles = frozenset(role for role in ROLES if role in [one.strip() for one in listed.split("+")])
        if not equals or not name or len(roles) != len(listed.split("+")):
            raise ValueError(f"is not NAME=ROLE+ROLE; NAME=ROLE, of the roles {', '.join(ROLES)}")
        if doubles([*found, name]):
            raise ValueError(f"{name[:64]} is listed twice; case, width and trailing marks make no other user")
        found[name] = roles
    return found


def load_desk_settings() -> DeskSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        return DeskSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
