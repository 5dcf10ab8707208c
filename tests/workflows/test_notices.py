"""Notices on a real server: each event reaches each channel once in effect, whatever is lost on the way."""

import asyncio
import json
import random
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from keyturn.activities.deliver_notices import DeliverNotices
from keyturn.application.rotation_status import plain_kind
from keyturn.application.rotations import rotate
from keyturn.application.runs import RunStopped, TroubledRun, follow, runs_in_trouble
from keyturn.bulk.contracts import BulkSource
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.lab.simulator.jira import JiraSimulator
from keyturn.lab.simulator.servicenow import ServiceNowSimulator
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier
from keyturn.notices.issues import IssueNotifier, Lags
from keyturn.notices.routing import Routes
from keyturn.notices.store import NoticeStore
from keyturn.notices.tables import notice_sends, notices
from keyturn.notifications.jira import Jira
from keyturn.notifications.pagerduty import PagerDuty
from keyturn.notifications.servicenow import ServiceNow
from keyturn.notifications.slack import Slack
from keyturn.notifications.teams import Teams
from keyturn.notifications.webhook import Webhook
from keyturn.notifications.webhook.notices import NoticeWebhook
from keyturn.notifications.webhook.signing import verify
from keyturn.owners import Owners
from keyturn.rotations.contracts import JobOrder
from keyturn.rotations.outcomes import WaitingForPerson
from keyturn.workers.notice_deliveries import NoticeStarts, SentNotices
from keyturn.workers.notices import Notifications, PostOffice
from keyturn.workflows.delivery import NoticeWorkflow
from tests.support.cases import facts, order, request
from tests.support.estates import LINE, Judge, bulk_place, estate, started
from tests.support.servers import fake_server
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval, worker_on

KEYS = {"tests": SecretStr("webhook_secret_of_the_tests_0123456789ab")}


class World:
    """Receivers that lose answers: a webhook that knows its events, incidents by their key, and a chat."""

    def __init__(self, *, loses: float = 0.0, seed: int = 7) -> None:
        self.random = random.Random(seed)
        self.loses = loses
        self.events: dict[str, Any] = {}
        self.order: list[tuple[str, str]] = []
        self.incidents: dict[str, list[str]] = {}
        self.chat: list[Any] = []
        self.cards: list[Any] = []
        self.refuses = False
        self.is_down = False
        self.turned_away: Counter[str] = Counter()  # requests that came while all were down, by path

    def middleware(self) -> Any:
        @web.middleware
        async def unless_down(http: web.Request, handler: Any) -> web.StreamResponse:
            if not self.is_down:
                answer: web.StreamResponse = await handler(http)
                return answer
            self.turned_away[http.path] += 1
            if self.turned_away[http.path] % 2:
                assert http.transport is not None
                http.transport.abort()
            return web.Response(status=503)

        return unless_down

    async def hook(self, http: web.Request) -> web.StreamResponse:
        body = await http.read()
        assert verify(http.headers, body, KEYS, now=_now())
        event = await http.json()
        if event["id"] not in self.events:
            self.events[event["id"]] = event
            self.order.append((event["data"].get("key_id", ""), event["type"]))
        return self.answered(http)

    async def pager(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if "event_action" in body:
            self.incidents.setdefault(body["dedup_key"], []).append(body["event_action"])
        return self.answered(http)

    async def slack(self, http: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.Response(status=404, text="no_service")
        self.chat.append(await http.json())
        return self.answered(http, web.Response(text="ok"))

    async def teams(self, http: web.Request) -> web.StreamResponse:
        self.cards.append(await http.json())
        return self.answered(http)

    def answered(self, http: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
        if self.random.random() < self.loses:
            assert http.transport is not None
            http.transport.abort()
        return answer or web.Response(status=202)


def _now() -> float:
    import time

    return time.time()


@asynccontextmanager
async def notifying(
    client: Client, engine: AsyncEngine, world: World, *tables: dict[str, Any], queue: str | None = None
) -> AsyncIterator[PostOffice]:
    """A worker for notices, and what looks for them."""
    application = web.Application(middlewares=[world.middleware()])
    application.router.add_post("/hook", world.hook)
    application.router.add_post("/v2/enqueue", world.pager)
    application.router.add_post("/v2/change/enqueue", world.pager)
    application.router.add_post("/slack", world.slack)
    application.router.add_post("/teams", world.teams)
    async with fake_server(application) as url, http_client(50) as http:
        notifiers: dict[str, Notifier] = {
            "webhook": NoticeWebhook(Webhook(http, f"{url}/hook", KEYS)),
            "pagerduty": PagerDuty(http, {"security": "key"}, url),
            "slack": Slack(http, {"payments": f"{url}/slack"}),
            "teams": Teams(http, {"payments": f"{url}/teams"}),
        }
        routes = Routes.model_validate({"route": list(tables)})
        notifications = Notifications(
            routes, notifiers, alone=frozenset({"webhook", "pagerduty"}), closing=frozenset({"pagerduty"})
        )
        async with working(client, engine, notifications, queue) as office:
            yield office


@asynccontextmanager
async def working(
    client: Client, engine: AsyncEngine, notifications: Notifications, queue: str | None = None
) -> AsyncIterator[PostOffice]:
    """A worker that delivers by these channels, and what looks for notices."""
    queue = queue or f"test-{uuid.uuid4().hex}"
    deliver = DeliverNotices(SentNotices(NoticeStore(engine), notifications))
    office = PostOffice(engine, Owners(), notifications, NoticeStarts(client, queue))
    await office.start()
    async with Worker(client, task_queue=queue, workflows=[NoticeWorkflow], activities=deliver.activities):
        yield office


def losing(simulator: Any, world: World) -> web.Application:
    """A simulator's application that loses answers as `world` does."""
    application: web.Application = simulator.application()

    @web.middleware
    async def lose(request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        if world.random.random() < world.loses:
            assert request.transport is not None
            request.transport.abort()
        return answer

    application.middlewares.insert(0, lose)
    return application


async def settled(office: PostOffice, engine: AsyncEngine, *, seconds: float = 60) -> None:
    """Look until no message waits to be sent."""
    async with asyncio.timeout(seconds):
        while True:
            await office.look()
            async with engine.connect() as connection:
                left = select(notice_sends.c.send_id).where(
                    notice_sends.c.sent_at.is_(None), notice_sends.c.dead_at.is_(None)
                )
                if not (await connection.execute(left)).first():
                    return
            await asyncio.sleep(0.1)


def owned(number: int) -> JobOrder:
    """An order for a key that the inventory's owner has."""
    ordered = order(credential=facts(key_id=f"key_{number}"))
    return ordered.model_copy(update={"recorded_owner": "payments"})


async def rotated(engine: AsyncEngine, store: JobStore, number: int) -> None:
    """A job, from its creation to its end, as an executor reports it."""
    job = await store.create_once(
        owned(number),
        idempotency_key=f"r:{number}",
        fence=1,
    )
    leases, span = JobLeases(engine), timedelta(minutes=1)
    claim = await leases.claim(job.job_id, tenant_id="default", owner="execute:x", lease=span)
    said: list[tuple[Any, dict[str, str]]] = [
        ("rotating", {"cloud_account": "123456789012", "overlap": "24 hours"}),
        ("verifying", {"blocked": "old_key_in_use", "by": "role/pay"}),
        ("grace", {"deactivated": f"key_{number}"}),
    ]
    for state, evidence in said:
        words: dict[str, Any] = {"tenant_id": "default", "token": claim.token}
        await leases.heartbeat(job.job_id, lease=span, state=state, evidence=evidence, **words)
    await leases.complete(job.job_id, tenant_id="default", token=claim.token)


async def test_over_a_network_that_loses_a_third_of_the_answers_each_event_has_its_effect_once(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """At a webhook by its idempotency key, in an incident by its own; in the order of each key; a digest an owner."""
    world = World(loses=1 / 3)
    tables: list[dict[str, Any]] = [
        {"to": ["webhook", "pagerduty:security"]},
        {"to": ["slack:payments", "teams:payments"], "owners": ["payments"], "digest_minutes": 0},
    ]
    async with notifying(temporal, engine, world, *tables) as office:
        await asyncio.gather(*(rotated(engine, store, number) for number in range(6)))
        await asyncio.gather(*(office.look() for _ in range(3)))
        await settled(office, engine)
    wanted = ["job.created", "rotation.began", "rotation.blocked", "old_key.deactivated", "rotation.done"]
    assert Counter(kind for _, kind in world.order) == {f"dev.keyturn.{topic}": 6 for topic in wanted}
    for number in range(6):
        assert [kind for key, kind in world.order if key == f"key_{number}"] == [f"dev.keyturn.{one}" for one in wanted]
    assert len(world.incidents) == 6
    for actions in world.incidents.values():
        assert actions[0] == "trigger"
        assert actions[-1] == "resolve"
    # A chat knows no key: a message whose answer was lost stands there twice, the same word for word.
    for messages in (world.chat, world.cards):
        different = {json.dumps(body) for body in messages}
        assert 1 <= len(different) <= 3, "each look makes one digest an owner"
        text = " ".join(different)
        hidden = sum(map(int, re.findall(r"and (\d+) more\b(?! kinds)", text)))
        assert len(re.findall(r"key\W*_\d of acct", text)) + hidden == 6 * len(wanted), "each event of each key, once"


async def test_while_every_receiver_is_down_nothing_is_lost_and_afterwards_each_event_has_its_effect_once(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """In the order of each key; though the worker was replaced meanwhile."""
    world, queue = World(), f"test-{uuid.uuid4().hex}"
    world.is_down = True
    tables: list[dict[str, Any]] = [
        {"to": ["webhook", "pagerduty:security"]},
        {"to": ["slack:payments", "teams:payments"], "owners": ["payments"], "digest_minutes": 0},
    ]
    async with notifying(temporal, engine, world, *tables, queue=queue) as office:
        await asyncio.gather(*(rotated(engine, store, number) for number in range(3)))
        await office.look()
        async with asyncio.timeout(60):
            while len(world.turned_away) < 4 or min(world.turned_away.values()) < 2:
                await asyncio.sleep(0.05)
    assert (world.events, world.incidents, world.chat, world.cards) == ({}, {}, [], [])
    async with notifying(temporal, engine, world, *tables, queue=queue) as office:
        await office.look()
        world.is_down = False
        await settled(office, engine)
    wanted = ["job.created", "rotation.began", "rotation.blocked", "old_key.deactivated", "rotation.done"]
    for number in range(3):
        assert [kind for key, kind in world.order if key == f"key_{number}"] == [f"dev.keyturn.{one}" for one in wanted]
    assert [(actions[0], actions[-1]) for actions in world.incidents.values()] == [("trigger", "resolve")] * 3
    assert await NoticeStore(engine).dead_letters(tenant_id="default", limit=10) == []
    assert (len(world.chat), len(world.cards)) == (1, 1), "one digest of one owner, and none twice"


async def test_over_such_a_network_each_job_has_one_issue_with_each_event_once(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """In trackers that know no idempotency key; opened, noted and closed in the order of events."""
    world, jira, service_now = World(loses=1 / 3), JiraSimulator(lag=0.2), ServiceNowSimulator()
    lags = Lags(issue=timedelta(seconds=0.4), note=timedelta(seconds=0.05))
    table = {"to": ["jira:OPS", "servicenow:default"]}
    async with (
        fake_server(losing(jira, world)) as of_jira,
        fake_server(losing(service_now, world)) as of_service_now,
        http_client(50) as http,
        http_client(50) as http_of_service_now,
    ):
        http.auth = httpx.BasicAuth(*jira.account)
        http_of_service_now.auth = httpx.BasicAuth(*service_now.account)
        now = ServiceNow(http_of_service_now, of_service_now, close_code="Solution provided")
        notifiers: dict[str, Notifier] = {
            "jira": IssueNotifier("jira", Jira(http, of_jira), engine, lags),
            "servicenow": IssueNotifier("servicenow", now, engine, lags),
        }
        routes = Routes.model_validate({"route": [table]})
        notifications = Notifications(routes, notifiers, frozenset(notifiers))
        async with working(temporal, engine, notifications) as office:
            await asyncio.gather(*(rotated(engine, store, number) for number in range(2)))
            await settled(office, engine, seconds=120)
    wanted = ["Rotation began", "Rotation waits", "Old key was deactivated", "Rotation is done"]
    assert sorted(one.fields["summary"] for one in jira.issues.values()) == [
        f"Rotate key_{number} of acct_10234" for number in range(2)
    ]
    assert len(service_now.incidents) == 2
    notes = [[json.dumps(body) for body in one.comments] for one in jira.issues.values()]
    for written in [*notes, *(list(one) for one in service_now.notes.values())]:
        assert len(written) == len(wanted)
        for said, note in zip(wanted, written, strict=True):
            assert said in note
    assert [one.moves for one in jira.issues.values()] == [["Won't Do"]] * 2
    assert list(service_now.resolved.values()) == [1] * 2


async def test_800_new_jobs_are_one_message_an_owner(temporal: Client, engine: AsyncEngine, store: JobStore) -> None:
    world = World()
    async with notifying(temporal, engine, world, {"to": ["slack:payments"], "digest_minutes": 0}) as office:
        for start in range(0, 800, 50):
            await asyncio.gather(
                *(
                    store.create_once(
                        order(credential=facts(key_id=f"key_{number}")).model_copy(
                            update={"recorded_owner": "payments"}
                        ),
                        idempotency_key=f"r:{number}",
                        fence=1,
                    )
                    for number in range(start, start + 50)
                )
            )
        await settled(office, engine)
    [body] = world.chat
    assert body["text"] == "800 keys must be rotated (payments)"


async def test_what_does_not_come_through_is_a_dead_letter_and_is_resent(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    world, held = World(), NoticeStore(engine)
    world.refuses = True
    async with notifying(temporal, engine, world, {"to": ["slack:payments"], "digest_minutes": 0}) as office:
        await rotated(engine, store, 1)
        await settled(office, engine)
        [dead] = await held.dead_letters(tenant_id="default", limit=10)
        assert (dead["destination"], dead["failure"], world.chat) == ("slack:payments", "receiver_refused", [])
        world.refuses = False
        await held.revive(dead["message_id"])
        await settled(office, engine)
        assert await held.dead_letters(tenant_id="default", limit=10) == []
    assert len(world.chat) == 1


async def test_an_approver_hears_of_a_decision_with_key_date_and_who_may_decide(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """And of nothing that the question or the evidence says."""
    world, queue = World(), f"test-{uuid.uuid4().hex}"
    asked = request(question="May the very stale key of Mrs Example be rotated?", owner="payments")
    async with (
        notifying(temporal, engine, world, {"to": ["webhook"], "topics": ["approval.*"]}) as office,
        worker_on(temporal, queue, Script(ELIGIBLE), store, catalogue=with_approval()),
    ):
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=10)
        assert isinstance(outcome, WaitingForPerson)
        async with asyncio.timeout(30):
            while not world.events:
                await office.look()
                await asyncio.sleep(0.1)
    [event] = world.events.values()
    said = event["data"]
    assert (said["topic"], said["owner"], said["account_id"], said["key_id"]) == (
        "approval.waits", "payments", asked.account_id, asked.credential.key_id,
    )  # fmt: skip
    assert said["facts"]["approvers"] == "omar, priya"
    assert "Mrs Example" not in str(event)
    async with engine.connect() as connection:
        stored = (await connection.execute(select(notices.c.content))).scalars().all()
    assert "Mrs Example" not in str(stored)


async def test_a_run_that_failed_is_reported_though_nothing_is_on_record(
    temporal: Client, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    """Such as a scheduled one whose inventory is not there: no row of a run was written."""
    world, place = World(), bulk_place(temporal, f"test-{uuid.uuid4().hex}", sqlite_engine, Judge())
    source = BulkSource(path=str(tmp_path / "absent"), policies=(LINE,), question="May it be rotated?")
    async with notifying(temporal, sqlite_engine, world, {"to": ["webhook"], "topics": ["run.failed"]}) as office:
        office._troubled_runs = partial(runs_in_trouble, temporal)
        async with place.working():
            run = await started(place, f"nightly-{uuid.uuid4().hex[:8]}", source=source)
            with pytest.raises(WorkflowFailureError):
                await run.result()
            with pytest.raises(RunStopped, match=r"the run failed: inventory_invalid: .*cannot be read") as stopped:
                async for _ in follow(run):
                    pass
            assert "keyturn schedule trigger" in stopped.value.hint
        async with asyncio.timeout(30):
            while not [one for one in world.events.values() if one["data"]["tenant_id"] == place.tenant]:
                office._listed_at = None
                await office.look()
                await asyncio.sleep(0.1)
        await office.look()
    [event] = [one for one in world.events.values() if one["data"]["tenant_id"] == place.tenant]
    assert event["data"]["facts"] == {"reason": "inventory invalid"}
    assert event["data"]["run_id"].startswith("nightly-")


async def test_what_others_wrote_to_temporal_holds_up_no_notice_and_is_not_repeated_in_one(
    temporal: Client, sqlite_engine: AsyncEngine
) -> None:
    """Workflows with IDs that are no run's; and sentences in the place of a kind."""

    def failed(workflow_id: str, tenant: str = "default", reason: str = "max_usd_reached") -> TroubledRun:
        return TroubledRun(workflow_id, uuid.uuid4().hex, tenant, "paused", datetime.now(UTC), reason)

    names = (
        "bulk:default:a b",
        "bulk:default:" + "x" * 600,
        "bulk:default:\u202e",
        "bulk:",
        "other",
        "bulk:default:x\n",
    )
    fired = failed("bulk:default:nightly-2026-11-28T01:00:00Z")

    async def found(**_: Any) -> list[TroubledRun]:
        return [*map(failed, names), failed("bulk:default:ok", "a tenant"), fired]

    world = World()
    async with notifying(temporal, sqlite_engine, world, {"to": ["webhook"], "topics": ["run.paused"]}) as office:
        office._troubled_runs = found
        await office.look()
        await settled(office, sqlite_engine)
    [event] = world.events.values()
    assert (event["data"]["run_id"], event["data"]["facts"]) == (
        "nightly", {"reason": "max usd reached", "continue_by": f"keyturn resume {fired.workflow_id}"},
    )  # fmt: skip


@pytest.mark.parametrize("said", ["call +49 30 555 at once", "https://evil.example", "x" * 65, "", "a\n", "\u202ea"])
def test_a_kind_that_is_a_sentence_is_unforeseen(said: str) -> None:
    assert plain_kind(said) == "unforeseen"
    assert plain_kind("max_usd_reached") == "max_usd_reached"


async def test_a_run_that_is_paused_is_reported_once_a_day_unless_a_person_paused_it(
    temporal: Client, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    """The notice says by which command it goes on."""
    world, place = World(), bulk_place(temporal, f"test-{uuid.uuid4().hex}", sqlite_engine, Judge())
    limited, by_hand = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("limited", "by-hand"))
    await place.load(estate(tmp_path / "keys.jsonl", keys=4), limited)
    await place.load(estate(tmp_path / "keys.jsonl", keys=4), by_hand)
    async with (
        notifying(temporal, sqlite_engine, world, {"to": ["webhook"], "topics": ["run.paused"]}) as office,
        place.working(),
    ):
        office._troubled_runs = partial(runs_in_trouble, temporal)
        runs = [
            await started(place, limited, max_usd=Decimal("0.000001")),
            await started(place, by_hand, paused="by_hand"),
        ]
        async with asyncio.timeout(30):
            while not [one for one in world.events.values() if one["data"]["tenant_id"] == place.tenant]:
                office._listed_at = None
                await office.look()
                await asyncio.sleep(0.1)
        for _ in range(2):
            office._listed_at = None
            await office.look()
        await settled(office, sqlite_engine)
        for run in runs:
            await run.terminate()
    [event] = [one for one in world.events.values() if one["data"]["tenant_id"] == place.tenant]
    assert event["data"]["run_id"] == limited
    assert event["data"]["facts"] == {
        "reason": "max usd reached", "continue_by": f"keyturn resume bulk:{place.tenant}:{limited}",
    }  # fmt: skip


@pytest.mark.parametrize("killed", [True, False])
async def test_a_message_whose_start_was_lost_is_started_at_the_next_look(
    temporal: Client, engine: AsyncEngine, store: JobStore, killed: bool
) -> None:
    """Of a worker that died right after it had grouped it, too."""
    world = World()
    async with notifying(temporal, engine, world, {"to": ["slack:payments"], "digest_minutes": 0}) as office:
        await rotated(engine, store, 1)
        starts = office._starts

        class Lost:
            async def start(self, message_id: str) -> None:
                if not killed:  # the start arrives, and its answer does not
                    await starts.start(message_id)
                raise TimeoutError

        office._starts = Lost()
        with pytest.raises(TimeoutError):
            await office.look()
        office._starts = starts
        await settled(office, engine)
    assert len(world.chat) == 1
