"""What is wrong with which fields, from pydantic's errors: names and reasons, never a value."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

# The marks that an id may hold, by what its pattern has of them (keyturn.contracts): the longer one first.
_MARKS = {"._:/@+=,-": ". _ : / @ + = , -", "._@+=-": ". _ @ + = -"}


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Return each fault as the path of its field (empty: several fields together) and the reason, in their order."""
    return [
        (".".join(str(part) for part in fault["loc"]), reason_of(fault))
        for fault in error.errors(include_input=False, include_url=False)
    ]


def reason_of(fault: ErrorDetails) -> str:
    """Return what is wrong, without the value."""
    if fault["type"] == "timezone_aware":
        return "needs a time zone, such as 2026-11-21T09:00:00Z"
    if fault["type"] == "string_pattern_mismatch":
        pattern = str(fault["ctx"]["pattern"])
        for written, marks in _MARKS.items():
            if written in pattern:
                return f"may hold letters, digits and {marks} only, and starts with a letter or digit"
    if fault["type"] == "extra_forbidden":
        return "is not known here"
    return fault["msg"].removeprefix("Value error, ")
