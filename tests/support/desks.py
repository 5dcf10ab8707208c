"""A desk for the tests: served on loopback, with a worker in this process, on the suite's server and simulator."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy.engine import URL
from temporalio.client import Client
from temporalio.worker import Worker

from keyturn.activities.draft_reply import BEAT_SECONDS, DraftReply
from keyturn.application.encryption import names_of
from keyturn.calls import CallRecord
from keyturn.database import open_database
from keyturn.desk.app import desk_application
from keyturn.desk.desk import Desk
from keyturn.desk.settings import DeskSettings
from keyturn.drafts.store import DraftStore
from keyturn.drafts.writing import DraftWriting
from keyturn.jobs.store import JobStore
from keyturn.lab.stack.loopback import loopback_client
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.http import http_client
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue
from keyturn.waivers.store import WaiverBook, WaiverStore
from keyturn.web.serving import served
from keyturn.workers.wiring import look_up_owners, look_up_waivers
from keyturn.workflows.draft import DraftWorkflow
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.boundaries import guarded, on_simulator
from tests.support.keys import KEYRING
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import rotation_activities, with_approval

TOKENS = {name: f"{name}-{'t' * 32}" for name in ("luna", "omar", "vera")}
ROLES = "luna=asker; omar=approver+operator; vera=approver"


class Place:
    """Where a desk is: its address, and whom to ask as."""

    def __init__(self, client: Client, url: URL, simulator: SimulatorControl, catalogue: Catalogue) -> None:
        self.client = client
        self.simulator = simulator
        self.catalogue = catalogue
        self.tenant = f"t-{uuid.uuid4().hex[:12]}"
        self.queue = f"test-{uuid.uuid4().hex}"
        self.engine = open_database(url)
        self.records: list[CallRecord] = []
        self.desk = Desk(client, self.engine, KEYRING, catalogue, tenant=self.tenant, task_queue=self.queue)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker for rotations and drafts."""
        async with http_client(300) as http:
            provider = on_simulator(http, self.simulator)
            boundary = ModelBoundary({"*": [provider]}, self.catalogue, guard=guarded(), record=self.records.append)
            drafts = DraftReply(DraftWriting(DraftStore(self.engine, KEYRING), boundary))
            waiver_of = look_up_waivers(
                WaiverBook(WaiverStore(self.engine), Owners()), self.catalogue, look_up_owners(self.engine, Owners())
            )
            rotation = rotation_activities(
                boundary, JobStore(self.engine), self.catalogue, names_of(self.client), waiver_of
            )
            async with Worker(
                self.client,
                task_queue=self.queue,
                workflows=[RotationWorkflow, DraftWorkflow],
                activities=[*rotation, *drafts.activities],
                max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
            ):
                yield

    @asynccontextmanager
    async def served(self, **changed: Any) -> AsyncIterator[str]:
        """The desk itself; `changed` are its variables."""
        tokens = ",".join(f"{name}:{token}" for name, token in TOKENS.items())
        settings: dict[str, Any] = {
            "KEYTURN_DESK_ADDRESS": "127.0.0.1:0",
            "KEYTURN_DESK_TOKENS": tokens,
            "KEYTURN_DESK_ROLES": ROLES,
            "KEYTURN_TENANT": self.tenant,
            "KEYTURN_DESK_REQUESTS_PER_MINUTE": 100_000,
        }
        configured = DeskSettings(**{name: value for name, value in (settings | changed).items() if value is not None})
        application = desk_application(self.desk, self.engine, configured, KEYRING)
        async with served(application, configured.address, setting="KEYTURN_DESK_ADDRESS") as url:
            yield url

    @asynccontextmanager
    async def open(self, **changed: Any) -> AsyncIterator[str]:
        """Worker and desk."""
        async with AsyncExitStack() as parts:
            await parts.enter_async_context(self.working())
            yield await parts.enter_async_context(self.served(**changed))


@asynccontextmanager
async def place(client: Client, url: URL, simulator: SimulatorControl, **approval: Any) -> AsyncIterator[Place]:
    """A place whose P-7 asks for an approval by omar or vera, if `approval` is not empty."""
    from keyturn.policy.catalogue import load_catalogue

    made = Place(client, url, simulator, with_approval(**approval) if approval else load_catalogue())
    try:
        yield made
    finally:
        await made.engine.dispose()


def asking(name: str, url: str) -> httpx.AsyncClient:
    """A client of the desk's JSON that is signed in as `name`."""
    headers = {"authorization": f"Bearer {TOKENS[name]}"}
    return loopback_client(url, headers=headers, timeout=30)


def question(**changed: Any) -> dict[str, Any]:
    """A body for `POST /rotations`, of a new key."""
    asked = {"account_id": f"acct_{uuid.uuid4().hex[:12]}", "key_id": "key_01", "policy_lines": ["P-7"]}
    return asked | {"question": "May the stale key be rotated?", "stale": True, "age_days": 40} | changed


def key() -> dict[str, str]:
    """A new Idempotency-Key."""
    return {"idempotency-key": str(uuid.uuid4())}


async def events_of(http: httpx.AsyncClient, path: str, **headers: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of a stream until it ends: id, name and data."""
    found, name, place = [], "", ""
    sent = httpx.Headers(headers, encoding="latin-1")
    async with http.stream("GET", path, headers=sent) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "id":
                place = value
            elif kind == "data":
                found.append((place, name, json.loads(value)))
    return found


def text_of(events: list[tuple[str, str, dict[str, Any]]]) -> str:
    """The text that a page shows after these events."""
    text = ""
    for _, name, data in events:
        text = "" if name == "reset" else text + data["text"] if name == "text" else text
    return text
