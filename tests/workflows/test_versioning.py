"""Rotations stay with the build that started them, on a real server's worker versioning."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, cast

import pytest
from click.testing import CliRunner
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.worker import Worker

from keyturn.activities.judge_page import JudgePage
from keyturn.application.answers import answer
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.application.runs import start_run
from keyturn.application.versioning import builds, pinned_to, promote
from keyturn.bulk.contracts import BulkOrder, BulkPage, PageResult, RunProgress, RunResult
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.errors import QuotaExhausted
from keyturn.rotations.contracts import Resumption
from keyturn.rotations.outcomes import JobCreated
from keyturn.starter.deployment import BuildNotRamped, deployment
from keyturn.workers.doctor import task_queue_state
from keyturn.workers.doctor_errors import NoBuild, NoWorker
from keyturn.workflows.bulk import BULK_QUEUE, BulkWorkflow
from tests.support.cases import request
from tests.support.keys import KEYRING, KEYS_TEXT
from tests.support.record_histories import Place
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on


@pytest.fixture
async def server() -> AsyncIterator[Client]:
    """A separate server: which build is current is one state for all of a namespace."""
    async with dev_server(keyring=KEYRING) as client:
        yield client


async def test_a_parked_rotation_ends_on_its_build_while_new_ones_start_on_the_next(
    server: Client, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deployed, promoted, drained: and the older build may stop when it has nothing left. `doctor` says what waits."""
    queue = f"test-{uuid.uuid4().hex}"
    monkeypatch.setenv("TEMPORAL_ADDRESS", server.service_client.config.target_host)
    monkeypatch.setenv("KEYTURN_TASK_QUEUE", queue)
    monkeypatch.setenv("KEYTURN_PAYLOAD_KEYS", KEYS_TEXT.replace("\n", ","))
    old, new = Script(QuotaExhausted("x"), ELIGIBLE), Script(ELIGIBLE)
    assert await builds(server) == []
    async with worker_on(server, queue, old, sqlite_store, build_id="b1"):
        await _known(server, "b1")
        with pytest.raises(NoBuild, match="none of the builds b1 takes rotations"):
            await _state()
        await promote(server, "b1")
        assert "1 worker polled" in await _state()
        handle = (await start_or_attach(server, request(), task_queue=queue)).handle
        await Place(server, handle, "", queue).digest_at("parked")
        async with worker_on(server, queue, new, sqlite_store, build_id="b2"):
            await _known(server, "b2")
            before = {build.build_id: build.current for build in await builds(server)}
            assert before == {"b1": True, "b2": False}
            await promote(server, "b2")
            _, outcome = await rotate(server, request(), task_queue=queue, wait_seconds=30)
            assert isinstance(outcome, JobCreated)
            assert (new.calls, old.calls) == (1, 1)
            await answer(handle, "resume", Resumption(operator="omar"))
            assert isinstance(await outcome_of(handle), JobCreated)
            assert (new.calls, old.calls) == (1, 2)
            now = {build.build_id: (build.current, build.drainage) for build in await builds(server)}
            assert now["b2"][0]
            assert now["b1"] in {(False, "draining"), (False, "drained")}


async def test_a_build_is_tried_on_a_share_of_the_rotations_and_given_up(
    server: Client, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands, as an operator does: some of many start on it, then all, and after 0 none."""
    queue = f"test-{uuid.uuid4().hex}"
    monkeypatch.setenv("TEMPORAL_ADDRESS", server.service_client.config.target_host)
    monkeypatch.setenv("KEYTURN_PAYLOAD_KEYS", KEYS_TEXT.replace("\n", ","))
    old, new = Script(ELIGIBLE), Script(ELIGIBLE)

    async def command(*arguments: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, deployment, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    async def ask(count: int) -> tuple[int, int]:
        before = old.calls, new.calls
        await asyncio.gather(*(rotate(server, request(), task_queue=queue, wait_seconds=30) for _ in range(count)))
        return old.calls - before[0], new.calls - before[1]

    async with worker_on(server, queue, old, sqlite_store, build_id="b1"):
        await _known(server, "b1")
        await promote(server, "b1")
        async with worker_on(server, queue, new, sqlite_store, build_id="b2"):
            await _known(server, "b2")
            assert "gets 50% of the new rotations" in await command("ramp", "b2", "50")
            assert "gets 50% of the new rotations" in await command("show")
            on_old, on_new = await ask(24)
            assert on_old > 0  # a chance of one in 2^23 that one of them takes all
            assert on_new > 0
            await command("ramp", "b2", "100")
            assert await _settled(ask) == (0, 1)
            assert "new rotations start on the current build" in await command("ramp", "b2", "0")
            assert await _settled(ask, expected=(1, 0)) == (1, 0)
            assert "gets" not in await command("show")
            refused = await asyncio.to_thread(CliRunner().invoke, deployment, ["ramp", "b1", "0"])
            assert isinstance(refused.exception, BuildNotRamped)
            # Rolled back by promoting the build that is current: the broken one keeps no share.
            await command("ramp", "b2", "50")
            await command("promote", "b1")
            assert "gets" not in await command("show")


class Pages:
    """Executes a run of twelve pages; from the fourth on, it waits until it may go on."""

    def __init__(self) -> None:
        self.judged: list[int] = []
        self.reached, self.goes_on = asyncio.Event(), asyncio.Event()

    async def load(self, order: BulkOrder, *, workflow_id: str, at: datetime) -> RunProgress:
        return RunProgress(total=120, asks=120, asked=10 * order.next_page)

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        if page.first > 30:
            self.reached.set()
            await self.goes_on.wait()
        self.judged.append(page.first)
        return PageResult(progress=RunProgress(total=10, asks=10, asked=10))

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        return RunResult(progress=RunProgress(total=120, asks=120, asked=10 * len(self.judged)), left=0)

    async def end(self, run_id: str, status: str) -> None: ...


async def test_a_long_run_moves_to_the_build_that_was_promoted_meanwhile(server: Client) -> None:
    """It would hold the old build for days: what is left of it is judged under a new history, each page once."""
    queue, runs = f"test-{uuid.uuid4().hex}", Pages()
    pages = JudgePage(cast(Any, runs))
    activities: list[Any] = [pages.load_run, pages.judge_page, pages.settle_run, pages.end_run]

    def build(name: str) -> Worker:
        return Worker(server, task_queue=queue, workflows=[BulkWorkflow], deployment_config=pinned_to(name))

    async with (
        Worker(server, task_queue=queue + BULK_QUEUE, activities=activities),
        build("b2"),
        asyncio.timeout(60),
    ):
        async with build("b1"):
            await _known(server, "b1")
            await promote(server, "b1")
            order = BulkOrder(run_id="long", page_size=10, pages_at_once=1)
            handle = await start_run(server, order, task_queue=queue)
            await runs.reached.wait()
            first = await handle.describe()
            await _known(server, "b2")
            await promote(server, "b2")
            runs.goes_on.set()
            while (await handle.describe()).run_id == first.run_id:
                await asyncio.sleep(0.05)
        # The old build is gone.
        await handle.result()
    assert [_build_of(one) for one in (first, await handle.describe())] == ["b1", "b2"]
    assert sorted(runs.judged) == list(range(1, 121, 10))


def _build_of(described: WorkflowExecutionDescription) -> str:
    info = described.raw_description.workflow_execution_info
    return info.versioning_info.deployment_version.build_id


async def _settled(
    ask: Callable[[int], Awaitable[tuple[int, int]]], *, expected: tuple[int, int] = (0, 1)
) -> tuple[int, int]:
    """What one rotation does, when the task queues know of a change: some moments after it was made."""
    async with asyncio.timeout(20):
        while (seen := await ask(1)) != expected:
            pass
    return seen


async def _state() -> str:
    """What `doctor` says once the server knows of the worker's poll: it does so some moments after it has happened."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await task_queue_state()
            except NoWorker:
                await asyncio.sleep(0.05)


async def _known(client: Client, build_id: str) -> None:
    async with asyncio.timeout(30):  # a build is known once its worker has polled
        while build_id not in {build.build_id for build in await builds(client)}:
            await asyncio.sleep(0.05)
