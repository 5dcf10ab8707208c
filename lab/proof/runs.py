"""Executes one bulk run, and starts it again until each key has its job, as an operator would."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from keyturn.application.answers import answer
from keyturn.application.runs import start_run
from keyturn.bulk.contracts import BulkOrder, BulkSource
from keyturn.bulk.store import BulkStore
from keyturn.database import open_database
from keyturn.errors import KeyturnError
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.world import World
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.contracts import Resumption
from keyturn.workers.bulk import load_source, run_encryption
from keyturn.workflows.bulk import DUE_QUEUE, bulk_id
from keyturn.workflows.options import TASK_QUEUE
from keyturn.workflows.visibility import PARKED

_DUE = TASK_QUEUE + DUE_QUEUE


async def _resume_parked(client: Client, seen: OperationRecord) -> None:
    """Resume the rotations of runs that wait for an operator: the database was away for longer than they try."""
    with suppress(KeyturnError, RPCError):
        async for row in client.list_workflows(f"TaskQueue = '{_DUE}' AND {PARKED.name} IS NOT NULL"):
            handle = client.get_workflow_handle(row.id, run_id=row.run_id)
            with suppress(KeyturnError):  # it goes on already, or no worker answers at this moment
                await answer(handle, "resume", Resumption(operator="prover"))
                seen.say("ok: resumed a rotation of a run")


async def run_bulk(world: World, client: Client, seen: OperationRecord) -> None:
    """Have a bulk run judged, and start it again until each key has its job, as an operator would."""
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
                    encryption = run_encryption(world.keyring)
                    whose = (order.run_id, order.tenant_id, seen.workflow_id)
                    await load_source(source, *whose, store, catalogue, encryption, on_progress=lambda _count: None)
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
            await _resume_parked(client, seen)
            await asyncio.sleep(0.2)
    finally:
        await engine.dispose()
