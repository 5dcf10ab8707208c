"""Rotations of keys: what a wait of a day costs in history, what a thousand of them hold, and calls of each cloud."""

import asyncio
import json
import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.results import Result
from keyturn.activities.rotate_key import RotateKey
from keyturn.application.connection import connect
from keyturn.azure.settings import AzureSettings
from keyturn.database import database_url, open_database
from keyturn.execution.contracts import KeyRotationOrder, KeyWaits, Need
from keyturn.execution.protocols import CloudKeys
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.executors.entra.secrets import EntraSecrets
from keyturn.executors.gcp.keys import GcpServiceAccountKeys
from keyturn.gcp.api import GoogleCloud
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.lab.simulator.entra import Entra
from keyturn.lab.simulator.gcp import PROJECT, GcpSimulator
from keyturn.lab.stack.temporal import dev_server
from keyturn.targets.file import SecretFiles
from keyturn.workers.executor import CACHED, collect_garbage
from keyturn.workers.schema import migrate
from keyturn.workflows.rotate_key import RotateKeyWorkflow
from tests.support.aws import Network, aws_account
from tests.support.key_rotations import create_job
from tests.support.other_histories import Steps
from tests.support.record_histories import skipping_server
from tests.support.servers import fake_server

EVENTS_A_DAY = 10
CALLS = 1.3
NOT_SEEN = Need(kind="new_key_not_seen")
# What the steps of a rotation need at least, by what they must know just before they change something: the keys before
# they are recorded, before one is created, before the old one is deactivated, and before it is deleted (4); one of them
# created, deactivated and deleted (3); the new one used when it was created, when it was stored, and before the old one
# goes (3); the use of the old one and the new one at the wait's end, of the old one before and after its deactivation,
# and before it is deleted (5); and at AWS once whose the credentials are.
LEAST = {"aws": 16, "gcp": 15, "entra": 15}


async def measure(*, waiting: int) -> list[Result]:
    """Return the rows of a wait's history, of many waits' memory, and of each cloud's calls."""
    return [await _events_a_day(), await _memory(waiting), *await _calls()]


async def _events_a_day() -> Result:
    """A rotation that waits a week for its overlap, a week for a consumer, and a week for its grace, a look an hour."""
    days = 21
    needs = [NOT_SEEN] * (7 * 24)
    waits = KeyWaits(overlap=timedelta(days=7), grace=timedelta(days=7), check_every=timedelta(hours=1))
    async with skipping_server() as client:
        short = await _history(client, Steps(), KeyWaits(overlap=timedelta(0), grace=timedelta(0)))
        long = await _history(client, Steps(needs=needs), waits)
    a_day = (long - short) / days
    detail = f"{long} events with three weeks of waiting, {short} without, at a look an hour"
    name = "history events a waiting day of a rotation"
    return Result(name, round(a_day, 2), f"<= {EVENTS_A_DAY}", a_day <= EVENTS_A_DAY, detail)


async def _history(client: Client, steps: Steps, waits: KeyWaits) -> int:
    rotate, queue = RotateKey(steps), f"bench-{uuid.uuid4().hex}"
    ordered = KeyRotationOrder(job_id="job_1", cloud_account="123456789012", waits=waits)
    async with Worker(client, task_queue=queue, workflows=[RotateKeyWorkflow], activities=rotate.activities):
        handle = await client.start_workflow(RotateKeyWorkflow.run, ordered, id=uuid.uuid4().hex, task_queue=queue)
        await handle.result()
        return len((await handle.fetch_history()).events)


async def _memory(waiting: int) -> Result:
    """The memory of a process with an executor whose rotations all wait, against one with a tenth of them."""
    sizes = []
    async with dev_server() as client:
        queue, waits = f"bench-{uuid.uuid4().hex}", KeyWaits(overlap=timedelta(days=1))
        address = client.service_client.config.target_host
        serving = [sys.executable, "-m", "benchmarks.rotations", "serve", address, queue]
        process = await asyncio.create_subprocess_exec(*serving)
        try:
            begun = 0
            for many in (waiting // 10, waiting):
                for number in range(begun, many):
                    ordered = KeyRotationOrder(job_id=f"job_{number}", cloud_account="123456789012", waits=waits)
                    await client.start_workflow(
                        RotateKeyWorkflow.run, ordered, id=f"{queue}-{number}", task_queue=queue
                    )
                handles = [client.get_workflow_handle(f"{queue}-{number}") for number in range(begun, many)]
                for handle in handles:
                    while (await handle.query(RotateKeyWorkflow.status)).step != "overlap":
                        await asyncio.sleep(0.2)
                begun = many
                sizes.append(_resident_mb(process.pid))
        finally:
            process.kill()
            await process.wait()
    ratio = sizes[1] / sizes[0]
    detail = f"{sizes[1]:.0f} MB with {waiting:,} rotations that wait, {sizes[0]:.0f} MB with {waiting // 10:,}"
    name = f"memory of an executor, {waiting:,} waiting rotations against {waiting // 10:,}"
    return Result(name, round(ratio, 3), "<= 1.3", ratio <= 1.3, detail)


async def _serve(address: str, queue: str) -> None:
    """Be the executor whose memory is measured, with steps that do nothing, until the process is killed."""
    rotate, client = RotateKey(Steps()), await connect(address)
    async with Worker(
        client,
        task_queue=queue,
        workflows=[RotateKeyWorkflow],
        activities=rotate.activities,
        max_cached_workflows=CACHED,
    ):
        await collect_garbage(every=3)  # a tenth of the executor's: here a day's work takes seconds


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _calls() -> list[Result]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as folder:
        for name, opened in (("aws", _aws), ("gcp", _gcp), ("entra", _entra)):
            async with opened(Path(folder)) as (keys, account, user, key_id, count):
                made = await _rotate(keys, account, user, key_id, Path(folder), count)
            ratio = made / LEAST[name]
            detail = f"{made} calls of the cloud, {LEAST[name]} that its steps need; a file is the target"
            row = f"calls of a rotation / the fewest that its steps need, {name}"
            rows.append(Result(row, round(ratio, 3), f"<= {CALLS}", ratio <= CALLS, detail))
    return rows


Opened = tuple[CloudKeys, str, str, str, Callable[[], int]]


@asynccontextmanager
async def _aws(folder: Path) -> AsyncIterator[Opened]:
    with aws_account() as aws:
        network = Network(aws)
        async with network.served() as address:
            user, key_id = aws.user()
            yield AwsAccessKeys(**aws.settings(address)), "123456789012", user, key_id, lambda: len(network.calls)


@asynccontextmanager
async def _gcp(folder: Path) -> AsyncIterator[Opened]:
    simulator, user = GcpSimulator(), f"svc@{PROJECT}.iam.gserviceaccount.com"
    simulator.iam.accounts[user] = {}
    key_id = simulator.iam.create_key(user, at=datetime(2025, 1, 1, tzinfo=UTC))
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(fake_server(simulator.application()))
        file = folder / "google.json"
        file.write_text(simulator.executor_file(address))
        os.environ |= {"GOOGLE_APPLICATION_CREDENTIALS": str(file), "KEYTURN_GCP_TOKEN_URL": f"{address}/token"}
        os.environ |= {
            f"KEYTURN_GCP_{name}_URL": address for name in ("IAM", "POLICY_ANALYZER", "MONITORING", "SECRETS")
        }
        google = GoogleCloud()
        stack.push_async_callback(google.close)
        yield GcpServiceAccountKeys(google), PROJECT, user, key_id, lambda: len(simulator.calls)


@asynccontextmanager
async def _entra(folder: Path) -> AsyncIterator[Opened]:
    entra = Entra()
    application = entra.directory.application()
    (password,) = application.passwords.values()
    async with fake_server(entra.serve()) as address:
        named = {"KEYTURN_GRAPH_URL": address, "AZURE_AUTHORITY_HOST": address}
        settings = AzureSettings(**named | {"KEYTURN_KEYVAULT_URL": f"{address}/{{vault}}"})  # type: ignore[arg-type]

        async def token(scope: str) -> SecretStr:
            return SecretStr(entra.token_for(scope))

        keys = EntraSecrets(settings, token)
        yield keys, entra.directory.tenant, application.app_id, password.key_id, lambda: len(entra.calls)
        await keys.close()


async def _rotate(keys: CloudKeys, account: str, user: str, key_id: str, folder: Path, count: Callable[[], int]) -> int:
    """Rotate one key without a fault and without waiting; returns how many calls of its cloud that took."""
    url = database_url(f"sqlite:///{folder}/{uuid.uuid4().hex}.db")
    await asyncio.to_thread(migrate, url)
    engine = open_database(url)
    targets = SecretTargets({"file": lambda: OpenTarget(SecretFiles(), reads_back=True)})
    paths = [f"file:{folder}/secrets/{uuid.uuid4().hex}"]
    steps = KeyRotation(keys, targets, JobLeases(engine), Outbox(engine), default_targets=paths)
    job_id = await create_job(JobStore(engine), user, key_id, kind="access_key")
    before = count()
    wanted = KeyRotationOrder(job_id=job_id, cloud_account=account)
    rotation = await steps.record(wanted, await steps.claim(wanted))
    rotation = rotation.model_copy(update={"new_key_id": await steps.create(rotation)})
    rotation = rotation.model_copy(update={"verified_at": await steps.verify(rotation)})
    await steps.needs(rotation, now=datetime.now(UTC))
    rotation = rotation.model_copy(update={"deactivated_at": await steps.deactivate(rotation)})
    await steps.uses_since(rotation)
    await steps.delete(rotation)
    await steps.close(rotation)
    await engine.dispose()
    return count() - before


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(*sys.argv[2:4]))
    for result in asyncio.run(measure(waiting=1_000)):
        print(json.dumps(result._asdict()))
