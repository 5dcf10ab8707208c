"""The settings of an executor, from the environment."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from keyturn.contracts import CredentialKind, ShortIdentifier
from keyturn.errors import SettingsInvalid
from keyturn.execution.contracts import KeyRotationOrder
from keyturn.executors import load_executors
from keyturn.jobs.executor import SecretTarget
from keyturn.settings import field_faults, host_and_port
from keyturn.targets import load_targets
from keyturn.workers.local_settings import LocalSettings


def _target(value: str) -> str:
    name, _, place = value.partition(":")
    target = load_targets().get(name)
    if target is None or bool(place) != bool(target.place):
        raise ValueError(f"is none of {', '.join(one.usage for one in load_targets().values())}")
    return value


def _executor(value: str) -> str:
    if value not in load_executors():
        raise ValueError(f"is none of {', '.join(load_executors())}")
    return value


def _expect_template(value: str) -> str:
    if value.count("{user}") != 1 or value.replace("{user}", "").strip("abcdefghijklmnopqrstuvwxyz0123456789/_+=.@-"):
        raise ValueError("must have letters, digits and /_+=.@- only, with {user} once, such as keyturn/{user}")
    return value


class ExecutorSettings(LocalSettings):
    """The executor's settings; those of its cloud are read by that one's library."""

    environment: Literal["development", "production"] = Field(
        default="development", alias="KEYTURN_ENVIRONMENT", description="Production refuses secrets in files."
    )
    tenant: ShortIdentifier = Field(
        default="default", alias="KEYTURN_TENANT", description="The tenant whose jobs the executor executes."
    )
    executor: Annotated[str, AfterValidator(_executor)] = Field(
        default="aws", alias="KEYTURN_EXECUTOR", description="The executor: the cloud whose keys it rotates."
    )
    secrets: Annotated[str, AfterValidator(_target)] = Field(
        default="secretsmanager",
        alias="KEYTURN_EXECUTOR_SECRETS",
        description="The secret target: secretsmanager, or file:FOLDER in development.",
    )
    secret_name: Annotated[str, AfterValidator(_expect_template)] = Field(
        default="keyturn/{user}",
        alias="KEYTURN_EXECUTOR_SECRET_NAME",
        description="The name under which a secret is stored, with {user} in it once.",
    )
    monitoring_address: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None, alias="KEYTURN_MONITORING_ADDRESS", description="HOST:PORT for /metrics, /healthz and /readyz."
    )
    # A day: most programs read their secrets anew with a daily restart or sooner.
    overlap_hours: float = Field(
        default=24,
        alias="KEYTURN_EXECUTOR_OVERLAP_HOURS",
        ge=0,
        le=2_160,
        description="The hours for which both keys work.",
    )
    # A week includes what runs only on one of its days.
    grace_hours: float = Field(
        default=168,
        alias="KEYTURN_EXECUTOR_GRACE_HOURS",
        ge=0,
        le=2_160,
        description="The hours for which the old key is inactive before it is deleted.",
    )

    @property
    def kind(self) -> CredentialKind:
        """The kind of credential whose jobs are executed."""
        return load_executors()[self.executor].kind

    @property
    def target(self) -> SecretTarget:
        """Where new secrets go."""
        return load_targets()[self.secrets.partition(":")[0]]

    def queue(self, cloud_account: str) -> str:
        """Return its own task queue: no other worker has this AWS account's credentials."""
        return f"{self.task_queue}-executor-{cloud_account}"

    def order(self, job_id: str, cloud_account: str) -> KeyRotationOrder:
        """Return the order to carry a job out in an AWS account."""
        return KeyRotationOrder(
            job_id=job_id,
            tenant_id=self.tenant,
            cloud_account=cloud_account,
            overlap=timedelta(hours=self.overlap_hours),
            grace=timedelta(hours=self.grace_hours),
        )


def load_executor_settings() -> ExecutorSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        settings = ExecutorSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
    if settings.environment == "production" and not settings.target.for_production:
        fit = ", ".join(target.usage for target in load_targets().values() if target.for_production)
        raise SettingsInvalid(f"KEYTURN_EXECUTOR_SECRETS: production refuses {settings.target.usage}: use {fit}")
    return settings
