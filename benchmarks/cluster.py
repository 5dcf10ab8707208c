"""The rotation workflow on a cluster of Temporal's production server, and what a second worker adds there."""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from temporalio.client import Client

from benchmarks.results import Result, compared
from benchmarks.workflows import both, compare, latencies_of, rate_of
from keyturn.application.connection import connect
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.database import database_url
from keyturn.keyring_files import load_keyring, write_keys
from keyturn.lab.cluster.programs import go_is_installed
from keyturn.lab.cluster.servers import Cluster, cluster
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.processes import child
from keyturn.workers.schema import migrate
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import request

QUEUE = "benchmark-workers"


async def measure(*, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    """Return latency and throughput against the bare workflow, and with two worker processes against one.

    Everything shares the machine: seven processes of the server, PostgreSQL, the workers, the simulator and the caller.
    Without Go, it measures nothing.
    """
    if not go_is_installed():
        print("the cluster was not measured: Go is not installed here")
        return []
    async with cluster() as running:
        url = database_url(running.database)
        await asyncio.to_thread(migrate, url)
        async with both(url, over_http=False, server=_plain(running)) as (_encrypted, _bare, ours, theirs):
            await latencies_of(ours, 20), await latencies_of(theirs, 20)
            targets = (1.25, None, 0.8)
            results = await compare("cluster", ours, theirs, rounds, one_by_one, at_once, targets=targets)
        return [*results, *await _workers(running, rounds, at_once)]


@asynccontextmanager
async def _plain(running: Cluster) -> AsyncIterator[Client]:
    yield await connect(running.address)


async def _workers(running: Cluster, rounds: int, at_once: int) -> list[Result]:
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "payload_keys"
        write_keys(keys)
        client = await connect(running.address, keyring=load_keyring(text=None, file=keys, development=True))
        async with simulator_process() as simulator:
            settings = worker_environment(running.address, running.database, simulator, keys=keys)
            settings |= {"KEYTURN_TASK_QUEUE": QUEUE, "KEYTURN_TOKENS_PER_USER_HOUR": "0", "KEYTURN_BULK_PAGES": "0"}
            for number in range(rounds):
                for count, rate in rates.items():
                    queue = f"{QUEUE}-{number}-{count}"
                    its = settings | {"KEYTURN_TASK_QUEUE": queue}
                    rate.append(await _rate(client, count, its, at_once, Path(folder) / queue))
    said = ", ".join(f"{count}: {statistics.median(rate):.1f}" for count, rate in rates.items())
    print(f"rotations a second by worker processes: {said}")
    return [
        compared("cluster: rotations/s of two workers / one", rates[2], rates[1], unit="/s", at="least", target=1.6),
        compared("cluster: rotations/s of four workers / one", rates[4], rates[1], unit="/s", at="least"),
    ]


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
        await rate_of(one, 50, 50)  # warm
        return await rate_of(one, count, 50)
