"""What crosses Temporal for a rotation: the request, the assessment, persons' responses, and the status."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from keyturn.calls import CallRecord, Exchange
from keyturn.contracts import (
    HOLDS_PRIVATE_DATA,
    MAX_POLICY_LINES,
    MAX_QUESTION_CHARACTERS,
    AccountId,
    Contract,
    CredentialFacts,
    CredentialKind,
    Digest,
    Identifier,
    ModelTask,
    NameProof,
    Owner,
    PolicyRef,
    Reason,
    ShortIdentifier,
    expect_no_secret,
)
from keyturn.private_data import holds_private_data
from keyturn.rotations.decisions import Disagreement, GroundedDecision, ModelReading, Rejection
from keyturn.waivers.contracts import AppliedWaiver


class RotationRequest(ModelTask):
    """The question of this program: may this credential be rotated under these policy lines?"""

    task: Literal["decide_rotation"] = "decide_rotation"
    account_id: Annotated[AccountId, AfterValidator(expect_no_secret)]
    policy_lines: tuple[PolicyRef, ...] = Field(min_length=1, max_length=MAX_POLICY_LINES)
    question: str = Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)
    prompt_version: ShortIdentifier = "rotation_decision@2"
    # A user at a support screen waits for this verdict: after 20 s they would rather come back later.
    timeout_seconds: float = Field(default=20.0, gt=0, le=120)
    credential: CredentialFacts
    # `rule`: lines that code can read are decided without a model. It is an operator's choice for a bulk run.
    decide_by: Literal["rule_and_model", "rule"] = "rule_and_model"
    # A job of this rotation that failed or was cancelled before it started gets a successor.
    again: bool = False
    # Since when: a copy of this request, sent to Temporal later, replaces no job that was ordered after it.
    asked_again_at: AwareDatetime | None = None
    # Who owns the key by the inventory that it came from, where that says so.
    owner: Owner | None = None
    user_proved_by: NameProof = "stated"
    # See `Assessment`.
    first_run_id: str | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _question_holds_nothing_private(self) -> Self:
        """The id of the key itself may occur in it, and no other's: AWS's are half of a key."""
        if holds_private_data(self.question, about=(self.credential.key_id, self.account_id)):
            raise ValueError(f"the question {HOLDS_PRIVATE_DATA}")
        return self


class Assessment(Contract):
    """What `decide` records in history: the verdict, what it was given for, the exchange, and what the call cost."""

    verdict: Annotated[GroundedDecision | Rejection | Disagreement, Field(discriminator="verdict")]
    catalogue_version: Digest
    request_digest: Digest
    call: CallRecord
    exchange: Exchange | None = None
    # What exempts the key, if it is due and exempt.
    waiver: AppliedWaiver | None = None
    # Where the answer contradicted the evidence, and another one was asked for.
    first_call: CallRecord | None = None
    first_exchange: Exchange | None = None
    # Temporal's ID of the asking workflow's first run: an answer that an earlier workflow of its ID got is refused.
    first_run_id: str | None = Field(default=None, max_length=64)


class Instruction(Contract):
    """A person's instruction to one workflow. It names that workflow, and is refused by any other.

    Also by a later one of the same id: ids are used again. The client that sends it fills both in, see
    `application.answers.address_instruction`. `first_run_id` is Temporal's own: a reset and a continued run keep it.
    """

    workflow_id: str | None = Field(default=None, max_length=1_000)
    first_run_id: str | None = Field(default=None, max_length=64)


class Approval(Instruction):
    """`approve`: an approver confirms the decision with this digest, which is the one that they saw."""

    approver: Identifier
    proved_by: NameProof = "stated"
    digest: Digest
    reason: Reason | None = None


class Denial(Instruction):
    """`deny`: an approver refuses the decision with this digest."""

    approver: Identifier
    proved_by: NameProof = "stated"
    digest: Digest
    reason: Reason


class Resumption(Instruction):
    """`resume`: what a parked rotation waited for has been fixed."""

    operator: Identifier


class Abandonment(Instruction):
    """`abandon`: an operator ends a parked rotation."""

    operator: Identifier
    reason: Reason


class RotationStatus(Contract):
    """A rotation's status. `until` is when it resumes, or ends, by itself.

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


class RotationSubject(Contract):
    """What a rotation is about, for lists: a list has no request, and an id may hold pseudonyms."""

    account_id: AccountId
    key_id: Identifier
    kind: CredentialKind
    requested_by: Identifier
    owner: Owner | None = None


class RotationEvent(Contract):
    """What happened to a rotation on its way, for the audit trail: by whom, when, and what about it."""

    tenant_id: ShortIdentifier
    event: ShortIdentifier
    actor: Identifier
    at: AwareDatetime
    detail: dict[str, str] = Field(default_factory=dict, max_length=8)
    # What the rotation is about, for those who are notified of it.
    account_id: AccountId | None = None
    key_id: Identifier | None = None
    owner: Owner | None = None


JobPriority = Literal["urgent", "normal"]  # urgent: the key is compromised, and its job comes before all others


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
    # By the inventory; who owns the key when its job is created is looked up then.
    owner: Owner | None = None
    recorded_owner: Owner | None = None
    # A job of this rotation that was ordered before, and failed or was cancelled, is replaced; None replaces none.
    replaces_before: AwareDatetime | None = None
    # See `Assessment`.
    first_run_id: str | None = Field(default=None, max_length=64)
