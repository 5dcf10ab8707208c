"""Run a rotation to each of its ends, and record how it got there: `make histories`.

`tests/histories` holds a history a case, which must replay for ever, and `commands.json`, the commands that each case
gives Temporal. Do this when a new case is added. A history that no longer replays is not to be recorded anew: it stands
for workflows that run in production, and the change that broke it needs `workflow.patched()`.
"""

import asyncio
import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from keyturn.application.answers import answer
from keyturn.application.namespace import add_search_attributes
from keyturn.application.rotation_status import Handle, outcome_of, status_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.database import database_url, open_database
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.processes import program
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.errors import ProviderTimeout, ProviderUnavailable, QuotaExhausted
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.rotations.contracts import Abandonment, Approval, Denial, Resumption
from keyturn.workers.schema import migrate
from tests.support.boundaries import guarded
from tests.support.cases import facts, order, request
from tests.support.other_histories import CASES as OTHER_CASES
from tests.support.workers_for_tests import ELIGIBLE, ChangedForTheJob, Limit, Script, with_approval, worker_on

FOLDER = Path(__file__).parents[1] / "histories"
OTHER = "others"  # of the workflows that carry jobs on
COMMANDS = FOLDER / "commands" / "commands.json"
AWAY = JobStoreUnavailable("x")
NO = '{"decision":"%s","rotation_window_days":null,"source_line_ids":[]}'


@dataclass(frozen=True)
class Case:
    """How a rotation is brought to one of its ends: the model's answers, and the persons' responses."""

    ends: str
    said: tuple[str | BaseException, ...]
    people: Callable[["Place"], Awaitable[object]] | None = None
    catalogue: Callable[[], Catalogue] = load_catalogue
    limit: Callable[[], Limit | None] = lambda: None
    taken: bool = False  # whether the credential has an open job already
    waits_long: bool = False  # for days: on the server that skips time
    stale: bool | None = True  # what the evidence says of the key


@dataclass(frozen=True)
class Place:
    """A rotation under way."""

    client: Client
    handle: Handle
    key_id: str
    queue: str

    async def digest_at(self, phase: str) -> str:
        async with asyncio.timeout(20):
            while True:
                status = await status_of(self.handle)
                if status is not None and status.phase == phase:
                    return "" if status.decision is None else status.decision.digest
                await asyncio.sleep(0.02)


async def _resume(place: Place) -> None:
    await place.digest_at("parked")
    await answer(place.handle, "resume", Resumption(operator="omar"))


async def _abandon(place: Place) -> None:
    await place.digest_at("parked")
    await answer(place.handle, "abandon", Abandonment(operator="omar", reason="closed"))


async def _approve(place: Place) -> None:
    digest = await place.digest_at("awaiting_approval")
    await answer(place.handle, "approve", Approval(approver="omar", digest=digest))


async def _deny(place: Place) -> None:
    digest = await place.digest_at("awaiting_approval")
    await answer(place.handle, "deny", Denial(approver="omar", digest=digest, reason="frozen"))


async def _settle(place: Place) -> None:
    digest = await place.digest_at("disagreement")
    await answer(place.handle, "approve", Approval(approver="omar", digest=digest))


async def _deny_disagreement(place: Place) -> None:
    digest = await place.digest_at("disagreement")
    await answer(place.handle, "deny", Denial(approver="omar", digest=digest, reason="retired"))


async def _restate(place: Place) -> None:
    await place.digest_at("parked")
    newer = request(credential=facts(key_id=place.key_id, age_days=40), max_retries=1)
    await rotate(place.client, newer, task_queue=place.queue, wait_seconds=30)


CASES: Mapping[str, Case] = {
    "job_created": Case("job_created", (ELIGIBLE,)),
    "job_created_after_a_retry": Case("job_created", (ProviderUnavailable("x"), ELIGIBLE)),
    "job_created_after_a_token_limit": Case("job_created", (ELIGIBLE,), limit=lambda: Limit(1, timedelta(seconds=1))),
    "job_created_after_parking": Case("job_created", (QuotaExhausted("x"), ELIGIBLE), _resume),
    "job_created_after_an_outage_of_the_database": Case("job_created", (*[AWAY] * 2, ELIGIBLE), waits_long=True),
    "job_created_on_other_evidence": Case("job_created", (QuotaExhausted("x"), ELIGIBLE), _restate),
    "job_created_when_approved": Case("job_created", (ELIGIBLE,), _approve, with_approval),
    "job_created_when_decided_anew": Case("job_created", (ELIGIBLE,), catalogue=lambda: ChangedForTheJob(times=1)),
    "job_created_after_a_second_answer": Case("job_created", (NO % "not_eligible", ELIGIBLE)),
    "job_created_when_a_disagreement_is_settled": Case("job_created", (NO % "not_eligible",), _settle),
    "rejected_when_a_disagreement_is_denied": Case("rejected", (NO % "not_specified",), _deny_disagreement),
    "not_eligible": Case("not_eligible", (NO % "not_eligible",), stale=False),
    "not_specified": Case("not_specified", (NO % "not_specified",), stale=None),
    "rejected": Case("rejected", (ELIGIBLE.replace("30", "90"),)),
    "rejected_when_denied": Case("rejected", (ELIGIBLE,), _deny, with_approval),
    "timeout": Case("timeout", (ProviderTimeout("x"),)),
    "failed": Case("failed", (ProviderUnavailable("x"),)),
    "failed_when_abandoned": Case("failed", (QuotaExhausted("x"),), _abandon),
    "failed_with_its_claim_withdrawn": Case("failed", (ELIGIBLE,), taken=True),
    "failed_when_nobody_fixes_it": Case("failed", (QuotaExhausted("x"),), waits_long=True),
    "failed_when_nobody_approves": Case("failed", (ELIGIBLE,), catalogue=with_approval, waits_long=True),
}


@asynccontextmanager
async def servers() -> AsyncIterator[Client]:
    """Yield a client of a dev server. Payloads are plain: the files are read."""
    async with dev_server() as client:
        yield client


@asynccontextmanager
async def skipping_server() -> AsyncIterator[Client]:
    """Yield a client of a server that skips time; one a case, because its clock moves on, and evidence has an age."""
    skipping = await WorkflowEnvironment.start_time_skipping(
        data_converter=pydantic_data_converter, test_server_existing_path=str(program("temporal-test-server"))
    )
    async with skipping:
        await add_search_attributes(skipping.client)
        yield skipping.client


@asynccontextmanager
async def server_of(waits_long: bool, client: Client) -> AsyncIterator[Client]:
    """Yield the client of the server that a case runs on: `client`, or one that skips time."""
    if not waits_long:
        yield client
        return
    async with skipping_server() as skipping:
        yield skipping


async def run(name: str, case: Case, client: Client, store: JobStore) -> WorkflowHistory:
    """Bring one rotation to the end of `case`; returns its history."""
    key_id, queue = f"key_{name}", f"histories-{uuid.uuid4().hex}"
    asked = request(credential=facts(key_id=key_id, stale=case.stale), max_retries=1)
    if case.taken:
        await store.create_once(order(credential=facts(key_id=key_id)), idempotency_key=uuid.uuid4().hex, fence=1)
    guard = guarded(tokens=limit) if (limit := case.limit()) else None
    script = Script(*case.said)
    async with worker_on(client, queue, script, store, catalogue=case.catalogue(), guard=guard):
        rotation = await start_or_attach(client, asked, task_queue=queue)
        if case.people is not None:
            await case.people(Place(client, rotation.handle, key_id, queue))
        outcome = await outcome_of(rotation.handle)
        if outcome.status != case.ends:
            raise AssertionError(f"{name} ended as {outcome.status}, not as {case.ends}")
        return await rotation.handle.fetch_history()


def commands_of(history: WorkflowHistory) -> list[str]:
    """What the workflow commanded Temporal, in its order: the part of a history that its code must repeat."""
    return [command for event in history.events if (command := _command(event)) is not None]


def _command(event: Any) -> str | None:
    kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
    match kind:
        case "activity_task_scheduled":
            return f"schedule activity {event.activity_task_scheduled_event_attributes.activity_type.name}"
        case "upsert_workflow_search_attributes":
            attributes = event.upsert_workflow_search_attributes_event_attributes.search_attributes
            return f"upsert {', '.join(sorted(attributes.indexed_fields))}"
        case "timer_started" | "timer_canceled" | "marker_recorded" | "workflow_execution_update_completed":
            return kind.replace("_", " ")
        case "workflow_execution_completed" | "workflow_execution_failed":
            return kind.replace("_", " ")
        case _:
            return None


@asynccontextmanager
async def scratch_store() -> AsyncIterator[JobStore]:
    """Yield a job store on a throw-away SQLite."""
    with tempfile.TemporaryDirectory() as scratch:
        url = database_url(f"sqlite:///{scratch}/keyturn.db")
        await asyncio.to_thread(migrate, url)
        engine = open_database(url)
        yield JobStore(engine)
        await engine.dispose()


async def record(folder: Path) -> None:
    """Run each case that has no history yet, and write its history and its commands."""
    COMMANDS.parent.mkdir(parents=True, exist_ok=True)
    commands: dict[str, list[str]] = json.loads(COMMANDS.read_text()) if COMMANDS.exists() else {}
    async with servers() as client, scratch_store() as store:
        for name, case in CASES.items():
            if (folder / f"{name}.json").exists():
                continue
            async with server_of(case.waits_long, client) as place:
                history = await run(name, case, place, store)
            (folder / f"{name}.json").write_text(history.to_json())
            commands[name] = commands_of(history)
        for name, bring in OTHER_CASES.items():
            if not (folder / OTHER / f"{name}.json").exists():
                async with skipping_server() as place:
                    history = await bring(place)
                (folder / OTHER).mkdir(exist_ok=True)
                (folder / OTHER / f"{name}.json").write_text(history.to_json())
                commands[name] = commands_of(history)
    COMMANDS.write_text(json.dumps(commands, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(record(FOLDER))
