"""The policy catalogue: all policy lines of a process, at their current versions, checked once at start."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from keyturn.canonical import digest_of
from keyturn.contracts import PolicyRef
from keyturn.policy.errors import CatalogueInvalid, UnknownPolicyLine
from keyturn.policy.files import read_files, shipped_files
from keyturn.policy.line import PolicyLine, digest_of_line


class Catalogue:
    """All policy lines of this process, at their current versions. Immutable after loading."""

    def __init__(self, lines: Iterable[PolicyLine]) -> None:
        by_id: dict[str, PolicyLine] = {}
        for line in lines:
            if line.id in by_id:
                raise CatalogueInvalid(f"policy line {line.id} is defined twice: remove one definition")
            by_id[line.id] = line
        self._lines: Mapping[str, PolicyLine] = dict(sorted(by_id.items()))
        self.version = digest_of([digest_of_line(line) for line in self._lines.values()])

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
        """Return the lines named, in that order; raises UnknownPolicyLine if the catalogue has another version."""
        lines = []
        for ref in refs:
            line = self.current(ref.id)
            if line.version != ref.version:
                raise UnknownPolicyLine(f"policy line {ref} was asked for, but this catalogue has {line.ref}")
            lines.append(line)
        return tuple(lines)


def load_catalogue(folder: Path | None = None, *, shipped: bool = True) -> Catalogue:
    """Return the policy lines of this process: the shipped ones, and those of `folder`.

    Args:
        folder: of your own lines: every `*.toml` in it; None for none.
        shipped: whether the shipped lines are there as well.

    Raises:
        CatalogueInvalid: a file cannot be used, or a line is there twice. Nothing is loaded then. The message names
            file, line number, policy line and fault.
    """
    files = shipped_files() if shipped or folder is None else []
    if folder is not None:
        own = sorted(folder.glob("*.toml")) if folder.is_dir() else []
        if not own:
            raise CatalogueInvalid(
                f"no policy files (*.toml) in {folder}: set KEYTURN_POLICY_DIR to the folder of yours"
            )
        files += own
    lines, faults = read_files(files)
    if faults:
        raise CatalogueInvalid("; ".join(map(str, faults[:10])))
    return Catalogue(lines)
