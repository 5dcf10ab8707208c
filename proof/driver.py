"""Asks for each operation of a plan, does what people do about it, and writes down what it saw."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from keyturn.bulk.store import BulkStore
from keyturn.contracts import (
    Approval,
    BulkOrder,
    BulkSource,
    CredentialFacts,
    Denial,
    JobCreated,
    Resumption,
    RotationRequest,
    WaitingForPerson,
)
from keyturn.database import open_database
from keyturn.drafts.store import DraftStore
from keyturn.errors import KeyturnError
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.tasks.draft_reply import DraftRequest
from proof.plan import Operation
from proof.world import APPROVER, LINE_TO_APPROVE, World, simulated
from starter.requests import id_of
from starter.rotations import Rotation, settled, start_or_attach
from workers.bulk import load_source, run_seals
from workflows.answering import answer
from workflows.bulk import bulk_id
from workflows.connection import TemporalUnreachable
from workflows.draft import DraftWorkflow
from workflows.drafts import start_draft, stop_draft
from workflows.encryption import names_of
from workflows.runs import start_run

AT_ONCE = 48  # operations under way: enough for two workers to have no pause
# What has not ended after this long never will: a fault costs half a minute at most, and a run meets some of them.
PATIENCE_SECONDS = 300.0
MANY = 50
DRAFT_SECONDS = 2.0
# A call of 3 s lets a silent provider be passed over in two, so that the proof waits for faults and not for patience.
CALL_SECONDS = 3.0


@dataclass
class Seen:
    """What was seen of one operation: each step with its time, and how it ended."""

    operation: Operation
    workflow_id: str = ""
    steps: list[tuple[float, str]] = field(default_factory=list)
    outcome: Any = None
    cancelled: bool = False
    jobs: int = 0
    began: float = 0.0
    seconds: float = 0.0

    @property
    def said(self) -> str:
        """How it ended, in a word."""
        return str(getattr(self.outcome, "status", None) or getattr(self.outcome, "name", None) or "written").lower()

    def say(self, step: str) -> None:
        """Write a step down: invoke, ok, fail or unknown, and what of."""
        self.steps.append((time.time(), step))


async def drive(world: World, operations: Sequence[Operation], *, until: float | None) -> list[Seen]:
    """Ask for every operation until the moment `until`; returns what was seen of those that were asked for."""
    turns, client = asyncio.Semaphore(AT_ONCE), await world.client()
    seen: list[Seen] = []

    async def one(operation: Operation) -> None:
        async with turns:
            if until is not None and time.monotonic() > until:
                return
            now = Seen(operation, began=time.time())
            seen.append(now)
            await one_operation(world, client, now)

    await asyncio.gather(*map(one, operations))
    return seen


async def one_operation(world: World, client: Client, seen: Seen) -> None:
    """Ask for one operation and see it to its end; what does not end in time has no outcome."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _ASKED[seen.operation.kind.asked](world, client, seen)
    except TimeoutError:
        seen.say("unknown: it did not end")
    seen.seconds = time.time() - seen.began


def request_of(operation: Operation, catalogue: Catalogue) -> RotationRequest:
    """Return the request of an operation: a stale key, which its line lets rotate."""
    line = catalogue.current(LINE_TO_APPROVE if operation.kind.asked == "approval" else "P-7").ref
    return RotationRequest(
        account_id=operation.account,
        credential=CredentialFacts(
            key_id="key_01", stale=True, age_days=40, observed_at=datetime.now(UTC), source="proof"
        ),
        policy_lines=(line,),
        question="May the stale key be rotated?",
        trace_id=operation.traces[0],
        user_id="prover",
        timeout_seconds=CALL_SECONDS,
        max_retries=4,
    )


async def _rotated(world: World, client: Client, seen: Seen) -> None:
    operation, request = seen.operation, request_of(seen.operation, load_catalogue(world.policies))
    seen.workflow_id = id_of(request, names_of(client))
    if operation.kind.by == "provider":
        # A bad answer is given each time: one that is lost with its worker is asked for again.
        times = 1 if operation.kind.expected == "job" else None
        fault = {"name": operation.fault, "times": times, "account": operation.account}
        await simulated(world.simulator, "POST", "/control/faults", fault | dict(operation.kind.arguments or {}))
    if operation.fault == "asked_by_many":
        await asyncio.gather(*(_started(client, request, seen) for _ in range(MANY - 1)))
    stopping = asyncio.create_task(_stop_when_frozen(world, client, seen))
    try:
        rotation = await _started(client, request, seen)
        while True:
            try:
                outcome = await settled(rotation.handle)
            except (RPCError, KeyturnError) as error:  # the server is away: looked at again
                seen.say(f"unknown: {type(error).__name__}")
                await asyncio.sleep(0.2)
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    rotation = await _started(client, request, seen)  # it had not been written when the server died
                continue
            seen.say(f"{'ok' if isinstance(outcome, JobCreated) else 'fail'}: {outcome.status}")
            if isinstance(outcome, WaitingForPerson):
                with suppress(KeyturnError, RPCError):
                    await _a_persons_word(world, rotation, outcome, seen)
                await asyncio.sleep(0.1)
                continue
            if outcome.status in {"timeout", "failed"} and not seen.cancelled and operation.kind.expected == "job":
                await asyncio.sleep(0.1)
                rotation = await _started(client, request, seen)  # asked again, which is safe
                continue
            seen.outcome, seen.jobs = outcome, int(isinstance(outcome, JobCreated))
            return
    finally:
        if not seen.cancelled:
            stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)  # whose claim was frozen is let go on


async def _a_persons_word(world: World, rotation: Rotation, waiting: WaitingForPerson, seen: Seen) -> None:
    if waiting.decision is None:
        await answer(rotation.handle, "resume", Resumption(operator="prover"))
        seen.say("ok: resumed")
        return
    digest = waiting.decision.digest
    if seen.operation.fault == "denied":
        await answer(rotation.handle, "deny", Denial(approver=APPROVER, digest=digest, reason="The proof says no."))
        seen.say("ok: denied")
        return
    if not any("killed" in step for _, step in seen.steps):
        world.kill("worker_0")
        world.kill("worker_1")
        seen.say("invoke: approve, and all workers are killed")
    await answer(rotation.handle, "approve", Approval(approver=APPROVER, digest=digest))
    seen.say("ok: approved")


async def _drafted(world: World, client: Client, seen: Seen) -> None:
    """Have a draft written; stop it if it is one that is stopped."""
    operation = seen.operation
    if operation.fault in {"draft_stopped", "draft_killed"}:  # else it is there before anybody can stop it
        slow = {"name": "trickle", "seconds": DRAFT_SECONDS, "times": None, "account": operation.account}
        await simulated(world.simulator, "POST", "/control/faults", slow)
    request = DraftRequest(
        account_id=operation.account,
        policy_lines=(load_catalogue(world.policies).current("P-7").ref,),
        question="May the stale key be rotated?",
        trace_id=operation.traces[0],
        user_id="prover",
        timeout_seconds=3 * DRAFT_SECONDS,
        max_retries=4,
    )
    seen.workflow_id = f"draft:default:proof-{operation.number:06}"
    engine = open_database(world.database, pool_size=1)
    stopping = asyncio.create_task(_stop_when_streaming(DraftStore(engine, world.keyring), client, seen))
    try:
        while True:
            try:
                seen.say("invoke: draft")
                handle = await start_draft(client, seen.workflow_id, request, task_queue="keyturn")
                written = await handle.result()
            except WorkflowAlreadyStartedError:  # it has ended, and its end did not reach us
                handle = client.get_workflow_handle_for(DraftWorkflow.run, seen.workflow_id)
                with suppress(WorkflowFailureError, RPCError):
                    seen.outcome = await handle.result()
                    break
                with suppress(RPCError):
                    seen.outcome = (await handle.describe()).status
                    break
            except WorkflowFailureError as error:
                stopped = isinstance(error.cause, CancelledError)
                seen.outcome = WorkflowExecutionStatus.CANCELED if stopped else WorkflowExecutionStatus.FAILED
                break
            except RPCError as error:
                seen.say(f"unknown: {error.status.name.lower()}")
                await asyncio.sleep(0.2)
            else:
                seen.outcome = written
                break
        seen.say(f"ok: {getattr(seen.outcome, 'name', 'written')}")
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await engine.dispose()


async def _stop_when_streaming(store: DraftStore, client: Client, seen: Seen) -> None:
    if seen.operation.fault != "draft_stopped":
        return
    while True:
        with suppress(KeyturnError, RPCError):
            if (await store.find(seen.workflow_id, tenant_id="default")).text:
                await stop_draft(client, seen.workflow_id)
                seen.say("ok: stopped")
                return
        await asyncio.sleep(0.05)


async def _run(world: World, client: Client, seen: Seen) -> None:
    """Have a run of keys judged, and begin it again until each has its job, as a person would."""
    operation, catalogue = seen.operation, load_catalogue(world.policies)
    file = world.folder / f"{operation.run_id}.jsonl"
    rotated_at = (datetime.now(UTC) - timedelta(days=200)).isoformat()
    rows = [{"account_id": one, "key_id": "key_01", "kind": "access_key"} for one in operation.accounts]
    file.write_text("".join(json.dumps(row | {"last_rotated_at": rotated_at}) + "\n" for row in rows))
    source = BulkSource(
        path=str(file),
        policies=("CIS-AWS-4.0-1.14",),
        question="May it be rotated?",
        user_id="prover",
        observed_at=datetime.now(UTC),
    )
    order = BulkOrder(run_id=operation.run_id, page_size=4)
    seen.workflow_id = bulk_id(order.tenant_id, order.run_id)
    engine = open_database(world.database, pool_size=1)
    store = BulkStore(engine)
    try:
        loaded = False
        while True:
            try:
                if not loaded:
                    seen.say("invoke: load")
                    seals = run_seals(world.keyring)
                    whose = (order.run_id, order.tenant_id, seen.workflow_id)
                    await load_source(source, *whose, store, catalogue, seals, told=lambda _count: None)
                    loaded = True
                seen.say("invoke: run")
                handle = await start_run(client, order, task_queue="keyturn")
                outcome = await handle.result()
                counted = dict((await store.progress(order.run_id)).outcomes)
            except (KeyturnError, RPCError, WorkflowFailureError) as error:
                seen.say(f"unknown: {type(error).__name__}")
                await asyncio.sleep(0.2)
                continue
            seen.say(f"ok: {counted}")
            if counted.get("job_created") == len(operation.accounts):
                seen.outcome, seen.jobs = outcome, len(operation.accounts)
                return
            await asyncio.sleep(0.2)
    finally:
        await engine.dispose()


_ASKED: Mapping[str, Callable[[World, Client, Seen], Awaitable[None]]] = {
    "rotation": _rotated,
    "approval": _rotated,
    "draft": _drafted,
    "bulk": _run,
}


async def _started(client: Client, request: RotationRequest, seen: Seen) -> Rotation:
    while True:
        seen.say("invoke: start")
        try:
            return await start_or_attach(client, request, task_queue="keyturn")
        except (RPCError, TemporalUnreachable) as error:
            seen.say(f"unknown: {type(error).__name__}")
            await asyncio.sleep(0.1 + random.random() / 5)


async def _stop_when_frozen(world: World, client: Client, seen: Seen) -> None:
    """Cancel a rotation whose claim is frozen; when it has ended, let the claim go on."""
    if seen.operation.fault != "freeze_and_stop":
        return
    account = seen.operation.account
    while not (world.marks / f"{account}.0").exists():
        await asyncio.sleep(0.05)
    seen.cancelled = True
    handle = client.get_workflow_handle(seen.workflow_id)
    while True:
        with suppress(RPCError):
            await handle.cancel()
            seen.say("ok: cancelled")
            break
        await asyncio.sleep(0.1)
    while True:
        with suppress(RPCError):
            if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
                break
        await asyncio.sleep(0.1)
    (world.marks / f"{account}.thaw").touch()
