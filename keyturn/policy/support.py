"""What evidence and policy lines support: the one reading of *all* supplied lines that everything else follows. Pure.

- A line holds: only `eligible` is supported. Every line that holds binds.
- None holds, and something that would decide it is not known: only `not_specified`.
- All is known and none holds: only `not_eligible`.
- No supplied line covers the kind of credential: only `not_specified`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from keyturn.contracts import CredentialFacts, Decision, PolicyRef
from keyturn.people import is_among
from keyturn.policy.applicability import Cause, Reading, due, read
from keyturn.policy.line import PolicyLine, WhenUnused

# nobody: no approval is needed. listed: one of `approvers`. operator: any operator who did not ask.
ApprovalBy = Literal["nobody", "listed", "operator"]


class Support(NamedTuple):
    """What evidence and supplied lines support about one credential.

    Attributes:
        decision: the only decision that is supported.
        readings: each supplied line, by id, with whether it holds.
        binding: every line that holds.
        window_days: the strictest window of the binding lines; None if they state none.
        rotate_by: the earliest time by which a binding line wants the rotation; None if none states one.
        first_due: the ids of the binding lines that state that time.
        approval: who must approve a rotation.
        approvers: those in the list of every binding line that asks for an approval.
    """

    decision: Decision
    readings: tuple[Reading, ...]
    binding: tuple[PolicyLine, ...]
    window_days: int | None
    rotate_by: datetime | None
    first_due: frozenset[str]
    approval: ApprovalBy
    approvers: tuple[str, ...]

    @property
    def in_words_only(self) -> tuple[PolicyLine, ...]:
        """The lines of this kind of credential whose condition code cannot read."""
        return tuple(one.line for one in self.readings if one.cause == "words_only")

    @property
    def decided_under(self) -> tuple[PolicyRef, ...]:
        """The lines that the decision follows from; see `GroundedDecision.source_lines`."""
        if self.decision == "eligible":
            return tuple(line.ref for line in self.binding)
        status = "does_not_hold" if self.decision == "not_eligible" else "unknown"
        return tuple(one.line.ref for one in self.readings if one.status == status)


def support_of(lines: Iterable[PolicyLine], facts: CredentialFacts, at: datetime | None = None) -> Support:
    """Return what the evidence supports under `lines`.

    Args:
        lines: all that were supplied.
        facts: the evidence.
        at: when it is decided; None for the evidence's own time.
    """
    readings = tuple(read(line, facts, at) for line in sorted(lines, key=lambda line: line.id))
    return with_binding([one.line for one in readings if one.status == "holds"], readings, facts, at)


def with_binding(
    binding: Sequence[PolicyLine], readings: tuple[Reading, ...], facts: CredentialFacts, at: datetime | None
) -> Support:
    """Return what follows where exactly the lines `binding` hold: decision, window, date and approvers."""
    windows = [line.window_days for line in binding if line.window_days is not None]
    deadlines = {line.id: moment for line in binding if (moment := due(line, facts, at)) is not None}
    first = min(deadlines.values(), default=None)
    approval, approvers = _approval(binding)
    return Support(
        decision=_decision(binding, readings),
        readings=readings,
        binding=tuple(binding),
        window_days=min(windows, default=None),
        rotate_by=first,
        first_due=frozenset(name for name, moment in deadlines.items() if moment == first),
        approval=approval,
        approvers=approvers,
    )


def _decision(binding: Sequence[PolicyLine], readings: Sequence[Reading]) -> Decision:
    if binding:
        return "eligible"
    covering = [one.status for one in readings if one.status != "other_kind"]
    if not covering or "unknown" in covering:
        return "not_specified"
    return "not_eligible"


def _approval(binding: Sequence[PolicyLine]) -> tuple[ApprovalBy, tuple[str, ...]]:
    """Return who must approve under every binding line that asks for it: only names in each list count."""
    lists = [line.approvers for line in binding if line.approval == "required"]
    if lists:
        first, *others = sorted(lists)
        return "listed", tuple(sorted(name for name in first if all(is_among(name, other) for other in others)))
    return ("operator", ()) if any(line.decide == "person" for line in binding) else ("nobody", ())


def explain(support: Support, facts: CredentialFacts, at: datetime | None = None) -> str:
    """Return why the decision is what it is, in a sentence for a person. Nothing in it comes from a model."""
    covering = [one for one in support.readings if one.status != "other_kind"]
    if support.decision == "eligible":
        met = f"{_join_refs(line.ref for line in support.binding)}: the evidence meets the policy's condition."
        is_unused = all(isinstance(line.rule, WhenUnused) for line in support.binding)
        return f"{met} Only disuse makes it due: if nobody needs the key, delete it instead." if is_unused else met
    if support.decision == "not_eligible":
        return f"{_join_refs(one.line.ref for one in covering)}: the evidence does not meet the policy's condition."
    if not covering:
        covers = sorted({kind for one in support.readings for kind in one.line.applies_to})
        return (
            f"No supplied policy line covers a credential of kind {facts.kind}. They cover {', '.join(covers)}: "
            "check the kind and the line."
        )[:1000]
    causes = [f"{one.line.ref}: {_cause(one, facts, at)}" for one in covering if one.status == "unknown"]
    return ("; ".join(causes) + ".")[:1000]


def _cause(one: Reading, facts: CredentialFacts, at: datetime | None) -> str:
    age = 0 if at is None else (at - facts.observed_at).days
    causes: dict[Cause, str] = {
        "words_only": "its condition is text only, and no model showed that it holds",
        "evidence_too_old": f"the evidence is {age} days old, and counts for {one.line.evidence_days} days: "
        "observe the key again"
        if age >= one.line.evidence_days
        else f"the evidence is {age} days old, and by now the key may be over the limit: observe it again",
        "evidence_too_coarse": "the evidence has whole days, and the limit lies within that day: state the moment "
        "(last_rotated_at)",
        "evidence_in_future": "the evidence was observed in the future: check the clock of its source",
        "fact_not_known": f"the evidence does not say {_FACT.get(one.line.rule.when, 'what its condition needs')}",
    }
    return causes.get(one.cause, "not known")


_FACT = {
    "stale": "whether the key is stale",
    "compromised": "whether the key was compromised",
    "age": "how old the key is",
    "unused": "when the key was last used",
}


def _join_refs(refs: Iterable[PolicyRef]) -> str:
    return ", ".join(str(ref) for ref in refs)
