"""What it costs a run that people are notified of it: the same runs with and without notices, in turn."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.bulk import seconds_of_run
from benchmarks.results import Result, compared
from keyturn.activities.deliver_notices import DeliverNotices
from keyturn.database import open_database
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier
from keyturn.notices.routing import Routes
from keyturn.notices.store import NoticeStore
from keyturn.notifications.slack import Slack
from keyturn.notifications.webhook import Webhook
from keyturn.notifications.webhook.notices import NoticeWebhook
from keyturn.owners import Owners
from keyturn.workers.notice_deliveries import NoticeStarts, SentNotices
from keyturn.workers.notices import LOOK_SECONDS, Notifications, PostOffice
from keyturn.workflows.delivery import NoticeWorkflow
from tests.support.estates import Judge, bulk_place
from tests.support.keys import KEYRING
from tests.support.servers import fake_server

SECRET = {"bench": SecretStr("webhook_secret_of_the_benchmark_0123")}


async def measure(postgresql: URL, *, rounds: int, keys: int) -> list[Result]:
    """Return how much longer a run takes whose jobs are announced: in digests to a chat, and each to a webhook."""
    engine, sent = open_database(postgresql), [0]
    with tempfile.TemporaryDirectory() as folder:
        async with dev_server(keyring=KEYRING) as client:
            place = bulk_place(client, f"bench-{uuid.uuid4().hex}", engine, Judge())
            seconds: dict[str | None, list[float]] = {None: [], "slack:all": [], "webhook": []}
            turns = list(seconds)
            async with place.working():
                await seconds_of_run(place, Path(folder), 100)
                for round_number in range(rounds):
                    # Another one begins each time: the database and the server hold more with every run.
                    for turn in range(len(turns)):
                        to = turns[(round_number + turn) % len(turns)]
                        async with nullcontext() if to is None else _notifying(client, engine, sent, to):
                            seconds[to].append(await seconds_of_run(place, Path(folder), keys))
    await engine.dispose()
    if not sent[0]:
        raise AssertionError("nothing was sent")
    silent, digests, events = seconds.values()
    return [
        compared(f"time of a run of {keys:,} keys with digests to owners", digests, silent, unit="s", target=1.05),
        compared(f"time of a run of {keys:,} keys with an event each to a webhook", events, silent, unit="s"),
    ]


@asynccontextmanager
async def _notifying(client: Client, engine: AsyncEngine, sent: list[int], to: str) -> AsyncIterator[None]:
    """Look for notices as a worker does, in this process, and send them to receivers that answer at once."""

    async def take(_request: web.Request) -> web.Response:
        sent[0] += 1
        return web.Response(status=202)

    application, queue = web.Application(), f"bench-{uuid.uuid4().hex}"
    application.router.add_post("/{path:.*}", take)
    async with fake_server(application) as url, http_client(50) as http:
        notifiers: dict[str, Notifier] = {
            "slack": Slack(http, {"all": f"{url}/slack"}),
            "webhook": NoticeWebhook(Webhook(http, f"{url}/hook", SECRET)),
        }
        routes = Routes.model_validate({"route": [{"to": [to], "digest_minutes": 0}]})
        notifications = Notifications(routes, notifiers, alone=frozenset({"webhook"}))
        office = PostOffice(engine, Owners(), notifications, NoticeStarts(client, queue))
        await office.start()
        deliver = DeliverNotices(SentNotices(NoticeStore(engine), notifications))
        async with Worker(client, task_queue=queue, workflows=[NoticeWorkflow], activities=deliver.activities):
            looking = asyncio.create_task(office.run(every=LOOK_SECONDS))
            try:
                yield
            finally:
                looking.cancel()
                await office.look()
