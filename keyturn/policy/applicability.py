"""Whether a policy line holds for a credential, by the evidence alone: it holds, it does not, or that is not known.

Pure, and written to be read beside the policy's wording. Elapsed time is counted in whole microseconds, the precision
of the evidence. The functions on numbers take any integers, so that a solver can run them too (tests/proofs).
"""

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, assert_never

from keyturn.contracts import CredentialFacts
from keyturn.policy.line import (
    InProse,
    NeverByItself,
    Operator,
    PolicyLine,
    Rule,
    Truncation,
    WhenCompromised,
    WhenOlder,
    WhenStale,
    WhenUnused,
)

Status = Literal["holds", "does_not_hold", "unknown", "other_kind"]
Cause = Literal["", "fact_not_known", "evidence_too_coarse", "evidence_too_old", "evidence_in_future", "words_only"]

MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1) // MICROSECOND
# How far two machines' clocks may differ before evidence counts as seen in the future.
CLOCK_SKEW = timedelta(minutes=5)
# Inventories are taken every night: what became due since the last one is found by the next.
LATEST_INVENTORY = timedelta(days=1)
# An age that is stated in days may be this much higher.
WITHIN_A_DAY = timedelta(days=1) - MICROSECOND
# What a line that is due at once leaves for acting: the shortest time in which anyone can be expected to.
AT_ONCE = timedelta(days=1)


class Reading(NamedTuple):
    """Whether one line holds; `cause` says why that is not known."""

    line: PolicyLine
    status: Status
    cause: Cause = ""


def read(line: PolicyLine, facts: CredentialFacts, at: datetime | None = None) -> Reading:
    """Return whether `line` holds for a credential.

    Args:
        line: the policy line.
        facts: the evidence.
        at: the time at which the evidence is judged; None for the evidence's own time.

    What the evidence does not say is unknown. Evidence that is older than the line allows, or from the future, says
    nothing, with one exception: that a key was compromised stays true however long ago it was seen. Nor does it say
    that a line on age or disuse does not hold, if the edge was passed more than a day after it was seen.
    """
    if facts.kind not in line.applies_to:
        return Reading(line, "other_kind")
    if isinstance(line.rule, NeverByItself):
        return Reading(line, "does_not_hold")
    condition = _condition(line, facts)
    cause = _cause(line, facts, condition, at)
    return Reading(line, "unknown", cause) if cause else Reading(line, "holds" if condition else "does_not_hold")


def applies(line: PolicyLine, facts: CredentialFacts) -> bool:
    """Return True if `line` holds for a credential, at the evidence's own time."""
    return read(line, facts).status == "holds"


def due(line: PolicyLine, facts: CredentialFacts, at: datetime | None = None) -> datetime | None:
    """Return until when a line that holds wants the credential rotated; None if it states no time.

    A window runs from the moment at which the line started to apply: for age and disuse, when the edge was passed; else
    when it was observed. A line that is due at once leaves a day from the decision.

    Args:
        line: a line that holds.
        facts: the evidence.
        at: when it is decided; None for the evidence's own time.
    """
    if line.due == "at_once":
        return max(at or facts.observed_at, facts.observed_at) + AT_ONCE
    if line.window_days is None:
        return None
    return _applies_since(line, facts) + timedelta(days=line.window_days)


def _cause(line: PolicyLine, facts: CredentialFacts, condition: bool | None, at: datetime | None) -> Cause:
    """Why it is not known whether the line holds; nothing if it is."""
    otherwise = _not_stated(line, facts) if condition is None else ""
    if at is None:
        return otherwise
    if facts.observed_at > at + CLOCK_SKEW:
        return "evidence_in_future"
    since = at - facts.observed_at
    if since <= LATEST_INVENTORY:
        return otherwise  # the usual case, without building a span to compare with
    is_old = since > timedelta(days=line.evidence_days)
    stays_true = condition and isinstance(line.rule, WhenCompromised)
    if is_old and not stays_true:
        return "evidence_too_old"
    return "evidence_too_old" if condition is False and _may_be_over_by_now(line, facts, since) else otherwise


def _not_stated(line: PolicyLine, facts: CredentialFacts) -> Cause:
    if isinstance(line.rule, InProse):
        return "words_only"
    return "fact_not_known" if _elapsed(line.rule, facts) is None else "evidence_too_coarse"


def _condition(line: PolicyLine, facts: CredentialFacts) -> bool | None:
    """The line's condition, as its rule states it; None where the evidence does not say."""
    rule = line.rule
    match rule:
        case WhenStale():
            return facts.stale
        case WhenCompromised():
            return facts.compromised
        case WhenOlder() | WhenUnused():
            return _is_over(line, facts)
        case NeverByItself():
            return False
        case InProse():
            return None
        case _:
            assert_never(rule)


def threshold(operator: Operator, truncation: Truncation, days: Any) -> Any:
    """Return the elapsed time, in microseconds, from which on a rule on age or disuse is met.

    More than N whole days is met when day N+1 is complete; N whole days or more, and N days or more to the
    microsecond, at N days; more than N days to the microsecond, one microsecond later.
    """
    if operator == ">=":
        return days * DAY
    return (days + 1) * DAY if truncation == "whole_days" else days * DAY + 1


def _is_over(line: PolicyLine, facts: CredentialFacts) -> bool | None:
    least = _elapsed(line.rule, facts)
    if least is None:
        return None
    if _reaches(line.rule, least):
        return True
    return None if _reaches(line.rule, _most_elapsed(line.rule, facts, least)) else False


def _may_be_over_by_now(line: PolicyLine, facts: CredentialFacts, since: timedelta) -> bool:
    elapsed = _elapsed(line.rule, facts)
    return elapsed is not None and _reaches(line.rule, _most_elapsed(line.rule, facts, elapsed) + since)


def _reaches(rule: Rule, elapsed: timedelta) -> bool:
    if not isinstance(rule, WhenOlder | WhenUnused):
        return False
    return bool(elapsed // MICROSECOND >= threshold(rule.operator, rule.truncation, rule.days))


def _most_elapsed(rule: Rule, facts: CredentialFacts, least: timedelta) -> timedelta:
    """The most that age or disuse may be, where the evidence has an age in whole days."""
    if facts.age_days is None:
        return least
    most = timedelta(days=facts.age_days) + WITHIN_A_DAY
    if isinstance(rule, WhenUnused) and facts.last_used_at is not None:
        most = min(most, facts.observed_at - facts.last_used_at)
    return max(least, most)


def _elapsed(rule: Rule, facts: CredentialFacts) -> timedelta | None:
    if isinstance(rule, WhenUnused):
        return facts.unused_for
    return facts.age if isinstance(rule, WhenOlder) else None


def _applies_since(line: PolicyLine, facts: CredentialFacts) -> datetime:
    """Return when a line that holds started to apply."""
    rule = line.rule
    if isinstance(rule, WhenOlder | WhenUnused):
        elapsed = _elapsed(rule, facts)
        if elapsed is not None:
            edge = timedelta(microseconds=threshold(rule.operator, rule.truncation, rule.days))
            return facts.observed_at - elapsed + edge
    return facts.observed_at
