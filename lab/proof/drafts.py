"""Has one draft written, and stopped if it is one that is stopped."""

import asyncio
from contextlib import suppress

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from keyturn.application.drafts import start_draft, stop_draft
from keyturn.database import open_database
from keyturn.drafts.store import DraftStore
from keyturn.errors import KeyturnError
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.world import World, ask_simulator
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.draft_reply import DraftRequest
from keyturn.workflows.draft import DraftWorkflow

DRAFT_SECONDS = 2.0


async def run_draft(world: World, client: Client, seen: OperationRecord) -> None:
    """Have a draft written; stop it if it is one that is stopped."""
    operation = seen.operation
    fault = dict(operation.kind.arguments or {})
    if operation.fault in {"draft_stopped", "draft_killed"}:  # else the draft is complete before it can be stopped
        fault = {"name": "trickle", "seconds": DRAFT_SECONDS, "times": None}
    if fault:
        await ask_simulator(world.simulator, "POST", "/control/faults", {"account": operation.account} | fault)
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
                try:
                    seen.outcome = await handle.result()
                    break
                except WorkflowFailureError as error:
                    seen.outcome = _status_after(error)
                    break
                except RPCError as error:
                    seen.say(f"unknown: {error.status.name.lower()}")
            except WorkflowFailureError as error:
                seen.outcome = _status_after(error)
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


def _status_after(error: WorkflowFailureError) -> WorkflowExecutionStatus:
    stopped = isinstance(error.cause, CancelledError)
    return WorkflowExecutionStatus.CANCELED if stopped else WorkflowExecutionStatus.FAILED


async def _stop_when_streaming(store: DraftStore, client: Client, seen: OperationRecord) -> None:
    if seen.operation.fault != "draft_stopped":
        return
    while True:
        with suppress(KeyturnError, RPCError):
            if (await store.find(seen.workflow_id, tenant_id="default")).text:
                await stop_draft(client, seen.workflow_id)
                seen.strike("ok: stopped")
                return
        await asyncio.sleep(0.05)
