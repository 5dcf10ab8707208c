"""How long records are stored, from the environment."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from keyturn.drafts.store import RETENTION_DAYS
from keyturn.errors import SettingsInvalid
from keyturn.retention import RECORD_KINDS, Retention
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, field_faults

# A year that an audit looks at, and the month in which it does so.
DEFAULT_DAYS = 400


def _days(kind: str, what: str, default_days: int = DEFAULT_DAYS) -> int:
    default: int = Field(
        default=default_days,
        ge=0,
        le=36_500,
        alias=f"KEYTURN_RETAIN_{kind}_DAYS",
        description=f"Days that {what}; 0 for ever.",
    )
    return default


class RetentionSettings(BaseSettings):
    """How long records are stored. The field's alias is the variable's name."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    retention: Literal["on", "off"] = Field(
        default="off",
        alias="KEYTURN_RETENTION",
        description="Whether workers delete expired records once a day; `keyturn retention --delete` does so by hand.",
    )
    calls: int = _days("CALLS", "model calls are stored")
    events: int = _days("EVENTS", "what happened to rotations (parked, approved, denied) is stored")
    jobs: int = _days("JOBS", "closed jobs with their audit trails are stored; a tombstone stays")
    runs: int = _days("RUNS", "bulk runs with their items are stored after they ended")
    notices: int = _days("NOTICES", "notices to people are stored")
    labels: int = _days("LABELS", "labelled cases are stored, encrypted, after a person's answer")
    drafts: int = _days("DRAFTS", "drafts of replies are stored after their end, encrypted", RETENTION_DAYS)
    waivers: int = _days("WAIVERS", "waivers are stored after their end")
    freezes: int = _days("FREEZES", "freezes are stored after their end")
    collect_labels: Literal["on", "off"] = Field(
        default="on",
        alias="KEYTURN_LABELS",
        description="Whether workers store what people approved, denied and rolled back as labelled cases, encrypted.",
    )

    def limits(self) -> Retention:
        """Return the retention; a kind of 0 days is stored for ever."""
        return Retention(**{kind: getattr(self, kind) or None for kind in RECORD_KINDS})


def load_retention_settings() -> RetentionSettings:
    """Return the settings; raises SettingsInvalid with every fault."""
    try:
        return RetentionSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
