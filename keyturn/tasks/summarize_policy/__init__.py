"""`summarize_policy`: what some policy lines ask for, in plain words. Each figure in it must be the policy's own."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import Field, JsonValue

from keyturn.contracts import MAX_POLICY_LINES, Contract, ModelTask, PolicyRef, ShortIdentifier
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.definition import Section, Task, answer_schema, policy_section, prompts_beside

MAX_SUMMARY_CHARACTERS = 1_200


class PolicySummaryRequest(ModelTask):
    """The policy lines to put in plain words."""

    task: Literal["summarize_policy"] = "summarize_policy"
    policy_lines: tuple[PolicyRef, ...] = Field(min_length=1, max_length=MAX_POLICY_LINES)
    audience: Literal["support", "engineer", "auditor"] = "support"
    prompt_version: ShortIdentifier = "policy_summary@1"
    # A document's summary: the reader sees that it is being made, so a minute is borne.
    timeout_seconds: float = Field(default=60.0, gt=0, le=120)


class ProposedPolicySummary(Contract):
    """What a model said, unchecked."""

    summary: JsonValue
    source_line_ids: JsonValue


class PolicySummary(Contract):
    """A checked summary of exactly the lines asked for."""

    summary: str = Field(min_length=1, max_length=MAX_SUMMARY_CHARACTERS)
    source_lines: tuple[PolicyRef, ...] = Field(min_length=1, max_length=MAX_POLICY_LINES)


def judge(
    proposed: ProposedPolicySummary,
    _request: PolicySummaryRequest,
    lines: Sequence[PolicyLine],
    _at: datetime | None = None,
) -> PolicySummary | Rejection:
    """Return the summary if it covers every line, cites no other, and names no number of days that they do not."""
    from keyturn.tasks import wording  # its patterns take 60 ms to compile: not at a worker's start

    summary, ids = wording.fit_text(proposed.summary, MAX_SUMMARY_CHARACTERS), proposed.source_line_ids
    if isinstance(summary, Rejection):
        return summary
    if not isinstance(ids, list):
        return Rejection(reason="malformed_answer", explanation="The sources are not a list.")
    supplied = {line.id: line for line in lines}
    if any(not isinstance(line_id, str) or line_id not in supplied for line_id in ids):
        return Rejection(reason="unknown_source", explanation="A cited policy line was not among those supplied.")
    if set(supplied) - {str(line_id) for line_id in ids}:
        return Rejection(reason="missing_source", explanation="The summary leaves out a policy line.")
    fault = _fault_of(summary, lines)
    if fault is not None:
        return fault
    return PolicySummary(summary=summary, source_lines=tuple(supplied[name].ref for name in sorted(supplied)))


def _fault_of(summary: str, lines: Sequence[PolicyLine]) -> Rejection | None:
    from keyturn.policy.spans import days_named
    from keyturn.tasks import line_claims, wording  # their patterns take 60 ms to compile: not at a worker's start

    elsewhere = wording.leads_elsewhere(line_claims.without_lines(summary, lines))
    if elsewhere is not None:
        return Rejection(reason=elsewhere, explanation=wording.ELSEWHERE[elsewhere])
    others = days_named(summary) - line_claims.days_supported(lines)
    if others or line_claims.has_figures_of_other_lines(summary, lines):
        return Rejection(
            reason="unsupported_figure", explanation="The summary states a number of days that was not given."
        )
    return None


def _varying(request: PolicySummaryRequest, _lines: Sequence[PolicyLine], _at: datetime | None) -> list[Section]:
    return [("audience", request.audience)]


TASK: Task[PolicySummaryRequest, ProposedPolicySummary, PolicySummary] = Task(
    name="summarize_policy",
    request=PolicySummaryRequest,
    proposal=ProposedPolicySummary,
    answer=PolicySummary,
    schema=answer_schema(summary={"type": "string"}, source_line_ids={"type": "array", "items": {"type": "string"}}),
    stable=policy_section,
    varying=_varying,
    judge=judge,
    max_output_tokens=2_000,
    max_cost_usd=Decimal("0.25"),
    cache_for=timedelta(days=30),  # a policy's wording changes with its version, and that is part of the cache's key
    prompts=prompts_beside(__file__),
)
