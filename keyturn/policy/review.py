"""What a policy file's author should look at: lines that never hold, add nothing, or contradict each other. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from keyturn.policy.applicability import DAY, threshold
from keyturn.policy.line import InProse, NeverByItself, PolicyLine, WhenOlder, WhenUnused
from keyturn.policy.spans import days_named, plain


class Remark(NamedTuple):
    """A remark on one line, or on two: `never_holds`, `wording`, `redundant`, `contradiction` or `gap`."""

    kind: str
    lines: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{', '.join(self.lines)}: {self.kind.replace('_', ' ')}: {self.message}"


def review(lines: Iterable[PolicyLine]) -> list[Remark]:
    """Return the remarks on a set of policy lines that are judged together."""
    judged = sorted(lines, key=lambda line: line.id)
    return [
        *(remark for line in judged for remark in _alone(line)),
        *_redundant(judged),
        *(remark for one, other in combinations(judged, 2) for remark in _together(one, other)),
    ]


def _alone(line: PolicyLine) -> Iterator[Remark]:
    if isinstance(line.rule, NeverByItself):
        yield Remark("never_holds", (line.id,), "it states no condition, so no rotation can rest on it")
    elif not isinstance(line.rule, InProse):
        yield from (Remark("wording", (line.id,), what) for what in _unlike_its_wording(line))


# Code reads a line's rule, and people its wording: nothing else compares them.
_EXCEPTION = re.compile(r"\b(?:unless|except(?:ing|ions?)?|excluding|other than|exempt(?:ed)?)\b", re.IGNORECASE)
_EXCUSES = re.compile(
    r"\b(?:must|shall|should|may|need|do|does)\s?(?:not|n't)\s(?:have\sto\s|need\sto\s)?(?:be\s)?(?:rotat|chang|replac|renew)"
    r"|\bno\s(?:need\sto\srotate|rotation\sis)\b",
    re.IGNORECASE,
)
_LONG = re.compile(r"\b(?:month|quarter|year)s?\b", re.IGNORECASE)
_OF_AGE = re.compile(r"\b(?:older|old|age|aged|every|creat\w+)\b", re.IGNORECASE)
_OF_DISUSE = re.compile(r"\b(?:unused|not\s(?:been\s)?used|inactiv\w+|dormant|disuse)\b", re.IGNORECASE)


def _unlike_its_wording(line: PolicyLine) -> Iterator[str]:
    """Yield in what a line's wording seems to say something else than its rule and window."""
    rule, wording = line.rule, plain(line.wording)
    days = {float(rule.days)} if isinstance(rule, WhenOlder | WhenUnused) else set()
    window = set() if line.window_days is None else {float(line.window_days)}
    named, stated = days_named(wording), days | window | ({1.0} if line.due == "at_once" else set())
    if _LONG.search(wording):  # a month has 28 to 31 days
        named = {next((one for one in sorted(stated) if abs(one - days_) <= days_ / 28), days_) for days_ in named}
    if others := named - stated:
        yield f"in days, its wording names {_figures(others)}, and neither its rule nor its window does"
    if named and (others := days - named):
        yield f"in days, its rule has {_figures(others)}, and its wording does not"
    of_disuse = _OF_DISUSE.search(wording) is not None
    if isinstance(rule, WhenOlder) and of_disuse:
        yield "its rule is on age, and its wording seems to be on disuse"
    if isinstance(rule, WhenUnused) and not of_disuse and _OF_AGE.search(wording):
        yield "its rule is on disuse, and its wording seems to be on age"
    if _EXCEPTION.search(wording):
        yield 'its wording has an exception, which code does not read: set decide = "person", or grant waivers'
    if _EXCUSES.search(wording):
        yield "its wording seems to ask for no rotation where its rule asks for one"


def _figures(days: Iterable[float]) -> str:
    return ", ".join(f"{one:g}" for one in sorted(days))


def _redundant(lines: Sequence[PolicyLine]) -> Iterator[Remark]:
    reported: set[str] = set()
    for one, other in permutations(lines, 2):
        if one.id in reported or other.id in reported or not _covered_by(one, other):
            continue
        reported.add(one.id)
        yield Remark(
            "redundant", (one.id, other.id), f"wherever {one.id} holds, {other.id} holds too and demands as much"
        )


def _covered_by(one: PolicyLine, other: PolicyLine) -> bool:
    """Whether `other` holds wherever `one` does, and asks for at least as much."""
    if not set(one.applies_to) <= set(other.applies_to) or not _implies(one, other):
        return False
    stricter_window = one.window_days is None or (
        other.window_days is not None and other.window_days <= one.window_days
    )
    same_start = one.due == other.due and _edge(one) == _edge(other)
    stricter_approval = not one.approvers or (bool(other.approvers) and set(other.approvers) <= set(one.approvers))
    needs_person = one.decide != "person" or other.decide == "person" or bool(other.approvers)
    return (
        stricter_window
        and (same_start or one.due == other.due == "at_once")
        and stricter_approval
        and needs_person
        and other.evidence_days >= one.evidence_days
    )


def _implies(one: PolicyLine, other: PolicyLine) -> bool:
    """Whether the condition of `other` is met wherever that of `one` is."""
    if isinstance(one.rule, InProse | NeverByItself) or one.rule.when != other.rule.when:
        return False
    mine, its = _edge(one), _edge(other)
    return mine is None or its is None or its <= mine


def _together(one: PolicyLine, other: PolicyLine) -> Iterator[Remark]:
    shared = sorted(set(one.applies_to) & set(other.applies_to))
    if not shared:
        return
    names = (one.id, other.id)
    if one.approvers and other.approvers and not set(one.approvers) & set(other.approvers):
        message = (
            f"where both hold for a {shared[0]}, no user is in both lists of approvers: no rotation can be approved"
        )
        yield Remark("contradiction", names, message)
    mine, its = _edge(one), _edge(other)
    if one.rule.when != other.rule.when or mine is None or its is None or mine == its:
        return
    early, late = (one, other) if mine < its else (other, one)
    first, last = min(mine, its), max(mine, its)
    if late.window_days is not None and (early.window_days is None or _date(early, first) > _date(late, last)):
        message = (
            f"from {_days(first)} to {_days(last)} only {early.id} holds, and its due date lies after the one that "
            f"{late.id} sets from then on: a job created early is due later than one created late"
        )
        yield Remark("gap", (early.id, late.id), message)


def _date(line: PolicyLine, edge: int) -> int:
    """Until when a line wants a key rotated, in microseconds of age or disuse."""
    return edge + DAY * (1 if line.due == "at_once" else line.window_days or 0)


def _edge(line: PolicyLine) -> int | None:
    """From which age or disuse on a line holds, in microseconds; None for a condition of another kind."""
    rule = line.rule
    if isinstance(rule, WhenOlder | WhenUnused):
        edge: int = threshold(rule.operator, rule.truncation, rule.days)
        return edge
    return None


def _days(edge: int) -> str:
    days, rest = divmod(edge, DAY)
    return f"{days} days" if not rest else f"just over {days} days"
