"""Rotations stay with the build that started them, on a real server's worker versioning."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from keyturn.application.answers import answer
from keyturn.application.rotations import outcome_of, rotate, start_or_attach
from keyturn.application.versioning import builds, promote
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.errors import QuotaExhausted
from keyturn.rotations.contracts import Resumption
from keyturn.rotations.outcomes import JobCreated
from keyturn.workers.doctor import temporal_state
from keyturn.workers.doctor_errors import NoBuild, NoWorker
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


async def _state() -> str:
    """What `doctor` says once the server knows of the worker's poll: it does so some moments after it has happened."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await temporal_state()
            except NoWorker:
                await asyncio.sleep(0.05)


async def _known(client: Client, build_id: str) -> None:
    async with asyncio.timeout(30):  # a build is known once its worker has polled
        while build_id not in {build.build_id for build in await builds(client)}:
            await asyncio.sleep(0.05)
