"""What needs no model: keys of which the evidence alone says that nothing is due. Pure."""

from collections.abc import Iterable
from typing import Literal

from keyturn.contracts import CredentialFacts
from keyturn.policy.applicability import applies
from keyturn.policy.catalogue import PolicyLine, WhenOlder, WhenStale, WhenUnused

SettledReason = Literal["inactive", "system_managed", "no_line_of_its_kind", "inside_every_window"]


def settled(facts: CredentialFacts, lines: Iterable[PolicyLine], *, idle: str | None) -> SettledReason | None:
    """Return why nothing is due for a credential; None if that is for a model to say.

    Args:
        facts: the evidence.
        lines: the policy lines of the run.
        idle: `inactive` or `system_managed`, if the inventory says so.

    A credential that is known to be compromised is never settled here, whatever else is true of it. What the evidence
    does not say settles nothing either: an unknown age is asked about, and not taken for a young one.
    """
    if facts.compromised:
        return None
    if idle == "inactive":
        return "inactive"
    if idle == "system_managed":
        return "system_managed"
    spoken = [line for line in lines if facts.kind in line.applies_to]
    if not spoken:
        return "no_line_of_its_kind"
    if all(_known(line, facts) and not applies(line, facts) for line in spoken):
        return "inside_every_window"
    return None


def _known(line: PolicyLine, facts: CredentialFacts) -> bool:
    """Whether the evidence says what the line's condition asks for."""
    match line.rule:
        case WhenStale():
            return facts.stale is not None
        case WhenOlder():
            return facts.age is not None
        case WhenUnused():
            return facts.unused_for is not None
        case _:  # of compromise no news is good news; a line without a condition speaks of nobody
            return True
