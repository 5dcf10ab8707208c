"""The executor: a separate worker for jobs at one cloud account, with its credentials and without a model's."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from keyturn.activities.rotate_access_key import RotateAccessKey
from keyturn.application.connection import connect
from keyturn.application.versioning import UNPINNED
from keyturn.contracts import CredentialKind
from keyturn.database import answers, open_database
from keyturn.errors import KeyturnError, SettingsInvalid
from keyturn.execution.contracts import ExecutorSteps, KeyRotationOrder, KeyRotationOutcome
from keyturn.execution.errors import AnotherAccount, ExecutorError
from keyturn.executors import load_executors
from keyturn.jobs.errors import UnknownJob
from keyturn.jobs.leases import JobLeases
from keyturn.web.applications import open_server
from keyturn.web.problems import where
from keyturn.web.serving import served
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.metrics import ExecutorMetrics
from keyturn.workers.monitoring import (
    free_loopback_port,
    metrics_route,
    readiness_route,
    sdk_runtime,
    temporal_answers,
)
from keyturn.workers.schema import check_schema
from keyturn.workflows.access_key import RotateAccessKeyWorkflow, execution_id
from keyturn.workflows.registry import OF_EXECUTORS
from keyturn.workflows.visibility import TENANT

_log = structlog.get_logger("keyturn.executors")
LOOK_SECONDS = 30.0  # a rotation takes days: its first half minute delays no one
LOOK_AT_ONCE = 100  # of the most urgent jobs; the next ones at the next look
LEFT_SECONDS = 3_600.0  # a key does not change its account; an hour, for a user that is made after its job
STEPS_AT_ONCE = 8  # IAM throttles an account far below what a worker could ask


class Executions:
    """Starts the workflows that carry jobs out in one AWS account: one a job at a time."""

    def __init__(self, client: Client, settings: ExecutorSettings, cloud_account: str) -> None:
        self._client = client
        self._settings = settings
        self._cloud_account = cloud_account

    def order(self, job_id: str) -> KeyRotationOrder:
        """Return the order to carry a job out here."""
        return self._settings.order(job_id, self._cloud_account)

    async def start(self, job_id: str) -> WorkflowHandle[RotateAccessKeyWorkflow, KeyRotationOutcome]:
        """Start a job's workflow; raises WorkflowAlreadyStartedError, RPCError."""
        return await self._client.start_workflow(
            RotateAccessKeyWorkflow.run,
            self.order(job_id),
            id=execution_id(job_id),
            task_queue=self._settings.queue(self._cloud_account),
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            # One that ended while its job is open was terminated: what it did is found in the job's trail.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"execute {job_id}",
            search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, self._settings.tenant)]),
        )


async def look_for_jobs(
    leases: JobLeases,
    executions: Executions,
    steps: ExecutorSteps,
    *,
    tenant_id: str,
    kind: CredentialKind = "access_key",
    every: float = LOOK_SECONDS,
    metrics: ExecutorMetrics | None = None,
) -> None:
    """Start jobs of this AWS account without a holder, the most urgent first, for ever."""
    metrics = metrics or ExecutorMetrics(CollectorRegistry())
    left: dict[str, float] = {}  # jobs of other accounts, and until when they are not looked at again
    while True:
        now = time.monotonic()
        left = {job_id: until for job_id, until in left.items() if until > now}
        try:
            started = 0
            async for job_id in _free(leases, tenant_id, kind):
                if started == LOOK_AT_ONCE:
                    break
                if job_id in left:
                    continue
                try:
                    await steps.expect_own(executions.order(job_id))
                except AnotherAccount as another:
                    left[job_id] = now + LEFT_SECONDS
                    _log.warning("job_left", job_id=job_id, because=str(another))
                    metrics.jobs("left")
                    continue
                except (ExecutorError, UnknownJob) as error:  # the next job may be better off
                    _log.warning("job_not_looked_at", job_id=job_id, because=str(error))
                    metrics.jobs("not_looked_at")
                    continue
                # One that runs already, blocked or about to claim, takes no other's place.
                with suppress(WorkflowAlreadyStartedError):
                    await executions.start(job_id)
                    started += 1
                    metrics.jobs("started")
            metrics.count_look("ok")
        except Exception as error:  # whatever it is, the next look may be better off; it must not end in silence
            _log.warning("jobs_not_looked_for", cause=type(error).__name__, failed_at=where(error))
            metrics.count_look("failed")
        await asyncio.sleep(every)


async def _free(leases: JobLeases, tenant_id: str, kind: CredentialKind) -> AsyncIterator[str]:
    """Every free job, page by page: those of other accounts must not hide our own."""
    skip = 0
    while page := await leases.free(tenant_id=tenant_id, kind=kind, limit=LOOK_AT_ONCE, skip=skip):
        for job_id in page:
            yield job_id
        skip += len(page)


@asynccontextmanager
async def executor(
    client: Client, steps: ExecutorSteps, settings: ExecutorSettings, cloud_account: str
) -> AsyncIterator[Worker]:
    """Yield the worker that carries the jobs of an AWS account out by `steps`, running."""
    rotate = RotateAccessKey(steps)
    async with Worker(
        client,
        task_queue=settings.queue(cloud_account),
        workflows=OF_EXECUTORS,
        activities=rotate.activities,
        deployment_config=UNPINNED,
        max_concurrent_activities=STEPS_AT_ONCE,
        # A step that has started may complete: it is seconds.
        graceful_shutdown_timeout=timedelta(seconds=30),
    ) as worker:
        yield worker


def open_steps(engine: AsyncEngine, settings: ExecutorSettings) -> ExecutorSteps:
    """Return the executor's steps on the cloud account of the environment's credentials.

    Raises:
        SettingsInvalid: the extra that brings its library is not installed.
        ExecutorError: there are no credentials, or no region.
    """
    chosen, target = load_executors()[settings.executor], settings.target
    extra = target.extra
    try:
        store = target.open(settings.secrets.partition(":")[2])
        extra = chosen.extra
        return chosen.open(JobLeases(engine), store, settings.secret_name)
    except ModuleNotFoundError as error:
        raise SettingsInvalid(f"{error.name} is not installed: pip install 'keyturn[{extra}]'") from None


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
        steps = open_steps(engine, settings)
        account = await steps.account()
        registry, sdk_port = CollectorRegistry(), None
        if settings.monitoring_address is not None:
            sdk_port = free_loopback_port()
        Runtime.set_default(sdk_runtime(sdk_port), error_if_already_set=False)
        client = await connect()
        await parts.enter_async_context(executor(client, steps, settings, account))
        if settings.monitoring_address is not None:
            checks = {"database": answers(engine), "temporal": temporal_answers(client)}
            application = open_server([metrics_route(registry, sdk_port), readiness_route(checks)])
            await parts.enter_async_context(
                served(application, settings.monitoring_address, setting="KEYTURN_MONITORING_ADDRESS")
            )
        executions = Executions(client, settings, account)
        metrics = ExecutorMetrics(registry)
        looking = look_for_jobs(
            JobLeases(engine), executions, steps, tenant_id=settings.tenant, kind=settings.kind, metrics=metrics
        )
        parts.callback(asyncio.create_task(looking).cancel)
        _log.info(
            "executor_started",
            executor=settings.executor,
            cloud_account=account,
            task_queue=settings.queue(account),
            tenant=settings.tenant,
            secrets=settings.secrets,
        )
        await stop.wait()
        _log.info("executor_stopping")
    _log.info("executor_stopped")


async def plans(settings: ExecutorSettings) -> AsyncIterator[tuple[str, Sequence[str] | KeyturnError]]:
    """Yield each job without a holder with what executing it would do, or why it would not be started.

    Nothing is changed anywhere. Raises as `run_executor`.
    """
    async with AsyncExitStack() as parts:
        engine = await _database(settings, parts)
        steps = open_steps(engine, settings)
        account = await steps.account()
        async for job_id in _free(JobLeases(engine), settings.tenant, settings.kind):
            try:
                yield job_id, await steps.plan(settings.order(job_id, account))
            except KeyturnError as error:
                yield job_id, error


async def _database(settings: ExecutorSettings, parts: AsyncExitStack) -> AsyncEngine:
    await asyncio.to_thread(check_schema, settings.database_url)
    engine = open_database(settings.database_url, pool_size=STEPS_AT_ONCE)
    parts.push_async_callback(engine.dispose)
    return engine
