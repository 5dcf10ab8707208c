"""Policy lines: one written rule each, its wording for readers and models, its condition and window for code.

A line's version is raised whenever its meaning changes; decisions, workflow ids and jobs name it. Benchmarks renumber
their recommendations between releases, so `source` keeps the benchmark, its release and its id of that time.
`docs/reference/policy-format.md` is the reference of every field, written from this module.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from keyturn.canonical import digest_of
from keyturn.contracts import MAX_APPROVERS, Contract, CredentialKind, Identifier, PolicyRef, ShortIdentifier
from keyturn.people import doubles

Operator = Literal[">", ">="]
# whole_days: 90 days and 23 hours count as 90. exact: to the second. Scanners differ, so each line states its own.
Truncation = Literal["whole_days", "exact"]


class WhenStale(Contract):
    """The line applies to credentials that the evidence calls stale."""

    when: Literal["stale"] = Field(description="The evidence says that the key is stale.")


class WhenCompromised(Contract):
    """The line applies to credentials that the evidence calls exposed or compromised."""

    when: Literal["compromised"] = Field(description="The evidence says that the key was exposed or compromised.")


class WhenOlder(Contract):
    """The line applies to credentials that are older than so many days."""

    when: Literal["age"] = Field(description="Time since the key was created or last rotated.")
    operator: Operator = Field(description='How the age is compared with `days`: ">" (more than) or ">=" (or more).')
    days: int = Field(ge=1, le=36_500, description="Days, from 1 to 36,500.")
    truncation: Truncation = Field(description="whole_days: a started day does not count. exact: to the microsecond.")


class WhenUnused(Contract):
    """The line applies to credentials that were not used for so many days."""

    when: Literal["unused"] = Field(
        description="Time since the key was last used, or since it was created or rotated if that was later or it was "
        "never used."
    )
    operator: Operator = Field(description='How the time is compared with `days`: ">" (more than) or ">=" (or more).')
    days: int = Field(ge=1, le=36_500, description="Days, from 1 to 36,500.")
    truncation: Truncation = Field(description="whole_days: a started day does not count. exact: to the microsecond.")


class NeverByItself(Contract):
    """The line gives no condition of its own, so no rotation can rest on it: an entity must add its own line."""

    when: Literal["never"] = Field(description="The line states no condition: no rotation can rest on it alone.")


class InProse(Contract):
    """The line states its condition in words only. Code cannot judge it: see `docs/reference/policy-format.md`."""

    when: Literal["prose"] = Field(
        description="The condition is in the wording only. A model may propose that it holds, with verbatim "
        "quotes of wording and evidence; a person decides."
    )


Rule = Annotated[
    WhenStale | WhenCompromised | WhenOlder | WhenUnused | NeverByItself | InProse,
    Field(discriminator="when"),
]
# Evidence of last month describes last month's key. A month, because audits are monthly, and an export of the last one
# is what an auditor has.
EVIDENCE_DAYS = 30


class PolicySource(Contract):
    """Where a line comes from: publisher, release and the id it had in that release."""

    benchmark: str = Field(min_length=1, max_length=200, description="The document's name.")
    release: str = Field(min_length=1, max_length=40, description="Its release or version.")
    id: str = Field(min_length=1, max_length=40, description="The line's ID in that release.")


class PolicyLine(Contract):
    """One written rule: its wording for people and models, its condition and window for code."""

    id: ShortIdentifier = Field(description="Names the line everywhere: letters, digits and . _ @ + = -, at most 64.")
    version: int = Field(ge=1, le=10_000, description="Raise it whenever the line's meaning changes.")
    wording: str = Field(min_length=1, max_length=500, description="The line as it is written, for people and models.")
    applies_to: tuple[CredentialKind, ...] = Field(min_length=1, description="The kinds of credential it covers.")
    window_days: int | None = Field(
        default=None, ge=1, le=36_500, description="Days in which the rotation must happen; left out if none is stated."
    )
    due: Literal["within_window", "at_once"] = Field(
        default="within_window",
        description="within_window: `window_days` after the moment at which the line started to apply. at_once: a day "
        "after the decision, for a line whose window is a limit on the key's age or disuse, already passed.",
    )
    rule: Rule = Field(description="The condition, as a table with `when`.")
    evidence_days: int = Field(
        default=EVIDENCE_DAYS,
        ge=1,
        le=3_650,
        description="How many days old the evidence may be. Older evidence decides nothing under this line; only that "
        "a key was compromised stays true.",
    )
    decide: Literal["rule_and_model", "person"] = Field(
        default="rule_and_model",
        description="Who must agree: rule_and_model, or a person as well. A line with `when = prose` needs a person.",
    )
    approval: Literal["none", "required"] = Field(
        default="none", description="Whether one of `approvers` must approve each rotation."
    )
    # They are a part of the line: a changed list changes the digest, and an approval of the older one makes no job.
    approvers: tuple[Identifier, ...] = Field(
        default=(), max_length=MAX_APPROVERS, description="Who may approve, by the names that KEYTURN_USER has."
    )
    overlap_hours: float | None = Field(
        default=None,
        ge=0,
        le=2_160,
        description="Hours for which both keys work at least, before an executor deactivates the old one; left out for "
        "the executor's own setting.",
    )
    grace_hours: float | None = Field(
        default=None,
        ge=0,
        le=2_160,
        description="Hours for which the old key is inactive at least, before an executor deletes it; left out for "
        "the executor's own setting.",
    )
    waiver_days: int | None = Field(
        default=None,
        ge=0,
        le=3_650,
        description="Days for which a waiver may exempt a key from this line at most; 0 allows none, left out 365.",
    )
    source: PolicySource = Field(description="Where the line comes from.")

    @model_validator(mode="after")
    def _can_be_approved(self) -> Self:
        if (self.approval == "required") != bool(self.approvers):
            raise ValueError('approval = "required" and a list of approvers belong together')
        if len(set(self.applies_to)) != len(self.applies_to):
            raise ValueError("applies_to names a kind twice")
        if doubles(self.approvers):
            raise ValueError("approvers names a user twice; case, width and trailing marks make no other user")
        if isinstance(self.rule, InProse) and self.decide != "person":
            raise ValueError('a line with when = "prose" needs decide = "person"')
        return self

    @property
    def ref(self) -> PolicyRef:
        """How requests, ids and jobs name this line."""
        return _ref(self.id, self.version)


@lru_cache(maxsize=4_096)  # the same few in every verdict
def _ref(line_id: str, version: int) -> PolicyRef:
    return PolicyRef(id=line_id, version=version)


def digest_of_line(line: PolicyLine) -> str:
    """Return what makes two policy lines the same: all of their content. It is computed once for each line."""
    known = _DIGESTS.get(id(line))
    if known is not None and known[0] is line:
        return known[1]
    if len(_DIGESTS) >= MAX_DIGESTS:
        _DIGESTS.clear()
    # How an executor waits, and what is exempt, is no part of what is decided: a line that says nothing of it is the
    # line it always was.
    unsaid = {name for name in ("overlap_hours", "grace_hours", "waiver_days") if getattr(line, name) is None}
    digest = digest_of(line.model_dump(mode="json", exclude=unsaid))
    _DIGESTS[id(line)] = line, digest
    return digest


MAX_DIGESTS = 4_096  # more lines than that are in no catalogue
# By the object itself, which is immutable: hashing a line's content would cost a tenth of a whole verdict.
_DIGESTS: dict[int, tuple[PolicyLine, str]] = {}


def digest_of_lines(lines: Iterable[PolicyLine]) -> str:
    """Return what makes two sets of policy lines the same, in whatever order they are."""
    return digest_of(sorted(digest_of_line(line) for line in lines))
