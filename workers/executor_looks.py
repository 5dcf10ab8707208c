"""Looking for the jobs of one cloud account, and starting their workflows: one a job at a time."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry
from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError

from keyturn.background import is_cancelled
from keyturn.contracts import CredentialKind
from keyturn.execution.contracts import KeyRotationOrder, KeyRotationOutcome
from keyturn.execution.errors import AnotherAccount, ExecutorError
from keyturn.execution.limits import Admit
from keyturn.execution.protocols import ExecutorSteps
from keyturn.jobs.errors import UnknownJob
from keyturn.jobs.leases import JobLeases
from keyturn.web.problems import where
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.metrics import ExecutorMetrics
from keyturn.workflows.rotate_key import RotateKeyWorkflow, execution_id
from keyturn.workflows.visibility import TENANT

_log = structlog.get_logger("keyturn.executors")
LOOK_SECONDS = 30.0  # a rotation takes days: its first half minute delays no one
LOOK_AT_ONCE = 100  # of the most urgent jobs; the next ones at the next look
LEFT_SECONDS = 3_600.0  # a key does not change its account; an hour, for a user that is made after its job


class Executions:
    """Starts the workflows that execute the jobs of one cloud account: one a job at a time."""

    def __init__(self, client: Client, settings: ExecutorSettings, cloud_account: str) -> None:
        self._client = client
        self.settings = settings
        self._cloud_account = cloud_account

    def order(self, job_id: str) -> KeyRotationOrder:
        """Return the order to execute a job here."""
        return self.settings.order(job_id, self._cloud_account)

    async def start(self, job_id: str) -> WorkflowHandle[RotateKeyWorkflow, KeyRotationOutcome]:
        """Start a job's workflow; raises WorkflowAlreadyStartedError, RPCError."""
        return await self._client.start_workflow(
            RotateKeyWorkflow.run,
            self.order(job_id),
            id=execution_id(job_id),
            task_queue=self.settings.queue(self._cloud_account),
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            # One that ended while its job is open was terminated: what it did is found in the job's trail.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"execute {job_id}",
            search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, self.settings.tenant)]),
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
    admit: Admit | None = None,
) -> None:
    """Start jobs of this cloud account without a holder, the most urgent first, for ever.

    Args:
        leases: the jobs.
        executions: starts them.
        steps: says whose a job is.
        tenant_id: whose jobs.
        kind: for credentials of this kind.
        every: seconds between two looks.
        metrics: counts what was found.
        admit: holds jobs back that would be too many at once; None for no limit.
    """
    metrics = metrics or ExecutorMetrics(CollectorRegistry())
    left: dict[str, float] = {}  # jobs of other accounts, and until when they are not looked at again
    while not is_cancelled():
        now = time.monotonic()
        left = {job_id: until for job_id, until in left.items() if until > now}
        try:
            await _look(leases, executions, steps, tenant_id, kind, left, metrics, admit)
            metrics.count_look("ok")
        except Exception as error:  # whatever it is, the next look may be better off; it must not end in silence
            _log.warning("jobs_not_looked_for", cause=type(error).__name__, failed_at=where(error))
            metrics.count_look("failed")
        await asyncio.sleep(every)


async def _look(
    leases: JobLeases,
    executions: Executions,
    steps: ExecutorSteps,
    tenant_id: str,
    kind: CredentialKind,
    left: dict[str, float],
    metrics: ExecutorMetrics,
    admit: Admit | None,
) -> None:
    started, held = 0, Counter[str]()
    admission = None if admit is None else await admit()
    async for job_id in free_jobs(leases, tenant_id, kind):
        if started == LOOK_AT_ONCE:
            break
        if job_id in left:
            continue
        try:
            await steps.expect_own(executions.order(job_id))
        except AnotherAccount as another:
            left[job_id] = time.monotonic() + LEFT_SECONDS
            _log.warning("job_left", job_id=job_id, because=str(another))
            metrics.jobs("left")
            continue
        except (ExecutorError, UnknownJob) as error:  # the next job may be better off
            _log.warning("job_not_looked_at", job_id=job_id, because=str(error))
            metrics.jobs("not_looked_at")
            continue
        if admission is not None and (reason := admission.refuse(job_id)) is not None:
            held[reason] += 1
            metrics.jobs("held_back")
            continue
        # One that runs already, blocked or about to claim, takes no other's place.
        with suppress(WorkflowAlreadyStartedError):
            await executions.start(job_id)
            started += 1
            metrics.jobs("started")
    for reason, count in held.items():
        _log.info("jobs_held_back", jobs=count, because=reason)


async def free_jobs(leases: JobLeases, tenant_id: str, kind: CredentialKind) -> AsyncIterator[str]:
    """Yield every free job, page by page: those of other accounts must not hide our own."""
    skip = 0
    while page := await leases.free(tenant_id=tenant_id, kind=kind, limit=LOOK_AT_ONCE, skip=skip):
        for job_id in page:
            yield job_id
        skip += len(page)
