"""Which cloud of Microsoft's is asked, and how long its client secrets live."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, secure_url


def _base_url(value: str) -> str:
    named = value if "://" in value else f"https://{value}"
    secure_url(named.replace("{vault}", "vault"))
    return named.rstrip("/")


def _vault_url(value: str) -> str:
    if value.count("{vault}") != 1:
        raise ValueError("must hold {vault} once, for the vault's name")
    return _base_url(value)


class AzureSettings(BaseSettings):
    """Which cloud of Microsoft's is asked, and how long its client secrets live."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    graph_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="https://graph.microsoft.com",
        alias="KEYTURN_GRAPH_URL",
        description="Microsoft Graph; another one in a national cloud.",
    )
    authority: Annotated[str, AfterValidator(_base_url)] = Field(
        default="https://login.microsoftonline.com",
        alias="AZURE_AUTHORITY_HOST",
        description="The sign-in service, which azure-identity reads as well; another one in a national cloud.",
    )
    vault_url: Annotated[str, AfterValidator(_vault_url)] = Field(
        default="https://{vault}.vault.azure.net",
        alias="KEYTURN_KEYVAULT_URL",
        description="Key Vault, with {vault} for the vault's name; another one in a national cloud.",
    )
    tenant_id: str | None = Field(
        default=None,
        alias="AZURE_TENANT_ID",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,127}$",
        description="The tenant, where the executor's token does not name it.",
    )
    # A secret must outlive the longest overlap and grace, of 90 days each, or a rotation cuts its own consumers off.
    # Entra's own default of two years is what rotation is to avoid.
    secret_days: int = Field(
        default=180,
        ge=1,
        le=730,
        alias="KEYTURN_ENTRA_SECRET_DAYS",
        description="Days after which a new client secret expires, if it is not rotated before.",
    )
    sign_in_report: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_ENTRA_SIGN_IN_REPORT",
        description="Whether Graph's beta report of sign-ins by credential is asked; only the global cloud has it.",
    )


def azure_settings() -> AzureSettings:
    """Return the settings of the environment; raises SettingsInvalid."""
    try:
        return AzureSettings()
    except ValidationError as error:
        faults = "; ".join(field_faults(error))
    raise SettingsInvalid(faults)
