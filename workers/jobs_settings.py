"""The settings of the jobs API."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, host_and_port
from keyturn.tokens import parse_tokens


def _callers(value: SecretStr) -> SecretStr:
    for name in parse_tokens(value.get_secret_value()) if value.get_secret_value() else ():
        tenant, slash, owner = name.partition("/")
        if not tenant or not slash or not owner:
            raise ValueError(f"{name} is not TENANT/NAME")
    return value


class JobsSettings(BaseSettings):
    """The settings of the jobs' HTTP interface; the database is read as everywhere."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    address: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8403", alias="KEYTURN_JOBS_ADDRESS", description="HOST:PORT on which the jobs API listens."
    )
    tokens: Annotated[SecretStr, AfterValidator(_callers)] = Field(
        alias="KEYTURN_JOBS_TOKENS",
        description="Who may claim jobs: TENANT/NAME:TOKEN, separated by commas, each token of 32 characters or more.",
    )
    consumers: Annotated[SecretStr, AfterValidator(_callers)] = Field(
        default=SecretStr(""),
        alias="KEYTURN_CONSUMER_TOKENS",
        description="Who may report that a consumer uses its new key: TENANT/NAME:TOKEN, separated by commas.",
    )


def load_jobs_settings() -> JobsSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        return JobsSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
