"""The settings of an executor, from the environment."""

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from keyturn.contracts import CredentialKind, ShortIdentifier
from keyturn.errors import SettingsInvalid
from keyturn.execution.contracts import KeyRotationOrder, KeyWaits
from keyturn.execution.limits import BlastRadius
from keyturn.executors import load_executors
from keyturn.settings import faults_of_names, field_faults, host_and_port
from keyturn.targets import load_targets
from keyturn.workers.local_settings import LocalSettings

DEFAULT_TARGET = "secretsmanager:keyturn/{user}"
_PLACE = re.compile(r"[!-~]*")


def _targets(value: str) -> str:
    paths = value.split()
    for path in paths:
        name, _, place = path.partition(":")
        target = load_targets().get(name)
        if target is None or not place:
            raise ValueError(f"is none of {', '.join(one.usage for one in load_targets().values())}")
        if place.count("{user}") != 1 or not _PLACE.fullmatch(place.replace("{user}", "").replace("{account}", "")):
            raise ValueError("must have {user} once in each target: each user's key has a secret of its own")
    if not paths:
        raise ValueError("names no target")
    return value


def _executor(value: str) -> str:
    if value not in load_executors():
        raise ValueError(f"is none of {', '.join(load_executors())}")
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
    targets: Annotated[str, AfterValidator(_targets)] | None = Field(
        default=None,
        alias="KEYTURN_EXECUTOR_TARGETS",
        description="The targets of keys that the key map does not name, separated by spaces, with {user} once in "
        "each, and {account} for several cloud accounts. Without it, such a key is not rotated; without a key map, "
        f"either, every key goes to {DEFAULT_TARGET}.",
    )
    key_map: Path | None = Field(
        default=None,
        alias="KEYTURN_KEY_MAP",
        description="The file that says for each key where its secret goes, who uses it, and who owns it.",
    )
    calendar: Path | None = Field(
        default=None,
        alias="KEYTURN_CALENDAR",
        description="The file of maintenance windows and freezes: outside of the windows nothing is changed.",
    )
    # Each is a choice of how much may break at once, before an operator has looked.
    most: int = Field(
        default=1_000,
        alias="KEYTURN_EXECUTOR_MOST",
        ge=1,
        le=100_000,
        description="How many rotations of a cloud account may run at once, those that wait included.",
    )
    most_percent: int = Field(
        default=100,
        alias="KEYTURN_EXECUTOR_MOST_PERCENT",
        ge=1,
        le=100,
        description="How many rotations of an owner may run at once, in percent of the owner's open jobs.",
    )
    most_per_owner: int = Field(
        default=100,
        alias="KEYTURN_EXECUTOR_MOST_PER_OWNER",
        ge=1,
        le=100_000,
        description="How many rotations of an owner may run at once; of the cloud account where no owner is mapped.",
    )
    most_per_target: int = Field(
        default=500,
        alias="KEYTURN_EXECUTOR_MOST_PER_TARGET",
        ge=1,
        le=100_000,
        description="How many rotations that store in one target, such as vault, may run at once.",
    )
    canaries: int = Field(
        default=1,
        alias="KEYTURN_EXECUTOR_CANARIES",
        ge=0,
        le=100,
        description="How many of an owner's rotations must have deactivated the old key before others start; 0: none.",
    )
    stop_after_failures: int = Field(
        default=5,
        alias="KEYTURN_EXECUTOR_STOP_AFTER_FAILURES",
        ge=0,
        le=10_000,
        description="How many rotations failed within a day, or blocked now, stop new ones; 0: any number.",
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
        description="Hours for which both keys work, at least.",
    )
    # A week includes what runs only on one of its days.
    grace_hours: float = Field(
        default=168,
        alias="KEYTURN_EXECUTOR_GRACE_HOURS",
        ge=0,
        le=2_160,
        description="Hours for which the old key is inactive before it is deleted, at least.",
    )
    # A day: what runs once a day with the old key is seen.
    quiet_hours: float = Field(
        default=24,
        alias="KEYTURN_EXECUTOR_QUIET_HOURS",
        ge=0,
        le=2_160,
        description="Hours for which the old key was not used when it is deactivated; never fewer than the overlap.",
    )
    # Three calls a key: an hour is far below the clouds' limits for a thousand keys.
    check_minutes: float = Field(
        default=60,
        alias="KEYTURN_EXECUTOR_CHECK_MINUTES",
        ge=0.02,
        le=720,
        description="Minutes between checks of whether an old key is in use.",
    )
    # A quarter: what runs less often is declared as a consumer.
    idle_days: float = Field(
        default=90,
        alias="KEYTURN_EXECUTOR_IDLE_DAYS",
        ge=0,
        le=3_650,
        description="The days without use after which a key of AWS or Entra has no consumer that must move.",
    )

    @property
    def default_targets(self) -> Sequence[str]:
        """The targets of keys that the key map does not name; none where only mapped keys are rotated."""
        if self.targets is not None:
            return self.targets.split()
        return [DEFAULT_TARGET] if self.key_map is None else []

    @property
    def kind(self) -> CredentialKind:
        """The kind of credential whose jobs are executed."""
        return load_executors()[self.executor].kind

    def queue(self, cloud_account: str) -> str:
        """Return its own task queue: no other worker has this cloud account's credentials."""
        return f"{self.task_queue}-executor-{cloud_account}"

    def order(self, job_id: str, cloud_account: str) -> KeyRotationOrder:
        """Return the order to execute a job in a cloud account."""
        return KeyRotationOrder(job_id=job_id, tenant_id=self.tenant, cloud_account=cloud_account, waits=self.waits)

    @property
    def blast_radius(self) -> BlastRadius:
        """How many rotations may run at once."""
        return BlastRadius(**{name: getattr(self, name) for name in BlastRadius.model_fields})

    @property
    def waits(self) -> KeyWaits:
        """How long rotations wait, unless a policy line or the key map says otherwise."""
        return KeyWaits(
            overlap=timedelta(hours=self.overlap_hours),
            grace=timedelta(hours=self.grace_hours),
            quiet=timedelta(hours=self.quiet_hours),
            idle=timedelta(days=self.idle_days),
            check_every=timedelta(minutes=self.check_minutes),
        )


def load_executor_settings() -> ExecutorSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    faults = [*faults_of_names(lambda name: os.environ.get(name, ""))]
    try:
        settings = ExecutorSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join([*faults, *field_faults(error)])) from None
    if faults:
        raise SettingsInvalid("\n".join(faults))
    known = load_targets()
    used = [known[path.partition(":")[0]] for path in settings.default_targets]
    refused = [target.usage for target in used if not target.for_production]
    if settings.environment == "production" and refused:
        fit = ", ".join(target.usage for target in known.values() if target.for_production)
        raise SettingsInvalid(f"KEYTURN_EXECUTOR_TARGETS: production refuses {refused[0]}: use {fit}")
    return settings
