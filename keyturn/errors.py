"""Every failure that Keyturn names, as one tree. Each class says whether a retry is worth it and what fixes it.

    KeyturnError
    |-- ProviderError            the model call did not bring an answer
    |   |-- ProviderUnavailable    retry: 5xx, refused or dropped connection, half a body
    |   |   `-- ProviderOverloaded   retry: the provider says that it has too much to do
    |   |-- ProviderTimeout        retry: no answer within the call's deadline
    |   |-- RateLimited            retry: too many requests for now
    |   |-- UnreadableResponse     retry: a success status without the provider's own format
    |   |-- QuotaExhausted         person: money or quota is used up
    |   |-- AuthenticationFailed   person: the key is wrong, expired or not allowed
    |   |-- RequestRefused         person: the provider will never take this request
    |   |   `-- PromptFiltered       never: its filter holds the prompt; that counts as an answer, and is rejected
    |   `-- UnexpectedStatus       person: a status that no retry is known to fix
    |-- CallRefused              the call was not made
    |   |-- TokenLimitReached      later: the user's tokens of the hour are used up
    |   |-- CostCapExceeded        person: it would cost more than the task or the user may spend
    |   |-- ContextWindowExceeded  person: it would not fit into the model's context window
    |   `-- LedgerUnavailable      retry: what the user has spent today cannot be looked up
    |-- PolicyError
    |   |-- CatalogueInvalid       person: a policy file cannot be used
    |   |-- UnknownPolicyLine      person: a line or version that this catalogue does not hold
    |   |-- PolicyDiffers          person: the caller and this worker hold other wording of a line
    |   |-- DigestMismatch         person: policy or evidence changed since the verdict
    |   `-- ApprovalInvalid        person: the approval is missing, or not by an approver of the line
    |-- JobError
    |   |-- JobStoreUnavailable    retry: the database did not answer
    |   |   |-- JobStoreRefused      person: it does not let us: rights, password, name, a file that is no database
    |   |   `-- ValueRefused         never: it will not keep this value
    |   |-- IdempotencyConflict    person: the key was used for another job
    |   |-- OrderOfAnother         never: the order is not of the workflow that brings it
    |   |-- OpenJobExists          person: the credential has an open job under another key
    |   |-- UnknownJob             person: there is no such job of this tenant
    |   |-- JobHeld                later: another one holds the job
    |   |-- StaleClaim             never: another one has claimed the job since
    |   |-- JobClosed              never: the job is done, failed or cancelled already
    |   |-- StateRefused           person: this state does not follow the job's own
    |   |-- StaleAttempt           never: the claim was taken back, or taken over, after this attempt began
    |   `-- SchemaNotCurrent       person: the database's schema is not this program's
    |-- DeliveryError            a job could not be told to its receiver
    |   |-- ReceiverUnavailable    retry: no answer, or one that asks for patience
    |   |-- EarlierDelivery        retry: the credential's earlier message must come first
    |   |-- ReceiverConflict       person: the receiver knows this key for something else
    |   |-- ReceiverRefused        person: the receiver will not take it, or may not be asked
    |   `-- UnknownDelivery        person: there is no such message
    |-- ExecutorError            a key could not be rotated
    |   |-- AwsUnavailable         retry: AWS did not answer, throttles, or has not settled yet
    |   |-- AwsRefused             person: AWS does not allow it, or has no credentials or region
    |   |-- SecretNotKept          person: the secret store would not take it
    |   |   `-- SecretLeaving        person: a secret of this name is scheduled for deletion
    |   |-- AnotherAccount         never here: the job, or the step, is another AWS account's
    |   |-- AccountMismatch        person: the job's account is not a user of this AWS account
    |   |-- KeyNotFound            person: the job's key is not an active key of the user
    |   |   `-- UserGone             never: the IAM user does not exist any more, and so has no keys
    |   |-- KeyLimit               person: the user has two keys already
    |   |-- ForeignKey             person: a key appeared that this rotation did not make
    |   |-- NewKeyMissing          person: the new key is gone or inactive, or its secret is not the stored one
    |   |-- OldKeyInUse            person: the old key was used, or activated, after it was deactivated
    |   `-- RollbackImpossible     never: the old key is deleted
    |-- BulkError                an inventory, or a run of one
    |   |-- InventoryRefused       person: a worker may not read this file
    |   |-- InventoryInvalid       person: the file is none of the formats
    |   `-- UnknownRun             person: there is no such run of this tenant
    |-- DraftError               a draft that is written while it is read
    |   |-- DraftTakenOver         never: a later attempt writes it, or it has ended
    |   `-- UnknownDraft           person: there is no such draft of this tenant
    |-- InvalidRequest           person: the request itself cannot be asked
    |-- UnknownTask              person: no task of this name
    |-- TaskInvalid              person: a task's folder does not hold together
    |-- UnknownPromptVersion     person: no prompt file of this version
    |-- PayloadError             a payload cannot be encrypted or opened
    |   |-- PayloadKeyUnknown      person: its key is not among those held here
    |   |-- PayloadMoved           never: it stands where it was not written
    |   |-- PayloadNotAuthentic    person: it was changed, cut, or encrypted for another place
    |   |-- PayloadNotEncrypted       person: it is plain where only encrypted ones are read
    |   `-- PayloadTooLarge        person: Temporal would never take it
    `-- SettingsInvalid          person: a setting is missing or wrong

`kind` becomes the error type in Temporal's history, which stays readable even under encryption: it holds no data.
A message may be shown and logged; it never repeats a question, a prompt, an answer or a secret.
"""

from datetime import datetime, timedelta
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
        """What a person at a terminal is told: what happened, and what to do now."""
        return f"Error: {self}\n{self.hint}"


class ProviderError(KeyturnError):
    """A model call that brought no answer.

    `retry_after` is the provider's own wish, if it stated one; the others are of its answer, if there was one.
    """

    kind = "provider_error"
    status: int | None = None
    code: str = ""
    names_model: bool = False  # whether it says that there is no such model
    refused_fields: frozenset[str] = frozenset()  # of the request, which the server says that it does not take

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    """The provider or the way to it is down; it may pass."""

    kind = "provider_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Look at the provider's status page; ask again when it is back."


class ProviderOverloaded(ProviderUnavailable):
    """The provider says that it has too much to do: Anthropic's 529, OpenAI's `slow_down`."""

    kind = "provider_overloaded"


class ProviderKeyUnavailable(ProviderUnavailable):
    """The file or the command that gives an endpoint's key does not give it; it may pass."""

    kind = "provider_key_unavailable"
    hint = "Look at key_file or key_command of this endpoint in KEYTURN_ENDPOINTS: run it as the worker's user."


class ProviderTimeout(ProviderError):
    """No complete answer within the call's deadline."""

    kind = "provider_timeout"
    retryable = True
    next_step = "show_retry_option"
    hint = "Ask again; if it stays slow, raise the request's timeout or choose a quicker model."


class RateLimited(ProviderError):
    """Too many requests or tokens for now."""

    kind = "provider_rate_limited"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Wait, or ask the provider for a higher rate limit."


class EndpointBusy(RateLimited):
    """As many calls to an endpoint are under way as its `calls_at_once` allows; it was not asked."""

    kind = "endpoint_busy"
    hint = "Raise calls_at_once of this endpoint in KEYTURN_ENDPOINTS, or add another one to the route."


class UnreadableResponse(ProviderError):
    """A success status whose body is not the provider's format, such as a proxy's page."""

    kind = "unreadable_response"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Check the provider's base URL: something else than the provider answers there."


class QuotaExhausted(ProviderError):
    """Money or quota is used up. Sending more requests cannot fix that."""

    kind = "quota_exhausted"
    parks = True
    next_step = "fail_and_fix_quota"
    hint = "Raise the provider's quota or spend limit, then resume or ask again."


class AuthenticationFailed(ProviderError):
    """The provider does not take this key."""

    kind = "authentication_failed"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Set a valid key for this provider (see .env.example) and restart the worker, then resume or ask again."


class RequestRefused(ProviderError):
    """The provider will not take this request, however often it is sent."""

    kind = "request_refused"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Check the model's name in KEYTURN_ROUTES and the provider's base URL, then resume or ask again."


class PromptFiltered(RequestRefused):
    """The provider's content filter holds the prompt; others say so with a 200, as an answer of its kind."""

    kind = "content_filtered"
    parks = False


class UnexpectedStatus(ProviderError):
    """A status that no retry is known to fix, or one that the provider asks not to repeat."""

    kind = "unexpected_status"
    parks = True
    hint = "Look at the status: a proxy or a new version of the provider may stand behind it."


class CallRefused(KeyturnError):
    """The model was not asked: a limit of ours forbids it. Nothing was spent."""

    kind = "call_refused"


class TokenLimitReached(CallRefused):
    """The user's tokens of the hour are used up until `retry_at`."""

    kind = "rate_limited"
    retryable = False  # by Temporal's policy: the workflow itself waits for the known time
    next_step = "wait"

    def __init__(self, message: str, *, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at
        self.hint = f"Ask again after {retry_at:%Y-%m-%d %H:%M:%S} UTC, or raise KEYTURN_TOKENS_PER_USER_HOUR."


class CostCapExceeded(CallRefused):
    """The call would cost more than the task or the user may spend; the message has the numbers."""

    kind = "cost_cap_exceeded"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Shorten the request, choose a cheaper model, or raise the cap that the message names."


class ContextWindowExceeded(CallRefused):
    """The call would not fit into the model's context window; the message has the numbers."""

    kind = "context_window_exceeded"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Shorten the request, or choose a model with a larger context window."


class LedgerUnavailable(CallRefused):
    """What the user has spent today cannot be looked up, so a cap on it cannot be held."""

    kind = "ledger_unavailable"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "Bring the database back (DATABASE_URL), or unset KEYTURN_USD_PER_USER_DAY."


class PolicyError(KeyturnError):
    """Something about the policy lines is wrong."""

    kind = "policy_error"


class CatalogueInvalid(PolicyError):
    """A policy file cannot be used."""

    kind = "catalogue_invalid"
    hint = "Fix the named policy file."


class UnknownPolicyLine(PolicyError):
    """The catalogue does not hold this line at this version."""

    kind = "unknown_policy_line"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Name a line of this catalogue; starter and worker need the same one (KEYTURN_POLICY_DIR)."


class PolicyDiffers(PolicyError):
    """The caller's policy lines are not those of this worker, although their versions are the same."""

    kind = "policy_differs"
    parks = True
    next_step = "fail_and_fix_policy"
    hint = (
        "Give callers and workers the same KEYTURN_POLICY_DIR (`keyturn policy list` prints the digest), and raise the "
        "version of a line that changed. Then ask again by the same command: it goes on under the wording of then."
    )


class DigestMismatch(PolicyError):
    """The decision is not the one that the evidence and policy now bear out: they changed since the verdict."""

    kind = "digest_mismatch"
    next_step = "fail_and_fix_request"
    hint = "Ask again: policy or evidence changed between the decision and the job."


class ApprovalInvalid(PolicyError):
    """The decision needs an approval, and the one it came with does not hold."""

    kind = "approval_invalid"
    hint = "Ask again: an approval counts for one decision, by an approver of its policy line who did not ask."


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


class IdempotencyConflict(JobError):
    """This idempotency key was used for another job."""

    kind = "idempotency_conflict"
    hint = "Look at the job with `keyturn jobs`; this key stands for a different rotation."


class OrderOfAnother(JobError):
    """An order, or the approval in it, comes from a workflow that it is not of."""

    kind = "order_of_another"
    next_step = "fail_and_inspect"
    hint = "A payload was copied from another workflow: see who can write to Temporal, and ask again."


class OpenJobExists(JobError):
    """The credential has an open rotation job already."""

    kind = "open_job_exists"
    hint = "Look at it with `keyturn jobs`: this credential's rotation is under way already."


class UnknownJob(JobError):
    """There is no such job, or it is another tenant's."""

    kind = "unknown_job"
    next_step = "fail_and_fix_request"
    hint = "Look for it with `keyturn jobs`."


class JobHeld(JobError):
    """Another one holds the job until its lease is over."""

    kind = "job_held"
    next_step = "stop_working_on_it"
    hint = "Leave it to whoever holds it (`keyturn jobs show ID`), or ask again when the lease is over."


class StaleClaim(JobError):
    """The lease ran out and another one has claimed the job since; the older one's word changes nothing."""

    kind = "stale_claim"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job, undo nothing: whoever holds it now goes on from its recorded state."


class JobClosed(JobError):
    """The job is done, failed or cancelled."""

    kind = "job_closed"
    next_step = "stop_working_on_it"
    hint = "Stop working on this job: `keyturn jobs show ID` says how it ended."


class StateRefused(JobError):
    """This state does not follow the one that the job is in."""

    kind = "state_refused"
    next_step = "fail_and_fix_request"
    hint = "Report states in their order: rotating, verifying, grace; then complete or fail."


class StaleAttempt(JobError):
    """This attempt outlived its time: what it would write was decided otherwise since."""

    kind = "stale_attempt"
    hint = "Nothing to fix: the rotation went on without this attempt, which changed nothing."


class SchemaNotCurrent(JobError):
    """The database's schema is not the one that this program needs."""

    kind = "schema_not_current"
    hint = "Run `keyturn migrate`; if the schema is newer than this program, deploy the newer release."


class DeliveryError(KeyturnError):
    """A job could not be told to its receiver. `retry_after` is the receiver's own wish, if it stated one."""

    kind = "delivery_error"

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReceiverUnavailable(DeliveryError):
    """No answer came, or one that asks for patience. Whether it was taken is unknown: it is sent again."""

    kind = "receiver_unavailable"
    # Nobody waits at a screen for a delivery: a receiver that is away for hours is asked every five minutes.
    longest_wait: ClassVar[timedelta] = timedelta(minutes=5)
    retryable = True
    next_step = "retry_with_backoff"
    hint = "See that the receiver at KEYTURN_WEBHOOK_URL answers; then `keyturn deliveries resend`."


class EarlierDelivery(DeliveryError):
    """An earlier message of the same credential has not come through yet."""

    kind = "earlier_delivery"
    retryable = True
    next_step = "retry_with_backoff"
    hint = "It goes on by itself once the earlier one is delivered, or given up by `keyturn deliveries`."


class ReceiverConflict(DeliveryError):
    """The receiver knows this idempotency key for another request."""

    kind = "receiver_conflict"
    hint = "Look at both sides: the receiver used this job's key for something else. Then `keyturn deliveries resend`."


class ReceiverRefused(DeliveryError):
    """The receiver will not take this message, or may not be asked at all."""

    kind = "receiver_refused"
    hint = "Check KEYTURN_WEBHOOK_URL and its keys; then `keyturn deliveries resend`."


class UnknownDelivery(DeliveryError):
    """There is no such message."""

    kind = "unknown_delivery"
    hint = "Look for it with `keyturn deliveries`."


class ExecutorError(KeyturnError):
    """A key could not be rotated. Nothing is undone by itself; each step may be repeated."""

    kind = "executor_error"
    next_step = "fail_and_fix_request"


class AwsUnavailable(ExecutorError):
    """AWS did not answer, asks for patience, or does not know yet what it will know in some seconds."""

    kind = "aws_unavailable"
    # IAM settles within seconds, as a rule, and an outage lasts minutes.
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


class BulkError(KeyturnError):
    """An inventory or a run of one."""

    kind = "bulk_error"
    next_step = "fail_and_fix_request"


class InventoryRefused(BulkError):
    """A worker may not read this file: it lies elsewhere, is no regular file, or is too large."""

    kind = "inventory_refused"
    hint = "Put it below the worker's KEYTURN_INVENTORY_ROOT, as a regular file."


class InventoryInvalid(BulkError):
    """The file is no inventory that is known here.

    `without_quotes` says it without a word of the file, for where the file is not the reader's own.
    """

    kind = "inventory_invalid"
    hint = "Give one of the formats in docs/reference/inventories.md; `keyturn inventory check FILE` says more."

    def __init__(self, message: str, *, without_quotes: str | None = None) -> None:
        super().__init__(message)
        self.without_quotes = without_quotes or message


class UnknownRun(BulkError):
    """There is no run of this id, or it is another tenant's."""

    kind = "unknown_run"
    hint = "Look for it with `keyturn runs`."


class DraftError(KeyturnError):
    """A draft that is written while it is read."""

    kind = "draft_error"


class DraftTakenOver(DraftError):
    """A later attempt writes this draft, or it has ended: what an earlier one still says counts no more."""

    kind = "draft_taken_over"
    hint = "Nothing is to be done: the later attempt goes on."


class UnknownDraft(DraftError):
    """There is no draft of this id, or it is another tenant's, or it was kept for its week."""

    kind = "unknown_draft"
    next_step = "fail_and_fix_request"
    hint = "Ask for another draft: they are kept for seven days."


class InvalidRequest(KeyturnError):
    """What was asked cannot be asked; nothing was started."""

    kind = "invalid_request"
    next_step = "fail_and_fix_request"
    hint = "Correct it and ask again; nothing was started."


class UnknownTask(KeyturnError):
    """This worker has no task of this name."""

    kind = "unknown_task"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Name one of the tasks that the message lists, or deploy the worker that has it."


class ExtensionInvalid(KeyturnError):
    """An object that another distribution registers cannot be used; nothing was started."""

    kind = "extension_invalid"
    hint = "Fix or uninstall that distribution; docs/how-to/extend-keyturn.md says what an object of each kind needs."


class TaskInvalid(KeyturnError):
    """A task's folder does not hold together; nothing was started."""

    kind = "task_invalid"
    hint = "Fix the named task; docs/how-to/add-a-task.md says what it needs."


class UnknownPromptVersion(KeyturnError):
    """No prompt file has this version."""

    kind = "unknown_prompt_version"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Deploy the worker that holds this prompt version, then resume or ask again."


class PayloadError(KeyturnError):
    """A payload cannot be encrypted or opened."""

    kind = "payload_error"


class PayloadKeyUnknown(PayloadError):
    """It was encrypted under a key that is not held here: retired, or another installation's."""

    kind = "payload_key_unknown"
    hint = "Put that key back into KEYTURN_PAYLOAD_KEYS, after the newest: what it encrypted is readable again at once."


class PayloadMoved(PayloadError):
    """It was written for another workflow, or as something else, and copied to where it stands now."""

    kind = "payload_moved"
    hint = "Somebody who can write to Temporal copied it: see who may, and start the rotation anew."


class PayloadNotAuthentic(PayloadError):
    """It was changed or cut since it was encrypted, or it was encrypted for another namespace or entry."""

    kind = "payload_not_authentic"
    hint = "Check TEMPORAL_NAMESPACE; if that is right, somebody or something changed the stored bytes."


class PayloadNotEncrypted(PayloadError):
    """It is plain, and this program reads encrypted ones only."""

    kind = "payload_not_encrypted"
    hint = "Whoever sent it has no key: start rotations with `keyturn rotate` and the worker's KEYTURN_PAYLOAD_KEYS."


class PayloadTooLarge(PayloadError):
    """It is larger than Temporal takes."""

    kind = "payload_too_large"
    hint = "Send less: contracts bound every field, so something else put it there."


class SettingsInvalid(KeyturnError):
    """A setting is missing or wrong."""

    kind = "settings_invalid"
    hint = "Set it in the environment or in .env."
