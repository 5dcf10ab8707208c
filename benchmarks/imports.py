"""How long `keyturn --help` takes, as a whole process."""

import statistics
import subprocess
import sys
import time

from benchmarks.results import Result

REACH = 0.4


def measure(*, rounds: int) -> list[Result]:
    """Return seconds of `keyturn --help`, and the same against Python doing nothing."""
    ours = [_seconds("-m", "keyturn.starter", "--help") for _ in range(rounds + 1)][1:]
    nothing = [_seconds("-c", "pass") for _ in range(rounds + 1)][1:]
    median = statistics.median(ours)
    detail = f"seconds ({min(ours):.3f}-{max(ours):.3f}); Python doing nothing takes {statistics.median(nothing):.3f}"
    return [Result("keyturn --help, seconds", round(median, 3), f"< {REACH}", median < REACH, detail)]


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
