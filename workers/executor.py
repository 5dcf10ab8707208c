"""The executor: a separate worker for jobs at one cloud account, with its credentials and without a model's."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from keyturn.activities.rotate_key import RotateKey
from keyturn.application.connection import connect
from keyturn.application.versioning import UNPINNED
from keyturn.background import is_cancelled
from keyturn.contracts import CredentialKind
from keyturn.database import answers, open_database
from keyturn.errors import KeyturnError
from keyturn.execution.errors import AnotherAccount
from keyturn.execution.protocols import ExecutorSteps
from keyturn.jobs.in_flight import recent_jobs
from keyturn.jobs.leases import JobLeases
from keyturn.owners import load_owners
from keyturn.waivers.errors import JobWaived
from keyturn.waivers.jobs import WaivedJobs, waived_because
from keyturn.web.applications import open_server
from keyturn.web.ports import free_loopback_port
from keyturn.web.serving import served
from keyturn.workers.executor_accounts import Account, admission_of, open_accounts
from keyturn.workers.executor_looks import LOOK_SECONDS, Executions, free_jobs, look_for_jobs
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.metrics import ExecutorMetrics
from keyturn.workers.monitoring import (
    metrics_route,
    readiness_route,
    sdk_runtime,
    temporal_answers,
)
from keyturn.workers.schema import check_schema
from keyturn.workflows.registry import OF_EXECUTORS

_log = structlog.get_logger("keyturn.executors")
# A rotation waits for weeks, and is replayed in milliseconds when it goes on: memory is for those that do something.
CACHED = 50
# Each workflow that leaves the cache leaves its sandbox behind as cycles. Python itself looks for them as seldom as a
# process has many other objects: a thousand rotations that wait would take 1.4 times the memory of a hundred.
COLLECT_EVERY = 30.0  # seconds; a look takes some tens of milliseconds
STEPS_AT_ONCE = 8  # the clouds throttle an account far below what a worker could ask


@asynccontextmanager
async def executor(
    client: Client, steps: ExecutorSteps, settings: ExecutorSettings, cloud_account: str
) -> AsyncIterator[Worker]:
    """Yield the running worker that executes the jobs of a cloud account by `steps`."""
    rotate = RotateKey(steps)
    async with Worker(
        client,
        task_queue=settings.queue(cloud_account),
        workflows=OF_EXECUTORS,
        activities=rotate.activities,
        deployment_config=UNPINNED,
        max_concurrent_activities=STEPS_AT_ONCE,
        max_cached_workflows=CACHED,
        # A step that has started may complete: it is seconds.
        graceful_shutdown_timeout=timedelta(seconds=30),
    ) as worker:
        yield worker


async def run_executor(settings: ExecutorSettings) -> None:
    """Carry jobs out until SIGINT or SIGTERM.

    Raises:
        SchemaNotCurrent, JobStoreUnavailable: the database is not ready.
        TemporalUnreachable, TemporalRefused, ExecutorError, SettingsInvalid: nothing was started.
    """
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with AsyncExitStack() as parts:
        engine = await _database(settings, parts)
        # In a thread: Organizations may be asked page by page.
        accounts = await asyncio.to_thread(open_accounts, engine, settings)
        if len(accounts) == 1:
            await accounts[0].steps.account()  # its own fault ends the process at once, with a hint
        registry, sdk_port = CollectorRegistry(), None
        if settings.monitoring_address is not None:
            sdk_port = free_loopback_port()
        Runtime.set_default(sdk_runtime(sdk_port), error_if_already_set=False)
        client = await connect()
        if settings.monitoring_address is not None:
            checks = {"database": answers(engine), "temporal": temporal_answers(client)}
            application = open_server([metrics_route(registry, sdk_port), readiness_route(checks)])
            await parts.enter_async_context(
                served(application, settings.monitoring_address, setting="KEYTURN_MONITORING_ADDRESS")
            )
        metrics = ExecutorMetrics(registry)
        collecting = asyncio.create_task(collect_garbage())
        parts.push_async_callback(_stop, collecting)
        for one in accounts:
            serving = asyncio.create_task(_serve(one, client, engine, settings, metrics))
            serving.add_done_callback(lambda _: stop.set())  # it ends only by a fault, which `_stop` raises
            parts.push_async_callback(_stop, serving)
        await stop.wait()
        _log.info("executor_stopping")
    _log.info("executor_stopped")


async def _serve(
    one: Account, client: Client, engine: AsyncEngine, settings: ExecutorSettings, metrics: ExecutorMetrics
) -> None:
    """Execute the jobs of one cloud account for ever; one that cannot be reached yet is tried again."""
    while True:
        try:
            account = await one.steps.account()
            break
        except KeyturnError as error:
            _log.warning("account_unreachable", because=str(error), hint=error.hint)
            metrics.count_look("failed")
            await asyncio.sleep(LOOK_SECONDS)
    async with executor(client, one.steps, settings, account):
        _log.info(
            "executor_started",
            executor=settings.executor,
            cloud_account=account,
            task_queue=settings.queue(account),
            tenant=settings.tenant,
            targets=" ".join(settings.default_targets),
        )
        await look_for_jobs(
            JobLeases(engine),
            Executions(client, settings, account),
            one.steps,
            tenant_id=settings.tenant,
            kind=settings.kind,
            metrics=metrics,
            admit=admission_of(client, engine, settings, one, account, waived=waived_jobs(engine, settings).among),
        )


async def collect_garbage(every: float = COLLECT_EVERY) -> None:
    """Free what workflows have left behind, each so many seconds, for ever."""
    gc.collect()
    gc.freeze()  # what is here now stays: it need not be looked through each time
    while not is_cancelled():
        await asyncio.sleep(every)
        gc.collect()


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Plans(NamedTuple):
    """What an executor would do, and what it leaves.

    Attributes:
        accounts: of the cloud.
        jobs: for each job without a holder its steps, or why it would not be started.
        left: how many jobs without a holder there are for other kinds of credentials.
    """

    accounts: Sequence[str]
    jobs: AsyncIterator[tuple[str, Sequence[str] | KeyturnError]]
    left: Mapping[CredentialKind, int]


@asynccontextmanager
async def plans(settings: ExecutorSettings) -> AsyncIterator[Plans]:
    """Yield what an executor with these settings would do. Nothing is changed anywhere. Raises as `run_executor`."""
    async with AsyncExitStack() as parts:
        engine = await _database(settings, parts)
        opened = await asyncio.to_thread(open_accounts, engine, settings)
        accounts = [(one.steps, await one.steps.account()) for one in opened]
        rows = await recent_jobs(engine, tenant_id=settings.tenant, kind=settings.kind)
        waived = await waived_jobs(engine, settings).among(rows)

        async def jobs() -> AsyncIterator[tuple[str, Sequence[str] | KeyturnError]]:
            async for job_id in free_jobs(JobLeases(engine), settings.tenant, settings.kind):
                if job_id in waived:
                    yield job_id, JobWaived(waived_because(waived[job_id]))
                else:
                    yield job_id, await _plan_of(job_id, accounts, settings)

        free = await JobLeases(engine).count_free(tenant_id=settings.tenant)
        left = {kind: count for kind, count in free.items() if kind != settings.kind}
        yield Plans([account for _, account in accounts], jobs(), left)


async def _plan_of(
    job_id: str, accounts: Sequence[tuple[ExecutorSteps, str]], settings: ExecutorSettings
) -> Sequence[str] | KeyturnError:
    """Return the plan of the account whose job it is; of none's, why the last one leaves it."""
    left: KeyturnError = AnotherAccount("the executor has no cloud account")
    for steps, account in accounts:
        try:
            return await steps.plan(settings.order(job_id, account))
        except AnotherAccount as error:
            left = error
        except KeyturnError as error:
            return error
    return left


def waived_jobs(engine: AsyncEngine, settings: ExecutorSettings) -> WaivedJobs:
    """Return what looks up the waivers of an executor's jobs."""
    return WaivedJobs(engine, load_owners(), settings.load_catalogue(), tenant_id=settings.tenant)


async def _database(settings: ExecutorSettings, parts: AsyncExitStack) -> AsyncEngine:
    await asyncio.to_thread(check_schema, settings.database_url)
    engine = open_database(settings.database_url, pool_size=STEPS_AT_ONCE)
    parts.push_async_callback(engine.dispose)
    return engine
