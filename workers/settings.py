"""Every setting of a worker, from the environment, checked at start with all faults in one message."""

import tomllib
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL

from keyturn.errors import SettingsInvalid
from keyturn.jobs.database import database_url

# What each required setting is for, told where it is missing.
_MENDS = {
    "OPENAI_API_KEY": "the provider's API key (any text for a local server without keys)",
    "KEYTURN_MODEL": "the model to ask, as the provider names it",
}


def _http(value: str) -> str:
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        raise ValueError("is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("must begin with http:// or https:// and name a host")
    return value


def _not_blank(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret or secret != secret.strip() or not secret.isascii():
        raise ValueError("must be the key alone, without blanks or line ends")
    return value


class LocalSettings(BaseSettings):
    """What needs no provider: where jobs, policies and work are. The field's alias is the variable's name."""

    # Names of fields are not accepted as variables: `MODEL` or `DATABASE` may mean something else on a machine.
    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    database: str = Field(default="sqlite:///.keyturn/keyturn.db", alias="DATABASE_URL")
    policy_dir: Path | None = Field(default=None, alias="KEYTURN_POLICY_DIR")
    task_queue: str = Field(default="keyturn", alias="KEYTURN_TASK_QUEUE", min_length=1, max_length=200)

    @cached_property
    def database_url(self) -> URL:
        """The database with the driver that we ship; raises SettingsInvalid."""
        return database_url(self.database)


class Settings(LocalSettings):
    """A worker's settings."""

    openai_api_key: Annotated[SecretStr, AfterValidator(_not_blank)] = Field(alias="OPENAI_API_KEY")
    openai_base_url: Annotated[str, AfterValidator(_http)] = Field(
        default="https://api.openai.com/v1", alias="OPENAI_BASE_URL"
    )
    model: str = Field(alias="KEYTURN_MODEL", min_length=1, max_length=128)
    rate_card: Path | None = Field(default=None, alias="KEYTURN_RATE_CARD")
    log_format: Literal["auto", "json", "console"] = Field(default="auto", alias="KEYTURN_LOG_FORMAT")
    # 64 calls at once keep two cores busy with an instant provider; beyond that they only wait in line (make bench).
    max_concurrent_activities: int = Field(default=64, alias="KEYTURN_MAX_CONCURRENT_ACTIVITIES", ge=1, le=1_000)

    @cached_property
    def rates(self) -> dict[str, tuple[Decimal, Decimal]]:
        """US dollars a million tokens by model, as (input, output), from the rate card; raises SettingsInvalid."""
        return {} if self.rate_card is None else read_rate_card(self.rate_card)


class _Rate(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)


class _RateCardFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rates: dict[str, _Rate]


def read_rate_card(file: Path) -> dict[str, tuple[Decimal, Decimal]]:
    """Return the rates in a TOML file of `[rates."MODEL"]` tables with `input` and `output`; raises SettingsInvalid."""
    try:
        card = _RateCardFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal))
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SettingsInvalid(f"KEYTURN_RATE_CARD: {file} is not a rate card: {reason}") from None
    return {model: (rate.input, rate.output) for model, rate in card.rates.items()}


def load_database_url() -> URL:
    """Return the database's URL alone; raises SettingsInvalid."""
    return load_local_settings().database_url


def load_local_settings() -> LocalSettings:
    """Return the settings that need no provider; raises SettingsInvalid."""
    try:
        return LocalSettings()
    except ValidationError as error:
        raise SettingsInvalid(_faults(error)) from None


def load_settings() -> Settings:
    """Return the settings; raises SettingsInvalid with every fault, a line each, and no value of any."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsInvalid(_faults(error)) from None
    faults = []
    for name in ("database_url", "rates"):
        try:
            getattr(settings, name)
        except SettingsInvalid as error:
            faults.append(str(error))
    if faults:
        raise SettingsInvalid("\n".join(faults))
    return settings


def _faults(error: ValidationError) -> str:
    return "\n".join(_fault(item["loc"], item["type"], item["msg"]) for item in error.errors())


def _fault(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(location[0]) if location else "settings"
    if kind == "missing":
        return f"{name} is not set: {_MENDS.get(name, 'it is required')}"
    return f"{name}: {message}"
