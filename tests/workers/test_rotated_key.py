"""A provider's key is rotated under load: a worker's restart, and nothing else, and nothing is lost."""

import asyncio
import sys
import uuid
from pathlib import Path

from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.rotations import rotate
from keyturn.database import open_database
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.processes import child
from keyturn.ledger.store import LedgerStore
from keyturn.rotations.outcomes import JobCreated, RotationOutcome
from tests.support.cases import request
from tests.support.simulated import SimulatorControl

OLD, NEW = "key_before_4711", "key_after_4712"


async def test_a_rotated_key_needs_a_restart_of_the_worker_and_loses_nothing(
    temporal: Client, simulator: SimulatorControl, postgresql: URL, tmp_path: Path, keys: Path
) -> None:
    """60 rotations run while the old key gives way to the new one: 60 jobs, and neither key in the log."""
    queue = f"test-{uuid.uuid4().hex}"
    address = temporal.service_client.config.target_host
    url = postgresql.render_as_string(hide_password=False)
    settings = worker_environment(address, url, simulator.address, keys=keys)
    settings |= {"KEYTURN_TASK_QUEUE": queue, "KEYTURN_ROUTES": "openai:simulator-1"}
    log = tmp_path / "worker.log"
    worker = [sys.executable, "-m", "keyturn.workers"]
    await simulator.take_keys([OLD, NEW])
    await simulator.fail("slow", times=None, seconds=0.3)  # so that calls are under way when the worker stops

    async def some(number: int) -> list[tuple[bool, RotationOutcome]]:
        asked = [request(max_retries=0, account_id=f"acct_{uuid.uuid4().hex}") for _ in range(number)]
        return await asyncio.gather(*(rotate(temporal, one, task_queue=queue, wait_seconds=60) for one in asked))

    async with child(worker, environment=settings | {"OPENAI_API_KEY": OLD}, log=log):
        early = asyncio.create_task(some(30))
        await _asked(simulator, 10)
        late = asyncio.create_task(some(30))
    # The worker has stopped in order, its running calls first; the provider forgets the old key.
    await simulator.take_keys([NEW])
    async with child(worker, environment=settings | {"OPENAI_API_KEY": NEW}, log=log):
        ends = await early + await late
    engine = open_database(postgresql)
    try:
        assert all(isinstance(outcome, JobCreated) for _, outcome in ends), ends
        assert len(await JobStore(engine).jobs(tenant_id="default", limit=100)) == 60
        # Each call has its row, those of the stopped worker too: without a retry, 60 calls made 60 jobs.
        records = await LedgerStore(engine).calls(limit=1_000)
        assert [record["status"] for record in records] == ["ok"] * 60
    finally:
        await engine.dispose()
    requests = await simulator.requests()
    assert {entry["status"] for entry in requests} == {200}
    assert len(requests) == 60
    text = log.read_text()
    assert "worker_stopped" in text
    assert OLD not in text
    assert NEW not in text


async def _asked(simulator: SimulatorControl, number: int) -> None:
    """Wait until the simulator has been asked so often."""
    async with asyncio.timeout(30):
        while len(await simulator.requests()) < number:
            await asyncio.sleep(0.02)
