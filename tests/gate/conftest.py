"""The proof's counts, printed at the end of a run: they come from whichever process did the work."""

from collections import Counter
from typing import Any

import pytest

_PREFIX = "gate: "


@pytest.fixture
def counted(record_property: Any) -> Any:
    """Take a name and a number of cases, to be summed up at the end."""

    def count(name: str, number: int) -> None:
        record_property(_PREFIX + name, number)

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sums."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, number in report.user_properties:
            if name.startswith(_PREFIX):
                sums[name.removeprefix(_PREFIX)] += number
    for name, number in sums.items():
        terminalreporter.write_line(f"gate and oracle agree on {number:,} {name}")
