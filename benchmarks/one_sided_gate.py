"""The gate that stood before: it looked at a yes, and at the lines that were cited. Today's is measured against it.

It accepts a wrong no and leaves out lines that the model does not cite: it is here to be measured, and only for that.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import JsonValue

from keyturn.canonical import digest_of
from keyturn.contracts import CredentialFacts, Decision, PolicyRef
from keyturn.policy.line import PolicyLine, Rule, WhenCompromised, WhenOlder, WhenStale, WhenUnused
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision, Rejection

_DECISIONS: Mapping[str, Decision] = {
    "eligible": "eligible",
    "not_eligible": "not_eligible",
    "not_specified": "not_specified",
}


def ground(
    proposed: ProposedDecision, request: RotationRequest, lines: Sequence[PolicyLine]
) -> GroundedDecision | Rejection:
    """Judge `proposed` against the evidence in `request` and the policy lines that were supplied with it.

    Args:
        proposed: the model's answer, unchecked.
        request: the question with its evidence.
        lines: the lines that the model was given, at the versions that the request names.
    """
    decision = _DECISIONS.get(proposed.decision) if isinstance(proposed.decision, str) else None
    if decision is None:
        return Rejection(
            reason="decision_not_allowed",
            explanation="The decision is none of eligible, not_eligible and not_specified.",
        )
    window = proposed.rotation_window_days
    # `True` is an int to Python, and 30.0 equals 30: the window must be written as a whole number.
    if window is not None and type(window) is not int:
        return Rejection(reason="window_not_an_integer", explanation="The rotation window is not a whole number.")
    cited = _cited_lines(proposed.source_line_ids, lines)
    if isinstance(cited, Rejection):
        return cited
    fault = _fault_of_eligible(window, cited, request.credential) if decision == "eligible" else _fault_of_no(window)
    if fault is not None:
        return fault
    deadlines = [moment for line in cited if (moment := due(line, request.credential)) is not None]
    return GroundedDecision(
        decision=decision,
        rotation_window_days=window,
        source_lines=tuple(PolicyRef(id=line.id, version=line.version) for line in cited),
        rotate_by=min(deadlines) if deadlines and decision == "eligible" else None,
        needs_approval=decision == "eligible" and _asks_for_approval(cited),
        approvers=_approvers(cited) if decision == "eligible" else (),
        digest=_digest(request.tenant_id, request.account_id, request.credential, decision, window, cited),
    )


def _asks_for_approval(lines: Sequence[PolicyLine]) -> bool:
    return any(line.approval == "required" for line in lines)


def _approvers(lines: Sequence[PolicyLine]) -> tuple[str, ...]:
    """Who may approve under every line that asks for it: the strictest reading where several do."""
    lists = [set(line.approvers) for line in lines if line.approval == "required"]
    return tuple(sorted(set.intersection(*lists))) if lists else ()


def _cited_lines(cited: JsonValue, lines: Sequence[PolicyLine]) -> tuple[PolicyLine, ...] | Rejection:
    if not isinstance(cited, list) or not all(isinstance(line_id, str) for line_id in cited):
        return Rejection(reason="unknown_source", explanation="The cited policy lines are not a list of ids.")
    supplied = {line.id: line for line in lines}
    if any(line_id not in supplied for line_id in cited):
        return Rejection(reason="unknown_source", explanation="A cited policy line was not among those supplied.")
    return tuple(supplied[line_id] for line_id in sorted({str(line_id) for line_id in cited}))


def _fault_of_eligible(window: int | None, cited: Sequence[PolicyLine], facts: CredentialFacts) -> Rejection | None:
    if not cited:
        return Rejection(reason="missing_source", explanation="An eligible decision cites no policy line.")
    for line in cited:
        if not applies(line, facts):
            return Rejection(
                reason="rule_not_applicable",
                explanation=f"The evidence does not meet the condition of the cited line {line.ref}.",
            )
    # Where several lines bear the decision, the strictest window binds.
    windows = [line.window_days for line in cited if line.window_days is not None]
    expected = min(windows) if windows else None
    if window != expected:
        stated = "no window" if expected is None else f"a window of {expected} days"
        names = ", ".join(str(line.ref) for line in cited)
        return Rejection(
            reason="unsupported_window",
            explanation=f"The cited policy ({names}) states {stated}; the answer claims another.",
        )
    return None


def _fault_of_no(window: int | None) -> Rejection | None:
    if window is None:
        return None
    return Rejection(
        reason="unexpected_window", explanation="A decision that allows no rotation claims a rotation window."
    )


def _digest(
    tenant_id: str,
    account_id: str,
    facts: CredentialFacts,
    decision: Decision,
    window: int | None,
    cited: Sequence[PolicyLine],
) -> str:
    return digest_of(
        {
            "tenant": tenant_id,
            "account": account_id,
            "evidence": facts.model_dump(mode="json"),
            "decision": decision,
            "window_days": window,
            "lines": [line.model_dump(mode="json") for line in sorted(cited, key=lambda line: line.id)],
        }
    )


def applies(line: PolicyLine, facts: CredentialFacts) -> bool:
    """Return True if `line` covers this kind of credential and its condition is met by the evidence.

    What the evidence does not say is not met: no rotation may rest on an unknown.
    """
    return facts.kind in line.applies_to and _is_met(line.rule, facts)


def due(line: PolicyLine, facts: CredentialFacts) -> datetime | None:
    """Return until when `line` wants the credential rotated; None if it states no window.

    A window on age or disuse counts from the last rotation or use, so it has usually passed by the time the line
    applies. Any other window counts from the evidence that started it.
    """
    if line.window_days is None:
        return None
    match line.rule:
        case WhenOlder():
            elapsed = facts.age
        case WhenUnused():
            elapsed = facts.unused_for
        case _:
            elapsed = None
    return facts.observed_at - (elapsed or timedelta(0)) + timedelta(days=line.window_days)


def _is_met(rule: Rule, facts: CredentialFacts) -> bool:
    match rule:
        case WhenStale():
            return facts.stale is True
        case WhenCompromised():
            return facts.compromised is True
        case WhenOlder():
            return _is_past(rule, facts.age)
        case WhenUnused():
            return _is_past(rule, facts.unused_for)
        case _:
            return False


def _is_past(rule: WhenOlder | WhenUnused, elapsed: timedelta | None) -> bool:
    if elapsed is None:
        return False
    if rule.truncation == "whole_days":
        elapsed = timedelta(days=elapsed.days)
    edge = timedelta(days=rule.days)
    return elapsed >= edge if rule.operator == ">=" else elapsed > edge
