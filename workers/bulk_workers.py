"""The separate Temporal workers of bulk runs: of pages, and of the rotations that runs start."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker, WorkerDeploymentConfig

from keyturn.activities.judge_page import HALT_SECONDS, JudgePage
from keyturn.application.versioning import UNPINNED
from keyturn.bulk.contracts import BulkOrder
from keyturn.workers.bulk import BulkRunActivities
from keyturn.workers.people_first import PeoplesWork, tuner
from keyturn.workflows.bulk import BULK_QUEUE, DUE_QUEUE
from keyturn.workflows.registry import OF_DUE_QUEUE

# Of a run's rotations, at once: measured, fewer leave the process idle, and more only wait for it. One that is not
# cached is read again from its history; each one in memory takes 100 kB.
DUE_TASKS, DUE_STEPS, DUE_CACHED = 6, 12, 200
PAGE_SIZE = BulkOrder.model_fields["page_size"].default


@asynccontextmanager
async def bulk_workers(
    client: Client,
    task_queue: str,
    runs: BulkRunActivities,
    rotation: Sequence[Callable[..., Any]],
    *,
    pages_at_once: int,
    keys_per_second: float | None,
    deployment: WorkerDeploymentConfig,
    people: PeoplesWork,
) -> AsyncIterator[None]:
    """Run the workers of pages, and of the rotations that runs start, each on its own task queue.

    Separate queues keep a run from taking the slots of single rotations. A rate limit of the queue of pages is not
    passed by: what a worker is handed eagerly, with its own workflow task, is never of another queue.

    Args:
        client: a connected client.
        task_queue: of single rotations.
        runs: the activities of runs.
        rotation: the activities of a rotation.
        pages_at_once: in this worker.
        keys_per_second: asked about, by all workers together; None for no limit.
        deployment: the build of this worker.
        people: what people wait for in this worker: they go first.
    """
    pages = Worker(
        client,
        task_queue=task_queue + BULK_QUEUE,
        activities=JudgePage(runs).activities,
        max_concurrent_activities=pages_at_once,
        # By default a heartbeat is sent in 16 s.
        max_heartbeat_throttle_interval=timedelta(seconds=HALT_SECONDS),
        deployment_config=UNPINNED,  # a page needs no workflow: any worker may judge it
        # For all workers together: the server enforces it.
        max_task_queue_activities_per_second=None if keys_per_second is None else keys_per_second / PAGE_SIZE,
    )
    due = Worker(
        client,
        task_queue=task_queue + DUE_QUEUE,
        workflows=OF_DUE_QUEUE,
        activities=rotation,
        tuner=tuner(people, tasks=DUE_TASKS, steps=DUE_STEPS),
        max_concurrent_workflow_task_polls=2,
        max_concurrent_activity_task_polls=1,
        max_cached_workflows=DUE_CACHED,
        deployment_config=deployment,
    )
    async with pages, due:
        yield
