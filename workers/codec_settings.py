"""The settings of the codec server."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, host_and_port
from keyturn.tokens import parse_tokens


def _tokens(value: SecretStr) -> SecretStr:
    parse_tokens(value.get_secret_value())
    return value


def _origins(value: str) -> str:
    for origin in parse_origins(value):
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin):
            raise ValueError("holds something that is not an origin, such as https://temporal.example.com")
    return value


class CodecSettings(BaseSettings):
    """The codec server's settings; the keyring is read as everywhere."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    address: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8402",
        alias="KEYTURN_CODEC_ADDRESS",
        description="HOST:PORT on which the codec server listens.",
    )
    origins: Annotated[str, AfterValidator(_origins)] = Field(
        default="http://127.0.0.1:8233,http://localhost:8233",
        alias="KEYTURN_CODEC_ORIGINS",
        description="The origins of your Temporal UI, separated by commas: only their pages may call the codec server.",
    )
    hosts: str = Field(
        default="localhost,127.0.0.1,::1",
        alias="KEYTURN_CODEC_HOSTS",
        description="The names, separated by commas, under which the codec server answers.",
    )
    tokens: Annotated[SecretStr, AfterValidator(_tokens)] = Field(
        alias="KEYTURN_CODEC_TOKENS",
        description="Who may decrypt: NAME:TOKEN, separated by commas, each token of 32 characters or more.",
    )


def parse_origins(value: str) -> frozenset[str]:
    """Return the origins of a list separated by commas."""
    return frozenset(filter(None, (origin.strip().rstrip("/") for origin in value.split(","))))


def parse_hosts(value: str) -> frozenset[str]:
    """Return the names of a list separated by commas, in small letters."""
    return frozenset(filter(None, (name.strip().strip("[]").lower() for name in value.split(","))))


def load_codec_settings() -> CodecSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        return CodecSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
