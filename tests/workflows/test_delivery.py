"""Deliveries over real HTTP, on a real server and both databases: each job's effect once at its receiver."""

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from keyturn.activities.create_rotation_job import CreateRotationJob
from keyturn.activities.decide import Decide
from keyturn.activities.deliver_job import DeliverJob
from keyturn.application.encryption import names_of
from keyturn.application.rotations import rotate
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.jobs.errors import EarlierDelivery, ReceiverRefused, ReceiverUnavailable
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Message, Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, outbox, rotation_jobs
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import child
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.http import http_client
from keyturn.notifications.webhook import Webhook
from keyturn.notifications.webhook.signing import verify
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.outcomes import JobCreated
from keyturn.workers.deliveries import DeliveryStarts, ReceiverDeliveries, sweep
from keyturn.workflows.delivery import DeliveryWorkflow, delivery_id
from keyturn.workflows.identity import rotation_ids_of
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.boundaries import guarded
from tests.support.cases import facts, order, request
from tests.support.servers import fake_server
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import ELIGIBLE, Script

KEYS = {"tests": SecretStr("webhook_secret_of_the_tests_0123456789ab")}
# The whole proof has 2,000; `make test` runs a short form of it.
JOBS = int(os.environ.get("PROOF_JOBS", "40"))


class Receiver:
    """A stand-in for a ticket system: an effect a key, once; and a network that loses answers."""

    def __init__(self, *, loses: float = 0.0) -> None:
        self.effects: dict[str, str] = {}  # by idempotency key, the credential
        self.requests: Counter[str] = Counter()
        self.status = 0  # answered to everything, if not 0
        self._loses = loses
        self._chance = random.Random(20261121)

    async def take(self, received: web.Request) -> web.StreamResponse:
        body, key = await received.read(), received.headers["Idempotency-Key"]
        assert verify(received.headers, body, KEYS, now=time.time())
        self.requests[key] += 1
        if self.status:
            return web.Response(status=self.status)
        replay = key in self.effects
        if not replay:
            self.effects[key] = json.loads(body)["data"]["key_id"]
        if self._chance.random() < self._loses:
            assert received.transport is not None
            received.transport.abort()  # after the effect: the sender cannot know
        if replay and self._chance.random() < 0.5:
            return web.json_response({"job_id": key}, status=409)
        return web.Response(status=200)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_post("/jobs", self.take)
        async with fake_server(application) as url:
            yield f"{url}/jobs"


@asynccontextmanager
async def deliverer(client: Client, queue: str, engine: AsyncEngine, url: str) -> AsyncIterator[DeliveryStarts]:
    """A worker that decides, creates and delivers, as it is wired."""
    catalogue, store = load_catalogue(), JobStore(engine)
    boundary = ModelBoundary({"*": [Script(ELIGIBLE)]}, catalogue, guard=guarded(), record=lambda _: None)
    starts = DeliveryStarts(client, queue)
    async with AsyncExitStack() as parts:
        http = await parts.enter_async_context(http_client(64, trust_env=False))
        deliver = DeliverJob(ReceiverDeliveries(Outbox(engine), {"webhook": Webhook(http, url, KEYS)}))
        await parts.enter_async_context(
            Worker(
                client,
                task_queue=queue,
                workflows=[RotationWorkflow, DeliveryWorkflow],
                activities=[
                    Decide(boundary).decide,
                    CreateRotationJob(
                        store, catalogue, starts, rotation_ids=partial(rotation_ids_of, names=names_of(client))
                    ).create_rotation_job,
                    deliver.deliver_job,
                    deliver.give_up_delivery,
                ],
            )
        )
        yield starts


async def make(store: JobStore, key: str | None = None) -> str:
    ordered = order(credential=facts(key_id=key or f"key_{uuid.uuid4().hex[:12]}"))
    return (await store.create_once(ordered, idempotency_key=uuid.uuid4().hex, fence=1)).job_id


async def test_a_new_job_is_delivered_in_the_same_breath(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine
) -> None:
    """No sweeper has to find it; the job is `delivered`, with its row in the audit, and the rotation has 17 events."""
    receiver = Receiver()
    async with receiver.served() as url, deliverer(temporal, queue, engine, url):
        asked = request()
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        assert isinstance(outcome, JobCreated)
        handle = temporal.get_workflow_handle(delivery_id(outcome.job_id), result_type=str)
        assert await handle.result() == "taken"
    assert receiver.effects == {outcome.job_id: asked.credential.key_id}
    job, trail = await JobLeases(engine).show(outcome.job_id, tenant_id="default")
    assert (job["status"], [row["event"] for row in trail]) == ("delivered", ["created", "delivered"])
    claimed = await JobLeases(engine).claim_next(tenant_id="default", owner="x", lease=timedelta(minutes=1))
    assert claimed is not None  # what was delivered can be claimed, too


async def delivered_all(engine: AsyncEngine) -> bool:
    """Whether nothing waits any more; SQLite may be locked for longer than one look waits, on a busy machine."""
    try:
        return await Outbox(engine).waiting(older_than=timedelta(0), limit=1) == []
    except JobStoreUnavailable:
        return False


async def test_over_a_network_that_loses_a_third_of_the_answers_each_job_has_its_effect_once(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine
) -> None:
    """The receiver is down for a while, loses answers and answers twice: none is missing, none happens twice."""
    receiver = Receiver(loses=0.33)
    made = [await make(store) for _ in range(JOBS)]
    async with receiver.served() as url, deliverer(temporal, queue, engine, url) as starts:
        receiver.status = 503
        for first in range(0, JOBS, 50):
            some = made[first : first + 50]
            await asyncio.gather(*(starts.start(job_id) for job_id in some))
        async with asyncio.timeout(60):
            while len(receiver.requests) < min(JOBS, 20):
                await asyncio.sleep(0.05)
        receiver.status = 0
        async with asyncio.timeout(60 + JOBS):
            while not await delivered_all(engine):
                await asyncio.sleep(0.2)
    assert set(receiver.effects) == set(made)
    assert sum(receiver.requests.values()) > JOBS  # answers were lost: otherwise nothing was tested
    async with engine.connect() as connection:
        ended = select(job_audit.c.job_id, job_audit.c.detail).where(job_audit.c.event == "delivered")
        rows = (await connection.execute(ended)).all()
    assert Counter(row.job_id for row in rows) == Counter(made)  # each written once, too
    assert {row.detail["answer"] for row in rows} == {"taken", "known"}


async def test_messages_of_one_credential_come_in_their_order(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine
) -> None:
    """The second job of a key is not sent before the first, although its delivery started earlier."""
    receiver = Receiver()
    first = await make(store, "key_1")
    await JobLeases(engine).cancel(first, tenant_id="default", actor="omar", reason="x")
    second = await make(store, "key_1")
    async with receiver.served() as url, deliverer(temporal, queue, engine, url) as starts:
        async with loopback_client() as http:
            deliveries = ReceiverDeliveries(Outbox(engine), {"webhook": Webhook(http, url, KEYS)})
            with pytest.raises(EarlierDelivery):
                await deliveries.deliver(second)
        await starts.start(second)
        await starts.start(first)
        for job_id in (second, first):
            await temporal.get_workflow_handle(delivery_id(job_id)).result()
    assert list(receiver.effects) == [first, second]


async def test_the_sweeper_finds_what_was_never_begun(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine
) -> None:
    """The worker died between the commit and the start: a minute later another one starts."""
    receiver, lost, young = Receiver(), await make(store), await make(store)
    async with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(minutes=5)
        await connection.execute(update(outbox).where(outbox.c.job_id == lost).values(created_at=past))
    async with receiver.served() as url, deliverer(temporal, queue, engine, url) as starts:
        sweeping = asyncio.create_task(sweep(Outbox(engine), starts, every=0.05))
        async with asyncio.timeout(20):
            while lost not in receiver.effects:
                await asyncio.sleep(0.02)
        sweeping.cancel()
    assert young not in receiver.effects


@pytest.mark.parametrize(
    ("status", "failure"), [(422, "receiver_conflict"), (404, "receiver_refused"), (307, "receiver_refused")]
)
async def test_what_no_retry_mends_is_a_dead_letter_that_a_person_sends_again(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine, status: int, failure: str
) -> None:
    """One request; listed with its reason; and once the receiver is fixed, delivered under the same key."""
    receiver, made, box = Receiver(), await make(store), Outbox(engine)
    receiver.status = status
    async with receiver.served() as url, deliverer(temporal, queue, engine, url) as starts:
        await starts.start(made)
        handle = temporal.get_workflow_handle(delivery_id(made), result_type=str)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert receiver.requests == {made: 1}
        [dead] = await box.dead_letters(tenant_id="default", limit=10)
        assert (dead["job_id"], dead["failure"]) == (made, failure)
        assert await box.waiting(older_than=timedelta(0), limit=10) == []  # the sweeper leaves it alone
        receiver.status = 0
        await box.revive(made)
        await starts.start(made)
        assert await temporal.get_workflow_handle(delivery_id(made), result_type=str).result() == "taken"
    assert list(receiver.effects) == [made]
    _, trail = await JobLeases(engine).show(made, tenant_id="default")
    assert [row["event"] for row in trail] == ["created", "undeliverable", "delivered"]


async def test_a_message_of_a_clock_that_is_wrong_waits_for_nobody_to_catch_up(
    store: JobStore, engine: AsyncEngine
) -> None:
    """The sweeper finds what is older than a minute, or as far in the future; what is new is left to its maker."""
    made = [await make(store) for _ in range(3)]
    async with engine.begin() as connection:
        for job_id, days in zip(made[:2], (40, -40), strict=True):
            at = datetime.now(UTC) + timedelta(days=days)
            await connection.execute(update(outbox).where(outbox.c.job_id == job_id).values(created_at=at))
    assert set(await Outbox(engine).waiting(older_than=timedelta(minutes=1), limit=10)) == set(made[:2])


async def test_a_delivered_message_is_not_sent_again(
    temporal: Client, queue: str, store: JobStore, engine: AsyncEngine
) -> None:
    """A workflow that is started or reset later finds it done; a job that was executed keeps its state."""
    receiver, made = Receiver(), await make(store)
    leases = JobLeases(engine)
    job = await leases.claim_next(tenant_id="default", owner="x", lease=timedelta(minutes=1))
    assert job is not None
    await leases.complete(made, tenant_id="default", token=job.token)
    async with receiver.served() as url, deliverer(temporal, queue, engine, url) as starts:
        for _ in range(2):
            await starts.start(made)
            await temporal.get_workflow_handle(delivery_id(made)).result()
    assert receiver.requests == {made: 1}
    async with engine.connect() as connection:
        status = (await connection.execute(rotation_jobs.select())).mappings().one()["status"]
    assert status == "done"


async def test_a_worker_delivers_where_its_settings_say(
    temporal: Client, simulator: SimulatorControl, sqlite: URL, keys: Path, queue: str, tmp_path: Path
) -> None:
    """A real process: its job is sent and signed; with no receiver named, nothing is sent."""
    receiver, url = Receiver(), sqlite.render_as_string(hide_password=False)
    environment = worker_environment(temporal.service_client.config.target_host, url, simulator.address, keys=keys)
    environment |= {"KEYTURN_TASK_QUEUE": queue}
    [(name, secret)] = KEYS.items()
    log = tmp_path / "worker.log"
    async with receiver.served() as address:
        of_webhook = {"KEYTURN_WEBHOOK_URL": address, "KEYTURN_WEBHOOK_KEYS": f"{name}:{secret.get_secret_value()}"}
        async with child([sys.executable, "-m", "keyturn.workers"], environment=environment | of_webhook, log=log):
            _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=60)
            assert isinstance(outcome, JobCreated)
            handle = temporal.get_workflow_handle(delivery_id(outcome.job_id), result_type=str)
            assert await handle.result() == "taken", log.read_text()
        async with child([sys.executable, "-m", "keyturn.workers"], environment=environment, log=log):
            _, silent = await rotate(temporal, request(), task_queue=queue, wait_seconds=60)
            assert isinstance(silent, JobCreated)
    assert list(receiver.effects) == [outcome.job_id]
    assert secret.get_secret_value() not in log.read_text()


async def test_a_webhook_that_is_switched_on_does_not_tell_of_old_jobs(store: JobStore, engine: AsyncEngine) -> None:
    """What was written without a receiver is a dead letter, which an operator may send; new ones are sent."""
    box, made = Outbox(engine), [await make(store) for _ in range(3)]
    async with engine.begin() as connection:
        at = datetime.now(UTC) - timedelta(hours=3)
        await connection.execute(update(outbox).where(outbox.c.job_id.in_(made[:2])).values(created_at=at))
    assert await box.set_aside(at_first=timedelta(minutes=1), later=timedelta(days=2)) == 2
    assert await box.waiting(older_than=timedelta(0), limit=10) == [made[2]]
    letters = await box.dead_letters(tenant_id="default", limit=10)
    assert [(row["job_id"], row["failure"]) for row in letters] == [
        (job_id, "before_the_webhook") for job_id in made[:2]
    ]
    # From now on there is one: only what is older than two days was written while it was away.
    async with engine.begin() as connection:
        await connection.execute(update(outbox).where(outbox.c.job_id == made[2]).values(created_at=at))
    assert await box.set_aside(at_first=timedelta(minutes=1), later=timedelta(days=2)) == 0
    async with engine.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=3)
        await connection.execute(update(outbox).where(outbox.c.job_id == made[2]).values(created_at=old))
    assert await box.set_aside(at_first=timedelta(minutes=1), later=timedelta(days=2)) == 1
    await box.revive(made[0])
    assert await box.waiting(older_than=timedelta(0), limit=10) == [made[0]]


class Answers:
    """A receiver with prepared answers, which counts what it was sent."""

    def __init__(self, *answers: str | KeyturnError) -> None:
        self._answers = list(answers)
        self.sent = 0

    async def send(self, _message: Message) -> str:
        self.sent += 1
        answer = self._answers.pop(0)
        if isinstance(answer, KeyturnError):
            raise answer
        return answer


async def test_a_channel_that_has_a_message_is_not_sent_it_again_because_another_one_failed(
    store: JobStore, engine: AsyncEngine
) -> None:
    job_id = await make(store)
    first, second = Answers("taken"), Answers(ReceiverUnavailable("away"), "known")
    deliveries = ReceiverDeliveries(Outbox(engine), {"first": first, "second": second})
    with pytest.raises(ReceiverUnavailable):
        await deliveries.deliver(job_id)
    assert (await Outbox(engine).message(job_id)).delivered_at is None
    assert await deliveries.deliver(job_id) == "first: taken, second: known"
    assert (await Outbox(engine).message(job_id)).delivered_at is not None
    assert (first.sent, second.sent) == (1, 2)


async def test_what_one_channel_refuses_for_good_is_tried_on_while_another_is_only_away(
    store: JobStore, engine: AsyncEngine
) -> None:
    """A message is abandoned for all of them, so the failure that may pass by itself is the one that counts."""
    job_id = await make(store)
    receivers = {"first": Answers(ReceiverRefused("no")), "second": Answers(ReceiverUnavailable("away"))}
    with pytest.raises(ReceiverUnavailable):
        await ReceiverDeliveries(Outbox(engine), receivers).deliver(job_id)
