"""The proof of an answer: what a model proposed, held against the evidence and the lines that it was given. Pure.

Every refusal has a reason code. The explanations repeat nothing that a model wrote, because model text may hold
anything, and a recorded explanation is read by people.
"""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from keyturn.canonical import digest_of
from keyturn.contracts import (
    CredentialFacts,
    Decision,
    GroundedDecision,
    JobOrder,
    ProposedDecision,
    Rejection,
    RotationRequest,
)
from keyturn.errors import ApprovalInvalid, DigestMismatch
from keyturn.policy.applicability import applies, due
from keyturn.policy.catalogue import Catalogue, PolicyLine

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
        source_lines=tuple(line.ref for line in cited),
        rotate_by=min(deadlines) if deadlines and decision == "eligible" else None,
        needs_approval=decision == "eligible" and _asks_for_approval(cited),
        approvers=_approvers(cited) if decision == "eligible" else (),
        digest=_digest(request.tenant_id, request.account_id, request.credential, decision, window, cited),
    )


def confirm(order: JobOrder, catalogue: Catalogue) -> None:
    """Check at the action's own boundary that an order's digest is the one that policy and evidence bear out now.

    Raises:
        UnknownPolicyLine: a cited line is not held at the cited version any more.
        DigestMismatch: policy, evidence or decision differ from those of the verdict.
        ApprovalInvalid: a cited line asks for an approval, and this order has none that counts.
    """
    decision = order.decision
    lines = catalogue.resolve(decision.source_lines)
    expected = _digest(
        order.tenant_id, order.account_id, order.credential, decision.decision, decision.rotation_window_days, lines
    )
    if expected != decision.digest:
        raise DigestMismatch("the decision's digest does not match the evidence and the policy held now")
    if decision.decision != "eligible" or not lines or not all(applies(line, order.credential) for line in lines):
        raise DigestMismatch("the decision does not allow a rotation of this credential")
    if _asks_for_approval(lines):
        _confirm_approval(order, _approvers(lines))


def request_digest(request: RotationRequest) -> str:
    """Return what makes two requests the same question: who, which key, which lines, and the facts in whole days.

    The time of observation and the wording of the question are left out, so that a second click is the same request; a
    key that has aged by a day is not.
    """
    facts = request.credential
    return digest_of(
        {
            "tenant": request.tenant_id,
            "account": request.account_id,
            "lines": sorted(str(ref) for ref in request.policy_lines),
            "key": facts.key_id,
            "kind": facts.kind,
            "stale": facts.stale,
            "compromised": facts.compromised,
            "never_used": facts.never_used,
            "age_days": facts.age.days if facts.age is not None else None,
            "unused_days": facts.unused_for.days if facts.unused_for is not None else None,
        }
    )


def _asks_for_approval(lines: Sequence[PolicyLine]) -> bool:
    return any(line.approval == "required" for line in lines)


def _approvers(lines: Sequence[PolicyLine]) -> tuple[str, ...]:
    """Who may approve under every line that asks for it: the strictest reading where several do."""
    lists = [set(line.approvers) for line in lines if line.approval == "required"]
    return tuple(sorted(set.intersection(*lists))) if lists else ()


def _confirm_approval(order: JobOrder, approvers: Sequence[str]) -> None:
    approval = order.approval
    if approval is None or approval.digest != order.decision.digest:
        raise ApprovalInvalid("the decision comes without an approval of it")
    if approval.approver not in approvers or approval.approver == order.user_id:
        raise ApprovalInvalid("the approval is not by an approver of the policy line, or is the requester's own")


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
