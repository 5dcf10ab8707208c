"""What starting costs: `keyturn --help`, the import of the boundary, and a worker until it polls.

In processor time, whole processes: what else the machine does is not counted. Without rich and pygments, which only
developers' tools bring, and which httpx and structlog import where they are.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import Result
from keyturn.lab.stack.embedded import Ports, embedded_stack, worker_environment
from keyturn.lab.stack.processes import child

HELP_SECONDS, IMPORT_SECONDS, WORKER_SECONDS = 0.1, 0.3, 1.2
_TICKS = os.sysconf("SC_CLK_TCK")


async def measure(*, rounds: int) -> list[Result]:
    """Return what the command line and the boundary take beyond Python's own start, and what a worker takes."""
    commands = {
        "nothing": ["-c", "pass"],
        "help": ["-m", "keyturn.starter", "--help"],
        "boundary": ["-c", "import keyturn.llm.boundary"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as folder:
        for name in ("rich", "pygments"):
            (Path(folder) / f"{name}.py").write_text('raise ImportError("not installed")')
        environment = os.environ | {"PYTHONPATH": folder}
        for _ in range(rounds + 1):
            for name, arguments in commands.items():
                seconds[name].append(await asyncio.to_thread(_processor_seconds, arguments, environment))
        worker = (await _worker_seconds(rounds + 1, Path(folder), {"PYTHONPATH": folder}))[1:]
    nothing = seconds["nothing"][1:]
    ours = [a - b for a, b in zip(seconds["help"][1:], nothing, strict=True)]
    imported = [a - b for a, b in zip(seconds["boundary"][1:], nothing, strict=True)]
    return [
        _result("keyturn --help, processor seconds beyond Python's start", ours, HELP_SECONDS),
        _result("import of the boundary, processor seconds beyond Python's start", imported, IMPORT_SECONDS),
        _result("a worker, processor seconds until it polls", worker, WORKER_SECONDS),
    ]


def _result(name: str, series: Sequence[float], target: float) -> Result:
    """A target that the spread straddles does not hold."""
    median = statistics.median(series)
    detail = f"{median:.3f} ({min(series):.3f}-{max(series):.3f}) s, {len(series)} rounds"
    return Result(name, round(median, 3), f"<= {target:g}", max(series) <= target, detail)


def _processor_seconds(arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{arguments} ended with {status}")
    return used.ru_utime + used.ru_stime


async def _worker_seconds(rounds: int, folder: Path, more: Mapping[str, str]) -> list[float]:
    async with embedded_stack(folder, ports=Ports(), keep=False, worker_log=folder / "worker.log") as stack:
        environment = worker_environment(stack.address, stack.database, stack.simulator, keys=stack.keys) | dict(more)
        return [await _until_it_polls(environment, folder / f"{number}.log") for number in range(rounds)]


async def _until_it_polls(environment: dict[str, str], log: Path) -> float:
    async with child([sys.executable, "-m", "keyturn.workers"], environment=environment, log=log) as process:
        async with asyncio.timeout(60):
            while "worker_started" not in log.read_text():
                await asyncio.sleep(0.005)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
