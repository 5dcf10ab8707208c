"""Worker processes that are killed with -9 in the middle of the claim."""

import signal
import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import start_or_attach
from keyturn.database import open_database
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.processes import child
from keyturn.rotations.outcomes import JobCreated
from tests.support.cases import request
from tests.support.simulated import SimulatorControl


# Each point on one database: the proof has both on both.
@pytest.mark.parametrize(
    ("database", "point", "created"),
    [("postgresql", "before", True), ("sqlite", "after", False)],
    indirect=["database"],
)
async def test_a_killed_workers_job_is_made_once_by_another(
    temporal: Client, simulator: SimulatorControl, database: URL, tmp_path: Path, keys: Path, point: str, created: bool
) -> None:
    """Killed before the claim or between commit and completion: another worker takes over, and there is one job."""
    queue = f"test-{uuid.uuid4().hex}"
    address = temporal.service_client.config.target_host
    url = database.render_as_string(hide_password=False)
    environment = worker_environment(address, url, simulator.address, keys=keys)
    environment |= {"KEYTURN_TASK_QUEUE": queue}
    log = tmp_path / "worker.log"
    rotation = await start_or_attach(temporal, request(), task_queue=queue)
    command = [sys.executable, "-m", "tests.support.dying_worker", point]
    async with child(command, environment=environment, log=log) as dying:
        assert await dying.wait() == -signal.SIGKILL, log.read_text()
    async with child([sys.executable, "-m", "keyturn.workers"], environment=environment, log=log):
        outcome = await outcome_of(rotation.handle)
    assert isinstance(outcome, JobCreated)
    assert outcome.created is created
    engine = open_database(database)
    try:
        assert len(await JobStore(engine).jobs(tenant_id="default", limit=10)) == 1
    finally:
        await engine.dispose()
    assert len(await simulator.requests()) == 1  # the decision was recorded: no provider was asked twice
