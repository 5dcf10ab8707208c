"""Where Google's APIs are."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults, secure_url

Url = Annotated[str, AfterValidator(secure_url)]


# https://docs.cloud.google.com/resource-manager/docs/creating-managing-projects; those of a domain have it in front.
_PROJECT_ID = re.compile(r"(?:[a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")


def _project_ids(value: str) -> str:
    named = value.split()
    if not named or len(set(named)) < len(named) or not all(map(_PROJECT_ID.fullmatch, named)):
        raise ValueError("must be project IDs separated by spaces, each once, and no numbers or names")
    return " ".join(named)


class GcpSettings(BaseSettings):
    """Where Google's APIs are: private endpoints and sovereign clouds have other names. The alias is the variable."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    projects: Annotated[str, AfterValidator(_project_ids)] | None = Field(
        default=None,
        alias="KEYTURN_GCP_PROJECTS",
        description="The IDs of the projects whose service accounts' keys are rotated, separated by spaces; the "
        "credentials' own if not set.",
    )
    scope: str | None = Field(
        default=None,
        alias="KEYTURN_GCP_SCOPE",
        pattern=r"^(?:folders|organizations)/[0-9]{1,20}$",
        description="The folder or organization, such as `organizations/123`, whose projects `keyturn inventory fetch` "
        "reads, by Cloud Asset Inventory; KEYTURN_GCP_PROJECTS if not set.",
    )
    asset_url: Url = Field(
        default="https://cloudasset.googleapis.com",
        alias="KEYTURN_GCP_ASSET_URL",
        description="The Cloud Asset API, which lists the projects of KEYTURN_GCP_SCOPE.",
    )
    iam_url: Url = Field(default="https://iam.googleapis.com", alias="KEYTURN_GCP_IAM_URL", description="The IAM API.")
    analyzer_url: Url = Field(
        default="https://policyanalyzer.googleapis.com",
        alias="KEYTURN_GCP_POLICY_ANALYZER_URL",
        description="The Policy Analyzer API, which says when a key was last used.",
    )
    monitoring_url: Url = Field(
        default="https://monitoring.googleapis.com",
        alias="KEYTURN_GCP_MONITORING_URL",
        description="The Cloud Monitoring API, which counts what each key authenticates.",
    )
    token_url: Url = Field(
        default="https://oauth2.googleapis.com/token",
        alias="KEYTURN_GCP_TOKEN_URL",
        description="The OAuth 2.0 token endpoint that a new key is verified with.",
    )
    secrets_url: Url = Field(
        default="https://secretmanager.googleapis.com",
        alias="KEYTURN_GCP_SECRETS_URL",
        description="The Secret Manager API.",
    )


def gcp_settings() -> GcpSettings:
    """Return the settings of the environment; raises SettingsInvalid."""
    try:
        return GcpSettings()
    except ValidationError as error:
        faults = field_faults(error)
    raise SettingsInvalid("\n".join(faults))
