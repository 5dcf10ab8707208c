"""What a change of policy changes: for which keys the decision, the window, the date or the approvers differ. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, NamedTuple, get_args

from keyturn.contracts import CredentialFacts, CredentialKind
from keyturn.moments import in_utc
from keyturn.policy.applicability import MICROSECOND, threshold
from keyturn.policy.line import PolicyLine, WhenOlder, WhenUnused
from keyturn.policy.support import Support, support_of

# A moment for examples: only differences between moments are judged.
_THEN = datetime(2026, 1, 1, tzinfo=UTC)
ASPECTS = ("decision", "window", "approvers", "date")


class Change(NamedTuple):
    """One aspect that differs for a key: before and after, in words."""

    aspect: str
    before: str
    after: str
    facts: CredentialFacts


def changes_for(
    before: Sequence[PolicyLine], after: Sequence[PolicyLine], facts: CredentialFacts, at: datetime | None = None
) -> list[Change]:
    """Return what differs for one key that is judged under `after` instead of `before`."""
    old, new = support_of(before, facts, at), support_of(after, facts, at)
    pairs = [(aspect, _describe_aspect(aspect, old), _describe_aspect(aspect, new)) for aspect in ASPECTS]
    return [Change(aspect, was, now, facts) for aspect, was, now in pairs if was != now]


def smallest_examples(before: Sequence[PolicyLine], after: Sequence[PolicyLine]) -> list[Change]:
    """Return, for each way in which something changes, the simplest key for which it does.

    Keys are tried at both sides of every edge that a line sets, with every combination of the facts that the lines
    read: if no key of them differs, none does.
    """
    found: dict[tuple[str, str, str], Change] = {}
    for facts in sorted(_keys([*before, *after]), key=_size):
        for change in changes_for(before, after, facts):
            # A date moves with each key; that it moves is reported once for each decision.
            mark = (change.aspect, "", "") if change.aspect == "date" else change[:3]
            found.setdefault(mark, change)
    return list(found.values())


def _describe_aspect(aspect: str, support: Support) -> str:
    if aspect == "decision":
        return support.decision
    if support.decision != "eligible":
        return "none"
    if aspect == "window":
        return "none" if support.window_days is None else f"{support.window_days} days"
    if aspect == "date":
        return "none" if support.rotate_by is None else in_utc(support.rotate_by)
    return {"nobody": "none", "operator": "any operator"}.get(
        support.approval, ", ".join(support.approvers) or "nobody"
    )


def _keys(lines: Iterable[PolicyLine]) -> Iterator[CredentialFacts]:
    judged = list(lines)
    ages, uses = _spans(judged, WhenOlder), _spans(judged, WhenUnused)
    reads = {line.rule.when for line in judged}
    states: tuple[bool | None, ...] = (None, True, False)
    for kind in get_args(CredentialKind):
        if not any(kind in line.applies_to for line in judged):
            continue
        for stale, compromised, age, use in product(
            states if "stale" in reads else states[:1],
            states if "compromised" in reads else states[:1],
            [None, *ages],
            [None, *uses],
        ):
            if age is not None and use is not None and use > age:
                continue
            yield _facts(kind, stale, compromised, age, use)


def _facts(kind: Any, stale: bool | None, compromised: bool | None, age: Any, use: Any) -> CredentialFacts:
    return CredentialFacts(
        key_id="example",
        kind=kind,
        stale=stale,
        compromised=compromised,
        last_rotated_at=None if age is None else _THEN - age,
        last_used_at=None if use is None else _THEN - use,
        observed_at=_THEN,
    )


def _spans(lines: Iterable[PolicyLine], of: type[WhenOlder] | type[WhenUnused]) -> list[timedelta]:
    """Both sides of each edge; no key is older than the years that evidence may name."""
    found = set()
    for line in lines:
        rule = line.rule
        if isinstance(rule, of):
            edge = timedelta(microseconds=threshold(rule.operator, rule.truncation, rule.days))
            found |= {edge - MICROSECOND, edge}
    return sorted(span for span in found if span < timedelta(days=20_000))


def _size(facts: CredentialFacts) -> tuple[int, timedelta, timedelta]:
    """How simple an example is: few facts, then young, then lately used."""
    known = sum(value is not None for value in (facts.stale, facts.compromised, facts.age, facts.unused_for))
    zero = timedelta(0)
    return known, facts.age or zero, facts.unused_for or zero
