"""A policy line's condition and demands as text. Pure."""

from keyturn.contracts import CredentialFacts
from keyturn.policy.line import PolicyLine, WhenOlder, WhenUnused


def condition_in_words(line: PolicyLine) -> str:
    """Return when a line applies, such as `age > 90 whole days`."""
    rule = line.rule
    if isinstance(rule, WhenOlder | WhenUnused):
        unit = "whole days" if rule.truncation == "whole_days" else "days, exact"
        return f"{rule.when} {rule.operator} {rule.days} {unit}"
    return {"never": "no condition", "prose": "in words only"}.get(rule.when, rule.when)


def demands_in_words(line: PolicyLine) -> str:
    """Return what a line asks for where it applies: window, date and approval."""
    window = "no window" if line.window_days is None else f"window {line.window_days} days"
    due = ", due at once" if line.due == "at_once" else ""
    people = f", approved by {' or '.join(line.approvers)}" if line.approvers else ""
    if not people and line.decide == "person":
        people = ", a person decides"
    return f"{window}{due}{people}"


def key_in_words(facts: CredentialFacts) -> str:
    """Return a key as evidence describes it, for an example: the kind, and the facts that are known."""
    parts: list[str] = [facts.kind]
    parts += [
        name if value else f"not {name}"
        for name in ("stale", "compromised")
        if (value := getattr(facts, name)) is not None
    ]
    if facts.age is not None:
        parts.append(f"age {facts.age}")
    if facts.never_used:
        parts.append("never used")
    elif facts.unused_for is not None:
        parts.append(f"unused for {facts.unused_for}")
    return ", ".join(parts)
