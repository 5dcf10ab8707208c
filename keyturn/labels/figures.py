"""What a replay says of a candidate: how often it is right, how high its faults may be, what it costs, what changes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from keyturn.labels.bounds import upper_bound
from keyturn.labels.replay import Replayed
from keyturn.labels.verdicts import consequence_of, is_wrong_job, is_wrong_no, is_wrong_yes, kind_of
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.rotations.decisions import Disagreement, GroundedDecision, Rejection

ALL = "all"


@dataclass(frozen=True)
class Share:
    """How many of how many cases; `at_most` is the upper bound of the rate behind them."""

    count: int
    of: int

    @property
    def at_most(self) -> float:
        """The upper 95% bound of Clopper and Pearson."""
        return upper_bound(self.count, self.of)

    def as_object(self) -> Mapping[str, Any]:
        """Return it for JSON."""
        return {"count": self.count, "of": self.of, "at_most": round(self.at_most, 6)}


@dataclass(frozen=True)
class Figures:
    """The figures of some cases.

    Attributes:
        name: the policy lines, or `all`.
        cases: how many were answered.
        right: how many verdicts agree with the label.
        wrong_yes: accepted yes, of the cases that people denied or rolled back.
        wrong_jobs: of the same cases, those wrong yes that would have been a job without a person.
        wrong_no: no accepted yes, of the cases that people approved.
        disagreements: models against the rule, of all.
        readings: the models' own wrong yes and wrong no, before the gate.
        consequences: what would have happened: a job, a person's decision, nothing.
        cost_usd: of all calls; None if a price is unknown.
        seconds: of each answer, sorted.
    """

    name: str
    cases: int
    wrong_yes: Share
    wrong_jobs: Share
    wrong_no: Share
    disagreements: Share
    readings: tuple[int, int]
    consequences: Mapping[str, int]
    cost_usd: Decimal | None
    seconds: Sequence[float]

    @property
    def right(self) -> int:
        """How many verdicts agree with the label."""
        return self.cases - self.wrong_yes.count - self.wrong_no.count

    def percentile(self, share: float) -> float | None:
        """Return the seconds in which so many of the answers came; None if there was none."""
        return self.seconds[max(0, math.ceil(share * len(self.seconds)) - 1)] if self.seconds else None

    def as_object(self) -> Mapping[str, Any]:
        """Return them for JSON."""
        return {
            "lines": self.name,
            "cases": self.cases,
            "right": self.right,
            "wrong_yes": self.wrong_yes.as_object(),
            "wrong_jobs": self.wrong_jobs.as_object(),
            "wrong_no": self.wrong_no.as_object(),
            "disagreements": self.disagreements.as_object(),
            "model_wrong_yes": self.readings[0],
            "model_wrong_no": self.readings[1],
            "would_be": dict(self.consequences),
            "cost_usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "p50_seconds": self.percentile(0.5),
            "p95_seconds": self.percentile(0.95),
        }


@dataclass(frozen=True)
class Change:
    """A case that the candidate decides otherwise than it was decided then. Its ID names no account and no key."""

    workflow_id: str
    lines: str
    label: str
    then: str
    now: str


@dataclass(frozen=True)
class Evaluation:
    """All that a replay says of a candidate.

    Attributes:
        figures: those of each set of policy lines, and those of all cases last.
        changes: the cases that it decides otherwise.
        other_policy: how many cases it was asked under other wording than then.
        unasked: how many could not be asked: its policy does not have their lines.
        unanswered: how many have no answer, by the kind of the failure.
    """

    figures: Sequence[Figures]
    changes: Sequence[Change]
    other_policy: int
    unasked: int
    unanswered: Mapping[str, int]

    @property
    def total(self) -> Figures:
        """The figures of all cases."""
        return self.figures[-1]

    @property
    def without_answer(self) -> str:
        """How many cases have no answer, and why, in words."""
        if not self.unanswered:
            return "no case was answered"
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.unanswered.items()))
        count = sum(self.unanswered.values())
        return f"{count:,} {'case' if count == 1 else 'cases'} without an answer: {kinds}"

    def as_object(self) -> Mapping[str, Any]:
        """Return it for JSON."""
        rows = {"figures": [row.as_object() for row in self.figures], "changes": [vars(one) for one in self.changes]}
        return rows | {name: getattr(self, name) for name in ("other_policy", "unasked", "unanswered")}


def evaluation_of(replayed: Sequence[Replayed]) -> Evaluation:
    """Return all that a replay says."""
    return Evaluation(
        figures=figures_by_line(replayed),
        changes=changes_of(replayed),
        other_policy=sum(one.is_other_policy for one in replayed),
        unasked=unasked_of(replayed),
        unanswered=unanswered_of(replayed),
    )


def figures_of(name: str, replayed: Sequence[Replayed]) -> Figures:
    """Return the figures of those cases that were answered."""
    pairs = [(one, one.judged.verdict) for one in replayed if one.judged is not None]
    due = sum(one.case.is_due for one, _ in pairs)
    not_due = len(pairs) - due
    costs = [call.cost_usd for one, _ in pairs for call in one.calls]
    priced = [cost for cost in costs if cost is not None]
    took = sorted(sum(call.latency_ms for call in one.calls) / 1000 for one, _ in pairs)
    said_yes = [one.case.is_due for one, _ in pairs if one.reading == "eligible"]
    return Figures(
        name=name,
        cases=len(pairs),
        wrong_yes=Share(sum(is_wrong_yes(said, due=one.case.is_due) for one, said in pairs), not_due),
        wrong_jobs=Share(sum(is_wrong_job(said, due=one.case.is_due) for one, said in pairs), not_due),
        wrong_no=Share(sum(is_wrong_no(said, due=one.case.is_due) for one, said in pairs), due),
        disagreements=Share(sum(isinstance(said, Disagreement) for _, said in pairs), len(pairs)),
        readings=(said_yes.count(False), due - said_yes.count(True)),
        consequences=Counter(consequence_of(said) for _, said in pairs),
        cost_usd=sum(priced, Decimal(0)) if len(priced) == len(costs) else None,
        seconds=took,
    )


def figures_by_line(replayed: Sequence[Replayed]) -> Sequence[Figures]:
    """Return the figures of each set of policy lines, and those of all cases last."""
    names = sorted({one.case.lines for one in replayed})
    rows = [figures_of(name, [one for one in replayed if one.case.lines == name]) for name in names]
    return [*rows, figures_of(ALL, replayed)]


def changes_of(replayed: Sequence[Replayed]) -> Sequence[Change]:
    """Return the cases whose verdict differs from the recorded one."""
    found = []
    for one in replayed:
        if one.judged is None:
            continue
        then, now = in_words(one.case.verdict), in_words(one.judged.verdict)
        if then != now:
            found.append(Change(one.case.workflow_id, one.case.lines, one.case.label, then, now))
    return found


def unanswered_of(replayed: Sequence[Replayed]) -> Mapping[str, int]:
    """Return how many cases have no answer, by the kind of the failure; those that could not be asked left out."""
    return Counter(one.failure for one in replayed if one.failure not in {None, UnknownPolicyLine.kind})


def unasked_of(replayed: Sequence[Replayed]) -> int:
    """Return how many cases could not be asked: the candidate's policy does not have their lines any more."""
    return sum(one.failure == UnknownPolicyLine.kind for one in replayed)


def in_words(verdict: object) -> str:
    """Return what a verdict decides, in words that two of them are compared by."""
    match verdict:
        case GroundedDecision(decision="eligible", rotation_window_days=days) if days is not None:
            return f"eligible within {days} days"
        case Rejection(reason=reason):
            return f"rejected: {reason}"
        case _:
            return kind_of(verdict)
