"""Asks for each rotation of a plan, does what people do about it, and writes down what it saw."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from keyturn.contracts import CredentialFacts, JobCreated, Resumption, RotationRequest, WaitingForPerson
from keyturn.errors import KeyturnError
from keyturn.policy.catalogue import load_catalogue
from proof.plan import Operation
from proof.world import World, simulated
from starter.requests import id_of
from starter.rotations import Rotation, settled, start_or_attach
from workflows.answering import answer
from workflows.connection import TemporalUnreachable
from workflows.encryption import names_of

AT_ONCE = 48  # rotations under way: enough for two workers to have no pause
# A rotation that has not ended after this long never will: what it meets costs half a minute at most.
PATIENCE_SECONDS = 240.0
# A call of 3 s lets a silent provider be passed over in two, so that the proof waits for faults and not for patience.
CALL_SECONDS = 3.0


@dataclass
class Seen:
    """What was seen of one operation: each step with its time, and how it ended."""

    operation: Operation
    workflow_id: str = ""
    trace_id: str = ""
    steps: list[tuple[float, str]] = field(default_factory=list)
    outcome: Any = None
    cancelled: bool = False
    began: float = 0.0
    seconds: float = 0.0

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
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await _rotated(world, client, now)
            except TimeoutError:
                now.say("unknown: it did not end")
            now.seconds = time.time() - now.began

    await asyncio.gather(*map(one, operations))
    return seen


def request_of(operation: Operation) -> RotationRequest:
    """Return the request of an operation: a stale key, which P-7 lets rotate."""
    line = load_catalogue().current("P-7").ref
    return RotationRequest(
        account_id=operation.account,
        credential=CredentialFacts(
            key_id="key_01", stale=True, age_days=40, observed_at=datetime.now(UTC), source="proof"
        ),
        policy_lines=(line,),
        question="May the stale key be rotated?",
        trace_id=f"trace_{operation.number:06}",
        user_id="prover",
        timeout_seconds=CALL_SECONDS,
        max_retries=4,
    )


async def _rotated(world: World, client: Client, seen: Seen) -> None:
    operation, request = seen.operation, request_of(seen.operation)
    seen.workflow_id, seen.trace_id = id_of(request, names_of(client)), request.trace_id
    if operation.kind.by == "provider":
        # A bad answer is given each time: one that is lost with its worker is asked for again.
        times = 1 if operation.kind.expected == "job" else None
        fault = {"name": operation.fault, "times": times, "account": operation.account}
        await simulated(world.simulator, "POST", "/control/faults", fault | dict(operation.kind.arguments or {}))
    if operation.fault == "asked_twice":
        await asyncio.gather(*(_started(client, request, seen) for _ in range(9)))
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
                    await answer(rotation.handle, "resume", Resumption(operator="prover"))
                    seen.say("ok: resumed")
                await asyncio.sleep(0.1)
                continue
            if outcome.status in {"timeout", "failed"} and not seen.cancelled and operation.kind.expected == "job":
                await asyncio.sleep(0.1)
                rotation = await _started(client, request, seen)  # asked again, which is safe
                continue
            seen.outcome = outcome
            return
    finally:
        if not seen.cancelled:
            stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)  # whose claim was frozen is let go on


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
