"""A key that could not be rotated."""

from datetime import timedelta
from typing import ClassVar

from keyturn.errors import KeyturnError


class ExecutorError(KeyturnError):
    """A key could not be rotated. No step is undone by itself; each step may be repeated."""

    kind = "executor_error"
    next_step = "fail_and_fix_request"


class AwsUnavailable(ExecutorError):
    """AWS did not answer, throttles the call, or is not consistent yet."""

    kind = "aws_unavailable"
    # IAM becomes consistent within seconds, as a rule, and an outage lasts minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=1)
    retryable = True
    next_step = "retry_with_backoff"
    hint = "The executor retries by itself; if that does not help, look at AWS's health page."


class AwsRefused(ExecutorError):
    """AWS does not allow the call, or credentials or a region are missing."""

    kind = "aws_refused"
    parks = True
    hint = (
        "Give the executor its rights (docs/how-to/rotate-aws-access-keys.md) and AWS's own settings; "
        "then `keyturn resume execute:JOB_ID`."
    )


class SecretNotKept(ExecutorError):
    """The secret target could not store or return a secret."""

    kind = "secret_not_kept"
    parks = True
    hint = "Look at the folder of KEYTURN_EXECUTOR_SECRETS: the executor's user alone may have access."


class SecretLeaving(SecretNotKept):
    """The secret is scheduled for deletion: the store takes nothing under its name until it is restored or deleted."""

    kind = "secret_scheduled_for_deletion"
    hint = (
        "Restore it (`aws secretsmanager restore-secret --secret-id NAME`), or wait until it is deleted: "
        "then the rotation continues."
    )


class AccountMismatch(ExecutorError):
    """The job's account is not an IAM user of the AWS account that the executor's credentials belong to."""

    kind = "account_mismatch"
    hint = "Name the IAM user, or its ARN, as the account."


class AnotherAccount(ExecutorError):
    """Nothing shows that the job's key is of the executor's AWS account: it is left to that account's executor."""

    kind = "another_account"
    next_step = "fail_and_fix_request"
    hint = "Run an executor with credentials of the key's own AWS account; or name the IAM user by its ARN."


class KeyNotFound(ExecutorError):
    """The job's key is no active access key of the user."""

    kind = "key_not_found"
    hint = "Look at the user's keys: it was rotated, deactivated or deleted by hand since the job was created."


class UserGone(KeyNotFound):
    """The IAM user was deleted since the job was created, and its keys with it: there is nothing to do."""

    kind = "user_gone"
    hint = "Nothing to do: the user has no key to rotate, and the job is closed as failed."


class KeyLimit(ExecutorError):
    """The user already has two access keys, which is AWS's limit: no new one can be created."""

    kind = "key_limit"
    hint = "Delete the user's other key if nothing needs it; then ask for the rotation again."


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
    """The old key was used or activated after its deactivation: something still needs it."""

    kind = "old_key_in_use"
    parks = True
    hint = "Find what uses it, by its last use. Deactivate it again and resume; or `keyturn rollback JOB_ID`."


class RollbackImpossible(ExecutorError):
    """The old key is deleted and cannot be restored."""

    kind = "rollback_impossible"
    hint = "The old key is deleted; use the new one."
