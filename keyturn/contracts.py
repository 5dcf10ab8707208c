"""The frozen, bounded models that cross Temporal, the database and the command line.

Everything here refuses unknown fields and is limited in length: a payload over 2 MiB would be retried by the server for
ever, so what is too large is refused at the edge. `ProposedDecision` (what a model said) and `GroundedDecision` (what
the evidence supports) are separate types on purpose, and neither derives from the other.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from keyturn.private_data import holds_private_data, holds_secret

MAX_QUESTION_CHARACTERS = 4_000  # a support question; it also keeps the prompt far below any model's context window
MAX_APPROVERS = 64  # of a policy line: a team; more is a mailing list, and nobody's duty
MAX_POLICY_LINES = 8  # lines that one question may be judged under; each adds to the prompt and to the workflow id

# Identifiers stand in workflow ids, in the UI and in prompts: printable, one line, no quotes, no braces.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+=,-]*$", max_length=256)]
# Of whom a key is. An ARN of IAM has a path, of any printable character and 512 at most (IAM's CreateUser);
# the rest has the letters of every other id.
AccountId = Annotated[
    str,
    StringConstraints(
        pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._:/@+=,-]{0,255}|arn:aws[a-z-]*:iam::\d{12}:(?:user|role)/[!-\x7f]{1,600})$",
        max_length=640,
    ),
]
# Why an inventory says that nothing need be decided of a key.
Idle = Literal["inactive", "system_managed", "expired"]
ShortIdentifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+=-]*$", max_length=64)]


def _counted(value: object) -> object:
    """Refuse what pydantic would take for one day, or none: `true` is no number of days."""
    if isinstance(value, bool):
        raise ValueError("write it as a whole number of days")
    return value


def _written_out(value: object) -> object:
    """Refuse what pydantic would take for seconds since 1970: a lone `2026` is a slip, not a moment of that year."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        raise ValueError("write it as 2026-08-01T00:00:00Z")
    return value


def _of_our_time(moment: datetime) -> datetime:
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise ValueError(f"lies outside the years {EARLIEST_YEAR} to {LATEST_YEAR}")
    return moment


_DATE_AND_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}")
# No key is older than the systems that hold keys; and a far future would overflow where a window is added.
EARLIEST_YEAR, LATEST_YEAR = 1970, 2200
Days = Annotated[int, BeforeValidator(_counted)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_of_our_time)]
Digest = Annotated[str, StringConstraints(pattern=r"^v[0-9]+:[0-9a-f]{64}$")]

# The folder of a task in `keyturn/tasks/`: adding one changes nothing here.
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
CredentialKind = Literal["service_account_key", "access_key", "user_password", "system_account_password"]
Decision = Literal["eligible", "not_eligible", "not_specified"]
RejectionReason = Literal[
    "malformed_answer",
    "truncated_answer",
    "model_refused",
    "content_filtered",
    "decision_not_allowed",
    "window_not_an_integer",
    "missing_source",
    "unknown_source",
    "rule_not_applicable",
    "unsupported_window",
    "incomplete_sources",
    "contradicts_evidence",
    "unsupported_no",
    "unsupported_quote",
    "unexpected_window",
    "approval_required",
    "approval_denied",
    "value_not_allowed",
    "unsupported_priority",
    "unsupported_figure",
    "private_data",
    "promised_action",
    "omits_waiting",
    "hidden_characters",
    "holds_link",
    "holds_markup",
    "holds_phone_number",
    "asks_for_secret",
    "too_long",
    "empty_answer",
]
# Text of people and of other systems that is shown in terminals and tables as it is: one line, and nothing in it that
# moves the cursor or turns the direction of writing.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"


def _expect_nothing_private(text: str) -> str:
    if holds_private_data(text):
        raise ValueError(_PRIVATE)
    return text


def _expect_key_ids_only(reason: str) -> str:
    if holds_private_data(reason, allow_key_ids=True):
        raise ValueError(_PRIVATE)
    return reason


def _expect_no_secret(name: str) -> str:
    if holds_secret(name):
        raise ValueError("is a secret, not an id: whoever reads histories and tables would read it")
    return name


_PRIVATE = (
    "holds what looks like a secret or a card number: leave it out, and say `the key` where an access key's id stands"
)
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=_ONE_LINE),
    AfterValidator(_expect_key_ids_only),
]
MAX_NOTES_CHARACTERS = 1_000  # of evidence in words; more is a document, and a document has a place of its own
MAX_QUOTE_CHARACTERS = 500  # as long as a policy line's wording may be
MAX_QUOTES = 16  # two for each line that one question may be judged under
MAX_ANSWER_CHARACTERS = 16_000  # of a model, as it is recorded; the longest that a task accepts is far below
CallStatus = Literal["ok", "invalid_output", "timeout", "failed", "cancelled"]


class Contract(BaseModel):
    """What every model here shares: immutable, and an unknown field is an error."""

    # A value that does not fit is not repeated in the error: it may be a question, and errors reach history and logs.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PolicyRef(Contract):
    """One policy line at one version, such as P-7 at version 1. The version makes an answer repeatable."""

    id: ShortIdentifier
    version: int = Field(ge=1, le=10_000)

    def __str__(self) -> str:
        return f"{self.id}@{self.version}"


class CredentialFacts(Contract):
    """The evidence about one credential, as it was seen at `observed_at`. Unknown stays None: it is never guessed.

    Give the age either as `age_days` or by `last_rotated_at` (for a key that was never rotated, its creation time).
    """

    key_id: Annotated[Identifier, AfterValidator(_expect_no_secret)]
    kind: CredentialKind = "service_account_key"
    stale: bool | None = None
    age_days: Days | None = Field(default=None, ge=0, le=36_500)
    last_rotated_at: Moment | None = None
    last_used_at: Moment | None = None
    never_used: bool = False
    compromised: bool | None = None
    observed_at: Moment
    source: Annotated[ShortIdentifier, AfterValidator(_expect_no_secret)] = "asker"
    # Evidence in words, for policy lines that state their condition in words only. No other line is judged by it.
    notes: (
        Annotated[
            str,
            StringConstraints(max_length=MAX_NOTES_CHARACTERS, pattern=_ONE_LINE),
            AfterValidator(_expect_nothing_private),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.age_days is not None and self.last_rotated_at is not None:
            raise ValueError("give age_days or last_rotated_at, not both")
        for name in ("last_rotated_at", "last_used_at"):
            moment: datetime | None = getattr(self, name)
            if moment is not None and moment > self.observed_at:
                raise ValueError(f"{name} is later than observed_at")
        if self.never_used and self.last_used_at is not None:
            raise ValueError("never_used contradicts last_used_at")
        return self

    @property
    def age(self) -> timedelta | None:
        """How old the credential was when it was observed; None when the evidence does not say."""
        if self.last_rotated_at is not None:
            return self.observed_at - self.last_rotated_at
        return None if self.age_days is None else timedelta(days=self.age_days)

    @property
    def name_by_creation(self) -> str | None:
        """What an access key is called where an export has no key ids: by the second of its creation, in UTC.

        An access key of AWS is never changed, only replaced: its last rotation is its creation. None for other kinds,
        and where the evidence does not say when that was.
        """
        if self.kind != "access_key" or self.last_rotated_at is None:
            return None
        return f"access_key.{self.last_rotated_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    @property
    def unused_for(self) -> timedelta | None:
        """How long it had not been used. A credential that was never used counts from its last rotation."""
        if self.last_used_at is not None:
            return self.observed_at - self.last_used_at
        return self.age if self.never_used else None


# How a user's name is known: by a desk's token, session or reverse proxy; or it was only stated, as on a command line,
# where whoever holds a payload key may write any name.
NameProof = Literal["stated", "token", "session", "proxy", "development"]


class ModelTask(Contract):
    """What every task asks of a model, whichever provider answers: intent, limits, who asked. It grants no action."""

    task: TaskName
    tenant_id: ShortIdentifier = "default"
    user_id: Identifier = "unknown"
    policy_lines: tuple[PolicyRef, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    trace_id: ShortIdentifier
    prompt_version: ShortIdentifier
    # 120 s is the longest that any interactive model call deserves; each task states its own default and why.
    timeout_seconds: float = Field(gt=0, le=120)
    max_retries: int = Field(default=2, ge=0, le=10)
    # Of the policy lines as the caller holds them. A worker that holds other wording refuses the request by name.
    policy_digest: Digest | None = None

    @model_validator(mode="after")
    def _one_version_a_line(self) -> Self:
        if len({line.id for line in self.policy_lines}) != len(self.policy_lines):
            raise ValueError("a policy line is named twice")
        return self


class RotationRequest(ModelTask):
    """The question of this program: may this credential be rotated under these policy lines?"""

    task: Literal["decide_rotation"] = "decide_rotation"
    account_id: Annotated[AccountId, AfterValidator(_expect_no_secret)]
    policy_lines: tuple[PolicyRef, ...] = Field(min_length=1, max_length=MAX_POLICY_LINES)
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    prompt_version: ShortIdentifier = "rotation_decision@2"
    # A person at a support screen waits for this verdict: 20 s is where they would rather be told to come back.
    timeout_seconds: float = Field(default=20.0, gt=0, le=120)
    credential: CredentialFacts
    # `rule`: lines that code can read are decided without a model. It is an operator's choice for a bulk run.
    decide_by: Literal["rule_and_model", "rule"] = "rule_and_model"
    user_proved_by: NameProof = "stated"

    @model_validator(mode="after")
    def _question_holds_nothing_private(self) -> Self:
        """The id of the key itself may stand in it, and no other's: AWS's are half of a key."""
        if holds_private_data(self.question, about=(self.credential.key_id, self.account_id)):
            raise ValueError(f"the question {_PRIVATE}")
        return self


class ProposedDecision(Contract):
    """What a model said, field by field and unchecked. Only `keyturn.policy.grounding` may judge it."""

    decision: JsonValue
    rotation_window_days: JsonValue
    source_line_ids: JsonValue
    # For lines that code cannot read: the words that the answer rests on. Models without such lines leave it out.
    quotes: JsonValue = None


class Quote(Contract):
    """Words of a policy line and of the evidence that a decision rests on, checked letter by letter."""

    line_id: ShortIdentifier
    wording: str = Field(min_length=1, max_length=MAX_QUOTE_CHARACTERS)
    evidence: str = Field(min_length=1, max_length=MAX_QUOTE_CHARACTERS)


# Who agreed on a decision: rule and model; the rule alone, as an operator asked; the rule against the model, until a
# person has settled it; or a model that quoted a line that no rule can read, until a person has approved it.
DecisionBasis = Literal["rule_and_model", "rule", "disagreement", "quotes"]


class GroundedDecision(Contract):
    """The decision that evidence and supplied policy lines support, with the digest that binds it to all of them.

    Attributes:
        decision: of the key.
        rotation_window_days: the strictest window of the binding lines; None if they state none.
        source_lines: for `eligible`, every binding line (every supplied line that holds); for `not_eligible`, every
            line of the key's kind; for `not_specified`, those that would decide it if more were known.
        cited_lines: those that the model cited.
        rotate_by: when the rotation is due, by the strictest reading.
        overdue_by_days: by how many whole days `rotate_by` had passed when it was decided; None if it had not.
        needs_approval: whether a person must approve it.
        approvers: who may approve it.
        any_operator: that any operator who did not ask may approve it, because no line names approvers.
        basis: who agreed on it.
        quotes: what a decision under a line in words only rests on.
        explanation: why, in a sentence of ours.
        decided_at: the time at which the age of the evidence was judged.
        digest: covers tenant, account, evidence, every supplied line, and the decision.
    """

    verdict: Literal["grounded"] = "grounded"
    decision: Decision
    rotation_window_days: int | None = Field(default=None, ge=1, le=36_500)
    source_lines: tuple[PolicyRef, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    cited_lines: tuple[PolicyRef, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    rotate_by: AwareDatetime | None = None
    overdue_by_days: int | None = Field(default=None, ge=0)
    needs_approval: bool = False
    approvers: tuple[Identifier, ...] = Field(default=(), max_length=MAX_APPROVERS)
    any_operator: bool = False
    basis: DecisionBasis = "rule_and_model"
    quotes: tuple[Quote, ...] = Field(default=(), max_length=MAX_QUOTES)
    explanation: str = Field(default="", max_length=1_000)
    decided_at: AwareDatetime | None = None
    digest: Digest


class ModelReading(Contract):
    """What one model answered about a key, as far as it can be repeated: never its own text.

    `decision` is None where the answer was none of the three, or no answer came; `reason` then says why.
    """

    provider: str = Field(max_length=64)
    model: str = Field(max_length=128)
    decision: Decision | None
    reason: str = Field(max_length=64)

    def __str__(self) -> str:
        return f"{self.model}: {self.decision or self.reason}"


class Disagreement(Contract):
    """A key is due by the rule, and no model that was asked says so: a person settles it.

    `supported` is what rule and evidence support, and what an approval lets through; `readings` are the models'.
    """

    verdict: Literal["disagreement"] = "disagreement"
    supported: GroundedDecision
    readings: tuple[ModelReading, ...] = Field(min_length=1, max_length=2)


class Rejection(Contract):
    """Why an answer was not accepted: a code to branch on and a sentence for a person. No model text is repeated."""

    verdict: Literal["rejected"] = "rejected"
    reason: RejectionReason
    explanation: str = Field(max_length=500)


class PassedOver(Contract):
    """A provider of the route that was asked and did not answer, and why."""

    provider: str = Field(max_length=64)
    model: str = Field(max_length=128)
    failure: str = Field(max_length=64)


class CallRecord(Contract):
    """What one model call cost and how it ended. It holds no question, prompt, answer or key.

    `model` is the one that answered, or was asked if none did. A call that the cache answered has `cache_hit`, cost 0.
    """

    trace_id: ShortIdentifier
    tenant_id: ShortIdentifier = "default"
    user_id: Identifier = "unknown"
    task: TaskName
    provider: str = Field(max_length=64)
    model: str = Field(max_length=128)
    asked_model: str | None = Field(default=None, max_length=128)
    prompt_version: ShortIdentifier
    catalogue_version: Digest | None = None
    attempt: int = Field(ge=1)
    status: CallStatus
    failure: str | None = Field(default=None, max_length=64)
    latency_ms: float = Field(ge=0)
    first_byte_ms: float | None = Field(default=None, ge=0)
    input_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    finish_reason: str | None = Field(default=None, max_length=64)
    cost_usd: Decimal | None = None
    cache_hit: bool = False
    request_id: str | None = Field(default=None, max_length=128)
    fingerprint: str | None = Field(default=None, max_length=64)
    passed_over: tuple[PassedOver, ...] = Field(default=(), max_length=16)
    called_at: AwareDatetime | None = None


class Exchange(Contract):
    """What a model was asked and what it said, word for word, for `keyturn explain`. Only encrypted history has it.

    `answer` is cut to its first 16,000 characters; it is what the model said before anything was checked.
    """

    instructions: str
    document: str
    answer: str = Field(max_length=MAX_ANSWER_CHARACTERS)


class Assessment(Contract):
    """What `decide` records in history: the verdict, what it was given for, the exchange, and what the call cost."""

    verdict: Annotated[GroundedDecision | Rejection | Disagreement, Field(discriminator="verdict")]
    catalogue_version: Digest
    request_digest: Digest
    call: CallRecord
    exchange: Exchange | None = None
    # Where the answer contradicted the evidence, and another one was asked for.
    first_call: CallRecord | None = None
    first_exchange: Exchange | None = None


class Instruction(Contract):
    """What a person tells one workflow. It names that workflow, and is refused by any other.

    Also by a later one of the same id: ids are used again. The client that sends it fills both in, see
    `application.answers.addressed`. `first_run_id` is Temporal's own: a reset and a continued run keep it.
    """

    workflow_id: str | None = Field(default=None, max_length=1_000)
    first_run_id: str | None = Field(default=None, max_length=64)


class Approval(Instruction):
    """`approve`: an approver confirms the decision with this digest, which is the one that they saw."""

    approver: Identifier
    proved_by: NameProof = "stated"
    digest: Digest


class Denial(Instruction):
    """`deny`: an approver refuses the decision with this digest."""

    approver: Identifier
    proved_by: NameProof = "stated"
    digest: Digest
    reason: Reason


class Resumption(Instruction):
    """`resume`: somebody has fixed what a parked rotation waited for."""

    operator: Identifier


class Abandonment(Instruction):
    """`abandon`: somebody ends a parked rotation."""

    operator: Identifier
    reason: Reason


class Standing(Contract):
    """What a rotation is at. `until` is when it goes on, or ends, by itself.

    `parked`, `awaiting_approval` and `disagreement` wait for a person: `kind`, `next_step` and `hint` say for what.
    `decision` is the one to approve, and `readings` are the models' answers that contradict it.
    """

    phase: Literal["deciding", "rate_limited", "parked", "awaiting_approval", "disagreement", "creating_job", "ended"]
    request_digest: Digest | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    kind: str | None = Field(default=None, max_length=64)
    next_step: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    requested_by: tuple[Identifier, ...] = ()
    account_id: AccountId | None = None
    key_id: Identifier | None = None
    decision: GroundedDecision | None = None
    readings: tuple[ModelReading, ...] = ()
    # The evidence that the decision is about: who approves it reads it.
    credential: CredentialFacts | None = None


class RotationEvent(Contract):
    """What happened to a rotation on its way, for the audit trail: by whom, when, and what about it."""

    tenant_id: ShortIdentifier
    event: ShortIdentifier
    actor: Identifier
    at: AwareDatetime
    detail: dict[str, str] = Field(default_factory=dict, max_length=8)


class JobOrder(Contract):
    """What `create_rotation_job` is asked to do: a grounded decision, and all that its digest covers.

    `policy_lines` are all that were supplied: the check at the action's own boundary is as complete as the gate.
    """

    tenant_id: ShortIdentifier
    user_id: Identifier
    account_id: AccountId
    credential: CredentialFacts
    policy_lines: tuple[PolicyRef, ...] = Field(min_length=1, max_length=MAX_POLICY_LINES)
    decision: GroundedDecision
    approval: Approval | None = None
    trace_id: ShortIdentifier


# What was done, in names and figures for the audit trail: key ids, request ids, times. Never a secret.
Evidence = dict[
    Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)],
    Annotated[str, StringConstraints(max_length=500, pattern=_ONE_LINE)],
]


JobPriority = Literal["urgent", "normal"]  # urgent: the key is compromised, and its job comes before all others


class ClaimedJob(Contract):
    """A rotation job as whoever carries it out sees it. `token` proves the claim; it is to be given with each word."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    account_id: AccountId
    key_id: Identifier
    credential_kind: CredentialKind
    policy_lines: tuple[str, ...] = ()
    rotation_window_days: int | None = None
    rotate_by: AwareDatetime | None = None
    priority: JobPriority = "normal"
    state: str = Field(max_length=16)
    token: int = Field(ge=0)
    lease_until: AwareDatetime | None = None


class JobMessage(Contract):
    """What a receiver is told of a new job: the `data` of its CloudEvent. Fields are added, never changed."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    idempotency_key: str = Field(max_length=1_000)
    account_id: AccountId
    key_id: Identifier
    credential_kind: CredentialKind
    policy_lines: tuple[str, ...]
    rotation_window_days: int | None
    decision_digest: Digest
    requested_by: Identifier
    approved_by: Identifier | None
    trace_id: ShortIdentifier
    created_at: AwareDatetime
    rotate_by: AwareDatetime | None
    priority: JobPriority = "normal"


class Delivery(Contract):
    """Which job's message is to be delivered."""

    job_id: ShortIdentifier


# An AWS account's number, a project's or a subscription's id.
CloudAccount = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$")]


class KeyRotationOrder(Contract):
    """Which job's access key is to be rotated, and how long the old key stays.

    `overlap` is how long both keys work, for the new secret to be read; `grace` is how long the old one is inactive
    and can be brought back. Both shrink where the job's date is nearer.
    """

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier = "default"
    # Whose executor: a step on any other account changes nothing.
    cloud_account: CloudAccount
    overlap: timedelta = Field(default=timedelta(days=1), ge=timedelta(0), le=timedelta(days=90))
    grace: timedelta = Field(default=timedelta(days=7), ge=timedelta(0), le=timedelta(days=90))


class AccessKeyState(Contract):
    """An access key on its way to be rotated, as each step is told of it. `token` proves the claim on the job."""

    job_id: ShortIdentifier
    tenant_id: ShortIdentifier
    token: int = Field(ge=1)
    cloud_account: CloudAccount
    user: Identifier
    old_key_id: Identifier
    keys_before: tuple[Identifier, ...] = Field(max_length=16)
    new_key_id: Identifier | None = None
    deactivated_at: AwareDatetime | None = None


class KeyRotationOutcome(Contract):
    """How the rotation of an access key ended.

    `superseded`: somebody else closed the job or carries it out; nothing was touched since that was known.
    """

    status: Literal["done", "failed", "rolled_back", "superseded"]
    job_id: ShortIdentifier
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None
    reason: str | None = Field(default=None, max_length=500)


class KeyRotationStanding(Contract):
    """What the rotation of an access key is at; `blocked` is the kind of the failure that it waits with.

    `until` is when it goes on, or tries again, by itself.
    """

    step: str = Field(max_length=32)
    since: AwareDatetime
    until: AwareDatetime | None = None
    blocked: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    user: Identifier | None = None
    old_key_id: Identifier | None = None
    new_key_id: Identifier | None = None


class RunProgress(Contract):
    """How far a bulk run is: how many of its items have which outcome, and what the model calls cost so far.

    `cost_usd` leaves out calls of models without a known price.
    """

    total: int = Field(default=0, ge=0)
    asks: int = Field(default=0, ge=0)
    asked: int = Field(default=0, ge=0)
    outcomes: dict[Annotated[str, StringConstraints(max_length=32)], int] = Field(default_factory=dict, max_length=32)
    cost_usd: Decimal = Decimal(0)


class BulkSource(Contract):
    """An inventory on a disk, and what to ask about it. Of a directory, the file that was written last is taken."""

    path: str = Field(min_length=1, max_length=1_000)
    task: Literal["decide_rotation", "summarize_scan"] = "decide_rotation"
    policies: tuple[ShortIdentifier, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    question: Annotated[str, AfterValidator(_expect_nothing_private)] = Field(
        default="", max_length=MAX_QUESTION_CHARACTERS
    )
    format: ShortIdentifier | None = None  # a source's name; None recognises it
    access_keys: str | None = Field(default=None, max_length=1_000)
    account_id: AccountId | None = None
    observed_at: AwareDatetime | None = None
    always_ask: bool = False
    # Decide lines that code can read without a model.
    by_rule: bool = False
    user_id: Identifier = "unknown"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.task == "decide_rotation" and not (self.policies and self.question):
            raise ValueError("a rotation is decided under policy lines, and by a question")
        if self.by_rule and (self.always_ask or self.task != "decide_rotation"):
            raise ValueError("decided by rule, no key is asked about: leave out --always-ask, and --task")
        return self


# A schedule adds the time to it, and each item its number, and the whole is still a trace id.
RunId = Annotated[ShortIdentifier, StringConstraints(max_length=48)]


class BulkOrder(Contract):
    """A bulk run to be carried out. Its items and its question are in the database, under its id.

    `next_page` is where to go on, counted from 0.
    """

    run_id: RunId
    tenant_id: ShortIdentifier = "default"
    # 50 keys a page: one activity's cost is spread thin, and a killed worker loses at most some calls of one page.
    page_size: int = Field(default=50, ge=1, le=500)
    pages_at_once: int = Field(default=2, ge=1, le=64)
    # A page takes some seven events: this keeps a history at about a tenth of what the server warns of.
    events_a_history: int = Field(default=1_000, ge=50, le=5_000)
    max_usd: Decimal | None = Field(default=None, gt=0)
    # What a schedule's run reads when it fires; None if the items are there already.
    source: BulkSource | None = None
    # Whether the provider's batch endpoint is asked first: within a day, at half the price.
    offline: bool = False
    next_page: int = Field(default=0, ge=0)
    paused: str | None = Field(default=None, max_length=64)


class BulkPage(Contract):
    """Some items of a run: those asked about from `first` to `last`, counted from 1."""

    run_id: ShortIdentifier
    tenant_id: ShortIdentifier
    first: int = Field(ge=1)
    last: int = Field(ge=1)


class OfflineBatch(Contract):
    """Some items of a run that go to a provider's batch endpoint together, counted as in `BulkPage`."""

    run_id: ShortIdentifier
    tenant_id: ShortIdentifier
    number: int = Field(ge=0)
    first: int = Field(ge=1)
    last: int = Field(ge=1)


class BatchCollected(Contract):
    """Whether a provider's batch is still under way; and how many of its answers were accepted."""

    running: bool
    accepted: int = Field(default=0, ge=0)


class PageJudged(Contract):
    """What became of a page. `stopped` is the kind of the failure that says not to go on; its items are left open."""

    progress: RunProgress
    stopped: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)


class RunSettled(Contract):
    """How many rotations of a run have not come to an end or to a person yet."""

    progress: RunProgress
    left: int = Field(ge=0)


class BulkStanding(Contract):
    """What a bulk run is at. `paused` is why it is paused: the kind of a failure, or `by_hand`."""

    phase: Literal["loading", "offline", "judging", "paused", "settling", "ended"]
    progress: RunProgress
    since: AwareDatetime
    paused: str | None = Field(default=None, max_length=64)
    hint: str | None = Field(default=None, max_length=500)
    cancelled: bool = False


class BulkOutcome(Contract):
    """How a bulk run ended."""

    status: Literal["done", "cancelled"]
    run_id: ShortIdentifier
    progress: RunProgress


DraftState = Literal["started", "streaming", "completed", "failed", "cancelled"]
DraftEnding = Literal["completed", "failed", "cancelled"]


class DraftWritten(Contract):
    """A draft at its end, judged as a whole. One that is not approved is shown with the reason, and never sent."""

    text: str = Field(max_length=MAX_ANSWER_CHARACTERS)
    approved: bool
    reason: RejectionReason | None = None
    explanation: str = Field(default="", max_length=500)
    call: CallRecord


class DraftEnd(Contract):
    """How a draft ended, for those who read it. `reason` is the failure's kind, or why the text is not approved."""

    draft_id: str = Field(max_length=256)
    tenant_id: ShortIdentifier
    account_id: AccountId
    requested_by: Identifier
    state: DraftEnding
    written: DraftWritten | None = None
    reason: str | None = Field(default=None, max_length=64)
    explanation: str = Field(default="", max_length=500)


class RotationJob(Contract):
    """The one rotation job of an idempotency key. `created` is False when it was there already.

    `tightened`: the credential had an open job under another key, and this decision, which is stricter, now governs it.
    `rotate_by`: the job's date, where it is another than the order's: a rotation that is decided a second time, on the
    same evidence and a later day, does not move the date of the job that it has.
    """

    job_id: ShortIdentifier
    created: bool
    tightened: bool = False
    rotate_by: AwareDatetime | None = None


class JobCreated(Contract):
    """The key may be rotated and its one job exists; `rotate_by` as of `RotationJob`."""

    status: Literal["job_created"] = "job_created"
    job_id: ShortIdentifier
    created: bool
    tightened: bool = False
    rotate_by: AwareDatetime | None = None
    approved_by: Identifier | None = None
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord

    @property
    def due(self) -> datetime | None:
        """The job's date; None if it has none."""
        return self.rotate_by or self.decision.rotate_by


class NotEligible(Contract):
    """The policy speaks of this key, and says no."""

    status: Literal["not_eligible"] = "not_eligible"
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord


class NotSpecified(Contract):
    """Neither policy nor evidence answers the question."""

    status: Literal["not_specified"] = "not_specified"
    decision: GroundedDecision
    request_digest: Digest
    call: CallRecord


class Rejected(Contract):
    """The model's answer is not supported by the evidence; nothing was done."""

    status: Literal["rejected"] = "rejected"
    reason: RejectionReason
    explanation: str = Field(max_length=500)
    request_digest: Digest
    call: CallRecord


class TimedOut(Contract):
    """The answer did not come in time; asking again is safe."""

    status: Literal["timeout"] = "timeout"
    next_step: Literal["show_retry_option"] = "show_retry_option"


class LimitedUntil(Contract):
    """The user's token limit is used up until `retry_at`; the workflow goes on by itself then."""

    status: Literal["rate_limited"] = "rate_limited"
    next_step: Literal["wait"] = "wait"
    retry_at: AwareDatetime


class WaitingForPerson(Contract):
    """The workflow waits for a person, who fixes something or approves; after `until` it ends by itself."""

    status: Literal["parked", "awaiting_approval", "disagreement"]
    kind: str = Field(max_length=64)
    next_step: str = Field(max_length=64)
    hint: str = Field(max_length=500)
    until: AwareDatetime | None = None
    decision: GroundedDecision | None = None
    readings: tuple[ModelReading, ...] = ()


class Failed(Contract):
    """Something that a person must fix: its kind, and what fixes it."""

    status: Literal["failed"] = "failed"
    kind: str = Field(max_length=64)
    next_step: str = Field(max_length=64)
    hint: str = Field(max_length=500)
    # When asking again can succeed, where that is known: a workflow waits for it by itself, within reason.
    retry_at: AwareDatetime | None = None
    retry_in: float | None = Field(default=None, ge=0)  # the same in seconds: clocks differ, and a wait does not
    # Whether a rotation waits for the person who fixes it, and then goes on, instead of ending.
    parks: bool = False


CompletedOutcome = Annotated[JobCreated | NotEligible | NotSpecified | Rejected, Field(discriminator="status")]
RotationOutcome = Annotated[
    JobCreated | NotEligible | NotSpecified | Rejected | TimedOut | LimitedUntil | WaitingForPerson | Failed,
    Field(discriminator="status"),
]
