"""The gate before a new build: it passes where the build's worker can do its work, and fails where it cannot."""

import uuid

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from keyturn.activities.check_readiness import CheckReadiness
from keyturn.errors import JobStoreUnavailable
from keyturn.lab.stack.embedded import Stack
from keyturn.workflows.options import TASK_QUEUE
from keyturn.workflows.readiness import ReadinessWorkflow


async def passes() -> None: ...


async def fails() -> None:
    raise JobStoreUnavailable("postgresql://user:secret@host")


class Failing:
    """A check that fails so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise JobStoreUnavailable("away")


async def gate(client: Client, **checks: object) -> None:
    queue = f"test-{uuid.uuid4().hex}"
    activities = CheckReadiness(checks).activities  # type: ignore[arg-type]
    async with Worker(client, task_queue=queue, workflows=[ReadinessWorkflow], activities=activities):
        await client.execute_workflow(ReadinessWorkflow.__name__, id=f"gate:{queue}", task_queue=queue)


async def test_a_worker_as_it_is_run_passes(stack: Stack) -> None:
    """With its database, its schema and the sandbox."""
    gate_id = f"gate:{uuid.uuid4().hex}"
    handle = await stack.client.start_workflow(ReadinessWorkflow.__name__, id=gate_id, task_queue=TASK_QUEUE)
    await handle.result()
    checked = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert checked == ["check_readiness"]


async def test_a_database_that_is_away_for_a_moment_is_waited_for(skipping: WorkflowEnvironment) -> None:
    """A new build is often started while something else is, too."""
    database = Failing(3)
    await gate(skipping.client, database=database, schema=passes)
    assert database.left == 0


async def test_a_worker_without_its_database_fails_by_name_and_without_its_secrets(
    skipping: WorkflowEnvironment,
) -> None:
    """After five minutes; the message says which check, and not what the driver said."""
    with pytest.raises(WorkflowFailureError) as caught:
        await gate(skipping.client, schema=passes, database=fails)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "worker_not_ready"
    assert caught.value.cause.message == "database: JobStoreUnavailable; `keyturn doctor` beside this worker says more"
