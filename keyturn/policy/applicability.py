"""Whether a policy line speaks of a credential, by the evidence alone. Pure: the clock is the evidence's own time."""

from datetime import datetime, timedelta

from keyturn.contracts import CredentialFacts
from keyturn.policy.catalogue import PolicyLine, Rule, WhenCompromised, WhenOlder, WhenStale, WhenUnused


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
