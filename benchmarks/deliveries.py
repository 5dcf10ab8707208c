"""Deliveries against bare workflows of one activity that does nothing: same server, same process, in turn."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from sqlalchemy.engine import URL
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.bare import BareDelivery, first
from benchmarks.results import Result, compared
from benchmarks.workflows import Run, rate_of
from keyturn.activities.deliver_job import DeliverJob
from keyturn.database import open_database
from keyturn.jobs.contracts import Delivery
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.http import http_client
from keyturn.notifications.webhook import Webhook
from keyturn.workers.deliveries import ReceiverDeliveries
from keyturn.workflows.delivery import DeliveryWorkflow
from tests.support.cases import facts, order

QUEUE = "deliveries"


async def measure(postgresql: URL, *, rounds: int, at_once: int) -> list[Result]:
    """Return deliveries a second, 50 at once, over HTTP to a receiver on loopback, with the outbox on PostgreSQL."""
    async with _both(postgresql) as (client, engine_store):
        rates: tuple[list[float], list[float]] = ([], [])
        jobs: Iterator[str] = iter(())

        async def ours() -> None:
            delivery = Delivery(job_id=next(jobs))
            await client.execute_workflow(DeliveryWorkflow.run, delivery, id=uuid.uuid4().hex, task_queue=QUEUE)

        async def theirs() -> None:
            await client.execute_workflow(BareDelivery.run, id=uuid.uuid4().hex, task_queue=QUEUE)

        for number in range(rounds + 1):
            jobs = iter([await _job(engine_store) for _ in range(at_once)])
            sides: tuple[Run, Run] = (ours, theirs)
            for side, run in enumerate(sides):
                rate = await rate_of(run, at_once, 50)
                if number:  # the first round warms up
                    rates[side].append(rate)
    name = "deliveries/s / bare one-activity workflows/s, PostgreSQL, 50 at once"
    return [compared(name, *rates, unit="/s", at="least", target=0.8)]


async def _job(store: JobStore) -> str:
    ordered = order(credential=facts())
    return (await store.create_once(ordered, idempotency_key=uuid.uuid4().hex, fence=1)).job_id


@asynccontextmanager
async def _both(postgresql: URL) -> AsyncIterator[tuple[Client, JobStore]]:
    async def take(_request: web.Request) -> web.Response:
        return web.Response()

    receiver = web.Application()
    receiver.router.add_post("/jobs", take)
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(TestServer(receiver))
        url = str(server.make_url("")).rstrip("/")
        client = await parts.enter_async_context(dev_server())
        engine = open_database(postgresql)
        parts.push_async_callback(engine.dispose)
        http = await parts.enter_async_context(http_client(64, trust_env=False))
        webhook = Webhook(http, f"{url}/jobs", {"bench": SecretStr("x" * 32)})
        deliver = DeliverJob(ReceiverDeliveries(Outbox(engine), {"webhook": webhook}))
        await parts.enter_async_context(
            Worker(
                client,
                task_queue=QUEUE,
                workflows=[DeliveryWorkflow, BareDelivery],
                activities=[*deliver.activities, first],
            )
        )
        await asyncio.sleep(0)
        yield client, JobStore(engine)
