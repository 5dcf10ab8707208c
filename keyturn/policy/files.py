"""Policy files: TOML with a `[[line]]` for each policy line. Each fault is named by file and line number."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from keyturn.contracts import Contract
from keyturn.policy.line import PolicyLine

SHIPPED_LINES = Path(__file__).parent / "lines"
# No policy has a thousand lines: the largest benchmark has some hundreds of recommendations in all.
MAX_LINES_PER_FILE = 1_000
MAX_FILE_BYTES = 4_000_000  # a thousand lines of some hundred bytes each, many times over


class Fault(NamedTuple):
    """What is wrong with a policy file, and where."""

    file: str
    line_number: int | None
    policy_line: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line_number is None else f"{self.file}:{self.line_number}"
        named = f"{self.policy_line}: " if self.policy_line else ""
        return f"{place}: {named}{self.message}"


class PolicyFile(Contract):
    """A file of policy lines, as `docs/schemas/policy.json` describes it."""

    line: tuple[PolicyLine, ...] = Field(min_length=1, max_length=MAX_LINES_PER_FILE, description="The policy lines.")


def shipped_files() -> list[Path]:
    """Return the files of the shipped lines."""
    return sorted(SHIPPED_LINES.glob("*.toml"))


def read_files(files: Iterable[Path]) -> tuple[list[PolicyLine], list[Fault]]:
    """Return the policy lines of `files`, and every fault that there is. With a fault, the lines are not to be used."""
    lines: list[PolicyLine] = []
    faults: list[Fault] = []
    first: dict[str, str] = {}  # where each id was defined
    for file in files:
        read = _read(file)
        if isinstance(read, list):
            faults += read
            continue
        text, policy_file = read
        numbers = _line_numbers(text)
        for place, line in enumerate(policy_file.line):
            where = f"{file}:{numbers[place]}" if place < len(numbers) else str(file)
            if line.id in first:
                hint = (
                    " Give yours another ID, or set KEYTURN_POLICY_SHIPPED=off." if _is_shipped(first[line.id]) else ""
                )
                message = f"{line.id} is defined twice: first in {first[line.id]}. Remove one of them.{hint}"
                faults.append(Fault(str(file), numbers[place] if place < len(numbers) else None, line.id, message))
                continue
            first[line.id] = where
            lines.append(line)
    return lines, faults


def _is_shipped(place: str) -> bool:
    return place.startswith(str(SHIPPED_LINES))


def _read(file: Path) -> tuple[str, PolicyFile] | list[Fault]:
    try:
        if not file.is_file():
            return [Fault(str(file), None, None, "is not a regular file")]
        if file.stat().st_size > MAX_FILE_BYTES:
            return [Fault(str(file), None, None, f"is larger than {MAX_FILE_BYTES:,} bytes")]
        text = file.read_text(encoding="utf-8-sig")
        raw: dict[str, Any] = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        return [Fault(str(file), None, None, f"cannot be read as TOML: {str(error) or type(error).__name__}")]
    try:
        return text, PolicyFile.model_validate(raw)
    except ValidationError as error:
        return list(_faults_of(file, text, raw, error))


def _faults_of(file: Path, text: str, raw: dict[str, Any], error: ValidationError) -> Iterator[Fault]:
    for fault in error.errors(include_url=False):
        path = fault["loc"]
        if fault["type"] == "too_short" and path == ("line",) and raw.get("line"):
            continue  # reported of lines that are there, and whose own faults are reported
        place = path[1] if len(path) > 1 and isinstance(path[1], int) else None
        field = ".".join(str(part) for part in (path if place is None else path[2:]))
        message = _hint_of(fault["type"], fault["msg"].removeprefix("Value error, "))
        named = None if place is None else _id_of(raw, place)
        number = None if place is None else _number_of(text, place, str(path[2]) if len(path) > 2 else "")
        where = ".".join(map(str, path))
        yield Fault(str(file), number, named, f"{where}: {message}" if field else message)


def _hint_of(kind: str, message: str) -> str:
    """What is wrong and what to do, where pydantic says only the first."""
    return {
        "extra_forbidden": "no such field; `keyturn policy schema` lists the fields",
        "string_pattern_mismatch": "may hold ASCII letters, digits and . _ @ + = - only, a letter or digit first",
    }.get(kind, message)


def _id_of(raw: dict[str, Any], place: int) -> str | None:
    lines = raw.get("line")
    line = lines[place] if isinstance(lines, list) and place < len(lines) else None
    name = line.get("id") if isinstance(line, dict) else None
    return name[:64] if isinstance(name, str) and name.isprintable() else None


_HEADER = re.compile(r"^\s*\[\[\s*line\s*\]\]", re.MULTILINE)


def _line_numbers(text: str) -> list[int]:
    """Return the line number of each `[[line]]`: TOML's reader drops them."""
    return [text.count("\n", 0, match.end()) + 1 for match in _HEADER.finditer(text)]


def _number_of(text: str, place: int, field: str) -> int | None:
    """The line number of a policy line's field; of its header, if the field is missing."""
    numbers = _line_numbers(text)
    if place >= len(numbers):
        return None
    first = numbers[place]
    last = numbers[place + 1] - 1 if place + 1 < len(numbers) else text.count("\n") + 1
    key = re.compile(rf"^\s*(?:\"{re.escape(field)}\"|{re.escape(field)})\s*[=.]") if field else None
    block = text.splitlines()[first - 1 : last]
    return next((first + at for at, row in enumerate(block) if key and key.match(row)), first)
