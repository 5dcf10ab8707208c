"""A key that could not be rotated."""

from datetime import timedelta
from typing import ClassVar

from keyturn.errors import KeyturnError


class ExecutorError(KeyturnError):
    """A key could not be rotated. Nothing is undone by itself; each step may be repeated."""

    kind = "executor_error"
    next_step = "fail_and_fix_request"


class AwsUnavailable(ExecutorError):
    """AWS did not answer, asks for patience, or does not know yet what it will know in some seconds."""

    kind = "aws_unavailable"
    # IAM becomes consistent within seconds, as a rule, and an outage lasts minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=1)
    retryable = True
    next_step = "retry_with_backoff"
    hint = "It goes on by itself when AWS answers; look at AWS's health page if it does not."


class AwsRefused(ExecutorError):
    """AWS does not allow the call, or there are no credentials or no region to make it with."""

    kind = "aws_refused"
    parks = True
    hint = (
        "Give the executor its rights (docs/how-to/rotate-aws-access-keys.md) and AWS's own settings; "
        "then `keyturn resume execute:JOB_ID`."
    )


class SecretNotKept(ExecutorError):
    """The secret store would not take or give a secret."""

    kind = "secret_not_kept"
    parks = True
    hint = "Look at the folder of KEYTURN_EXECUTOR_SECRETS: it must be ours alone and writable."


class SecretLeaving(SecretNotKept):
    """The secret is scheduled for deletion: until it is restored, or gone, the store takes nothing under its name."""

    kind = "secret_scheduled_for_deletion"
    hint = (
        "Restore it (`aws secretsmanager restore-secret --secret-id NAME`), or wait until it is gone: then it goes on."
    )


class AccountMismatch(ExecutorError):
    """The job's account is not an IAM user of the AWS account that the executor's credentials belong to."""

    kind = "account_mismatch"
    hint = "Name the IAM user, or its ARN, as the account."


class AnotherAccount(ExecutorError):
    """The job's key is not known to be of the executor's AWS account: it is left for the executor of its own."""

    kind = "another_account"
    next_step = "fail_and_fix_request"
    hint = "Run an executor with credentials of the key's own AWS account; or name the IAM user by its ARN."


class KeyNotFound(ExecutorError):
    """The job's key is not an active access key of the user."""

    kind = "key_not_found"
    hint = "Look at the user's keys: it was rotated, deactivated or deleted by hand since the job was made."


class UserGone(KeyNotFound):
    """The IAM user was deleted since the job was made, and with it its keys: nothing is to be done."""

    kind = "user_gone"
    hint = "The job is closed as failed: where there is no user, there is no key to rotate."


class KeyLimit(ExecutorError):
    """The user has two access keys already, which is AWS's limit: no new one can be made beside them."""

    kind = "key_limit"
    hint = "Delete the user's other key if nothing needs it; then ask for the rotation again."


class ForeignKey(ExecutorError):
    """A key appeared beside the old one that this rotation did not make. It is never touched."""

    kind = "foreign_key"
    parks = True
    hint = "Find out who made it. When it is deleted, the rotation goes on; or `keyturn rollback JOB_ID`."


class NewKeyMissing(ExecutorError):
    """The new key is gone or inactive, or its secret is no longer the stored one: the old one must stay."""

    kind = "new_key_missing"
    parks = True
    hint = "Activate the new key, or `keyturn rollback JOB_ID`."


class OldKeyInUse(ExecutorError):
    """The old key was used, or activated, after it was deactivated: something still needs it."""

    kind = "old_key_in_use"
    parks = True
    hint = "Find what uses it, by its last use. Deactivate it again and resume; or `keyturn rollback JOB_ID`."


class RollbackImpossible(ExecutorError):
    """The old key is deleted: there is nothing to go back to."""

    kind = "rollback_impossible"
    hint = "The old key is gone; go on with the new one."
