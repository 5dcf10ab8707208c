"""Run one worker until it is told to stop."""

import asyncio
import signal

import structlog
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

from workers.schema import check_schema
from workers.settings import Settings
from workers.wiring import wired_worker
from workflows.connection import connect, refusals_named

_log = structlog.get_logger("keyturn.worker")


async def run_worker(settings: Settings) -> None:
    """Poll until SIGINT or SIGTERM, then let running calls end.

    Raises:
        SchemaNotCurrent, JobStoreUnavailable: the database is not ready; nothing was polled.
        TemporalUnreachable, TemporalRefused: no server answers, or it does not know the namespace.
        CatalogueInvalid: a policy file cannot be used.
    """
    check_schema(settings.database_url)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    client = await connect()
    with refusals_named():  # a worker that polls a namespace that is not there would only log of it
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    async with wired_worker(client, settings) as worker, worker:
        _log.info("worker_started", task_queue=settings.task_queue, namespace=client.namespace, model=settings.model)
        await stop.wait()
        _log.info("worker_stopping")
    _log.info("worker_stopped")
