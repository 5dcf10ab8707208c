"""A soak: a steady load with mild faults beside it, and whether memory, open files, histories or latency drift."""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from keyturn.lab.proof.driver import one_operation
from keyturn.lab.proof.operation_record import Incident, OperationRecord
from keyturn.lab.proof.plan import CALM, Operation
from keyturn.lab.proof.plots import Panel, panels
from keyturn.lab.proof.world import World

# What costs a request more and no process: a process that is killed has no memory that could drift.
MILD = ("none", "none", "rate_limit", "server_error", "half_body", "malformed_json", "answer_lost", "draft", "denied")
A_SECOND = 2.0
SAMPLE_SECONDS = 5.0
BETWEEN = (8.0, 20.0)  # seconds between two faults beside the load
# The last quarter against the second: a first one warms up. Measured over five minutes, a calm quarter differs by less.
MAY_GROW = {"memory": 1.15, "files": 1.25, "events": 1.1, "latency": 2.0}
UNITS = {
    "memory": "MiB a worker",
    "files": "open files a worker",
    "events": "events a history",
    "latency": "s a rotation",
}


@dataclass
class SoakResult:
    """What was seen: by figure, seconds since the beginning and its value; and every operation."""

    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in MAY_GROW})
    seen: list[OperationRecord] = field(default_factory=list)
    seconds: float = 0.0


async def soak(world: World, minutes: float, chance: random.Random) -> SoakResult:
    """Ask for operations steadily for so long, with faults beside them; returns what was seen."""
    soaked, client = SoakResult(), await world.client()
    began, asked = time.monotonic(), 0
    beside = [
        asyncio.create_task(_sample(world, soaked, began)),
        asyncio.create_task(_mild_faults(world, chance)),
    ]
    running: set[asyncio.Task[None]] = set()
    try:
        while (now := time.monotonic() - began) < 60 * minutes:
            while asked < now * A_SECOND:
                one = OperationRecord(Operation(CALM + asked, MILD[asked % len(MILD)]), began=time.time())
                soaked.seen.append(one)
                running.add(asyncio.create_task(_run_one(world, client, one, soaked, began)))
                asked += 1
            running = {task for task in running if not task.done()}
            await asyncio.sleep(0.1)
        soaked.seconds = time.monotonic() - began
        await asyncio.gather(*running)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return soaked


async def _run_one(world: World, client: Client, one: OperationRecord, soaked: SoakResult, began: float) -> None:
    await one_operation(world, client, one)
    at = time.monotonic() - began
    if one.operation.fault == "none":  # the others take as long as what they meet
        soaked.series["latency"].append((at, one.ended - one.began))
        with suppress(RPCError):
            described = await client.get_workflow_handle(one.workflow_id).describe()
            soaked.series["events"].append((at, float(described.history_length)))


async def _sample(world: World, soaked: SoakResult, began: float) -> None:
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        at = time.monotonic() - began
        pids = [process.pid for name, process in world.processes.items() if name.startswith("worker")]
        with suppress(OSError):
            memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids]
            files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
            soaked.series["memory"].append((at, statistics.fmean(memory)))
            soaked.series["files"].append((at, statistics.fmean(files)))


async def _mild_faults(world: World, chance: random.Random) -> None:
    """Break connections and stop processes for a moment; none is killed."""
    while True:
        await asyncio.sleep(chance.uniform(*BETWEEN))
        # Not the provider's: an answer that was sent and never received is paid for, and cannot be in the ledger.
        cables = [f"pull_{cable}" for cable in world.cables if cable != "provider"]
        name = chance.choice(["stop_worker", *cables])
        if name == "stop_worker":
            await world.freeze(f"worker_{chance.randrange(2)}", chance.uniform(0.5, 2))
        else:
            world.cables[name.removeprefix("pull_")].pull()
        world.befell.append(Incident(name, time.time()))


def drift(soaked: SoakResult) -> Mapping[str, tuple[float, float]]:
    """Return each figure's median in the second quarter and in the last."""
    quarter = soaked.seconds / 4

    def median_of(series: Sequence[tuple[float, float]], number: int) -> float:
        part = [value for at, value in series if quarter * number <= at < quarter * (number + 1)]
        return statistics.median(part) if part else 0.0

    return {name: (median_of(series, 1), median_of(series, 3)) for name, series in soaked.series.items()}


def soak_rows(soaked: SoakResult, violations: int, beside: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the results, a row each figure and one for what must hold of every operation."""
    rows = []
    for name, (before, after) in drift(soaked).items():
        ratio, limit = (after / before if before else 0.0), MAY_GROW[name]
        detail = f"{after:.4g} against {before:.4g} {UNITS[name]}, last quarter against second"
        rows.append(_row(name, round(ratio, 3), f"<= {limit}", 0 < ratio <= limit, detail))
    met = ", ".join(f"{name} {times}" for name, times in sorted(beside.items()) if times)
    took = f"{len(soaked.seen)} operations in {soaked.seconds / 60:.0f} min"
    detail = f"{took}; beside them: {met}; {violations} violations"
    return [*rows, _row("all", float(not violations), ">= 1", not violations, detail)]


def _row(name: str, ratio: float, reach: str, holds: bool, detail: str) -> dict[str, Any]:
    return {"name": f"soak: {name}", "ratio": ratio, "reach": reach, "holds": holds, "detail": detail}


def picture(soaked: SoakResult) -> str:
    """Return the four figures over time, as SVG."""
    return panels([Panel(f"{name}, {UNITS[name]}", series) for name, series in soaked.series.items()])
