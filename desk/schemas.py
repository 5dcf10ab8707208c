"""The desk's requests and answers as JSON."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from keyturn.contracts import (
    MAX_QUESTION_CHARACTERS,
    AccountId,
    CredentialKind,
    Days,
    Decision,
    Digest,
    Identifier,
    Moment,
    Reason,
    ShortIdentifier,
)
from keyturn.drafts.contracts import DraftState
from keyturn.drafts.store import Draft
from keyturn.exposures.contracts import ReportedKey
from keyturn.rotations.decisions import ModelReading


class Body(BaseModel):
    """The body of a request: an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class Ask(Body):
    """May this key be rotated under these policy lines? Facts that are not known are left out."""

    account_id: AccountId
    key_id: Identifier
    policy_lines: list[ShortIdentifier] = Field(min_length=1, max_length=20)
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    kind: CredentialKind = "service_account_key"
    stale: bool | None = None
    compromised: bool | None = None
    age_days: Days | None = Field(default=None, ge=0, le=36_500)
    last_rotated_at: Moment | None = None
    last_used_at: Moment | None = None
    never_used: bool | None = None
    observed_at: Moment | None = Field(
        default=None, description="Time at which the evidence was observed; now if left out."
    )
    source: Identifier | None = None
    again: bool = Field(
        default=False, description="Ask although it was answered; a job that failed or was cancelled gets a successor."
    )


class DecisionDigest(Body):
    """The digest of the decision that the approver saw."""

    digest: Digest


class ApprovalReason(DecisionDigest):
    """The digest of the decision that the approver saw, and why they approve it, if they say so."""

    reason: Reason | None = None


class DenialReason(DecisionDigest):
    """The digest of the decision, and the reason for the denial."""

    reason: Reason


class Why(Body):
    """The reason, one line, for the audit trail."""

    reason: Reason


class ExposedKey(Body):
    """A key that was exposed. Its account and kind are needed only where no inventory and no job knows the key."""

    key_id: Identifier
    account_id: AccountId | None = None
    kind: CredentialKind | None = None
    source: ShortIdentifier = Field(default="reported", description="What found it, such as github or gitleaks.")


class ExposedKeys(BaseModel):
    """The rotations that started for a reported key: one for each account that has a key of this ID."""

    rotations: list[ReportedKey]


class AskDraft(Body):
    """A draft of a reply: to a rotation's asker, or to any question about an account."""

    workflow_id: str | None = Field(default=None, min_length=1, max_length=1_000)
    account_id: AccountId | None = None
    question: str | None = Field(default=None, min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    policy_lines: list[ShortIdentifier] = Field(default_factory=list, max_length=20)


# A moment that is text already: it is passed on as it is, whichever way its offset is written.
WrittenMoment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Rotation(BaseModel):
    """The status of a rotation: its outcome, what it waits for, or `running`. It has the fields that its status has."""

    model_config = ConfigDict(extra="allow")

    workflow_id: str
    status: Literal[
        "job_created", "not_eligible", "not_specified", "waived", "rejected", "failed", "timeout", "running",
        "rate_limited", "parked", "awaiting_approval", "disagreement",
    ]  # fmt: skip
    next_step: str | None = Field(default=None, description="What to do now, such as ask_again_or_inspect.")
    attached: bool | None = Field(default=None, description="Whether the rotation was there before.")
    reason: str | None = Field(default=None, description="Of one that was rejected, failed or waits: the kind of why.")
    explanation: str | None = Field(default=None, description="The same for a person, with what to do.")
    until: WrittenMoment | None = Field(default=None, description="When the wait ends by itself.")
    retry_at: WrittenMoment | None = Field(
        default=None, description="Of a rate-limited one: when it goes on by itself."
    )
    decision: Decision | None = None
    digest: Digest | None = Field(default=None, description="Of the decision: an approval names it.")
    decided_by: str | None = Field(default=None, description="What the decision rests on, such as rule.")
    decision_explanation: str | None = None
    policy_lines: list[str] = Field(default_factory=list, description="Under which the key is due, as ID@VERSION.")
    cited_lines: list[str] = Field(default_factory=list, description="Those that the model cited.")
    rotation_window_days: int | None = None
    rotate_by: WrittenMoment | None = None
    overdue_by_days: int | None = Field(default=None, description="Whole days past that date; null if it is not.")
    approvers: list[str] = Field(default_factory=list, description="Who may decide on one that waits.")
    any_operator: bool | None = Field(default=None, description="Whether every operator who did not ask may decide.")
    readings: list[ModelReading] = Field(default_factory=list, description="Of a disagreement: what the models said.")
    job_id: str | None = None
    job_state: str | None = None
    created: bool | None = Field(default=None, description="Whether this rotation created the job; else it was there.")
    tightened: bool | None = Field(default=None, description="Whether a job that was there got an earlier date.")
    approved_by: str | None = None


class DraftStatus(BaseModel):
    """The current text and state of a draft. Only an approved draft may be sent, by a person."""

    draft_id: str
    state: DraftState
    generation: int
    text: str
    approved: bool | None
    reason: str | None
    explanation: str | None


class Line(BaseModel):
    """A policy line."""

    id: str
    version: int
    wording: str
    applies_to: list[str]
    window_days: int | None


class LineList(BaseModel):
    """The policy lines of the desk's catalogue."""

    policy_lines: list[Line]


class DecisionChoice(Body):
    """A rotation, and the digest of its decision as the approver saw it."""

    workflow_id: str = Field(min_length=1, max_length=1_000)
    digest: Digest


class Decisions(Body):
    """One decision on several rotations."""

    decision: Literal["approve", "deny"]
    choices: list[DecisionChoice] = Field(min_length=1, max_length=50)
    reason: Reason | None = Field(default=None, description="Required for a denial.")

    @model_validator(mode="after")
    def _denial_has_a_reason(self) -> Self:
        if self.decision == "deny" and self.reason is None:
            raise ValueError("a denial needs a reason")
        return self


class DecisionOutcome(BaseModel):
    """What became of one choice; `problem` is null if the decision was taken."""

    workflow_id: str
    problem: str | None


class DecisionList(BaseModel):
    """What became of each choice."""

    results: list[DecisionOutcome]


def draft_status(draft: Draft) -> DraftStatus:
    """Return a draft as JSON has it."""
    return DraftStatus(**{name: getattr(draft, name) for name in DraftStatus.model_fields})


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON has it."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def in_path(identifier: str) -> str:
    """Return an id as written in a path: a name in it may contain a slash, written as %2F."""
    return quote(identifier, safe=":@")
