"""One typed model call by our boundary, by raw httpx, and by the libraries that people use: side by side, in turn."""

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.contenders import IMPORTS, OTHERS, Ask, keyturn, raw
from benchmarks.results import Result, compared
from keyturn.lab.stack.processes import child

AT_ONCE = 64
IMPORT_REACH = 0.3  # seconds, above Python's own start


async def measure(*, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    """Return latency, throughput, CPU, import time and memory of each, against ours."""
    others = {name: make for name, make in OTHERS.items() if importlib.util.find_spec(name)}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for delay in (0, 200):
            command = [sys.executable, "-m", "benchmarks.mock", str(delay)]
            async with child(command, stdout=asyncio.subprocess.PIPE) as mock, AsyncExitStack() as parts:
                assert mock.stdout is not None
                base_url = f"{(await mock.stdout.readline()).decode().strip()}/v1"
                asks: dict[str, Ask] = {}
                for name, make in {"keyturn": keyturn, "raw": raw, **others}.items():
                    asks[name] = await parts.enter_async_context(make(base_url, Path(folder)))
                slow = delay > 0
                figures = await _figures(asks, rounds, 10 if slow else one_by_one, at_once)
                results += _compared(figures, f"{delay} ms", promised=not slow)
    return results + _imports(["keyturn", "raw", *others], rounds)


class Figures:
    """What was measured of one contender, a figure a round."""

    def __init__(self) -> None:
        self.p50: list[float] = []
        self.p99: list[float] = []
        self.rate: list[float] = []
        self.cpu: list[float] = []


async def _figures(asks: dict[str, Ask], rounds: int, one_by_one: int, at_once: int) -> dict[str, Figures]:
    figures = {name: Figures() for name in asks}
    for ask in asks.values():  # warm: connections, caches, code
        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    for _ in range(rounds):
        for name, ask in asks.items():
            taken = sorted([await _seconds(ask) for _ in range(one_by_one)])
            figures[name].p50.append(statistics.median(taken) * 1000)
            figures[name].p99.append(taken[int(len(taken) * 0.99)] * 1000)
        for name, ask in asks.items():
            gate = asyncio.Semaphore(AT_ONCE)
            cpu, began = time.process_time(), time.perf_counter()
            await asyncio.gather(*(_gated(gate, ask) for _ in range(at_once)))
            figures[name].rate.append(at_once / (time.perf_counter() - began))
            figures[name].cpu.append((time.process_time() - cpu) / at_once * 1000)
    return figures


async def _seconds(ask: Ask) -> float:
    began = time.perf_counter()
    await ask()
    return time.perf_counter() - began


async def _gated(gate: asyncio.Semaphore, ask: Ask) -> None:
    async with gate:
        await ask()


def _compared(figures: dict[str, Figures], delay: str, *, promised: bool) -> list[Result]:
    ours = figures["keyturn"]
    results = []
    for name, theirs in figures.items():
        if name == "keyturn":
            continue
        of = f"call / {name}, provider at {delay}"
        p50 = 1.6 if promised and name == "raw" else None
        rate = {"litellm": 5.0, "openai": 3.0}.get(name) if promised else None
        results += [
            compared(f"p50 of a {of}", ours.p50, theirs.p50, unit="ms", target=p50),
            compared(f"p99 of a {of}", ours.p99, theirs.p99, unit="ms"),
            compared(f"calls/s at 64, {of}", ours.rate, theirs.rate, unit="calls/s", at="least", target=rate),
            compared(f"CPU of a {of}", ours.cpu, theirs.cpu, unit="ms"),
        ]
    return results


def _imports(names: Sequence[str], rounds: int) -> list[Result]:
    """Import seconds and peak memory, each a process of its own, against a Python that imports nothing."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ("nothing", *names)}
    for _ in range(rounds):
        for name, series in measured.items():
            series.append(_imported(IMPORTS.get(name, "pass")))
    seconds = {name: [second for second, _ in series] for name, series in measured.items()}
    memory = {name: [megabytes for _, megabytes in series] for name, series in measured.items()}
    median = statistics.median(seconds["keyturn"])
    spread = f"seconds ({min(seconds['keyturn']):.3f}-{max(seconds['keyturn']):.3f})"
    results = [
        Result(
            "import of the boundary, seconds", round(median, 3), f"<= {IMPORT_REACH}", median <= IMPORT_REACH, spread
        )
    ]
    for name in names:
        if name != "keyturn":
            results.append(compared(f"import time / {name}", seconds["keyturn"], seconds[name], unit="s"))
            results.append(compared(f"memory after import / {name}", memory["keyturn"], memory[name], unit="MB"))
    return results


def _imported(code: str) -> tuple[float, float]:
    program = (
        "import time, json; began = time.perf_counter()\n"
        f"{code}\n"
        "seconds = time.perf_counter() - began\n"
        "kilobytes = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS'))\n"
        "print(json.dumps([seconds, kilobytes / 1024]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes
