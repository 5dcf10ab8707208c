"""Notices: found, routed, grouped and given to workflows that deliver them, by each worker, again and again.

Any number of workers may do so at once: a notice is written once by its ID, routed under a lock, and put into one
message; a message is delivered by one workflow.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Protocol

import structlog
from pydantic import StringConstraints, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError

from keyturn.application.parked import BlockedJob
from keyturn.application.runs import TroubledRun
from keyturn.background import is_cancelled
from keyturn.errors import JobStoreUnavailable, SettingsInvalid
from keyturn.jobs.channel import AnyChannel
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.contracts import Notice
from keyturn.notices.errors import RoutesInvalid
from keyturn.notices.readings import readable
from keyturn.notices.routing import NotifySettings, Routes, faults_of_destinations, load_routes
from keyturn.notices.sources import NoticeSources
from keyturn.notices.store import NoticeStore
from keyturn.owners import Owners
from keyturn.policy.line import PolicyLine
from keyturn.web.problems import where
from keyturn.workers.settings import channels_that_are_on
from keyturn.workers.settings_faults import faults_of_channels

_log = structlog.get_logger("keyturn.worker")
# The IDs of the workflows of runs; a schedule's end with the time when it fired.
_FIRED_AT = re.compile(r"-\d{4}-\d{2}-\d{2}T[0-9:]{8}Z$")
_RUNS = TypeAdapter(Annotated[str, StringConstraints(pattern=r"^bulk:[A-Za-z0-9._@+=:-]+$", max_length=400)])
# An approver hears of a decision within a quarter of a minute; a look is some indexed queries.
LOOK_SECONDS = 10.0
START_AT_ONCE = 200  # workflows a look: some seconds of a server's time, and the oldest come first
STARTS_A_DESTINATION = 50  # so that one with many messages leaves room for the others
START_SECONDS = 2.0
# A list of the server's; visibility may lag behind by some minutes where it is a store of its own.
LIST_EVERY, LIST_OVERLAP = timedelta(minutes=1), timedelta(minutes=15)


@dataclass(frozen=True)
class Notifications:
    """The routes, and what is behind the channels that they name.

    Attributes:
        routes: which notices go where.
        notifiers: by the names of their channels.
        alone: the channels that take one notice a message.
        closing: the channels that must hear how a job ends.
    """

    routes: Routes
    notifiers: Mapping[str, Notifier]
    alone: frozenset[str] = frozenset()
    closing: frozenset[str] = frozenset()


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
    faults = faults_of_destinations(
        routes,
        {name: channel.addresses(own) for name, (channel, own) in on.items()},
        lambda name, address: on[name][0].fault_of(address),
    )
    if faults:
        raise RoutesInvalid("\n".join(f"{file}, {fault}" for fault in faults))
    named = {destination.partition(":")[0] for destination in routes.destinations}
    async with AsyncExitStack() as parts:
        notifiers = {
            name: await parts.enter_async_context(channel.notify(own, context))
            for name, (channel, own) in on.items()
            if name in named and channel.notify is not None
        }
        yield Notifications(
            routes,
            notifiers,
            alone=frozenset(name for name in named if on[name][0].alone),
            closing=frozenset(name for name in named if on[name][0].closes),
        )


class Starts(Protocol):
    """Starts the deliveries of messages."""

    async def start(self, message_id: str) -> None:
        """Start the delivery of a message, unless it runs; raises RPCError."""
        ...


class TroubledRuns(Protocol):
    """Finds runs that someone must look at."""

    def __call__(self, *, since: datetime) -> Awaitable[Sequence[TroubledRun]]:
        """Return those that failed since a moment, and those that are paused; raises RPCError."""
        ...


def _notice_of(run: TroubledRun, run_id: str | None) -> Notice:
    """Return the notice of a run; a ValidationError if its ID is none: whoever can write to Temporal may start any."""
    workflow_id = _RUNS.validate_python(run.workflow_id)
    # One that failed before it was on record has its schedule's name.
    run_id = run_id or _FIRED_AT.sub("", workflow_id).rpartition(":")[2]
    failed = run.state == "failed"
    # A run that stays paused is said again each day.
    event = f"run-failed-{run.execution_id}" if failed else f"run-paused-{run.execution_id}-{run.at:%Y-%m-%d}"
    facts = {"reason": run.reason.replace("_", " ")[:500]}
    return Notice(
        event_id=event,
        topic="run.failed" if failed else "run.paused",
        severity="warning",
        tenant_id=run.tenant,
        at=run.at,
        run_id=run_id,
        facts=facts if failed else facts | {"continue_by": f"keyturn resume {workflow_id}"},
    )


class PostOffice:
    """Brings what has happened on its way to people.

    Args:
        engine: the database.
        owners: who owns which key.
        notifications: where notices go.
        starts: starts deliveries.
        troubled_runs: returns the runs that failed since a moment, and those that are paused; raises RPCError.
        blocked_jobs: returns the jobs whose rotations wait for an operator or for a fault to be fixed; raises RPCError.
        lines: the policy lines, which limit waivers.
        spent: what the day's model calls have cost, and the limit that is reported; None for no limit.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        owners: Owners,
        notifications: Notifications,
        starts: Starts,
        *,
        troubled_runs: TroubledRuns | None = None,
        blocked_jobs: Callable[[], Awaitable[Mapping[str, BlockedJob]]] | None = None,
        spent: Callable[[], tuple[Decimal, Decimal] | None] = lambda: None,
        lines: Iterable[PolicyLine] = (),
    ) -> None:
        self._store, self._sources = NoticeStore(engine), NoticeSources(engine, owners, lines)
        self._sends_of = partial(notifications.routes.sends, alone=notifications.alone, closing=notifications.closing)
        self._starts, self._spent, self._troubled_runs = starts, spent, troubled_runs
        self._blocked_jobs = blocked_jobs
        self._listed_at: datetime | None = None
        self._reported: date | None = None
        self._started_at = datetime.now(UTC)

    async def start(self) -> None:
        """Note where the trails end now, unless that was noted before; raises JobStoreUnavailable."""
        self._started_at = await self._sources.start(datetime.now(UTC))

    async def look(self) -> None:
        """Find, route, group and send what there is once; raises JobStoreUnavailable, RPCError, TimeoutError."""
        now = datetime.now(UTC)
        await self._sources.gather(self._store, now)
        await self._report_spending(now)
        await self._report_trouble(now)
        while await self._store.route(lambda notice: self._sends_of(notice, now)):
            pass
        await self._store.group(now)
        for message_id in await self._store.pending(now, limit=START_AT_ONCE, of_each=STARTS_A_DESTINATION):
            async with asyncio.timeout(START_SECONDS):
                await self._starts.start(message_id)
            await self._store.mark_started(message_id, now)

    async def run(self, *, every: float = LOOK_SECONDS) -> None:
        """Look again and again, for ever; what fails is tried at the next look."""
        while not is_cancelled():
            try:
                await self.look()
            except (JobStoreUnavailable, RPCError, TimeoutError) as error:
                _log.warning("notices_not_sent", cause=type(error).__name__)
            except Exception as error:  # whatever it is, the next look may be better off; it must not end in silence
                _log.error("notices_not_sent", cause=type(error).__name__, failed_at=where(error))
            await asyncio.sleep(every)

    async def _report_trouble(self, now: datetime) -> None:
        """What no record speaks of, and Temporal's lists do.

        Runs whose workflow failed, perhaps before an inventory was read, or is paused; and blocked rotations.
        """
        since = self._listed_at
        if since is not None and now - since < LIST_EVERY:
            return
        if self._troubled_runs is not None:
            runs = await self._troubled_runs(since=max(self._started_at, (since or self._started_at) - LIST_OVERLAP))
            names = await self._sources.names_of_runs([run.workflow_id for run in runs])
            await self._store.add(readable(lambda run: _notice_of(run, names.get(run.workflow_id)), runs))
        if self._blocked_jobs is not None:
            await self._store.add(await self._sources.of_blocked(await self._blocked_jobs(), now))
        self._listed_at = now

    async def _report_spending(self, now: datetime) -> None:
        spent = self._spent()
        if spent is None or spent[0] <= spent[1] or self._reported == now.date():
            return
        facts = {"today_usd": f"{spent[0]:.4f}", "limit_usd": f"{spent[1]:.4f}"}
        # Of the whole fleet, and of no tenant: it is reported as the default one's.
        notice: dict[str, Any] = {"event_id": f"spend-{now:%Y-%m-%d}", "topic": "spend.over", "severity": "warning"}
        await self._store.add([Notice(**notice, tenant_id="default", at=now, facts=facts)])
        self._reported = now.date()
