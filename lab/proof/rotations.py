"""Asks for one rotation, says what a person would, and asks again where an answer did not come."""

import asyncio
import random
import uuid
from contextlib import suppress
from datetime import UTC, datetime

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.answers import answer
from keyturn.application.connection import TemporalUnreachable
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.application.rotations import Rotation, start_or_attach, wait_for_outcome
from keyturn.contracts import CredentialFacts
from keyturn.errors import KeyturnError
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.plan import FROZEN, KINDS, Operation
from keyturn.lab.proof.world import APPROVER, LINE_TO_APPROVE, World, ask_simulator
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.rotations.contracts import Approval, Denial, Resumption, RotationRequest
from keyturn.rotations.outcomes import JobCreated, WaitingForPerson

MANY = 50


async def run_rotation(world: World, client: Client, seen: OperationRecord) -> None:
    """Have one credential rotated, as its operation has it."""
    operation, request = seen.operation, _request_of(seen.operation, load_catalogue(world.policies))
    seen.workflow_id = id_of(request, names_of(client))
    of_the_provider = operation.also or (operation.fault if operation.kind.by == "provider" else "")
    if of_the_provider:
        kind = KINDS[of_the_provider]
        # A bad answer is given each time: one that is lost with its worker is asked for again.
        times = 1 if kind.expected == "job" and not kind.always else None
        fault = {"name": of_the_provider, "times": times, "account": operation.account}
        await ask_simulator(world.simulator, "POST", "/control/faults", fault | dict(kind.arguments or {}))
    if operation.fault == "asked_by_many":
        seen.strike(f"invoke: {MANY} starts")
        await asyncio.gather(*(_start(client, request, seen) for _ in range(MANY - 1)))
    stopping = asyncio.create_task(_stop_when_frozen(world, client, seen))
    try:
        rotation = await _start(client, request, seen)
        while True:
            try:
                outcome = await wait_for_outcome(rotation.handle)
            except (RPCError, KeyturnError) as error:  # the server is away: looked at again
                seen.say(f"unknown: {type(error).__name__}")
                await asyncio.sleep(0.2)
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    rotation = await _start(client, request, seen)  # it had not been written when the server died
                continue
            seen.say(f"{'ok' if isinstance(outcome, JobCreated) else 'fail'}: {outcome.status}")
            if isinstance(outcome, WaitingForPerson):
                with suppress(KeyturnError, RPCError):
                    await _respond(world, rotation, outcome, seen)
                await asyncio.sleep(0.1)
                continue
            if outcome.status in {"timeout", "failed"} and operation.fault != "freeze_and_stop":
                with suppress(KeyturnError):
                    made = any(step == "ok: job_created" for _, step in seen.steps)
                    seen.contradicted |= not made and bool(await world.jobs_of(operation.account))
                await asyncio.sleep(0.1)
                rotation = await _start(client, request, seen)  # asked again, which is safe
                continue
            if isinstance(outcome, JobCreated) and await _disturb_again(client, seen):
                await asyncio.sleep(0.1)
                request = _request_of(operation, load_catalogue(world.policies))
                rotation = await _start(client, request, seen)
                continue
            seen.outcome, seen.jobs = outcome, int(isinstance(outcome, JobCreated))
            return
    finally:
        if operation.fault in FROZEN:
            (world.marks / f"{operation.account}.thaw").touch()  # the frozen claim may continue
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def _disturb_again(client: Client, seen: OperationRecord) -> bool:
    """Do what befalls a rotation when its job is made; returns whether it is to be asked for once more."""
    done = any(step == "ok: made" for _, step in seen.steps)
    if done or seen.operation.fault not in {"asked_again", "reset"}:
        return False
    if seen.operation.fault == "reset":
        try:
            history = await client.get_workflow_handle(seen.workflow_id).fetch_history()
            completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
            first = next(event.event_id for event in history.events if event.event_type == completed)
            await client.workflow_service.reset_workflow_execution(
                ResetWorkflowExecutionRequest(
                    namespace=client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=seen.workflow_id),
                    reason="the proof",
                    workflow_task_finish_event_id=first,
                    request_id=uuid.uuid4().hex,
                )
            )
        except RPCError as error:
            seen.say(f"unknown: reset, {error.status.name.lower()}")
            return True
    seen.strike("ok: made")
    return True


async def _respond(world: World, rotation: Rotation, waiting: WaitingForPerson, seen: OperationRecord) -> None:
    if waiting.decision is None:
        await answer(rotation.handle, "resume", Resumption(operator="prover"))
        seen.say("ok: resumed")
        return
    digest = waiting.decision.digest
    if seen.operation.fault in {"denied", "wrong_no_denied"}:
        seen.strike("invoke: deny")  # before its answer, which may be lost
        await answer(rotation.handle, "deny", Denial(approver=APPROVER, digest=digest, reason="The proof says no."))
        seen.say("ok: denied")
        return
    if seen.operation.fault != "wrong_no" and not any("killed" in step for _, step in seen.steps):
        world.kill("worker_0")
        world.kill("worker_1")
        seen.strike("invoke: approve, and all workers are killed")
    await answer(rotation.handle, "approve", Approval(approver=APPROVER, digest=digest))
    seen.say("ok: approved")


def _request_of(operation: Operation, catalogue: Catalogue) -> RotationRequest:
    """Return the request of an operation: a stale key, which its line lets rotate."""
    names = (LINE_TO_APPROVE,) if operation.kind.asked == "approval" else operation.kind.lines
    return RotationRequest(
        account_id=operation.account,
        credential=CredentialFacts(
            key_id="key_01", stale=True, age_days=40, observed_at=datetime.now(UTC), source="proof"
        ),
        policy_lines=tuple(catalogue.current(name).ref for name in names),
        question="May the stale key be rotated?",
        trace_id=operation.traces[0],
        user_id="prover",
        timeout_seconds=operation.call_seconds,
        max_retries=4,
    )


async def _start(client: Client, request: RotationRequest, seen: OperationRecord) -> Rotation:
    while True:
        seen.say("invoke: start")
        try:
            return await start_or_attach(client, request, task_queue="keyturn")
        except (RPCError, TemporalUnreachable) as error:
            seen.say(f"unknown: {type(error).__name__}")
            await asyncio.sleep(0.1 + random.random() / 5)


async def _stop_when_frozen(world: World, client: Client, seen: OperationRecord) -> None:
    """Cancel a rotation whose claim is frozen."""
    if seen.operation.fault not in {"freeze_and_stop", "freeze_and_ask"}:
        return
    account = seen.operation.account
    while not (world.marks / f"{account}.0").exists():
        await asyncio.sleep(0.05)
    handle = client.get_workflow_handle(seen.workflow_id)
    while not seen.cancelled:
        try:
            await handle.cancel()
        except RPCError as error:
            seen.say(f"unknown: cancel, {error.status.name.lower()}")
            seen.cancelled = error.status is RPCStatusCode.NOT_FOUND  # it has ended: an answer was lost
            await asyncio.sleep(0.1)
        else:
            seen.say("ok: cancelled")
            seen.cancelled = True
