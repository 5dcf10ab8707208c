"""A bulk run's progress as a line of text."""

import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from keyturn.bulk.contracts import BulkStatus, RunProgress

BAR = 24
_SAID = {
    "loading": "reading the inventory",
    "offline": "waiting for the provider's batches",
    "settling": "waiting for rotations",
}
# The outcomes that are nouns; the others, such as `not eligible`, have no plural.
_PLURALS = {"job_created": "jobs created", "disagreement": "disagreements", "bad_row": "bad rows"}
PRINT_EVERY = 10.0  # seconds between lines in a log; a terminal's line is written anew each time


class Pace:
    """How quickly a run progresses, by what was seen of it lately."""

    def __init__(self, *, over: float = 30.0) -> None:
        self._over = over  # seconds: long enough to be steady, short enough to see a pause
        self._seen: list[tuple[float, int]] = []

    def per_second(self, now: float, asked: int) -> float | None:
        """Return items a second, given how many were asked about by `now` (seconds); None while that is not known."""
        self._seen.append((now, asked))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._over:
            self._seen.pop(0)
        first, before = self._seen[0]
        return (asked - before) / (now - first) if now - first >= 0.5 and asked > before else None


async def show_progress(
    statuses: AsyncIterator[BulkStatus], *, show: Callable[[str, bool], None], live: bool, quiet: bool = False
) -> BulkStatus | None:
    """Print a run's progress until it ends; returns its last status.

    Args:
        statuses: of the run, as they come.
        show: prints a text; its second argument says whether a new line follows.
        live: whether one line is written over and over, as in a terminal.
        quiet: print nothing.
    """
    pace, last, printed_at = Pace(), None, -PRINT_EVERY
    async for last in statuses:
        now = time.monotonic()
        line = line_of(last, pace.per_second(now, last.progress.asked))
        if live and not quiet:
            show(f"\r\x1b[2K{line}", False)
        elif not quiet and (now - printed_at >= PRINT_EVERY or last.phase == "ended"):
            show(line, True)
            printed_at = now
    if live and not quiet:
        show("", True)
    return last


def line_of(status: BulkStatus, pace: float | None) -> str:
    """Return one line: bar, counts, rate, time left, cost, and what it waits for."""
    progress = status.progress
    share = progress.asked / progress.asks if progress.asks else 1.0
    filled = round(share * BAR)
    parts = [f"[{'#' * filled}{'.' * (BAR - filled)}] {progress.asked:,}/{progress.asks:,} asked"]
    if status.phase == "judging" and pace:
        left = timedelta(seconds=round((progress.asks - progress.asked) / pace))
        parts.append(f"{pace:,.0f}/s, {left} left")
    if status.phase in _SAID:
        parts.append(_SAID[status.phase])
    if status.paused:
        parts.append(f"paused: {status.paused}")
    if status.cancelled:
        parts.append("cancelled")
    parts.append(f"${progress.cost_usd:,.4f}")
    return "  ".join([*parts, summary_of(progress)])


def summary_of(progress: RunProgress) -> str:
    """Return the counts by outcome, the most first."""
    counts = sorted(progress.outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {outcome_in_words(name, count)}" for name, count in counts if count)


def outcome_in_words(name: str, count: int) -> str:
    """Return an outcome's name as it stands behind its count: `1 job created`, `3 jobs created`."""
    return (_PLURALS.get(name) if count != 1 else None) or name.replace("_", " ")
