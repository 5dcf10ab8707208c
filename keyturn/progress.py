"""A bulk run's progress as a line of text."""

import shutil
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
_PLURALS = {
    "job_created": "jobs created",
    "disagreement": "disagreements",
    "bad_row": "bad rows",
    "job_exists": "already have a job",
    "job_failed": "have a failed job",
}
_SINGULARS = {"job_exists": "already has a job", "job_failed": "has a failed job"}
_CLEAR = "\r\x1b[2K"  # to the start of the line, and erase it: ECMA-48, EL
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
    statuses: AsyncIterator[BulkStatus | str], *, show: Callable[[str, bool], None], live: bool, quiet: bool = False
) -> BulkStatus | None:
    """Print a run's progress until it ends; returns its last status.

    Args:
        statuses: of the run, as they come; a text says what it waits for while its status is not known.
        show: prints a text; its second argument says whether a new line follows.
        live: whether one line is written over and over, as in a terminal.
        quiet: print nothing.
    """
    pace, last, printed_at, paused = Pace(), None, -PRINT_EVERY, None
    async for status in statuses:
        now = time.monotonic()
        width = shutil.get_terminal_size().columns - 1 if live else None
        if isinstance(status, str):
            line, ended = status if width is None else status[:width], False
        else:
            last, ended = status, status.phase == "ended"
            if last.paused != paused and last.paused is not None and not quiet:
                hint = f" {last.hint}" if last.hint else ""
                show(f"{_CLEAR if live else ''}paused: {last.paused.replace('_', ' ')}.{hint}", True)
            paused = last.paused
            rate = pace.per_second(now, last.progress.asked)
            line = line_of(last, rate, width=width)
        if live and not quiet:
            show(f"{_CLEAR}{line}", False)
        elif not quiet and (now - printed_at >= PRINT_EVERY or ended):
            show(line, True)
            printed_at = now
    if live and not quiet:
        show("", True)
    return last


def line_of(status: BulkStatus, pace: float | None, *, width: int | None = None) -> str:
    """Return one line: bar, counts, rate, time left, cost, and what it waits for.

    Args:
        status: of the run.
        pace: items a second, if that is known.
        width: the most characters; what matters least is left out until it fits. None for no limit.
    """
    progress = status.progress
    share = progress.asked / progress.asks if progress.asks else float(status.phase in {"settling", "ended"})
    filled = round(share * BAR)
    waits = [_SAID[status.phase]] if status.phase in _SAID else []
    waits += [f"paused: {status.paused.replace('_', ' ')}"] if status.paused else []
    waits += ["cancelling"] if status.cancelled and status.phase != "ended" else []
    rate = left = ""
    if status.phase == "judging" and pace:
        rate, left = f"{pace:,.0f}/s", f"{timedelta(seconds=round((progress.asks - progress.asked) / pace))} left"
    # In their order on the line; the number says in which order they are left out, 0 never.
    parts = [
        (2, f"[{'#' * filled}{'.' * (BAR - filled)}]"),
        (0, f"{progress.asked:,}/{progress.asks:,} asked"),
        (3, rate),
        (5, left),
        (0, "  ".join(waits)),
        (4, f"${progress.cost_usd:,.4f}"),
        (1, summary_of(progress)),
    ]
    for left_out in range(6):
        line = "  ".join(text for order, text in parts if text and (order == 0 or order > left_out))
        if width is None or len(line) <= width:
            return line
    return line[:width]


def summary_of(progress: RunProgress) -> str:
    """Return the counts by outcome, the most first."""
    counts = sorted(progress.outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {outcome_in_words(name, count)}" for name, count in counts if count)


def outcome_in_words(name: str, count: int) -> str:
    """Return an outcome's name as it stands behind its count: `1 job created`, `3 jobs created`."""
    return (_SINGULARS if count == 1 else _PLURALS).get(name, name.replace("_", " "))
