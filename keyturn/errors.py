"""The root of every failure that Keyturn names, and those of all features: requests, settings, the database.

Each class says whether a retry is worth it, and what fixes it. The others stand with their feature, in its `errors.py`;
`make docs` writes the reference of all of them.

`kind` becomes the error type in Temporal's history, which stays readable even under encryption: it carries no data.
A message may be shown and logged; it never repeats a question, a prompt, an answer or a secret.
"""

from collections.abc import Sequence
from typing import ClassVar


class KeyturnError(Exception):
    """The root of all errors that Keyturn raises on purpose."""

    kind: ClassVar[str] = "keyturn_error"
    retryable: ClassVar[bool] = False
    # A rotation waits for the person who fixes this, instead of ending: what was asked is sound, and nothing is lost.
    parks: ClassVar[bool] = False
    next_step: ClassVar[str] = "fail_and_inspect"
    hint: str = "Read the worker's log at this time."

    @property
    def with_hint(self) -> str:
        """The text for a terminal: the kind, as docs/reference/errors.md has it, what happened, and what to do now."""
        return f"Error ({self.kind}): {self}\n{self.hint}"


class JobError(KeyturnError):
    """The job could not be created."""

    kind = "job_error"


class JobStoreUnavailable(JobError):
    """The database did not answer; whether it committed is unknown. A retry is safe: the claim is idempotent."""

    kind = "job_store_unavailable"
    parks = True
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Bring the database back (DATABASE_URL), then resume or ask again: neither creates a second job."


class DatabaseReadOnly(JobStoreUnavailable):
    """The database is read-only: a replica, or a primary during a failover. Retried, because a failover ends."""

    kind = "database_read_only"
    hint = (
        "Name the primary in DATABASE_URL, or all hosts with target_session_attrs=read-write "
        "(docs/how-to/run-in-production.md); a failover needs no action."
    )


class JobStoreRefused(JobStoreUnavailable):
    """The database refuses the connection or the statement; nothing was changed."""

    kind = "job_store_refused"
    retryable = False
    next_step = "fail_and_fix_rights"
    hint = (
        "Give the user of DATABASE_URL its rights, password or database (docs/how-to/run-in-production.md); "
        "if a table is missing, run `keyturn migrate`. Then resume or ask again."
    )


class ValueRefused(JobStoreUnavailable):
    """The database refuses a value, however often it is sent: too long, out of range, or not allowed."""

    kind = "value_refused"
    retryable = False
    parks = False
    next_step = "fail_and_inspect"
    hint = "Report it as a bug, with the worker's log of this time: a check let a value pass that the table refuses."


class SchemaNotCurrent(JobError):
    """The database's schema is not at the version that this program needs."""

    kind = "schema_not_current"
    hint = "Run `keyturn migrate`; if the schema is newer than this program, deploy the newer release."


class InvalidRequest(KeyturnError):
    """The request is not valid; nothing was started.

    `faults` are what is wrong with which fields, if it is about fields: each edge names these in its own way.
    """

    kind = "invalid_request"
    next_step = "fail_and_fix_request"
    hint = "Correct the request and ask again; nothing was started."

    def __init__(self, message: str = "", *, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message or "; ".join(f"{field}: {reason}" if field else reason for field, reason in faults))
        self.faults = tuple(faults)


class ExtensionInvalid(KeyturnError):
    """An extension, registered by another distribution, cannot be used; nothing was started."""

    kind = "extension_invalid"
    hint = "Fix or uninstall that distribution; docs/how-to/extend-keyturn.md says what each kind of extension needs."


class SettingsInvalid(KeyturnError):
    """A setting is missing or wrong."""

    kind = "settings_invalid"
    hint = "Set it in the environment or in .env."
