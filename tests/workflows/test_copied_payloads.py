"""What an attacker does who reaches Temporal and holds no payload key: copies encrypted payloads to where they like.

Each test does what they did: it reads a history's payloads as bytes, and sends them on as they are.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.activity import defn, info
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    ResetWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.converter import ActivitySerializationContext, WorkflowSerializationContext
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

from keyturn.activities.create_rotation_job import CreateRotationJob
from keyturn.application.answers import answer
from keyturn.application.encryption import CONTEXT, EncryptionCodec, names_of
from keyturn.application.rotation_status import Handle, outcome_of
from keyturn.application.rotations import start_or_attach
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.payload_errors import PayloadMoved, PayloadNotAuthentic
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.grounding import request_digest
from keyturn.rotations.contracts import Approval, Assessment, Denial, JobOrder, RotationRequest
from keyturn.rotations.outcomes import Failed, JobCreated, RotationJob
from keyturn.workflows.identity import rotation_ids_of
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.boundaries import guarded
from tests.support.cases import facts, order, request
from tests.support.keys import KEYRING
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, rotation_activities, with_approval, worker_on

COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
KEPT = Payload(metadata={"encoding": b"json/plain"}, data=b'"a value"')


async def payloads_of(handle: Handle) -> tuple[Payloads, Payloads]:
    """The encrypted start and the encrypted approval of a rotation, as any client of the server reads them."""
    start = approval = Payloads()
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            start = event.workflow_execution_started_event_attributes.input
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            approval = event.workflow_execution_update_accepted_event_attributes.accepted_request.input.args
    return start, approval


async def start_copy(client: Client, payloads: Payloads, workflow_id: str, queue: str) -> Handle:
    """Start a rotation with copied bytes under an invented id."""
    await client.workflow_service.start_workflow_execution(
        StartWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="RotationWorkflow"),
            task_queue=TaskQueue(name=queue),
            input=payloads,
            request_id=uuid.uuid4().hex,
        )
    )
    return client.get_workflow_handle(workflow_id)


async def send_copy(client: Client, workflow_id: str, update: str, payloads: Payloads) -> Any:
    """Send copied bytes as an update."""
    answered = await client.workflow_service.update_workflow_execution(
        UpdateWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            wait_policy=WaitPolicy(lifecycle_stage=COMPLETED),
            request=Request(meta=Meta(update_id=uuid.uuid4().hex), input=Input(name=update, args=payloads)),
        )
    )
    return answered.outcome


@asynccontextmanager
async def approved(client: Client, store: JobStore) -> AsyncIterator[tuple[str, Handle]]:
    """A rotation that was asked for by luna and approved by omar, and the queue of its worker."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    async with worker_on(client, queue, Script(ELIGIBLE), store, catalogue=with_approval()):
        handle = (await start_or_attach(client, asked, task_queue=queue)).handle
        digest = await Place(client, handle, asked.credential.key_id, queue).digest_at("awaiting_approval")
        await answer(handle, "approve", Approval(approver="omar", digest=digest))
        assert isinstance(await outcome_of(handle), JobCreated)
        yield queue, handle


async def test_a_copied_start_under_an_invented_id_ends_by_its_name_and_creates_nothing(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """The audit's worst: a second job of a credential, asked for and approved by two persons who had done neither."""
    async with approved(temporal, sqlite_store) as (queue, handle):
        start, approval = await payloads_of(handle)
        for invented in (f"{handle.id}2", f"rotate:other:{uuid.uuid4().hex}", f"{handle.id}-2026-11-26T03:00:00Z"):
            copied = await start_copy(temporal, start, invented, queue)
            outcome = await outcome_of(copied)
            assert isinstance(outcome, Failed)
            assert outcome.kind == "payload_moved"
            assert (await copied.describe()).status is WorkflowExecutionStatus.FAILED
            with pytest.raises(RPCError, match="completed"):
                await send_copy(temporal, invented, "approve", approval)
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_a_copied_start_brings_back_no_job_that_was_cancelled_since(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """The request itself asked for a successor of what failed; its copy asks for one of what came after it."""
    queue, said = f"test-{uuid.uuid4().hex}", {"tenant_id": "default", "actor": "omar", "reason": "a fake leak"}
    async with worker_on(temporal, queue, Script(ELIGIBLE, ELIGIBLE), sqlite_store):
        begun = (await start_or_attach(temporal, request(), task_queue=queue, again=True)).handle
        first = await outcome_of(begun)
        assert isinstance(first, JobCreated)
        await JobLeases(sqlite_engine).cancel(first.job_id, **said)
        start, _ = await payloads_of(begun)
        await start_copy(temporal, start, begun.id, queue)
        copied = await outcome_of(temporal.get_workflow_handle_for(RotationWorkflow.run, begun.id))
        assert isinstance(copied, JobCreated)
        assert (copied.job_id, copied.created) == (first.job_id, False)
        [job] = await sqlite_store.jobs(tenant_id="default", limit=9)
        assert job["status"] == "cancelled"


async def test_a_copied_approval_is_refused_by_another_rotation(temporal: Client, sqlite_store: JobStore) -> None:
    """Of the same approver, the same line, and a decision of the same form."""
    async with approved(temporal, sqlite_store) as (queue, handle):
        _, approval = await payloads_of(handle)
        asked = request(user_id="luna")
        other = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        place = Place(temporal, other, asked.credential.key_id, queue)
        digest = await place.digest_at("awaiting_approval")
        refused = await send_copy(temporal, other.id, "approve", approval)
        assert refused.HasField("failure")
        assert await place.digest_at("awaiting_approval") == digest
        await other.terminate()
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_an_approval_of_before_is_refused_by_a_later_rotation_of_the_same_id(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Ids are used again, and a decision on the same evidence has the same digest."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    async with worker_on(temporal, queue, Script(ELIGIBLE, ELIGIBLE), sqlite_store, catalogue=with_approval()):
        earlier = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        digest = await Place(temporal, earlier, asked.credential.key_id, queue).digest_at("awaiting_approval")
        await answer(earlier, "deny", Denial(approver="omar", digest=digest, reason="not now"))
        await outcome_of(earlier)
        _, denial = await payloads_of(earlier)
        later = (await start_or_attach(temporal, asked, task_queue=queue, again=True)).handle
        assert later.id == earlier.id
        place = Place(temporal, later, asked.credential.key_id, queue)
        assert await place.digest_at("awaiting_approval") == digest
        refused = await send_copy(temporal, later.id, "deny", denial)
        assert refused.failure.application_failure_info.type == "other_rotation"
        assert await place.digest_at("awaiting_approval") == digest
        await answer(later, "approve", Approval(approver="omar", digest=digest))
        assert isinstance(await outcome_of(later), JobCreated)


async def test_a_start_is_no_approval_and_no_other_update_of_its_own_workflow(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """What a payload is, is bound by its type, too."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        place = Place(temporal, handle, asked.credential.key_id, queue)
        await place.digest_at("awaiting_approval")
        start, _ = await payloads_of(handle)
        for update in ("approve", "deny", "resume", "abandon", "restate"):
            assert (await send_copy(temporal, handle.id, update, start)).HasField("failure")
        await handle.terminate()


async def test_a_person_who_speaks_to_one_rotation_speaks_to_no_other(temporal: Client, sqlite_store: JobStore) -> None:
    """Also where a key holder forwards it: an approval names its rotation."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        digest = await Place(temporal, handle, asked.credential.key_id, queue).digest_at("awaiting_approval")
        for named in (None, "rotate:default:acct_1:key_1:P-7@1"):
            approval = Approval(approver="omar", digest=digest, workflow_id=named)
            with pytest.raises(Exception, match="Workflow update failed") as caught:
                await handle.execute_update("approve", approval)
            assert getattr(caught.value.__cause__, "type", None) == "other_rotation"
        await handle.terminate()


class Forwards:
    """A decider that hands out the recorded answer to another request."""

    def __init__(self, decider: Any, other: RotationRequest) -> None:
        self._decider = decider
        self._other = other

    async def decide(self, _request: RotationRequest, attempt: int, **given: Any) -> Any:
        return await self._decider.decide(self._other, attempt, **given)


async def test_an_answer_to_another_request_is_refused_by_the_workflow(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """A client that completes activities in a worker's place can copy a result; it is compared with what was asked."""

    from keyturn.policy.catalogue import load_catalogue
    from keyturn.workflows.rotation import RotationWorkflow

    queue, asked, catalogue = f"test-{uuid.uuid4().hex}", request(credential=facts(stale=None)), load_catalogue()
    boundary = ModelBoundary({"*": [Script(ELIGIBLE)]}, catalogue, guard=guarded(), record=lambda _: None)
    forwards: Any = Forwards(boundary, request())
    activities = rotation_activities(forwards, sqlite_store, catalogue, names_of(temporal))
    async with Worker(temporal, task_queue=queue, workflows=[RotationWorkflow], activities=activities):
        outcome = await outcome_of((await start_or_attach(temporal, asked, task_queue=queue)).handle)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "answer_to_another_request"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


@pytest.mark.parametrize("name", ["decide", "create_rotation_job"])
async def test_an_activitys_result_of_an_earlier_rotation_of_the_same_id_is_refused_by_the_workflow(
    temporal: Client, sqlite_store: JobStore, name: str
) -> None:
    """Such as a waiver that has ended since, or a job that was cancelled; no late attempt may create another one."""
    queue, asked, catalogue = f"test-{uuid.uuid4().hex}", request(), load_catalogue()
    boundary = ModelBoundary({"*": [Script(ELIGIBLE)]}, catalogue, guard=guarded(), record=lambda _: None)
    decide, create, *others = rotation_activities(boundary, sqlite_store, catalogue, names_of(temporal))

    @defn(name=name)
    async def copied(given: RotationRequest | JobOrder) -> Assessment | RotationJob:
        assert given.first_run_id == info().workflow_run_id
        if isinstance(given, JobOrder):
            return RotationJob(job_id="job_of_before", created=True, first_run_id="an earlier one")
        own = await boundary.decide(given, 1)
        assert own.first_run_id == given.first_run_id, "what an honest worker answers"
        return own.model_copy(update={"first_run_id": "an earlier one"})

    copied.__annotations__["given"] = RotationRequest if name == "decide" else JobOrder
    honest = [create] if name == "decide" else [decide]
    async with Worker(temporal, task_queue=queue, workflows=[RotationWorkflow], activities=[copied, *honest, *others]):
        outcome = await outcome_of((await start_or_attach(temporal, asked, task_queue=queue)).handle)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "answer_to_another_request"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_an_order_of_another_workflow_is_refused_at_the_actions_own_boundary(sqlite_store: JobStore) -> None:
    """A sound order and a sound approval, brought by a workflow of another name."""
    ordered: JobOrder = order()
    creates = CreateRotationJob(sqlite_store, load_catalogue(), rotation_ids=rotation_ids_of).create_rotation_job
    environment = ActivityEnvironment()
    with pytest.raises(ApplicationError) as caught:
        await environment.run(creates, ordered)
    assert caught.value.type == "order_of_another"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


def codec(context: Any) -> EncryptionCodec:
    return EncryptionCodec(KEYRING, "default").with_context(context)


def workflow(workflow_id: str) -> WorkflowSerializationContext:
    return WorkflowSerializationContext("default", workflow_id)


def activity(workflow_id: str, kind: str) -> ActivitySerializationContext:
    return ActivitySerializationContext("default", None, kind, None, workflow_id, None, False)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (workflow("rotate:a"), workflow("rotate:b")),
        (workflow("rotate:a"), workflow("rotate:a2")),
        (workflow("rotate:a"), workflow("rotate:a-2026-11-26T03:00:00Z")),
        (workflow("rotate:a"), activity("rotate:a", "decide")),
        (activity("rotate:a", "decide"), workflow("rotate:a")),
        (activity("rotate:a", "decide"), activity("rotate:a", "create_rotation_job")),
        (activity("rotate:a", "decide"), activity("rotate:b", "decide")),
        (workflow("bulk:t:nightly"), workflow("bulk:t:nightly2")),
        (workflow("bulk:t:nightly"), workflow("bulk:t:nightly-2026-11-26T03:00:00Z-more")),
    ],
)
async def test_a_payload_opens_only_as_what_it_was_written(written: Any, read: Any) -> None:
    [encrypted] = await codec(written).encode([KEPT])
    assert codec(written).decrypt_payload(encrypted) == KEPT
    with pytest.raises(PayloadMoved):
        codec(read).decrypt_payload(encrypted)


async def test_a_context_that_was_rewritten_does_not_open(caplog: pytest.LogCaptureFixture) -> None:
    """Any client can change the metadata; the ciphertext is bound to what it said."""
    [encrypted] = await codec(workflow("rotate:a")).encode([KEPT])
    encrypted.metadata[CONTEXT] = b"workflow:rotate:b"
    with pytest.raises(PayloadNotAuthentic):
        codec(workflow("rotate:b")).decrypt_payload(encrypted)
    with pytest.raises(PayloadNotAuthentic):
        EncryptionCodec(KEYRING, "default").decrypt_payload(encrypted)  # as the codec server reads it


async def test_a_schedules_input_opens_in_each_of_its_runs() -> None:
    [encrypted] = await codec(workflow("bulk:t:nightly")).encode([KEPT])
    assert codec(workflow("bulk:t:nightly-2026-11-26T03:00:00Z")).decrypt_payload(encrypted) == KEPT


async def test_a_reset_rotation_reads_its_own(temporal: Client, sqlite_store: JobStore) -> None:
    """Its run has another id, and its payloads are bound to the workflow's."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        handle = (await start_or_attach(temporal, asked, task_queue=queue)).handle
        first = await outcome_of(handle)
        history = await handle.fetch_history()
        completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
        place = next(event.event_id for event in history.events if event.event_type == completed)
        await temporal.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=temporal.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id),
                reason="a test",
                workflow_task_finish_event_id=place,
                request_id=uuid.uuid4().hex,
            )
        )
        async with asyncio.timeout(30):
            again = await outcome_of(temporal.get_workflow_handle_for(RotationWorkflow.run, handle.id))
        assert isinstance(first, JobCreated)
    assert again.status == "job_created"
    assert request_digest(asked) == first.request_digest
