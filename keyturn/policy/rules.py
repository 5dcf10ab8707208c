"""What needs no model: keys of which the evidence alone says that nothing is due, or that it decides nothing. Pure."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from keyturn.contracts import CredentialFacts, Idle
from keyturn.policy.applicability import Reading
from keyturn.policy.line import PolicyLine, WhenCompromised
from keyturn.policy.support import Support, support_of

SettledReason = Literal[
    "inactive",
    "system_managed",
    "expired",
    "no_line_of_its_kind",
    "inside_every_window",
    "evidence_too_old",
    "evidence_in_future",
    "fact_not_known",
]


class RuleFinding(NamedTuple):
    """What a key ends as without a model, and why."""

    outcome: Literal["nothing_due", "not_specified"]
    reason: SettledReason


def apply_rules(
    facts: CredentialFacts,
    lines: Collection[PolicyLine],
    *,
    idle: Idle | None,
    at: datetime | None = None,
    by_rule: bool = False,
) -> RuleFinding | None:
    """Return what rules alone decide about a credential; None if it is due, or for a model to decide.

    Args:
        facts: the evidence.
        lines: the policy lines of the run.
        idle: why the inventory says that nothing need be decided, if it does.
        at: when it is decided; None for the evidence's own time.
        by_rule: whether an unknown fact decides it too, instead of being asked about.

    A credential that is known to be compromised is never decided here, whatever else is true of it. Evidence that is
    too old is never taken for a clean key: the result is then that nothing can be said.
    """
    if facts.compromised:
        return None
    # A key that was inactive may be active again; what has ended, and what its cloud manages, stays so.
    if idle == "inactive" and _is_too_old(facts, lines, at):
        return RuleFinding("not_specified", "evidence_too_old")
    if idle is not None:
        return RuleFinding("nothing_due", idle)
    return _by_evidence(support_of(lines, facts, at), by_rule=by_rule)


def _is_too_old(facts: CredentialFacts, lines: Collection[PolicyLine], at: datetime | None) -> bool:
    days = [line.evidence_days for line in lines if facts.kind in line.applies_to]
    return at is not None and bool(days) and at - facts.observed_at > timedelta(days=min(days))


def _by_evidence(support: Support, *, by_rule: bool) -> RuleFinding | None:
    covering = [one for one in support.readings if one.status != "other_kind"]
    if not covering:
        return RuleFinding("nothing_due", "no_line_of_its_kind")
    if support.binding or support.in_words_only:
        return None
    if all(one.status == "does_not_hold" or _is_report_of_compromise(one) for one in covering):
        return RuleFinding("nothing_due", "inside_every_window")
    return _undecided(support, by_rule=by_rule)


def _undecided(support: Support, *, by_rule: bool) -> RuleFinding | None:
    causes = {one.cause for one in support.readings if one.status == "unknown"}
    if "evidence_in_future" in causes:
        return RuleFinding("not_specified", "evidence_in_future")
    if "evidence_too_old" in causes:
        return RuleFinding("not_specified", "evidence_too_old")
    return RuleFinding("not_specified", "fact_not_known") if by_rule else None


def _is_report_of_compromise(one: Reading) -> bool:
    """Inventories report a compromise where there is one: for a run, no report means a key that is not compromised."""
    return one.cause == "fact_not_known" and isinstance(one.line.rule, WhenCompromised)
