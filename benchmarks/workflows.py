"""The rotation workflow against the bare one: same dev server, same process, in turn."""

import asyncio
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import httpx
from pydantic import SecretStr
from sqlalchemy.engine import URL
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.bare import BareWorkflow, first, second
from benchmarks.results import Result, compared
from keyturn.activities.create_rotation_job import CreateRotationJob
from keyturn.activities.decide import Decide
from keyturn.application.connection import connect
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.cache.encrypted import EncryptedCache
from keyturn.cache.sql import SqlCache
from keyturn.calls import CallRecord
from keyturn.database import database_url, open_database
from keyturn.jobs.store import JobStore
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.lab.stack.embedded import simulator_process
from keyturn.lab.stack.temporal import dev_server
from keyturn.ledger.prices import RateCard
from keyturn.ledger.recorder import recorder
from keyturn.ledger.records import log_call
from keyturn.ledger.store import LedgerStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.guard import Guard
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.keys import FixedKey
from keyturn.llm.providers import load_providers, price_lists_of_providers
from keyturn.policy.catalogue import load_catalogue
from keyturn.workers.schema import migrate
from keyturn.workflows.identity import rotation_ids_of
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import request

QUEUE = "benchmark"
ANSWER = '{"decision": "eligible", "rotation_window_days": 30, "source_line_ids": ["P-7"]}'
Run = Callable[[], Awaitable[object]]
NO_TARGETS = (None, None, None)


async def measure(postgresql: URL, *, rounds: int, one_by_one: int, at_once: int) -> list[Result]:
    """Return latency, throughput and history of both, with encrypted payloads, on PostgreSQL and on SQLite.

    The provider is instant: our adapter on httpx, with a transport that answers from memory. A third series asks the
    simulator over loopback, a process of its own that shares the two cores, and is reported without a promise.
    """
    with tempfile.TemporaryDirectory() as folder:
        sqlite = database_url(f"sqlite:///{folder}/keyturn.db")
        migrate(sqlite)
        results: list[Result] = []
        for name, url, over_http in (
            ("PostgreSQL", postgresql, False),
            ("SQLite", sqlite, False),
            ("PostgreSQL, provider over HTTP", postgresql, True),
        ):
            async with both(url, over_http=over_http) as (client, plain, ours, theirs):
                await latencies_of(ours, 20), await latencies_of(theirs, 20)
                if not results:
                    results += await _histories(client, plain)
                targets = (1.15, 1.3, 0.9) if not over_http else NO_TARGETS
                results += await compare(name, ours, theirs, rounds, one_by_one, at_once, targets=targets)
        return results


@asynccontextmanager
async def both(
    url: URL, *, over_http: bool, server: AbstractAsyncContextManager[Client] | None = None
) -> AsyncIterator[tuple[Client, Client, Run, Run]]:
    """Yield a client with encrypted payloads, one without, and the two ways to run a workflow, both on the first.

    On the development server, if no other `server` is given.
    """
    catalogue = load_catalogue()
    async with AsyncExitStack() as parts:
        keyring = parse_keyring(new_keyring_text(), source="benchmarks")
        plain = await parts.enter_async_context(server or dev_server())
        client = await connect(plain.service_client.config.target_host, keyring=keyring)
        simulator, http = "http://instant", httpx.AsyncClient(transport=httpx.MockTransport(_answer))
        if over_http:
            simulator = await parts.enter_async_context(simulator_process())
            http = await parts.enter_async_context(http_client(64))
        engine = open_database(url)
        parts.push_async_callback(engine.dispose)
        endpoint = Endpoint("openai", load_providers()["openai"], f"{simulator}/v1", FixedKey(SecretStr("k")))
        provider = HttpModelClient(http, endpoint, "simulator-1")
        ledger = await parts.enter_async_context(recorder(LedgerStore(engine)))

        def record(call: CallRecord) -> None:
            log_call(call)
            ledger.record(call)

        cache = EncryptedCache(SqlCache(engine), keyring)
        # As a worker is wired by default, but for the token limit: one user asks all of this.
        boundary = ModelBoundary(
            {"*": [provider]},
            catalogue,
            guard=Guard(RateCard({}, lists=price_lists_of_providers())),
            record=record,
            cache=cache,
        )
        names = names_of(client)
        claims = CreateRotationJob(JobStore(engine), catalogue, rotation_ids=partial(rotation_ids_of, names=names))
        await parts.enter_async_context(
            Worker(
                client,
                task_queue=QUEUE,
                workflows=[RotationWorkflow, BareWorkflow],
                activities=[Decide(boundary).decide, claims.create_rotation_job, first, second],
            )
        )

        async def ours() -> None:
            asked = request()
            await client.execute_workflow(RotationWorkflow.run, asked, id=id_of(asked, names), task_queue=QUEUE)

        async def theirs() -> None:
            await client.execute_workflow(BareWorkflow.run, id=f"bare:{uuid.uuid4().hex}", task_queue=QUEUE)

        yield client, plain, ours, theirs


def _answer(_request: httpx.Request) -> httpx.Response:
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    usage = {"prompt_tokens": 458, "completion_tokens": 21}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = json.dumps({"id": "c-1", "model": "simulator-1", "choices": choices, "usage": usage}).encode()
    return httpx.Response(200, stream=httpx.ByteStream(body))  # as from a socket: not read yet


async def compare(
    name: str,
    ours: Run,
    theirs: Run,
    rounds: int,
    one_by_one: int,
    at_once: int,
    *,
    targets: tuple[float | None, float | None, float | None],
) -> list[Result]:
    """Return p50 and p99 of latency, and workflows a second at 50 at once, of `ours` against `theirs`."""
    p50: tuple[list[float], list[float]] = ([], [])
    p99: tuple[list[float], list[float]] = ([], [])
    rate: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, run in enumerate((ours, theirs)):
            latencies = await latencies_of(run, one_by_one)
            p50[side].append(statistics.median(latencies) * 1000)
            p99[side].append(statistics.quantiles(latencies, n=100)[98] * 1000)
        for side, run in enumerate((ours, theirs)):
            rate[side].append(await rate_of(run, at_once, 50))
    return [
        compared(f"workflow latency p50, {name}", *p50, unit="ms", target=targets[0]),
        compared(f"workflow latency p99, {name}", *p99, unit="ms", target=targets[1]),
        compared(f"workflows/s at 50, {name}", *rate, unit="/s", at="least", target=targets[2]),
    ]


async def latencies_of(run: Run, count: int) -> list[float]:
    """Return how long each of `count` runs took, one at a time, in seconds."""
    latencies = []
    for _ in range(count):
        began = time.perf_counter()
        await run()
        latencies.append(time.perf_counter() - began)
    return latencies


async def rate_of(run: Run, count: int, at_once: int) -> float:
    """Return how many of `count` runs ended a second, `at_once` of them under way."""
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await run()

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return count / (time.perf_counter() - began)


async def _histories(client: Client, plain: Client) -> list[Result]:
    asked = request()
    rotation = id_of(asked, names_of(client))
    handle = await client.start_workflow(RotationWorkflow.run, asked, id=rotation, task_queue=QUEUE)
    await handle.result()
    histories = [await handle.fetch_history()]
    async with Worker(plain, task_queue=f"{QUEUE}-plain", workflows=[BareWorkflow], activities=[first, second]):
        for its, queue in ((client, QUEUE), (plain, f"{QUEUE}-plain")):
            bare = await its.start_workflow(BareWorkflow.run, id=f"bare:{uuid.uuid4().hex}", task_queue=queue)
            await bare.result()
            histories.append(await bare.fetch_history())
    ours, theirs, _ = histories
    sizes = [sum(event.ByteSize() for event in history.events) for history in histories]
    actions = [
        1 + sum(event.HasField("activity_task_scheduled_event_attributes") for event in h.events)
        for h in (ours, theirs)
    ]
    return [
        compared("history events", [len(ours.events)], [len(theirs.events)], target=1.0, at="most", unit="events"),
        compared("billable actions", [actions[0]], [actions[1]], target=1.0, at="most", unit="actions"),
        compared("history bytes, the bare one's encrypted, too", [sizes[0]], [sizes[1]], unit="bytes"),
        compared("history bytes, the bare one's plain", [sizes[0]], [sizes[2]], unit="bytes", target=3.0),
    ]
