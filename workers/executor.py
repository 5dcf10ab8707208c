"""The executor: a worker of its own for jobs on AWS access keys, with AWS's credentials and without a model's."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
from aiohttp import web
from pydantic import AfterValidator, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.rotate_access_key import RotateAccessKey
from keyturn.contracts import KeyRotationOrder, KeyRotationOutcome, ShortIdentifier
from keyturn.database import answers, open_database
from keyturn.errors import JobStoreUnavailable, KeyturnError, SettingsInvalid
from keyturn.jobs.leases import JobLeases
from workers.monitoring import add_health, served, temporal_answers
from workers.schema import check_schema
from workers.settings import LocalSettings, field_faults, host_and_port
from workflows.access_key import RotateAccessKeyWorkflow, execution_id
from workflows.connection import connect
from workflows.visibility import TENANT

if TYPE_CHECKING:
    from keyturn.executor.access_keys import AccessKeyRotation

_log = structlog.get_logger("keyturn.executor")
LOOK_SECONDS = 30.0  # a rotation takes days: nobody waits for its first half minute
LOOK_AT_ONCE = 100  # of the most urgent jobs; the next ones at the next look
STEPS_AT_ONCE = 8  # IAM throttles an account far below what a worker could ask


def _store(value: str) -> str:
    if value != "secretsmanager" and not value.startswith("file:"):
        raise ValueError("is neither secretsmanager nor file:FOLDER")
    return value


def _named(value: str) -> str:
    if value.count("{user}") != 1 or value.replace("{user}", "").strip("abcdefghijklmnopqrstuvwxyz0123456789/_+=.@-"):
        raise ValueError("must be letters, digits and /_+=.@- with {user} in it once, such as keyturn/{user}")
    return value


class ExecutorSettings(LocalSettings):
    """The executor's settings; AWS's own are read by its library."""

    environment: Literal["development", "production"] = Field(default="development", alias="KEYTURN_ENVIRONMENT")
    tenant: ShortIdentifier = Field(default="default", alias="KEYTURN_TENANT")
    secrets: Annotated[str, AfterValidator(_store)] = Field(default="secretsmanager", alias="KEYTURN_EXECUTOR_SECRETS")
    secret_name: Annotated[str, AfterValidator(_named)] = Field(
        default="keyturn/{user}", alias="KEYTURN_EXECUTOR_SECRET_NAME"
    )
    monitoring_address: Annotated[str, AfterValidator(host_and_port)] | None = Field(
        default=None, alias="KEYTURN_MONITORING_ADDRESS"
    )
    # A day: most programs read their secrets anew with a daily restart or sooner.
    overlap_hours: float = Field(default=24, alias="KEYTURN_EXECUTOR_OVERLAP_HOURS", ge=0, le=2_160)
    # A week holds what runs only on one of its days.
    grace_hours: float = Field(default=168, alias="KEYTURN_EXECUTOR_GRACE_HOURS", ge=0, le=2_160)

    @property
    def queue(self) -> str:
        """Its own task queue: no other worker holds AWS's credentials."""
        return f"{self.task_queue}-executor"

    def order(self, job_id: str) -> KeyRotationOrder:
        """Return the order to carry a job out."""
        return KeyRotationOrder(
            job_id=job_id,
            tenant_id=self.tenant,
            overlap=timedelta(hours=self.overlap_hours),
            grace=timedelta(hours=self.grace_hours),
        )


def load_executor_settings() -> ExecutorSettings:
    """Return the settings; raises SettingsInvalid with every fault, and no value of any."""
    try:
        settings = ExecutorSettings()
    except ValidationError as error:
        raise SettingsInvalid("\n".join(field_faults(error))) from None
    if settings.environment == "production" and settings.secrets.startswith("file:"):
        raise SettingsInvalid("KEYTURN_EXECUTOR_SECRETS: production refuses files: use secretsmanager")
    return settings


class Executions:
    """Starts the workflows that carry jobs out: one a job, however often it is asked to."""

    def __init__(self, client: Client, settings: ExecutorSettings) -> None:
        self._client = client
        self._settings = settings

    async def start(self, job_id: str) -> WorkflowHandle[RotateAccessKeyWorkflow, KeyRotationOutcome]:
        """Start a job's workflow, unless it runs; raises RPCError."""
        return await self._client.start_workflow(
            RotateAccessKeyWorkflow.run,
            self._settings.order(job_id),
            id=execution_id(job_id),
            task_queue=self._settings.queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # One that ended while its job is open was terminated: what it did is found in the job's trail.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"carry out {job_id}",
            search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, self._settings.tenant)]),
        )


async def look_for_jobs(
    leases: JobLeases, executions: Executions, *, tenant_id: str, every: float = LOOK_SECONDS
) -> None:
    """Start what nobody holds, the most urgent first, for ever."""
    while True:
        try:
            for job_id in await leases.free(tenant_id=tenant_id, kind="access_key", limit=LOOK_AT_ONCE):
                await executions.start(job_id)
        except (JobStoreUnavailable, RPCError) as error:
            _log.warning("jobs_not_looked_for", cause=type(error).__name__)
        await asyncio.sleep(every)


@asynccontextmanager
async def executor(client: Client, steps: "AccessKeyRotation", settings: ExecutorSettings) -> AsyncIterator[Worker]:
    """Yield the worker that carries jobs out by `steps`, running."""
    rotate = RotateAccessKey(steps)
    async with Worker(
        client,
        task_queue=settings.queue,
        workflows=[RotateAccessKeyWorkflow],
        activities=[
            rotate.claim_job,
            rotate.record_keys,
            rotate.create_key,
            rotate.verify_key,
            rotate.prolong_claim,
            rotate.deactivate_key,
            rotate.delete_key,
            rotate.close_job,
            rotate.refuse_job,
            rotate.roll_back_key,
        ],
        max_concurrent_activities=STEPS_AT_ONCE,
        # A step that has begun may end: it is seconds.
        graceful_shutdown_timeout=timedelta(seconds=30),
    ) as worker:
        yield worker


def steps_on_aws(engine: AsyncEngine, settings: ExecutorSettings) -> "AccessKeyRotation":
    """Return the steps on the AWS account of the environment; raises AwsRefused, SettingsInvalid."""
    try:
        from keyturn.executor.access_keys import AccessKeyRotation
        from keyturn.executor.aws import AwsAccessKeys, SecretsManager
        from keyturn.executor.secret_files import SecretFiles
    except ModuleNotFoundError as error:
        raise SettingsInvalid(f"{error.name} is not installed: pip install 'keyturn[aws]'") from None
    where = settings.secrets
    secrets = SecretsManager() if where == "secretsmanager" else SecretFiles(Path(where.removeprefix("file:")))
    return AccessKeyRotation(AwsAccessKeys(), secrets, JobLeases(engine), secret_name=settings.secret_name)


async def run_executor(settings: ExecutorSettings) -> None:
    """Carry jobs out until SIGINT or SIGTERM.

    Raises:
        SchemaNotCurrent, JobStoreUnavailable: the database is not ready.
        TemporalUnreachable, TemporalRefused, AwsRefused, SettingsInvalid: nothing was begun.
    """
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with AsyncExitStack() as parts:
        engine = await _database(settings, parts)
        steps = steps_on_aws(engine, settings)
        client = await connect()
        await parts.enter_async_context(executor(client, steps, settings))
        if settings.monitoring_address is not None:
            application = web.Application()
            add_health(application, {"database": answers(engine), "temporal": temporal_answers(client)})
            await parts.enter_async_context(served(application, settings.monitoring_address))
        looking = look_for_jobs(JobLeases(engine), Executions(client, settings), tenant_id=settings.tenant)
        parts.callback(asyncio.create_task(looking).cancel)
        _log.info("executor_started", task_queue=settings.queue, tenant=settings.tenant, secrets=settings.secrets)
        await stop.wait()
        _log.info("executor_stopping")
    _log.info("executor_stopped")


async def plans(settings: ExecutorSettings) -> AsyncIterator[tuple[str, Sequence[str] | KeyturnError]]:
    """Yield each job that nobody holds with what carrying it out would do, or why it would not be begun.

    Nothing is changed anywhere. Raises as `run_executor`.
    """
    async with AsyncExitStack() as parts:
        engine = await _database(settings, parts)
        steps = steps_on_aws(engine, settings)
        for job_id in await JobLeases(engine).free(tenant_id=settings.tenant, kind="access_key", limit=LOOK_AT_ONCE):
            try:
                yield job_id, await steps.plan(settings.order(job_id))
            except KeyturnError as error:
                yield job_id, error


async def _database(settings: ExecutorSettings, parts: AsyncExitStack) -> AsyncEngine:
    await asyncio.to_thread(check_schema, settings.database_url)
    engine = open_database(settings.database_url, pool_size=STEPS_AT_ONCE)
    parts.push_async_callback(engine.dispose)
    return engine
