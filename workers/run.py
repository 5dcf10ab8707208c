"""Run one worker until it is stopped."""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress

import structlog
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from keyturn.application.connection import connect, map_refusals
from keyturn.application.versioning import builds
from keyturn.web.ports import free_loopback_port
from keyturn.web.serving import served
from keyturn.workers import tracing
from keyturn.workers.builds import build_id_of
from keyturn.workers.monitoring import sdk_runtime
from keyturn.workers.schema import check_schema
from keyturn.workers.settings import Settings, load_settings
from keyturn.workers.telemetry import configure_logging
from keyturn.workers.wiring import open_boundary, open_worker

_log = structlog.get_logger("keyturn.worker")


def serve_worker() -> None:
    """Run a worker by the environment's settings until SIGINT or SIGTERM. Raises what `run_worker` does."""
    settings = load_settings()
    configure_logging(settings.log_format)
    asyncio.run(run_worker(settings))


async def run_worker(settings: Settings) -> None:
    """Poll until SIGINT or SIGTERM, then let running calls end.

    Raises:
        SchemaNotCurrent, JobStoreUnavailable: the database is not ready; nothing was polled.
        TemporalUnreachable, TemporalRefused: no server answers, or it does not know the namespace.
        CatalogueInvalid: a policy file cannot be used.
        SettingsInvalid: the monitoring address is taken, or tracing is wanted and its extra not installed.
    """
    check_schema(settings.database_url)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    sdk_port = None
    if settings.monitoring_address is not None:
        sdk_port = free_loopback_port()
    Runtime.set_default(sdk_runtime(sdk_port), error_if_already_set=False)
    client = await connect(keyring=settings.keyring, plugins=tracing.temporal_plugins())
    with map_refusals():  # a worker that polls a namespace that is not there would only log of it
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    async with AsyncExitStack() as parts:
        wired = await parts.enter_async_context(open_boundary(settings))
        if settings.monitoring_address is not None:
            monitoring = wired.monitoring(client, sdk_port=sdk_port)
            await parts.enter_async_context(
                served(monitoring.application(), settings.monitoring_address, setting="KEYTURN_MONITORING_ADDRESS")
            )
        await parts.enter_async_context(await parts.enter_async_context(open_worker(client, wired)))
        _log.info(
            "worker_started",
            task_queue=settings.task_queue,
            namespace=client.namespace,
            environment=settings.environment,
            build_id=build_id_of(settings),
            # Starters, desks and workers must have the same: `keyturn policy list` prints it.
            policy_digest=wired.catalogue.version,
            routes={task: [str(target) for target in route] for task, route in settings.routes.items()},
        )
        await _log_build_status(client, settings)
        await stop.wait()
        _log.info("worker_stopping")
    _log.info("worker_stopped")


async def _log_build_status(client: Client, settings: Settings) -> None:
    """Say what an operator must do before this build gets work; rotations would wait in silence otherwise."""
    build_id = build_id_of(settings)
    if build_id is None:
        if settings.environment == "production":
            hint = "Set KEYTURN_BUILD_ID: rotations then stay with their build (docs/how-to/run-in-production.md)."
            _log.warning("no_build_id", hint=hint)
        return
    with suppress(RPCError):  # logged again at the next start
        if build_id not in {build.build_id for build in await builds(client) if build.current}:
            hint = f"New rotations start on it after `keyturn deployment promote {build_id}`."
            _log.warning("build_not_current", build_id=build_id, hint=hint)
