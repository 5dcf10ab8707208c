"""A labelled case: a recorded question, what was answered then, and what a person made of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from keyturn.contracts import MAX_ANSWER_CHARACTERS, Contract, Identifier, ShortIdentifier
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Disagreement, GroundedDecision

# `rolled_back`: the rotation was begun, and its old key had to come back. It counts as a person's no.
Label = Literal["eligible", "not_eligible", "rolled_back"]
# What it is known by; a disagreement between rule and model that an approver settled is one of its own.
LabelSource = Literal["approval", "denial", "disagreement", "roll_back"]
AnswerKind = Literal["approved", "denied", "rolled_back"]
LABELS: dict[AnswerKind, Label] = {"approved": "eligible", "denied": "not_eligible", "rolled_back": "rolled_back"}


@dataclass(frozen=True)
class PersonsAnswer:
    """A row of the audit trail in which a person judged a rotation.

    Attributes:
        tenant_id: whose rotation.
        workflow_id: of the rotation, as Temporal has it.
        event_id: of the row; it makes the case unique.
        kind: what was said.
        by: who said it.
        at: when.
        reason: why, where one was given.
        digest: of the decision that was approved or denied; None for a rollback.
        job_id: of the job that was rolled back; None for an approval or denial.
    """

    tenant_id: str
    workflow_id: str
    event_id: str
    kind: AnswerKind
    by: str
    at: datetime
    reason: str | None = None
    digest: str | None = None
    job_id: str | None = None

    @property
    def label(self) -> Label:
        """The label that it gives."""
        return LABELS[self.kind]


class LabelledCase(Contract):
    """A question with its evidence, what rule and model said then, and a person's label.

    Attributes:
        workflow_id: of the rotation, as Temporal has it.
        label: whether the rotation was right.
        source: what the label is known by.
        labelled_by: the person.
        labelled_at: when.
        reason: the person's, where one was given.
        request: the question, as it was asked.
        verdict: what was decided then: the rule's side, and the models' where they disagreed.
        model: who answered, as PROVIDER:MODEL.
        answer: the model's, word for word.
    """

    tenant_id: ShortIdentifier
    workflow_id: str = Field(max_length=1_000)
    event_id: str = Field(max_length=160)
    label: Label
    source: LabelSource
    labelled_by: Identifier
    labelled_at: AwareDatetime
    reason: str | None = Field(default=None, max_length=500)
    request: RotationRequest
    verdict: Annotated[GroundedDecision | Disagreement, Field(discriminator="verdict")]
    model: str = Field(max_length=256)
    answer: str = Field(default="", max_length=MAX_ANSWER_CHARACTERS)

    @property
    def is_due(self) -> bool:
        """Whether the key was to be rotated, by the label."""
        return self.label == "eligible"

    @property
    def supported(self) -> GroundedDecision:
        """What rule and evidence supported then."""
        return self.verdict.supported if isinstance(self.verdict, Disagreement) else self.verdict

    @property
    def lines(self) -> str:
        """The policy lines of the question, by their IDs: what figures are grouped by."""
        return ", ".join(ref.id for ref in self.request.policy_lines)

    @property
    def judged_at(self) -> datetime:
        """When it was decided, by which the age of its evidence is judged again."""
        return self.supported.decided_at or self.request.credential.observed_at
