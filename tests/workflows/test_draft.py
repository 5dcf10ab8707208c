"""Drafts on a real server: written while they are read, stopped, started anew, and never ended twice."""

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.worker import Worker

from keyturn.activities.draft_reply import BEAT_SECONDS, DraftReply
from keyturn.application.drafts import Handle, new_draft_id, start_draft, stop_draft
from keyturn.calls import CallRecord
from keyturn.database import open_database
from keyturn.drafts.contracts import DraftEnd
from keyturn.drafts.errors import DraftTakenOver, UnknownDraft
from keyturn.drafts.reading import DraftReading
from keyturn.drafts.store import Draft, DraftStore
from keyturn.drafts.tables import drafts
from keyturn.drafts.writing import DraftWriting
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.tables import rotation_jobs
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.processes import child
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.http import http_client
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.draft_reply import DraftRequest
from keyturn.workflows.draft import DraftWorkflow
from tests.support.boundaries import guarded, on_simulator
from tests.support.cases import P7
from tests.support.keys import KEYRING
from tests.support.simulated import SimulatorControl


def asked(**changed: Any) -> DraftRequest:
    fields = {"account_id": "acct_1", "policy_lines": (P7,), "question": "May it?", "decision": "eligible"}
    given = {"rotation_window_days": 30, "trace_id": f"trace_{uuid.uuid4().hex}", "user_id": "luna", "max_retries": 0}
    return DraftRequest(**fields | given | changed)


class Desk:
    """A worker that writes drafts with the simulator, and readers of the same database."""

    def __init__(self, client: Client, engine: AsyncEngine, simulator: SimulatorControl) -> None:
        self.client = client
        self.simulator = simulator
        self.queue = f"test-{uuid.uuid4().hex}"
        self.store = DraftStore(engine, KEYRING)
        self.reading = DraftReading(self.store)
        self.records: list[CallRecord] = []

    @asynccontextmanager
    async def working(self, *wires: str) -> AsyncIterator[None]:
        async with http_client(16) as http:
            route = [on_simulator(http, self.simulator, wire) for wire in wires or ("openai",)]
            record = self.records.append
            boundary = ModelBoundary({"*": route}, load_catalogue(), guard=guarded(), record=record)
            drafts = DraftReply(DraftWriting(self.store, boundary))
            async with Worker(
                self.client,
                task_queue=self.queue,
                workflows=[DraftWorkflow],
                activities=drafts.activities,
                max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
            ):
                yield

    async def ask(self, **changed: Any) -> Handle:
        return await start_draft(self.client, new_draft_id("default"), asked(**changed), task_queue=self.queue)

    async def until(self, draft_id: str, state: Callable[[Draft], bool]) -> Draft:
        async with asyncio.timeout(30):
            async for draft in self.reading.follow(draft_id):
                if state(draft):
                    return draft
        raise AssertionError("it ended before")

    async def read(self, draft_id: str) -> list[Draft]:
        async with asyncio.timeout(30):
            return [draft async for draft in self.reading.follow(draft_id)]

    async def states(self, draft_id: str) -> list[str]:
        return [row["state"] for row in await self.store.trail(draft_id)]


@pytest.fixture
async def desk(temporal: Client, engine: AsyncEngine, simulator: SimulatorControl) -> Desk:
    """On both databases."""
    return Desk(temporal, engine, simulator)


@pytest.fixture
async def sqlite_desk(temporal: Client, sqlite: URL, simulator: SimulatorControl) -> AsyncIterator[Desk]:
    engine = open_database(sqlite)
    yield Desk(temporal, engine, simulator)
    await engine.dispose()


async def test_a_draft_is_read_while_it_is_written(desk: Desk) -> None:
    """More and more of one text, each state recorded, and its end says what the history says; encrypted on its way."""
    async with desk.working():
        handle = await desk.ask()
        seen = await desk.read(handle.id)
        written = await handle.result()
    assert (seen[-1].state, seen[-1].text, seen[-1].approved) == ("completed", written.text, True)
    assert len([draft for draft in seen if draft.state == "streaming"]) > 3
    texts = [draft.text for draft in seen]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert await desk.states(handle.id) == ["started", "streaming", "completed"]
    assert written.call.first_byte_ms is not None
    assert written.call.first_byte_ms < written.call.latency_ms / 2
    other = DraftStore(desk.store._engine, parse_keyring(new_keyring_text(), source="another"))
    with pytest.raises(Exception, match="key"):
        await other.find(handle.id, tenant_id="default")
    with pytest.raises(UnknownDraft):
        await desk.store.find(handle.id, tenant_id="another")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Good news: the rotation job job_123 has been created.", "promised_action"),
        ("Your card 4111 1111 1111 1111 is on file.", "private_data"),
        ("Under P-999 the key may be rotated.", "unknown_source"),
        ("The key may be rotated within 90 days.", "unsupported_figure"),
    ],
)
async def test_a_text_that_fails_stays_visible_as_not_approved_and_no_action_follows(
    sqlite_desk: Desk, sqlite: URL, text: str, reason: str
) -> None:
    """Whatever a draft says was done: there is no job, and nothing else was started."""
    desk = sqlite_desk
    await desk.simulator.fail("says", content=text)
    async with desk.working():
        handle = await desk.ask()
        *_, last = await desk.read(handle.id)
        written = await handle.result()
    assert (last.state, last.text, last.approved, last.reason) == ("completed", text, False, reason)
    assert (written.approved, written.reason, written.call.status) == (False, reason, "invalid_output")
    assert last.explanation
    engine = open_database(sqlite)
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(rotation_jobs))).scalar_one() == 0
    await engine.dispose()
    history = await handle.fetch_history()
    kinds = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
    assert {kind for kind in kinds if kind} == {"draft_reply", "end_draft"}


async def test_a_stopped_draft_closes_the_providers_connection_within_a_second(desk: Desk) -> None:
    """What had come of it stays to be read, and nothing is added."""
    async with desk.working():
        handle = await desk.ask()
        await desk.until(handle.id, lambda draft: draft.state == "streaming")
        stopped = asyncio.get_running_loop().time()
        await stop_draft(desk.client, handle.id)
        async with asyncio.timeout(5):
            while "closed_at" not in (await desk.simulator.requests())[0]:
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - stopped < 1
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, CancelledError)
        *_, last = await desk.read(handle.id)
        assert (last.state, last.approved, len(last.text) > 0) == ("cancelled", None, True)
        await stop_draft(desk.client, handle.id)  # it has ended: nothing happens
    assert await desk.states(handle.id) == ["started", "streaming", "cancelled"]
    assert [record.status for record in desk.records] == ["cancelled"]


async def test_a_draft_that_is_stopped_before_a_worker_has_it_is_never_written(sqlite_desk: Desk) -> None:
    """No model is asked, and readers see it as soon as a worker is there; until then they ask the server."""
    handle = await sqlite_desk.ask()
    await stop_draft(sqlite_desk.client, handle.id)
    async with sqlite_desk.working():
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    draft = await sqlite_desk.store.find(handle.id, tenant_id="default")
    assert (draft.state, draft.attempt, draft.text) == ("cancelled", 0, "")
    assert await sqlite_desk.simulator.requests() == []


async def test_a_provider_that_falls_silent_holds_nobody_past_the_deadline(sqlite_desk: Desk) -> None:
    """What had come stays, and the reason is shown."""
    desk = sqlite_desk
    await desk.simulator.fail("hang")
    async with desk.working():
        handle = await desk.ask(timeout_seconds=2)
        began = asyncio.get_running_loop().time()
        *_, last = await desk.read(handle.id)
        assert asyncio.get_running_loop().time() - began < 6
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert (last.state, last.reason, len(last.text) > 0) == ("failed", "provider_timeout", True)
    assert last.explanation


async def test_readers_start_over_with_another_provider_or_attempt(sqlite_desk: Desk) -> None:
    """Half a text of one writer is never the beginning of another's."""
    desk = sqlite_desk
    await desk.simulator.fail("half_body", times=2, provider="openai")
    async with desk.working("openai", "anthropic"):
        fallen_back = await desk.ask()
        seen = await desk.read(fallen_back.id)
    assert [draft.generation for draft in seen] == sorted(draft.generation for draft in seen)
    assert {draft.generation for draft in seen if draft.text} == {1, 2}
    assert await desk.states(fallen_back.id) == ["started", "streaming", "started", "streaming", "completed"]
    async with desk.working("openai"):
        retried = await desk.ask(max_retries=1)
        *_, last = await desk.read(retried.id)
    assert (last.state, last.attempt, last.approved) == ("completed", 2, True)
    assert await desk.states(retried.id) == ["started", "streaming", "started", "streaming", "completed"]
    for generation in (1, 2):
        texts = [draft.text for draft in seen if draft.generation == generation]
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


async def test_a_reader_who_comes_back_goes_on_where_they_were(sqlite_desk: Desk) -> None:
    """By the revision that they saw last; and as many read one draft as like, each the same text."""
    desk = sqlite_desk
    async with desk.working():
        handle = await desk.ask()
        first = await desk.until(handle.id, lambda draft: len(draft.text) > 40)
        rest = [draft async for draft in desk.reading.follow(handle.id, seen=first.revision)]
    assert all(draft.revision > first.revision for draft in rest)
    assert rest[0].text.startswith(first.text)
    ends = await asyncio.gather(*(desk.read(handle.id) for _ in range(20)))
    assert {seen[-1].text for seen in ends} == {rest[-1].text}
    assert desk.reading._readers == {}, "nobody reads, and so nobody looks"


async def test_space_around_a_text_is_nobodys_place_in_it(sqlite_desk: Desk) -> None:
    """What is read while it comes starts as what was judged does, approved or not."""
    desk = sqlite_desk
    for text in ("\n\n  The key is eligible under P-7.\n", "\n\n  Under P-999 the key may be rotated.\n"):
        await desk.simulator.fail("says", content=text)
        async with desk.working():
            handle = await desk.ask()
            seen = await desk.read(handle.id)
            written = await handle.result()
        assert len({draft.generation for draft in seen}) == 1
        assert seen[-1].text == text.strip() == written.text
        assert all(seen[-1].text.startswith(draft.text.rstrip()) for draft in seen)


async def test_a_stop_that_comes_with_the_last_word_is_an_end_too(sqlite_desk: Desk) -> None:
    """The workflow gets both at once, for no worker had it meanwhile; its readers see that it was stopped."""
    desk = sqlite_desk
    async with http_client(4) as http:
        route = [on_simulator(http, desk.simulator, "openai")]
        boundary = ModelBoundary({"*": route}, load_catalogue(), guard=guarded(), record=desk.records.append)
        drafts = DraftReply(DraftWriting(desk.store, boundary))
        activities: list[Callable[..., Any]] = [drafts.draft_reply, drafts.end_draft]
        async with Worker(desk.client, task_queue=desk.queue, activities=activities):
            async with Worker(desk.client, task_queue=desk.queue, workflows=[DraftWorkflow], max_cached_workflows=0):
                handle = await desk.ask()
                await desk.until(handle.id, lambda draft: bool(draft.text))
            while await pending_activities(handle):
                await asyncio.sleep(0.02)
            await stop_draft(desk.client, handle.id)
            async with Worker(desk.client, task_queue=desk.queue, workflows=[DraftWorkflow]):
                *_, last = await desk.read(handle.id)
                with pytest.raises(WorkflowFailureError):
                    await handle.result()
    assert last.state == "cancelled"
    assert await desk.states(handle.id) == ["started", "streaming", "cancelled"]


async def pending_activities(handle: Handle) -> int:
    return len((await handle.describe()).raw_description.pending_activities)


async def test_a_state_and_its_place_in_the_trail_are_written_together(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that goes away between them has written neither; what is then written again is whole."""
    store, draft_id = DraftStore(engine, KEYRING), new_draft_id("default")
    whose = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna"}
    end = DraftEnd(draft_id=draft_id, **whose, state="cancelled")

    async def away(*_: object) -> None:
        raise OSError

    steps: list[Callable[[], Any]] = [
        lambda: store.start(draft_id, **whose, run_id="r", attempt=1),
        lambda: store.end(end),
    ]
    for step in steps:
        with monkeypatch.context() as now:
            now.setattr("keyturn.drafts.store.insert_state", away)
            with pytest.raises(JobStoreUnavailable):
                await step()
        await step()
    assert [row["state"] for row in await store.trail(draft_id)] == ["started", "cancelled"]


async def test_an_id_stands_for_one_draft(sqlite_desk: Desk) -> None:
    """A request that is sent again attaches while it is written, and writes no second one later."""
    desk = sqlite_desk
    draft_id = new_draft_id("default")

    async def again() -> Handle:
        return await start_draft(desk.client, draft_id, asked(), task_queue=desk.queue)

    first = await again()
    assert (await again()).result_run_id in {None, first.result_run_id}
    async with desk.working():
        await first.result()
    with pytest.raises(WorkflowAlreadyStartedError):
        await again()


async def test_a_draft_is_kept_for_seven_days_after_its_end(engine: AsyncEngine) -> None:
    """The next one that is started deletes it, and one that has not ended is never deleted."""
    store = DraftStore(engine, KEYRING)
    whose = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna"}
    six, eight, unended = (new_draft_id("default") for _ in range(3))
    for draft_id in (six, eight, unended):
        await store.start(draft_id, **whose, run_id="r", attempt=1)
    for days, draft_id in ((6, six), (8, eight)):
        await store.end(DraftEnd(draft_id=draft_id, **whose, state="cancelled"))
        ended = update(drafts).where(drafts.c.draft_id == draft_id)
        async with engine.begin() as connection:
            await connection.execute(ended.values(ended_at=datetime.now(UTC) - timedelta(days=days)))
    await store.start(new_draft_id("default"), **whose, run_id="r", attempt=1)
    for draft_id in (six, unended):
        assert (await store.find(draft_id, tenant_id="default")).account_id == "acct_1"
    with pytest.raises(UnknownDraft):
        await store.find(eight, tenant_id="default")
    assert await store.trail(eight) == []


@pytest.mark.parametrize("days", [-40, 40])
async def test_a_worker_whose_clock_is_wrong_forgets_no_draft(engine: AsyncEngine, days: int) -> None:
    """How old a draft is, is the database's to say; else an attempt that wakes up late would start it anew."""
    store, draft_id = DraftStore(engine, KEYRING), new_draft_id("default")
    whose = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna"}
    await store.start(draft_id, **whose, run_id="r", attempt=1)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=days)):
        await store.end(DraftEnd(draft_id=draft_id, **whose, state="cancelled"))
        await store.start(new_draft_id("default"), **whose, run_id="r", attempt=1)
    await store.start(new_draft_id("default"), **whose, run_id="r", attempt=1)
    assert (await store.find(draft_id, tenant_id="default")).state == "cancelled"


async def test_a_killed_workers_draft_is_begun_anew_by_another_and_ends_once(
    temporal: Client, simulator: SimulatorControl, database: URL, tmp_path: Path, keys: Path
) -> None:
    """Killed -9 in mid-stream."""
    queue = f"test-{uuid.uuid4().hex}"
    url = database.render_as_string(hide_password=False)
    environment = worker_environment(temporal.service_client.config.target_host, url, simulator.address, keys=keys)
    environment |= {"KEYTURN_TASK_QUEUE": queue, "KEYTURN_BULK_PAGES": "0"}
    engine = open_database(database)
    store = DraftStore(engine, KEYRING)
    reading = DraftReading(store)
    await simulator.pace(0.1)
    command = [sys.executable, "-m", "keyturn.workers"]
    async with child(command, environment=environment, log=tmp_path / "first.log") as first:
        handle = await start_draft(temporal, new_draft_id("default"), asked(max_retries=2), task_queue=queue)
        async for draft in reading.follow(handle.id):
            if draft.text:
                break
        first.send_signal(signal.SIGKILL)
        await first.wait()
    await simulator.pace(0.005)
    async with child(command, environment=environment, log=tmp_path / "second.log"):
        async with asyncio.timeout(60):
            seen = [draft async for draft in reading.follow(handle.id)]
            written = await handle.result()
    assert (seen[-1].state, seen[-1].attempt, seen[-1].text) == ("completed", 2, written.text)
    states = [row["state"] for row in await store.trail(handle.id)]
    assert states == ["started", "streaming", "started", "streaming", "completed"]
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
    await engine.dispose()


async def test_an_attempt_that_wakes_up_late_writes_nothing(engine: AsyncEngine) -> None:
    """Neither text nor an ending; and the first ending counts."""
    store, draft_id = DraftStore(engine, KEYRING), new_draft_id("default")
    whose = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna", "run_id": "r"}
    late = await store.start(draft_id, **whose, attempt=1)
    await store.show(late, "Late", first=True)
    now = await store.start(draft_id, **whose, attempt=2)
    for step in (lambda: store.show(late, "Late again", first=False), lambda: store.anew(late)):
        with pytest.raises(DraftTakenOver):
            await step()
    with pytest.raises(DraftTakenOver):
        await store.start(draft_id, **whose, attempt=1)
    await store.show(now, "Now", first=True)
    end = DraftEnd(draft_id=draft_id, tenant_id="default", account_id="acct_1", requested_by="luna", state="cancelled")
    await store.end(end)
    await store.end(end.model_copy(update={"state": "failed"}))
    with pytest.raises(DraftTakenOver):
        await store.show(now, "Now and more", first=False)
    with pytest.raises(DraftTakenOver):
        await store.start(draft_id, **whose, attempt=3)
    draft = await store.find(draft_id, tenant_id="default")
    assert (draft.state, draft.text, draft.has_ended) == ("cancelled", "Now", True)
    states = [(row["state"], row["attempt"]) for row in await store.trail(draft_id)]
    assert states == [("started", 1), ("streaming", 1), ("started", 2), ("streaming", 2), ("cancelled", 2)]
