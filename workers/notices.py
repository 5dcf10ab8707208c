"""Notices: found, routed, grouped and given to workflows that deliver them, by each worker, again and again.

Any number of workers may do so at once: a notice is written once by its ID, routed under a lock, and put into one
message; a message is delivered by one workflow.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from keyturn.errors import JobStoreUnavailable, SettingsInvalid
from keyturn.jobs.channel import AnyChannel
from keyturn.jobs.errors import EarlierDelivery
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.contracts import Notice, NoticeDelivery
from keyturn.notices.errors import RoutesInvalid
from keyturn.notices.routing import NotifySettings, Routes, faults_of_destinations, load_routes
from keyturn.notices.sources import NoticeSources
from keyturn.notices.store import NoticeStore
from keyturn.owners import Owners
from keyturn.workers.settings import channels_that_are_on
from keyturn.workers.settings_faults import faults_of_channels
from keyturn.workflows.delivery import NoticeWorkflow, notice_delivery_id

_log = structlog.get_logger("keyturn.worker")
# An approver hears of a decision within a quarter of a minute; a look is some indexed queries.
LOOK_SECONDS = 10.0
START_AT_ONCE = 200  # workflows a look: some seconds of a server's time, and the oldest come first
START_SECONDS = 2.0


@dataclass(frozen=True)
class Notifications:
    """The routes, and what is behind the channels that they name.

    Attributes:
        routes: which notices go where.
        notifiers: by the names of their channels.
        alone: the channels that take one notice a message.
    """

    routes: Routes
    notifiers: Mapping[str, Notifier]
    alone: frozenset[str]


Channels = Mapping[str, tuple[AnyChannel, Any]]


def channels_of_environment() -> Channels:
    """Return the channels that are switched on, with their settings; raises SettingsInvalid with every fault."""
    if faults := list(faults_of_channels()):
        raise SettingsInvalid("\n".join(faults))
    return channels_that_are_on()


@asynccontextmanager
async def open_notifications(channels: Channels, context: NotifierContext) -> AsyncIterator[Notifications | None]:
    """Yield what KEYTURN_NOTIFY sets up, None if it is not set; raises RoutesInvalid, with every fault.

    Args:
        channels: those that are on, with their settings.
        context: what each channel is given.
    """
    file = NotifySettings().routes
    if file is None:
        yield None
        return
    routes = load_routes(file)
    on = {name: pair for name, pair in channels.items() if pair[0].notify is not None}
    faults = faults_of_destinations(routes, {name: channel.addresses(own) for name, (channel, own) in on.items()})
    faults = [*faults, *_faults_of_addresses(routes, on)]
    if faults:
        raise RoutesInvalid("\n".join(f"{file}, {fault}" for fault in faults))
    named = {destination.partition(":")[0] for destination in routes.destinations}
    async with AsyncExitStack() as parts:
        notifiers = {
            name: await parts.enter_async_context(channel.notify(own, context))
            for name, (channel, own) in on.items()
            if name in named and channel.notify is not None
        }
        yield Notifications(routes, notifiers, frozenset(name for name in named if on[name][0].alone))


def _faults_of_addresses(routes: Routes, on: Channels) -> Iterator[str]:
    """Yield what is wrong with addresses that no settings name: each of their messages would be a dead letter."""
    for destination in routes.destinations:
        name, _, address = destination.partition(":")
        if name in on and (fault := on[name][0].fault_of(address)) is not None:
            yield f"{destination}: {fault}"


class SentNotices:
    """Sends messages of notices by the channels of their destinations."""

    def __init__(self, store: NoticeStore, notifications: Notifications) -> None:
        self._store = store
        self._notifications = notifications

    async def deliver(self, message_id: str) -> str:
        """Send a message, after earlier ones about the same key; returns the answer, `known` if it was sent."""
        message = await self._store.message(message_id)
        if message.is_sent:
            return "known"
        if message.waits_for is not None:
            raise EarlierDelivery(f"the message {message.waits_for} must be delivered first")
        name, _, address = message.destination.partition(":")
        notifier = self._notifications.notifiers.get(name)
        if notifier is None:
            raise RoutesInvalid(f"the channel {name} is not set up here any more")
        answer = await notifier.send(address, message, desk=self._notifications.routes.desk)
        await self._store.mark_sent(message_id)
        return answer

    async def give_up(self, message_id: str, *, failure: str) -> None:
        """Put a message among the dead letters."""
        await self._store.mark_dead(message_id, failure=failure)


class NoticeStarts:
    """Starts the workflows that deliver messages of notices: one a message, however often it is asked to."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue

    async def start(self, message_id: str) -> None:
        """Start the workflow of a message, unless it runs; raises RPCError."""
        await self._client.start_workflow(
            NoticeWorkflow.run,
            NoticeDelivery(message_id=message_id),
            id=notice_delivery_id(message_id),
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # One that ended while its message waits was terminated, or an operator resends a dead letter.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"notify {message_id}",
        )


class PostOffice:
    """Brings what has happened on its way to people.

    Args:
        engine: the database.
        owners: who owns which key.
        notifications: where notices go.
        starts: starts deliveries.
        spent: what the day's model calls have cost, and the limit that is reported; None for no limit.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        owners: Owners,
        notifications: Notifications,
        starts: NoticeStarts,
        *,
        spent: Callable[[], tuple[Decimal, Decimal] | None] = lambda: None,
    ) -> None:
        self._store, self._sources = NoticeStore(engine), NoticeSources(engine, owners)
        self._sends_of = partial(notifications.routes.sends, alone=notifications.alone)
        self._starts, self._spent = starts, spent
        self._reported: date | None = None

    async def start(self) -> None:
        """Note where the trails end now, unless that was noted before; raises JobStoreUnavailable."""
        await self._sources.start(datetime.now(UTC))

    async def look(self) -> None:
        """Find, route, group and send what there is once; raises JobStoreUnavailable, RPCError, TimeoutError."""
        now = datetime.now(UTC)
        await self._sources.gather(self._store, now)
        await self._report_spending(now)
        while await self._store.route(lambda notice: self._sends_of(notice, now)):
            pass
        await self._store.group(now)
        for message_id in await self._store.pending(limit=START_AT_ONCE):
            async with asyncio.timeout(START_SECONDS):
                await self._starts.start(message_id)

    async def run(self, *, every: float = LOOK_SECONDS) -> None:
        """Look again and again, for ever; what fails is tried at the next look."""
        while True:
            try:
                await self.look()
            except (JobStoreUnavailable, RPCError, TimeoutError) as error:
                _log.warning("notices_not_sent", cause=type(error).__name__)
            await asyncio.sleep(every)

    async def _report_spending(self, now: datetime) -> None:
        spent = self._spent()
        if spent is None or spent[0] <= spent[1] or self._reported == now.date():
            return
        facts = {"today_usd": f"{spent[0]:.4f}", "limit_usd": f"{spent[1]:.4f}"}
        # Of the whole fleet, and of no tenant: it is reported as the default one's.
        notice: dict[str, Any] = {"event_id": f"spend-{now:%Y-%m-%d}", "topic": "spend.over", "severity": "warning"}
        await self._store.add([Notice(**notice, tenant_id="default", at=now, facts=facts)])
        self._reported = now.date()
