"""Estates of 1,000, 10,000 and 50,000 keys by real processes: what a key costs, and what memory it takes."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from asyncio import to_thread
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.engine import URL

from benchmarks.bulk import rows_a_second
from benchmarks.results import Result
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.processes import child, program
from keyturn.lab.stack.temporal import dev_server
from tests.support.estates import LINE, estate
from tests.support.keys import KEYRING, KEYS_TEXT

PLOT = Path(__file__).parent / "scale.svg"
# By a small process in between: a child's peak counts what its parent held when it was made.
PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


class Measured(NamedTuple):
    """One estate: a second's keys and rows, and the most memory of each process in MiB."""

    keys: int
    keys_a_second: float
    worker: float
    starter: float
    rows_a_second: float


async def measure(postgresql: URL, *, sizes: tuple[int, ...]) -> list[Result]:
    """Return each size against the first, and draw benchmarks/scale.svg.

    The smallest is measured before and after each other one and its median taken: a run of seconds is at the mercy of
    the moment, and the server has more to carry with each estate. The first of all warms up and is not counted.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").write_text(KEYS_TEXT)
        (folder / "keys").chmod(0o600)
        database = postgresql.render_as_string(hide_password=False)
        async with dev_server(keyring=KEYRING) as client, simulator_process() as simulator:
            address = client.service_client.config.target_host
            environment = worker_environment(address, database, simulator, keys=folder / "keys")
            environment |= {"PATH": os.defpath, "KEYTURN_USER": "bench"}
            smallest, *others = sizes
            turns = [smallest, smallest, *(size for other in others for size in (other, smallest))]
            seen: list[Measured] = []
            for turn, keys in enumerate(turns):
                # A worker of its own each: its peak is this estate's.
                worker = child([program("keyturn"), "worker"], environment=environment, log=folder / f"{turn}.log")
                async with worker as process:
                    seen.append(await to_thread(_judged, folder, environment, turn, keys, process.pid))
                print(seen[-1], flush=True)
    small = [one for one in seen[1:] if one.keys == smallest]
    measured = [_median(small), *(one for one in seen if one.keys != smallest)]
    PLOT.write_text(_plot(measured))
    return [result for one in measured[1:] for result in _against(measured[0], one)]


def _median(measured: list[Measured]) -> Measured:
    return Measured(measured[0].keys, *(statistics.median(column) for column in list(zip(*measured, strict=True))[1:]))


def _judged(folder: Path, environment: Mapping[str, str], turn: int, keys: int, worker: int) -> Measured:
    file, name = folder / f"keys_{turn}.jsonl", f"scale-{turn}"
    estate(file, keys=keys)
    file.write_text(file.read_text().replace("acct_", f"a{turn}_"))  # no other estate's keys: each is asked about
    command = [str(program("keyturn")), "bulk", str(file), "--policy", LINE, "--name", name]
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", PEAK, *command], env=environment, capture_output=True, check=False)
    took = time.perf_counter() - began
    expected = f"{keys // 10:,} jobs created"
    if ended.returncode or expected not in ended.stderr.decode():
        raise AssertionError(f"the run of {keys:,} ended otherwise: {ended.stderr.decode()[-300:]}")
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())
    assert found is not None
    return Measured(
        keys=keys,
        keys_a_second=keys / took,
        worker=int(found[1]) / 1024,
        starter=int(ended.stdout.split()[-1]) / 1024,
        rows_a_second=rows_a_second(folder / "report.csv", keys, rounds=3),
    )


def _against(first: Measured, one: Measured) -> list[Result]:
    flat = one.keys_a_second / first.keys_a_second
    worker, starter = one.worker / first.worker, one.starter / first.starter
    sizes = f"{one.keys:,} keys against {first.keys:,}"
    return [
        Result(
            f"keyturn bulk keys/s, {sizes}",
            round(flat, 3),
            ">= 0.8",
            flat >= 0.8,
            f"{one.keys_a_second:.4g} against {first.keys_a_second:.4g} /s, start of the process included",
        ),
        Result(
            f"memory of a worker, {sizes}",
            round(worker, 3),
            "<= 1.3",
            worker <= 1.3,
            f"{one.worker:.0f} against {first.worker:.0f} MiB",
        ),
        Result(
            f"memory of keyturn bulk, {sizes}",
            round(starter, 3),
            "<= 1.3",
            starter <= 1.3,
            f"{one.starter:.0f} against {first.starter:.0f} MiB",
        ),
    ]


def _plot(measured: list[Measured]) -> str:
    """Each series against its first value, over the number of keys; the band is what is promised."""
    series = {
        "keys/s": "#2563eb",
        "worker's memory": "#dc2626",
        "starter's memory": "#d97706",
        "rows/s read": "#059669",
    }
    columns = list(zip(*[one[1:] for one in measured], strict=True))
    highest = max(1.5, *(value / column[0] for column in columns for value in column))

    def at(number: int, ratio: float) -> str:
        return f"{60 + number * 560 / max(1, len(measured) - 1):.0f},{220 - ratio * 190 / highest:.1f}"

    parts = [
        "<rect x='60' width='560' y='{}' height='{}' fill='#8882'/>".format(
            at(0, 1.3).split(",")[1], round(95 / highest)
        )
    ]
    for number, one in enumerate(measured):
        x = at(number, 0).split(",")[0]
        parts.append(f"<text x='{x}' y='240' text-anchor='middle'>{one.keys:,} keys</text>")
    parts += [f"<text x='50' y='{at(0, it).split(',')[1]}' text-anchor='end'>{it}</text>" for it in (0.5, 1.0, 1.5)]
    for number, ((label, colour), column) in enumerate(zip(series.items(), columns, strict=True)):
        points = " ".join(at(place, value / column[0]) for place, value in enumerate(column))
        parts.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts.append(f"<text x='640' y='{60 + number * 22}' style='fill:{colour}'>{label}</text>")
    style = "<style>text{font:12px sans-serif;fill:#888}</style>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 256'>{style}{''.join(parts)}</svg>\n"
