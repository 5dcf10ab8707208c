"""The policy catalogue: versioned files of policy lines, loaded and checked once at start.

A line's version is raised whenever its meaning changes; decisions, workflow ids and jobs name it. Benchmarks renumber
their recommendations between releases, so `source` keeps the benchmark, its release and its id of that time.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from keyturn.canonical import digest_of
from keyturn.contracts import MAX_APPROVERS, Contract, CredentialKind, Identifier, PolicyRef, ShortIdentifier
from keyturn.errors import CatalogueInvalid, UnknownPolicyLine

SHIPPED_LINES = Path(__file__).parent / "lines"

Operator = Literal[">", ">="]
# whole_days: 90 days and 23 hours count as 90. exact: to the second. Scanners differ, so each line states its own.
Truncation = Literal["whole_days", "exact"]


class WhenStale(Contract):
    """The line speaks of credentials that the evidence calls stale."""

    when: Literal["stale"]


class WhenCompromised(Contract):
    """The line speaks of credentials that the evidence calls exposed or compromised."""

    when: Literal["compromised"]


class WhenOlder(Contract):
    """The line speaks of credentials whose age has passed an edge."""

    when: Literal["age"]
    operator: Operator
    days: int = Field(ge=1, le=36_500)
    truncation: Truncation


class WhenUnused(Contract):
    """The line speaks of credentials that were not used for so long."""

    when: Literal["unused"]
    operator: Operator
    days: int = Field(ge=1, le=36_500)
    truncation: Truncation


class NeverByItself(Contract):
    """The line gives no condition of its own, so no rotation can rest on it: an entity must add its own line."""

    when: Literal["never"]


Rule = Annotated[
    WhenStale | WhenCompromised | WhenOlder | WhenUnused | NeverByItself,
    Field(discriminator="when"),
]


class PolicySource(Contract):
    """Where a line comes from: publisher, release and the id it had in that release."""

    benchmark: str = Field(min_length=1, max_length=200)
    release: str = Field(min_length=1, max_length=40)
    id: str = Field(min_length=1, max_length=40)


class PolicyLine(Contract):
    """One written rule: its wording for people and models, its condition and window for code."""

    id: ShortIdentifier
    version: int = Field(ge=1, le=10_000)
    wording: str = Field(min_length=1, max_length=500)
    applies_to: tuple[CredentialKind, ...] = Field(min_length=1)
    window_days: int | None = Field(default=None, ge=1, le=36_500)
    rule: Rule
    approval: Literal["none", "required"] = "none"
    # Who may approve, by the names that KEYTURN_USER has. They are a part of the line: a changed list changes the
    # digest, and what waited for an approval is decided anew.
    approvers: tuple[Identifier, ...] = Field(default=(), max_length=MAX_APPROVERS)
    source: PolicySource

    @model_validator(mode="after")
    def _somebody_approves(self) -> Self:
        if (self.approval == "required") != bool(self.approvers):
            raise ValueError('approval = "required" and a list of approvers belong together')
        return self

    @property
    def ref(self) -> PolicyRef:
        """How requests, ids and jobs name this line."""
        return PolicyRef(id=self.id, version=self.version)


class _PolicyFile(Contract):
    line: tuple[PolicyLine, ...] = Field(min_length=1, max_length=1_000)


class Catalogue:
    """All policy lines of this process, at their current versions. Immutable after loading."""

    def __init__(self, lines: Iterable[PolicyLine]) -> None:
        by_id: dict[str, PolicyLine] = {}
        for line in lines:
            if line.id in by_id:
                raise CatalogueInvalid(f"policy line {line.id} is defined twice: keep one definition of it")
            by_id[line.id] = line
        self._lines: Mapping[str, PolicyLine] = dict(sorted(by_id.items()))
        self.version = digest_of([line.model_dump(mode="json") for line in self._lines.values()])

    def __iter__(self) -> Iterator[PolicyLine]:
        return iter(self._lines.values())

    def current(self, line_id: str) -> PolicyLine:
        """Return the line called `line_id`; raises UnknownPolicyLine, naming the lines that there are."""
        line = self._lines.get(line_id)
        if line is None:
            known = ", ".join(self._lines)
            raise UnknownPolicyLine(f"there is no policy line {line_id[:64]!r}. Known lines: {known}")
        return line

    def resolve(self, refs: Iterable[PolicyRef]) -> tuple[PolicyLine, ...]:
        """Return the lines named, in that order; raises UnknownPolicyLine if a version is not the one held."""
        lines = []
        for ref in refs:
            line = self.current(ref.id)
            if line.version != ref.version:
                raise UnknownPolicyLine(f"policy line {ref} was asked for, but this catalogue holds {line.ref}")
            lines.append(line)
        return tuple(lines)


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Load every `*.toml` of `folder` (the shipped lines if None); raises CatalogueInvalid, naming file and fault."""
    folder = folder or SHIPPED_LINES
    files = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    if not files:
        raise CatalogueInvalid(f"no policy files (*.toml) in {folder}: set KEYTURN_POLICY_DIR to the folder of yours")
    return Catalogue(line for file in files for line in _lines_of(file))


def _lines_of(file: Path) -> tuple[PolicyLine, ...]:
    try:
        raw: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return _PolicyFile.model_validate(raw).line
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogueInvalid(f"{file}: cannot be read as TOML: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise CatalogueInvalid(f"{file}: {where}: {fault['msg']}") from error
