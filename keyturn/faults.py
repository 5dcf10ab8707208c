"""What is wrong with which fields, from pydantic's errors: names and reasons, never a value."""

from pydantic import ValidationError

# pydantic repeats what was typed in some messages; these are ours, and they say what to do.
_REASONS = {
    "string_pattern_mismatch": "may hold letters, digits and . _ : / @ + = , - only, and begins with a letter or digit",
    "timezone_aware": "needs a time zone, such as 2026-11-21T09:00:00Z",
}


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Return each fault as the path of its field (empty: several fields together) and the reason, in their order."""
    return [
        (
            ".".join(str(part) for part in fault["loc"]),
            _REASONS.get(fault["type"], fault["msg"].removeprefix("Value error, ")),
        )
        for fault in error.errors(include_input=False, include_url=False)
    ]
