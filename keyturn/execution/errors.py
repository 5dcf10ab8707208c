"""A key that could not be rotated."""

from datetime import timedelta
from typing import ClassVar

from keyturn.errors import KeyturnError


class ExecutorError(KeyturnError):
    """A key could not be rotated. No step is undone by itself; each step may be repeated."""

    kind = "executor_error"
    next_step = "fail_and_fix_request"


class CloudUnavailable(ExecutorError):
    """The cloud or a secret store did not answer, throttles the call, or is not consistent yet.

    `retry_after` is the wait that it asks for, which is waited for in full; None if it asks for none.
    """

    kind = "cloud_unavailable"
    # A cloud becomes consistent within seconds or some minutes, and an outage lasts minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=1)
    retryable = True
    next_step = "retry_with_backoff"
    hint = "The executor retries by itself; if that does not help, look at the provider's health page."

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CloudRefused(ExecutorError):
    """The cloud or a secret store does not allow the call, or credentials are missing."""

    kind = "cloud_refused"
    parks = True
    hint = (
        "Give the executor its rights (docs/how-to/rotate-keys.md) and the cloud's own settings; "
        "then `keyturn resume execute:JOB_ID`."
    )


class SecretManagedElsewhere(CloudRefused):
    """Another program manages what would be written: it would write its own value again, or lose what it has."""

    kind = "secret_managed_elsewhere"
    hint = (
        "Hand the entries over (docs/how-to/rotate-keys.md#a-kubernetes-secret-that-exists), or name another Secret in "
        "the key map; then `keyturn resume execute:JOB_ID`."
    )


class CredentialsMissing(CloudRefused):
    """This process has no credentials of the cloud, or names no region or endpoint of it."""

    kind = "credentials_missing"
    hint = (
        "Give this process what the cloud's own tools use, such as AWS_PROFILE and AWS_REGION, "
        "GOOGLE_APPLICATION_CREDENTIALS or AZURE_CLIENT_ID. If a rotation waits for its executor: restart that, then "
        "`keyturn resume execute:JOB_ID`."
    )


class SecretNotStored(ExecutorError):
    """The secret target could not store or return a secret."""

    kind = "secret_not_stored"
    parks = True
    hint = "Look at the target that the message names; `keyturn targets check` tries each. The old key stays active."


class SecretLeaving(SecretNotStored):
    """The secret is scheduled for deletion: the store takes nothing under its name until it is restored or deleted."""

    kind = "secret_scheduled_for_deletion"
    hint = (
        "Restore it (`aws secretsmanager restore-secret --secret-id NAME`), or wait until it is deleted: "
        "then the rotation continues."
    )


class KeyMapInvalid(ExecutorError):
    """The key map cannot be used: nothing is started by it."""

    kind = "key_map_invalid"
    hint = "Fix the file of KEYTURN_KEY_MAP; `keyturn targets check` reads it."


class MappedTwice(ExecutorError):
    """Two tables of the key map name the key: nothing was created."""

    kind = "mapped_twice"
    parks = True
    hint = "Leave one table for the key in the file of KEYTURN_KEY_MAP, restart the executor, and resume."


class PolicyLineMissing(ExecutorError):
    """The executor does not have a policy line of the job, which may say how long is waited: nothing was created."""

    kind = "policy_line_missing"
    parks = True
    hint = "Give the executor the policy files of the workers (KEYTURN_POLICY_DIR), restart it, and resume."


class TargetUnusable(ExecutorError):
    """A target of the key is unknown here, cannot be read back where it must, or is refused in production."""

    kind = "target_unusable"
    parks = True
    hint = "Fix the key's targets (KEYTURN_KEY_MAP, KEYTURN_EXECUTOR_TARGETS): `keyturn targets check` tries each."


class AccountMismatch(ExecutorError):
    """The job's account names no user of the cloud account that the executor's credentials belong to."""

    kind = "account_mismatch"
    hint = "Name the user as the cloud does: an IAM user or its ARN, a service account's email address."


class AnotherAccount(ExecutorError):
    """Nothing shows that the job's key is of the executor's cloud account: it is left to that account's executor."""

    kind = "another_account"
    next_step = "fail_and_fix_request"
    hint = (
        "Run an executor with credentials of the key's own cloud account; or name the user in full, with its account."
    )


class KeyNotFound(ExecutorError):
    """The job's key is no active key of the user."""

    kind = "key_not_found"
    hint = "Look at the user's keys: it was rotated, deactivated or deleted by hand since the job was created."


class AnotherKeyNamed(KeyNotFound):
    """The job was asked for by its key's creation, and a later request gave it the ID of another key."""

    kind = "another_key_named"
    hint = "Ask again by the ID of the key that is due: the job is closed as failed, and no key was touched."


class UserGone(KeyNotFound):
    """The user was deleted since the job was created, and its keys with it: there is nothing to do."""

    kind = "user_gone"
    hint = "Nothing to do: the user has no key to rotate, and the job is closed as failed."


class KeyLimit(ExecutorError):
    """The user already has as many keys as the cloud allows: no new one can be created."""

    kind = "key_limit"
    hint = "Delete a key of the user that nothing needs; then ask for the rotation again."


class ForeignKey(ExecutorError):
    """A key that this rotation did not create appeared beside the old one. It is never touched."""

    kind = "foreign_key"
    parks = True
    hint = "Find out who created it. Once it is deleted, the rotation continues; or `keyturn rollback JOB_ID`."


class NewKeyMissing(ExecutorError):
    """The new key is deleted or inactive, or the stored secret is not its own: the old key must stay."""

    kind = "new_key_missing"
    parks = True
    hint = "Activate the new key, or `keyturn rollback JOB_ID`."


class OldKeyInUse(ExecutorError):
    """Something uses the old key, or has activated it: it stays active, or is activated again."""

    kind = "old_key_in_use"
    parks = True
    hint = (
        "Move what uses it to the new secret. Before the deactivation, the rotation continues by itself once the old "
        "key is quiet; after it, `keyturn resume execute:JOB_ID`. Or `keyturn rollback JOB_ID`."
    )


class RollbackImpossible(ExecutorError):
    """The old key is deleted and cannot be restored."""

    kind = "rollback_impossible"
    hint = "The old key is deleted; use the new one."


class CalendarInvalid(ExecutorError):
    """The calendar of changes cannot be used: nothing is started by it."""

    kind = "calendar_invalid"
    hint = "Fix the file of KEYTURN_CALENDAR (docs/how-to/rotate-keys.md has an example)."


class Frozen(ExecutorError):
    """Executions are frozen, by an operator or the calendar: nothing is changed until that ends, but by a rollback."""

    kind = "frozen"
    parks = True
    hint = "`keyturn freezes` shows by whom and until when; `keyturn thaw` ends it."
