"""The settings of the webhook for reports of exposed keys."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.contracts import ShortIdentifier
from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, host_and_port, secure_url

GITHUB = "https://api.github.com/meta/public_keys/secret_scanning"


def _keys(value: str) -> str:
    return secure_url(value) if "://" in value else value


class LeaksSettings(BaseSettings):
    """Where reports come in, by whom they are signed, and how their keys are decided."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    address: Annotated[str, AfterValidator(host_and_port)] = Field(
        default="127.0.0.1:8405",
        alias="KEYTURN_LEAKS_ADDRESS",
        description="HOST:PORT on which the webhook for leak reports listens.",
    )
    public_keys: Annotated[str, AfterValidator(_keys)] = Field(
        default=GITHUB,
        alias="KEYTURN_LEAKS_PUBLIC_KEYS",
        description="The public keys that reports are signed by: an https URL, or a file of the same form.",
    )
    decide_by: Literal["rule_and_model", "rule"] = Field(
        default="rule_and_model",
        alias="KEYTURN_LEAKS_DECIDE",
        description="Who decides on reported keys: rule_and_model, or rule alone, which no provider's outage delays.",
    )
    source: ShortIdentifier = Field(
        default="github",
        alias="KEYTURN_LEAKS_SOURCE",
        description="What finds the keys that are reported here, for lists and notices.",
    )
    tenant: ShortIdentifier = Field(
        default="default", alias="KEYTURN_TENANT", description="The tenant whose keys are reported."
    )


def load_leaks_settings() -> LeaksSettings:
    """Return the settings; raises SettingsInvalid with every fault."""
    try:
        return LeaksSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
