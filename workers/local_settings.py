"""The settings that commands share with a worker: the database, policy files, logs."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from sqlalchemy.engine import URL

from keyturn.database import database_url
from keyturn.errors import SettingsInvalid
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults


def _redis(value: SecretStr) -> SecretStr:
    from redis.asyncio.connection import parse_url  # only where there is one

    try:
        parse_url(value.get_secret_value())
    except ValueError:
        # Its own message may quote a part of the password.
        raise ValueError("is not redis://[:password@]host:port; a password's / and # are written %2F and %23") from None
    return value


class LocalSettings(BaseSettings):
    """What needs no provider: where jobs, policies and work are. The field's alias is the variable's name."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    database: SecretStr = Field(
        default=SecretStr("sqlite:///.keyturn/keyturn.db"),
        alias="DATABASE_URL",
        description=(
            "The database of jobs, records and cached responses: postgresql://user:password@host/database, "
            "or sqlite:///PATH in development."
        ),
    )
    policy_dir: Path | None = Field(
        default=None,
        alias="KEYTURN_POLICY_DIR",
        description=(
            "The folder of your own policy files (*.toml), added to the shipped lines; starters, desks and "
            "workers need the same files."
        ),
    )
    policy_shipped: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_POLICY_SHIPPED",
        description="Whether the shipped policy lines are loaded beside your own.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        alias="KEYTURN_LOG_FORMAT",
        description="The log's format: JSON lines, text, or auto: text where standard error is a terminal.",
    )
    task_queue: str = Field(
        default="keyturn",
        alias="KEYTURN_TASK_QUEUE",
        min_length=1,
        max_length=200,
        description="The task queue that workers poll; starters need the same one.",
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] | None = Field(
        default=None,
        alias="KEYTURN_REDIS_URL",
        description=(
            "The Redis by which workers share token limits, cached responses and provider outages: "
            "redis://[:password@]host:port."
        ),
    )
    # Every command that reaches Temporal reads these three by `keyturn.keyring`; here, for the worker's own check.
    payload_keys: SecretStr | None = Field(
        default=None,
        alias="KEYTURN_PAYLOAD_KEYS",
        description=(
            "The keys that encrypt payloads: ID:BASE64 of 32 bytes each, by commas, the newest first, one of "
            "them `pseudonym`."
        ),
    )
    payload_keys_file: Path | None = Field(
        default=None,
        alias="KEYTURN_PAYLOAD_KEYS_FILE",
        description="The file of payload keys, an entry a line, in place of KEYTURN_PAYLOAD_KEYS; for its owner alone.",
    )
    account_names: Literal["pseudonym", "plain"] = Field(
        default="pseudonym",
        alias="KEYTURN_ACCOUNT_NAMES",
        description=(
            "Whether IDs and search attributes hold pseudonyms or plain names; choose once, because workflow "
            "IDs depend on it."
        ),
    )

    def load_catalogue(self) -> Catalogue:
        """Return the shipped policy lines and your own; raises CatalogueInvalid."""
        return load_catalogue(self.policy_dir, shipped=self.policy_shipped == "on")

    @cached_property
    def database_url(self) -> URL:
        """The database with the driver that we ship; raises SettingsInvalid."""
        return database_url(self.database.get_secret_value())


def load_database_url() -> URL:
    """Return the database's URL alone; raises SettingsInvalid."""
    return load_local_settings().database_url


def load_local_settings() -> LocalSettings:
    """Return the settings that need no provider; raises SettingsInvalid."""
    try:
        return LocalSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
