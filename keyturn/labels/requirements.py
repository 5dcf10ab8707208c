"""What a release requires of a candidate: NAME<=NUMBER, compared with the bound of a rate and not with the rate."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from keyturn.labels.bounds import cases_needed
from keyturn.labels.errors import RequirementUnreadable
from keyturn.labels.figures import Evaluation, Figures, Share

Figure = Literal["wrong_yes", "wrong_jobs", "wrong_no", "disagreements", "cost_usd", "p95_seconds"]
_FORM = re.compile(r"\s*([a-z][a-z0-9_]*)\s*<=\s*([0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})\s*", re.ASCII)
_RATES: Mapping[str, Callable[[Figures], Share]] = {
    "wrong_yes": lambda figures: figures.wrong_yes,
    "wrong_jobs": lambda figures: figures.wrong_jobs,
    "wrong_no": lambda figures: figures.wrong_no,
    "disagreements": lambda figures: figures.disagreements,
}


@dataclass(frozen=True)
class Requirement:
    """A figure, and what it may be at most."""

    name: str
    most: Decimal

    def __str__(self) -> str:
        return f"{self.name}<={self.most:f}"

    def unmet(self, figures: Figures) -> str | None:
        """Return in a sentence why it does not hold; None if it does."""
        if self.name in _RATES:
            return self._unmet_rate(_RATES[self.name](figures))
        unit, measured = "$" if self.name == "cost_usd" else "", _measured(self.name, figures)
        if measured is None:
            why = "a price is unknown" if self.name == "cost_usd" else "there was no answer"
            return f"{self} does not hold: {why}"
        return None if measured <= self.most else f"{self} does not hold: it is {unit}{measured:.4f}"

    def _unmet_rate(self, share: Share) -> str | None:
        if share.at_most <= self.most:
            return None
        counted = f"{share.count} of {share.of} cases, so the rate may be {share.at_most:.4%} (upper 95% bound)"
        needed = cases_needed(float(self.most))
        enough = f"; {needed:,} cases without one would show it" if not share.count and needed else ""
        return f"{self} does not hold: {counted}{enough}"


def parse_requirement(text: str) -> Requirement:
    """Return the requirement that `text` states; raises RequirementUnreadable."""
    found = _FORM.fullmatch(text)
    names = get_args(Figure)
    if found is None:
        raise RequirementUnreadable(f"{text[:48]!r} is not NAME<=NUMBER; names: {', '.join(names)}")
    if found[1] not in names:
        raise RequirementUnreadable(f"there is no figure {found[1][:48]!r}; figures: {', '.join(names)}")
    return Requirement(found[1], Decimal(found[2]))


def unmet_of(wanted: Sequence[Requirement], found: Evaluation) -> list[str]:
    """Return why requirements do not hold, a sentence each: none does where a case has no answer, or none is there."""
    unmet = [why for one in wanted if (why := one.unmet(found.total))]
    if wanted and (found.unanswered or not found.total.cases):
        unmet.append(f"no requirement holds: {found.without_answer}")
    return unmet


def _measured(name: str, figures: Figures) -> Decimal | None:
    if name == "cost_usd":
        return figures.cost_usd
    seconds = figures.percentile(0.95)
    return None if seconds is None else Decimal(str(seconds))
