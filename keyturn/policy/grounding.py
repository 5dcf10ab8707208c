"""The gate: an answer is accepted only if it equals what evidence and all supplied policy lines support. Pure.

Every refusal has a reason code. The explanations repeat nothing that a model wrote, because model text may hold
anything, and operators read a recorded explanation.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import JsonValue

from keyturn.canonical import digest_of
from keyturn.contracts import MAX_QUOTES, CredentialFacts, Decision
from keyturn.people import is_among, same_form
from keyturn.policy.applicability import CLOCK_SKEW
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import ApprovalInvalid, DigestMismatch
from keyturn.policy.line import PolicyLine, digest_of_line
from keyturn.policy.quotes import quotes_hold
from keyturn.policy.support import Support, explain, support_of, with_binding
from keyturn.rotations.contracts import JobOrder, RotationRequest
from keyturn.rotations.decisions import (
    DecisionBasis,
    Disagreement,
    GroundedDecision,
    ModelReading,
    ProposedDecision,
    Quote,
    Rejection,
)

_DECISIONS: Mapping[str, Decision] = {
    "eligible": "eligible",
    "not_eligible": "not_eligible",
    "not_specified": "not_specified",
}


class Answer(NamedTuple):
    """A model's answer of the right form: it may still be wrong. `cited` are ids of supplied lines."""

    decision: Decision
    window_days: int | None
    cited: frozenset[str]


def ground(
    proposed: ProposedDecision, request: RotationRequest, lines: Sequence[PolicyLine], at: datetime | None = None
) -> GroundedDecision | Rejection:
    """Judge `proposed` against the evidence in `request` and all policy lines that were supplied with it.

    Args:
        proposed: the model's answer, unchecked.
        request: the question with its evidence.
        lines: the lines that the model was given, at the versions that the request names.
        at: when it is decided; None for the evidence's own time.
    """
    support = support_of(lines, request.credential, at)
    # Before the form: a no on a due key is asked once more, whatever else is wrong with it.
    if (contradiction := _contradiction(decision_of(proposed), support)) is not None:
        return contradiction
    answer = read_answer(proposed, support)
    if isinstance(answer, Rejection):
        return answer
    quoted = _quoted_lines(answer, support)
    if not quoted:
        return fault_of(answer, support) or _grounded_decision(support, request, at, "rule_and_model", answer)
    # Lines in words only: they apply as far as the model quotes the evidence for them, and a person decides.
    quotes = _quotes(proposed.quotes)
    if quotes is None or not quotes_hold(quotes, quoted, request.credential):
        return Rejection(
            reason="unsupported_quote",
            explanation="A policy line whose condition is text needs verbatim quotes of its wording and of the "
            "evidence; these are not verbatim.",
        )
    extended = _with_quoted(support, quoted, request.credential, at)
    fault = fault_of(answer, extended)
    return fault or _grounded_decision(extended, request, at, "quotes", answer, quotes)


def decide_by_rule(
    request: RotationRequest,
    lines: Sequence[PolicyLine],
    at: datetime | None = None,
    basis: Literal["rule", "disagreement"] = "rule",
) -> GroundedDecision:
    """Return what the rules alone decide; as one side of a disagreement, it needs a person's approval."""
    return _grounded_decision(support_of(lines, request.credential, at), request, at, basis)


def disagree(
    request: RotationRequest, lines: Sequence[PolicyLine], readings: Sequence[ModelReading], at: datetime | None = None
) -> Disagreement:
    """Return the disagreement of the rules with `readings` on a key that is due."""
    return Disagreement(supported=decide_by_rule(request, lines, at, "disagreement"), readings=tuple(readings[-2:]))


def is_rule_readable(request: RotationRequest, lines: Sequence[PolicyLine]) -> bool:
    """Return True if code can read the condition of every line that covers the credential."""
    return not support_of(lines, request.credential).in_words_only


def fault_of(answer: Answer, support: Support) -> Rejection | None:
    """Return why `answer` is not what is supported; None if it is."""
    if answer.decision == "eligible":
        return _fault_of_yes(answer, support)
    return _fault_of_no(answer, support)


def confirm(order: JobOrder, catalogue: Catalogue) -> None:
    """Check at the action's own boundary that an order is what policy and evidence support now.

    Raises:
        UnknownPolicyLine: the catalogue no longer has a supplied line at its version.
        DigestMismatch: policy, evidence or decision differ from those of the verdict.
        ApprovalInvalid: the decision needs an approval, and this order has none that counts.
    """
    decision = order.decision
    lines = catalogue.resolve(order.policy_lines)
    at = decision.decided_at
    support = support_of(lines, order.credential, at)
    if decision.basis == "quotes":
        bound = {ref.id for ref in decision.source_lines}
        quoted = [line for line in support.in_words_only if line.id in bound]
        if not quoted or not quotes_hold(decision.quotes, quoted, order.credential):
            raise DigestMismatch("the decision's quotes are not from the policy and the evidence")
        support = _with_quoted(support, quoted, order.credential, at)
    expected = _decision_fields(
        support, order.tenant_id, order.account_id, order.credential, decision.basis, decision.quotes
    )
    if any(getattr(decision, name) != value for name, value in expected.items()):
        raise DigestMismatch("the decision's digest does not match the current evidence and policy")
    if decision.decision != "eligible" or decision.rotate_by != support.rotate_by:
        raise DigestMismatch("the decision does not allow a rotation of this credential")
    if decision.needs_approval:
        _confirm_approval(order)


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
            "notes": facts.notes,
        }
    )


def read_answer(proposed: ProposedDecision, support: Support) -> Answer | Rejection:
    """Return the answer if its fields have the form that they must have, and cite supplied lines only."""
    decision = decision_of(proposed)
    if decision is None:
        return Rejection(
            reason="decision_not_allowed",
            explanation="The decision is none of eligible, not_eligible and not_specified.",
        )
    window = proposed.rotation_window_days
    # `True` is an int to Python, and 30.0 equals 30: the window must be written as a whole number.
    if window is not None and type(window) is not int:
        return Rejection(reason="window_not_an_integer", explanation="The rotation window is not a whole number.")
    ids = cited_lines(proposed.source_line_ids, [one.line for one in support.readings])
    return ids if isinstance(ids, Rejection) else Answer(decision, window, ids)


def cited_lines(said: JsonValue, lines: Sequence[PolicyLine]) -> frozenset[str] | Rejection:
    """Return the IDs of the lines that a model cites, however it spells them; a Rejection if one was not supplied.

    A line is known by its ID in any letters and dashes, with the version that was supplied, and a stop behind it.
    """
    cited = [] if said is None else [said] if isinstance(said, str) else said
    if not isinstance(cited, list) or not all(isinstance(line_id, str) for line_id in cited):
        return Rejection(reason="unknown_source", explanation="The cited policy lines are not a list of IDs.")
    by_name: dict[str, set[str]] = {}
    for line in lines:
        for name in (line.id, str(line.ref)):
            by_name.setdefault(_folded(name), set()).add(line.id)
    known = {line.id for line in lines}
    # As it is written first: two lines may differ in their letters alone.
    found = [{str(one)} if one in known else by_name.get(_folded(str(one)), set()) for one in cited]
    if any(len(one) != 1 for one in found):
        return Rejection(reason="unknown_source", explanation="A cited policy line was not among those supplied.")
    return frozenset(name for one in found for name in one)


def _folded(name: str) -> str:
    """Return an ID as it is compared: models write other dashes, capitals, and the full stop of their sentence."""
    return _DASHES.sub("-", unicodedata.normalize("NFKC", name)).strip().rstrip(".,;:").casefold()


_DASHES = re.compile("[\u2010-\u2015\u2212]")


def decision_of(proposed: object) -> Decision | None:
    """Return the decision that a model proposed, if it is one of the three; None for anything else.

    Capitals, blanks and dashes are no other decision.
    """
    said = proposed.decision if isinstance(proposed, ProposedDecision) else None
    return _DECISIONS.get(re.sub(r"[\s-]+", "_", said.strip().casefold())) if isinstance(said, str) else None


def _fault_of_yes(answer: Answer, support: Support) -> Rejection | None:
    if not answer.cited:
        return Rejection(reason="missing_source", explanation="An eligible decision cites no policy line.")
    binding = {line.id: line for line in support.binding}
    for one in support.readings:
        if one.line.id in answer.cited and one.line.id not in binding:
            return Rejection(
                reason="rule_not_applicable",
                explanation=f"The evidence does not meet the condition of the cited line {one.line.ref}.",
            )
    cited = [line.window_days for name, line in binding.items() if name in answer.cited]
    # Where several lines bind, the strictest window does, whichever of them the model cites; and the earliest date.
    states_it = support.window_days is None or support.window_days in cited
    states_it = states_it and (not support.first_due or not answer.cited.isdisjoint(support.first_due))
    if answer.window_days != support.window_days:
        own = min((days for days in cited if days is not None), default=None)
        if not states_it and answer.window_days == own:
            return _INCOMPLETE
        stated = "no window" if support.window_days is None else f"a window of {support.window_days} days"
        names = ", ".join(str(line.ref) for line in support.binding)
        return Rejection(
            reason="unsupported_window",
            explanation=f"The binding policy ({names}) states {stated}; the answer claims another."[:500],
        )
    return None if states_it else _INCOMPLETE


_INCOMPLETE = Rejection(
    reason="incomplete_sources",
    explanation="A stricter policy line applies as well, and the answer does not cite the line with the strictest "
    "window, or the earliest date.",
)


def _contradiction(decision: Decision | None, support: Support) -> Rejection | None:
    """Return the rejection of an answer that allows no rotation of a key that is due; None for any other answer."""
    if decision in {None, "eligible"} or support.decision != "eligible":
        return None
    names = ", ".join(str(line.ref) for line in support.binding)
    return Rejection(
        reason="contradicts_evidence",
        explanation=f"The answer allows no rotation, and the evidence meets the condition of {names}."[:500],
    )


def _fault_of_no(answer: Answer, support: Support) -> Rejection | None:
    if (contradiction := _contradiction(answer.decision, support)) is not None:
        return contradiction
    if answer.window_days is not None:
        return Rejection(
            reason="unexpected_window", explanation="The answer allows no rotation, and states a rotation window."
        )
    if answer.decision == support.decision:
        return None
    stated = (
        "The answer says that the policy requires no rotation, and the evidence leaves that open."
        if support.decision == "not_specified"
        else "The answer says that a fact is unknown, and the evidence states every fact that the policy needs."
    )
    return Rejection(reason="unsupported_no", explanation=stated)


def _quoted_lines(answer: Answer, support: Support) -> list[PolicyLine]:
    """Return the lines in words only that an eligible answer cites."""
    if answer.decision != "eligible":
        return []
    return [line for line in support.in_words_only if line.id in answer.cited]


def _quotes(raw: JsonValue) -> tuple[Quote, ...] | None:
    if not isinstance(raw, list) or len(raw) > MAX_QUOTES:
        return None
    try:
        return tuple(Quote.model_validate(one) for one in raw)
    except ValueError:
        return None


def _with_quoted(
    support: Support, quoted: Sequence[PolicyLine], facts: CredentialFacts, at: datetime | None
) -> Support:
    """Return the support under which the quoted lines apply as well.

    Where a line holds by rule, that alone says who approves: a quoted line may make the date earlier, and no more.
    """
    ids = {line.id for line in (*support.binding, *quoted)}
    found = with_binding([one.line for one in support.readings if one.line.id in ids], support.readings, facts, at)
    return found._replace(approval=support.approval, approvers=support.approvers) if support.binding else found


def _grounded_decision(
    support: Support,
    request: RotationRequest,
    at: datetime | None,
    basis: DecisionBasis,
    answer: Answer | None = None,
    quotes: tuple[Quote, ...] = (),
) -> GroundedDecision:
    facts = request.credential
    decided = _decision_fields(support, request.tenant_id, request.account_id, facts, basis, quotes)
    is_yes = support.decision == "eligible"
    rotate_by = support.rotate_by if is_yes else None
    late = None if rotate_by is None else (at or facts.observed_at) - rotate_by
    cited = () if answer is None else tuple(one.line.ref for one in support.readings if one.line.id in answer.cited)
    return GroundedDecision(
        **decided,
        cited_lines=cited,
        rotate_by=rotate_by,
        overdue_by_days=None if late is None or late.total_seconds() <= 0 else late.days,
        basis=basis,
        quotes=quotes,
        explanation=explain(support, facts, at),
        decided_at=at,
    )


def _decision_fields(
    support: Support,
    tenant_id: str,
    account_id: str,
    facts: CredentialFacts,
    basis: DecisionBasis,
    quotes: Sequence[Quote],
) -> dict[str, object]:
    """What of a decision follows from support and basis alone, by the names of `GroundedDecision`.

    `confirm` computes it anew: a decision that states anything else is not the one that is supported.
    """
    is_yes = support.decision == "eligible"
    window = support.window_days if is_yes else None
    # Beside a line that holds by rule, a quoted one adds no condition: words in notes would take a due key away.
    rests_on_quotes = basis == "quotes" and all(one.status != "holds" for one in support.readings)
    by_person = is_yes and (support.approval != "nobody" or basis == "disagreement" or rests_on_quotes)
    refs = support.decided_under
    covered = {
        "tenant": tenant_id,
        "account": account_id,
        "evidence": facts.model_dump_json(),  # its fields in their declared order: quicker than sorting them
        "decision": support.decision,
        "window_days": window,
        "binding": [str(ref) for ref in refs],
        "basis": basis,
        "quotes": [quote.model_dump() for quote in quotes],
        "lines": [digest_of_line(one.line) for one in support.readings],
    }
    return {
        "decision": support.decision,
        "rotation_window_days": window,
        "source_lines": refs,
        "needs_approval": by_person,
        "approvers": support.approvers if is_yes else (),
        "any_operator": by_person and support.approval != "listed",
        "digest": digest_of(covered),
    }


def _confirm_approval(order: JobOrder) -> None:
    approval, decision = order.approval, order.decision
    if approval is None or approval.digest != decision.digest:
        raise ApprovalInvalid("the decision has no approval")
    is_named = decision.any_operator or is_among(approval.approver, decision.approvers)
    if not is_named or same_form(approval.approver) == same_form(order.user_id):
        raise ApprovalInvalid("the approver is no approver of the policy line, or is the asker")


def observed_in_future(facts: CredentialFacts, now: datetime) -> bool:
    """Return True if the evidence was seen later than now, by more than clocks differ."""
    return facts.observed_at > now + CLOCK_SKEW
