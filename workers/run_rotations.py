"""Starts the rotations that a run finds due, and looks up how they ended."""

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.connection import TemporalUnreachable
from keyturn.application.encryption import names_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.runs import BULK_PRIORITY
from keyturn.bulk.pages import RotationEnd
from keyturn.jobs.errors import OpenJobExists
from keyturn.jobs.states import ENDED_WITHOUT_ROTATION
from keyturn.moments import in_utc
from keyturn.owners import Owners
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import CompletedOutcome, Failed, JobCreated, Waived
from keyturn.workflows.bulk import DUE_QUEUE
from keyturn.workflows.identity import workflow_id_of
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import DISAGREEMENT, PARKED, attributes_at_start, memo_at_start


class RunRotations:
    """Starts the rotations that a run finds due, on their own queue beside `task_queue`; `owners` are for lists."""

    def __init__(self, client: Client, task_queue: str, owners: Owners | None = None) -> None:
        self._client = client
        self._task_queue = task_queue + DUE_QUEUE
        self._names = names_of(client)
        self._owners = owners or Owners()

    async def start(self, request: RotationRequest) -> str:
        """Start a rotation, unless it runs; returns its workflow id."""
        key, lines = request.credential.key_id, request.policy_lines
        workflow_id = workflow_id_of(request.tenant_id, request.account_id, key, lines, self._names)
        owner = self._owners.owner_of(request.account_id, key, request.owner)
        try:
            await self._client.start_workflow(
                RotationWorkflow.run,
                request,
                id=workflow_id,
                task_queue=self._task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                # What it answered before was on other evidence; and if it created its job, it finds that again.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                search_attributes=attributes_at_start(request, self._names, owner),
                memo=memo_at_start(request),
                static_summary=f"rotation under {', '.join(str(line) for line in lines)}",
                # An exposed key comes before everything, also where a run finds it.
                priority=Priority(
                    priority_key=1 if request.credential.compromised else BULK_PRIORITY, fairness_key=request.tenant_id
                ),
            )
        except RPCError as error:
            raise TemporalUnreachable(f"the rotation was not started: {error.status.name.lower()}") from None
        return workflow_id

    async def look(self, workflow_id: str) -> RotationEnd | None:
        """Return how a rotation ended, `waiting` or `disagreement` if it waits for a person, None if it is in progress.

        A rotation that Temporal has forgotten created no job, or its row would have been found: it is `failed`.
        """
        handle: WorkflowHandle[RotationWorkflow, CompletedOutcome]
        handle = self._client.get_workflow_handle_for(RotationWorkflow.run, workflow_id)
        try:
            description = await handle.describe()
            if description.status is WorkflowExecutionStatus.RUNNING:
                kind = description.typed_search_attributes.get(PARKED)
                return None if kind is None else RotationEnd(kind if kind == DISAGREEMENT else "waiting")
            if description.status is not WorkflowExecutionStatus.COMPLETED:
                outcome = await outcome_of(handle)
                if isinstance(outcome, Failed):
                    exists = outcome.kind == OpenJobExists.kind
                    return RotationEnd("job_exists" if exists else "failed", outcome.kind, outcome.hint)
                return RotationEnd("failed", outcome.status)
            return _end_of(await handle.result())
        except WorkflowFailureError:
            return RotationEnd("failed")
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return RotationEnd("failed")
            raise TemporalUnreachable(
                f"the status of a rotation could not be read: {error.status.name.lower()}"
            ) from None


def _end_of(outcome: CompletedOutcome) -> RotationEnd:
    if isinstance(outcome, Waived):
        waiver = outcome.waiver
        why = f"waived until {in_utc(waiver.until)} by {waiver.granted_by}: {waiver.reason}"
        return RotationEnd("waived", waiver.waiver_id, why[:1000])
    if not isinstance(outcome, JobCreated):
        return RotationEnd(outcome.status)
    has_failed = outcome.job_state in ENDED_WITHOUT_ROTATION
    return RotationEnd("job_failed" if has_failed else "job_created", job_id=outcome.job_id)
