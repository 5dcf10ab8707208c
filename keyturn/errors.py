"""The root of every failure that Keyturn names, and those of all features: requests, settings, the database.

Each class says whether a retry is worth it, and what fixes it. The others stand with their feature, in its `errors.py`;
`make docs` writes the reference of all of them.

`kind` becomes the error type in Temporal's history, which stays readable even under encryption: it carries no data.
A message may be shown and logged; it never repeats a question, a prompt, an answer or a secret.
"""

from collections.abc import Sequence
from typing import ClassVar


class KeyturnError(Exception):
    """The root: anything that Keyturn foresees and names."""

    kind: ClassVar[str] = "keyturn_error"
    retryable: ClassVar[bool] = False
    # A rotation waits for the person who fixes this, instead of ending: what was asked is sound, and nothing is lost.
    parks: ClassVar[bool] = False
    next_step: ClassVar[str] = "fail_and_inspect"
    hint: str = "Read the worker's log at this time."

    @property
    def with_hint(self) -> str:
        """The text for a terminal: what happened, and what to do now."""
        return f"Error: {self}\n{self.hint}"


class JobError(KeyturnError):
    """The job could not be created."""

    kind = "job_error"


class JobStoreUnavailable(JobError):
    """The database did not answer; whether it committed is unknown, which is why the claim is idempotent."""

    kind = "job_store_unavailable"
    parks = True
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Bring the database back (DATABASE_URL), then resume or ask again: no second job can come of it."


class DatabaseReadOnly(JobStoreUnavailable):
    """The database that answers takes no writes: a replica, or a primary that is being replaced; that passes."""

    kind = "database_read_only"
    hint = (
        "Name the primary in DATABASE_URL, or all hosts with target_session_attrs=read-write "
        "(docs/how-to/run-in-production.md); a failover passes by itself."
    )


class JobStoreRefused(JobStoreUnavailable):
    """The database answers, and does not let us in, or does not let us do this; nothing was changed."""

    kind = "job_store_refused"
    retryable = False
    next_step = "fail_and_fix_rights"
    hint = (
        "Give the user of DATABASE_URL its rights, password or database (docs/how-to/run-in-production.md); "
        "if a table is missing, run `keyturn migrate`. Then resume or ask again."
    )


class ValueRefused(JobStoreUnavailable):
    """The database will not keep a value, at any time: too long, out of range, or not allowed there."""

    kind = "value_refused"
    retryable = False
    parks = False
    next_step = "fail_and_inspect"
    hint = (
        "Report it with the worker's log of this time: a check of ours let something pass that the table does not take."
    )


class SchemaNotCurrent(JobError):
    """The database's schema is not the one that this program needs."""

    kind = "schema_not_current"
    hint = "Run `keyturn migrate`; if the schema is newer than this program, deploy the newer release."


class InvalidRequest(KeyturnError):
    """What was asked cannot be asked; nothing was started.

    `faults` are what is wrong with which fields, if it is about fields: each edge names these in its own way.
    """

    kind = "invalid_request"
    next_step = "fail_and_fix_request"
    hint = "Correct it and ask again; nothing was started."

    def __init__(self, message: str = "", *, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message or "; ".join(f"{field}: {reason}" if field else reason for field, reason in faults))
        self.faults = tuple(faults)


class ExtensionInvalid(KeyturnError):
    """An object that another distribution registers cannot be used; nothing was started."""

    kind = "extension_invalid"
    hint = "Fix or uninstall that distribution; docs/how-to/extend-keyturn.md says what an object of each kind needs."


class SettingsInvalid(KeyturnError):
    """A setting is missing or wrong."""

    kind = "settings_invalid"
    hint = "Set it in the environment or in .env."
