"""Run one worker until it is told to stop."""

import asyncio
import signal

import structlog

from workers.schema import check_schema
from workers.settings import Settings
from workers.wiring import wired_worker
from workflows.connection import connect

_log = structlog.get_logger("keyturn.worker")


async def run_worker(settings: Settings) -> None:
    """Poll until SIGINT or SIGTERM, then let running calls end.

    Raises:
        SchemaNotCurrent, JobStoreUnavailable: the database is not ready; nothing was polled.
        TemporalUnreachable: no server answers.
        CatalogueInvalid: a policy file cannot be used.
    """
    check_schema(settings.database_url)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    client = await connect()
    async with wired_worker(client, settings) as worker, worker:
        _log.info("worker_started", task_queue=settings.task_queue, namespace=client.namespace, model=settings.model)
        await stop.wait()
        _log.info("worker_stopping")
    _log.info("worker_stopped")
