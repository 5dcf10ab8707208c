"""What a model said (`ProposedDecision`), what the evidence supports (`GroundedDecision`), and what lies between.

The two are separate types on purpose, and neither derives from the other."""

from typing import Literal

from pydantic import AwareDatetime, Field, JsonValue

from keyturn.contracts import (
    MAX_APPROVERS,
    MAX_POLICY_LINES,
    MAX_QUOTE_CHARACTERS,
    MAX_QUOTES,
    Contract,
    Decision,
    Digest,
    Identifier,
    PolicyRef,
    ShortIdentifier,
)

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


class ProposedDecision(Contract):
    """What a model said, field by field and unchecked. Only `keyturn.policy.grounding` may judge it."""

    decision: JsonValue
    # A no needs neither, and some models leave out what they would set to null.
    rotation_window_days: JsonValue = None
    source_line_ids: JsonValue = None
    # For lines that code cannot read: the words that the answer rests on. Models without such lines leave it out.
    quotes: JsonValue = None


class Quote(Contract):
    """Words of a policy line and of the evidence that a decision rests on, checked letter by letter."""

    line_id: ShortIdentifier
    wording: str = Field(min_length=1, max_length=MAX_QUOTE_CHARACTERS)
    evidence: str = Field(min_length=1, max_length=MAX_QUOTE_CHARACTERS)


# Who agreed on a decision: rule and model; the rule alone, as an operator asked; the rule against the model, until a
# person has decided it; or a model that quoted a line that no rule can read, until a person has approved it.
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
        explanation: why, in a fixed sentence.
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
    """A key is due by the rule, and no model that was asked says so: a person decides.

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
