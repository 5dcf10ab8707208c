"""The rotation workflow on a cluster of Temporal's production server, and what a second worker adds there."""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
from temporalio.client import Client

from benchmarks.results import Result, compared
from benchmarks.workflows import both, compare, latencies_of, rate_of
from keyturn.application.connection import connect
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.bulk.contracts import BulkSource
from keyturn.bulk.store import BulkStore
from keyturn.database import database_url, open_database
from keyturn.keyring_files import load_keyring, write_keys
from keyturn.lab.cluster.servers import Cluster, cluster
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.go import go_is_installed
from keyturn.lab.stack.processes import child
from keyturn.policy.catalogue import load_catalogue
from keyturn.workers.bulk import load_source, run_encryption
from keyturn.workers.schema import migrate
from keyturn.workflows.bulk import bulk_id
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import request
from tests.support.estates import LINE, NOW, estate

QUEUE = "benchmark-workers"
WORKERS = (1, 2, 4)  # processes
WARM = 50  # rotations before the clock starts, for each
KEYS = 10_000


async def measure(*, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    """Return latency and throughput against the bare workflow, and with two worker processes against one.

    Everything shares the machine: seven processes of the server, PostgreSQL, the workers, the simulator and the caller.
    Without Go, it measures nothing.
    """
    if not go_is_installed():
        print("the cluster was not measured: Go is not installed here")
        return []
    with tempfile.TemporaryDirectory() as folder:
        return await _measure(Path(folder), rounds, one_by_one, at_once)


async def _measure(folder: Path, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    async with cluster() as running:
        url = database_url(running.database)
        await asyncio.to_thread(migrate, url)
        async with both(url, over_http=False, server=_plain(running)) as (_encrypted, _bare, ours, theirs):
            await latencies_of(ours, 20), await latencies_of(theirs, 20)
            targets = (1.25, None, 0.8)
            results = await compare("cluster", ours, theirs, rounds, one_by_one, at_once, targets=targets)
        before = _bytes(running)
        results += await _workers(running, folder, rounds, at_once)
        rotations = rounds * len(WORKERS) * (WARM + at_once)
        return [*results, *_sizes(before, _bytes(running), rotations), await _run_size(running, folder)]


@asynccontextmanager
async def _plain(running: Cluster) -> AsyncIterator[Client]:
    yield await connect(running.address)


async def _workers(running: Cluster, folder: Path, rounds: int, at_once: int) -> list[Result]:
    rates: dict[int, list[float]] = {count: [] for count in WORKERS}
    keys = folder / "payload_keys"
    write_keys(keys)
    client = await connect(running.address, keyring=load_keyring(text=None, file=keys, development=True))
    async with simulator_process() as simulator:
        settings = worker_environment(running.address, running.database, simulator, keys=keys)
        settings |= {"KEYTURN_TOKENS_PER_USER_HOUR": "0", "KEYTURN_BULK_PAGES": "0"}
        for number in range(rounds):
            for count, rate in rates.items():
                queue = f"{QUEUE}-{number}-{count}"
                its = settings | {"KEYTURN_TASK_QUEUE": queue}
                rate.append(await _rate(client, count, its, at_once, folder / queue))
    said = ", ".join(f"{count}: {statistics.median(rate):.1f}" for count, rate in rates.items())
    print(f"rotations a second by worker processes: {said}")
    return [
        compared("cluster: rotations/s of two workers / one", rates[2], rates[1], unit="/s", at="least", target=1.6),
        compared("cluster: rotations/s of four workers / one", rates[4], rates[1], unit="/s", at="least"),
    ]


def _bytes(running: Cluster) -> dict[str, int]:
    with psycopg.connect(running.administrator) as connection:
        rows = connection.execute("SELECT datname, pg_database_size(datname) FROM pg_database").fetchall()
    return dict(rows)


def _sizes(before: dict[str, int], after: dict[str, int], rotations: int) -> list[Result]:
    """What a rotation leaves in each database, with its indexes, right after it; it is no promise."""
    kept = {"temporal": "Temporal's histories", "temporal_visibility": "Temporal's visibility", "keyturn": "Keyturn"}
    return [
        Result(f"cluster: bytes a rotation, {said}", round((after[name] - before[name]) / rotations), "-", True, detail)
        for name, said in kept.items()
        for detail in [f"{rotations:,} rotations; {after[name] - before[name]:,} bytes more"]
    ]


async def _run_size(running: Cluster, folder: Path) -> Result:
    """What a key of a bulk run leaves in Keyturn's database, before any of them is decided."""
    file, engine = estate(folder / "keys.jsonl", keys=KEYS), open_database(database_url(running.database), pool_size=1)
    source = BulkSource(path=str(file), policies=(LINE,), question="May it be rotated?", observed_at=NOW)
    encryption = run_encryption(load_keyring(text=None, file=folder / "payload_keys", development=True))
    before = _bytes(running)["keyturn"]
    try:
        store, whose = BulkStore(engine), ("sized", "default", bulk_id("default", "sized"))
        await load_source(source, *whose, store, load_catalogue(), encryption, on_progress=lambda _count: None)
    finally:
        await engine.dispose()
    more = _bytes(running)["keyturn"] - before
    return Result(
        "cluster: bytes a key of a run, Keyturn", round(more / KEYS), "-", True, f"{KEYS:,} keys, a tenth due"
    )


async def _rate(client: Client, workers: int, settings: dict[str, str], count: int, log: Path) -> float:
    queue, names = settings["KEYTURN_TASK_QUEUE"], names_of(client)

    async def one() -> None:
        asked = request()
        await client.execute_workflow(RotationWorkflow.run, asked, id=id_of(asked, names), task_queue=queue)

    async with AsyncExitStack() as parts:
        for _ in range(workers):
            command = [sys.executable, "-m", "keyturn.workers"]
            await parts.enter_async_context(child(command, environment=settings, log=log))
        async with asyncio.timeout(60):
            while log.read_text().count("worker_started") < workers:
                await asyncio.sleep(0.2)
        await rate_of(one, WARM, 50)
        return await rate_of(one, count, 50)
