"""The composition root: the only place that names concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker, WorkerDeploymentConfig

from keyturn.activities.check_readiness import CheckReadiness
from keyturn.activities.create_rotation_job import CreateRotationJob, JobClaims, OwnersOf
from keyturn.activities.decide import Decide, WaiverOf
from keyturn.activities.deliver_job import DeliverJob
from keyturn.activities.deliver_notices import DeliverNotices
from keyturn.activities.draft_reply import BEAT_SECONDS, DraftReply
from keyturn.activities.record_event import RecordEvent
from keyturn.activities.withdraw_claim import WithdrawClaim
from keyturn.application.encryption import names_of
from keyturn.application.parked import blocked_jobs
from keyturn.application.runs import runs_in_trouble
from keyturn.application.versioning import UNPINNED, pinned_to
from keyturn.application.worker_identity import checks_of, identity_of
from keyturn.bulk.offline import OfflineRuns
from keyturn.bulk.owned import recorded_owner
from keyturn.bulk.pages import BulkJudge, Permits
from keyturn.bulk.store import BulkStore
from keyturn.cache.encrypted import EncryptedCache
from keyturn.cache.sql import SqlCache
from keyturn.calls import CallRecord
from keyturn.database import answers, open_database
from keyturn.drafts.store import DraftStore
from keyturn.drafts.writing import DraftWriting
from keyturn.jobs.channel import Receiver
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.key_use import KeyUse
from keyturn.labels.sources import LabelSources
from keyturn.labels.store import LabelStore
from keyturn.ledger.recorder import recorder
from keyturn.ledger.records import keyed_fingerprint, log_call
from keyturn.ledger.spending import DailySpend
from keyturn.ledger.store import LedgerStore
from keyturn.llm.batches import BatchClient
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.cache import ResponseCache
from keyturn.llm.concurrency import MOST_CALLS
from keyturn.llm.guard import Guard
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.outages import Outages
from keyturn.llm.routing import Target
from keyturn.llm.wire import Usage
from keyturn.notices.channel import NotifierContext
from keyturn.notices.store import NoticeStore
from keyturn.owners import Owners, load_owners
from keyturn.policy.catalogue import Catalogue
from keyturn.retention import RetentionStore
from keyturn.rotations.contracts import JobOrder, RotationRequest
from keyturn.rotations.decisions import GroundedDecision
from keyturn.tasks.registry import load_tasks
from keyturn.waivers.contracts import AppliedWaiver
from keyturn.waivers.store import WaiverBook, WaiverStore
from keyturn.workers.builds import build_id_of
from keyturn.workers.bulk import BulkRunActivities, run_encryption
from keyturn.workers.bulk_workers import bulk_workers
from keyturn.workers.deliveries import DeliveryStarts, ReceiverDeliveries, abandon_old_deliveries, open_receivers, sweep
from keyturn.workers.labels import LabelCollector
from keyturn.workers.metrics import CallMetrics, JobMetrics
from keyturn.workers.monitoring import Monitoring, temporal_answers
from keyturn.workers.notice_deliveries import NoticeStarts, SentNotices
from keyturn.workers.notices import Notifications, PostOffice, open_notifications
from keyturn.workers.people_first import (
    BETWEEN_QUESTIONS,
    OF_PEOPLE,
    NotesPeople,
    Pace,
    PacedPermits,
    PeoplesWork,
)
from keyturn.workers.retention_settings import load_retention_settings
from keyturn.workers.run_rotations import RunRotations
from keyturn.workers.schema import check_schema
from keyturn.workers.settings import Settings
from keyturn.workers.tracing import provider_names, span_recorder
from keyturn.workers.upkeep import count_encryptions, count_jobs, delete_expired, forget_expired
from keyturn.workflows.identity import rotation_ids_of
from keyturn.workflows.registry import OF_DELIVERIES, OF_NOTICES, OF_WORKERS

_log = structlog.get_logger("keyturn.worker")

# A deployment that stops a worker lets its calls end: 30 s outlast the default call (20 s and 5 s of margin).
GRACEFUL_SHUTDOWN = timedelta(seconds=30)

Claims = Callable[[JobStore], JobClaims]


@dataclass(frozen=True)
class WorkerContext:
    """The boundary that `settings` describe, and what belongs to it."""

    settings: Settings
    boundary: ModelBoundary
    # The same without a user's token limit: a bulk run is limited by its own pages, rate and cost.
    bulk_boundary: ModelBoundary
    # The provider of batches, by task: the first of its route that has them.
    batches: Mapping[str, BatchClient]
    catalogue: Catalogue
    engine: AsyncEngine
    registry: CollectorRegistry
    metrics: CallMetrics
    spend: DailySpend
    receivers: Mapping[str, Receiver]  # of the notification channels that are on
    outages: Outages
    owners: Owners
    notifications: Notifications | None  # None if there are no routes

    def monitoring(self, client: Client, *, sdk_port: int | None) -> Monitoring:
        """Return what a worker publishes of itself for programs."""

        return Monitoring(
            self.registry,
            self.metrics,
            degraded_p95_ms=self.settings.degraded_p95_ms,
            checks={"database": answers(self.engine), "temporal": temporal_answers(client)},
            facts=lambda: {
                "environment": self.settings.environment,
                "spend_today_usd": f"{self.spend.today_usd:.6f}",
                "catalogue_version": self.catalogue.version,
                "providers_not_asked": self.outages.open_now(),
            },
            sdk_port=sdk_port,
        )


@asynccontextmanager
async def open_boundary(settings: Settings) -> AsyncIterator[WorkerContext]:
    """Yield the model boundary, ready to be asked; close its resources afterwards, the last records written."""
    catalogue, owners = settings.load_catalogue(), load_owners()
    _warn_of_unpriced(settings)
    async with AsyncExitStack() as parts:
        engine = open_database(settings.database_url)
        parts.push_async_callback(engine.dispose)
        http = await parts.enter_async_context(http_client(_most_connections(settings)))
        store = LedgerStore(engine)
        ledger = await parts.enter_async_context(recorder(store))
        spend = DailySpend(settings.daily_spend_alert_usd, lambda since: store.total_spent(since=since))
        registry = CollectorRegistry()
        for background in (spend.watch(), *_backgrounds(settings, engine, registry)):
            parts.callback(asyncio.create_task(background).cancel)
        metrics = CallMetrics(registry, spent_today=lambda: float(spend.today_usd))
        for task in load_tasks():
            for target in _targets(settings, task):
                metrics.expect(task, target.provider, target.model)
        trace = span_recorder(provider_names(settings.endpoints))
        record = _observed_by(log_call, ledger.record, metrics.observe, spend.add, *([] if trace is None else [trace]))
        key = settings.fingerprint_key
        guard = await _guard(settings, store, parts)
        outages = Outages()  # runs know what single calls find out
        await _share(settings, outages, parts)
        for target in settings.targets:
            metrics.watch_circuit(target.provider, target.model, partial(outages.is_down, target[:2]))
            limit = settings.endpoints[target.provider].limit_of(target.model)
            metrics.watch_limit(target.provider, target.model, partial(getattr, limit, "limit"))
        routes = settings.routes
        asked = partial(
            ModelBoundary,
            {task: [provider_of(settings, http, target) for target in route] for task, route in routes.items()},
            catalogue,
            record=record,
            cache=await open_cache(settings, engine, parts),
            fingerprint=None if key is None else keyed_fingerprint(key.get_secret_value().encode()),
            outages=outages,
        )
        boundary, bulk_boundary = asked(guard=guard), asked(guard=guard.without_token_limit())
        receivers = await parts.enter_async_context(open_receivers(settings))
        yield WorkerContext(
            settings=settings,
            boundary=boundary,
            bulk_boundary=bulk_boundary,
            batches=_batches(settings, http),
            catalogue=catalogue,
            engine=engine,
            registry=registry,
            metrics=metrics,
            spend=spend,
            receivers=receivers,
            outages=outages,
            owners=owners,
            notifications=await parts.enter_async_context(
                open_notifications(settings.channels, NotifierContext(settings.max_concurrent_activities, engine))
            ),
        )


def _backgrounds(
    settings: Settings, engine: AsyncEngine, registry: CollectorRegistry
) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what a worker does beside its tasks, as long as it runs."""
    yield forget_expired(SqlCache(engine))
    yield count_jobs(JobLeases(engine), JobMetrics(registry))
    yield count_encryptions(settings.keyring, KeyUse(engine))
    retained = load_retention_settings()
    if retained.retention == "on":
        yield delete_expired(RetentionStore(engine), retained.limits())


@asynccontextmanager
async def open_worker(
    client: Client, wired: WorkerContext, *, claims: Claims = lambda store: store
) -> AsyncIterator[Worker]:
    """Yield the worker on a wired boundary, not yet running.

    Args:
        client: a connected client.
        wired: the boundary and what belongs to it.
        claims: wraps the job store; tests put a store there that dies at a chosen point.
    """
    build_id = build_id_of(wired.settings)
    store, outbox = JobStore(wired.engine), Outbox(wired.engine)
    starts: DeliveryStarts | None = None
    activities: list[Callable[..., Any]] = CheckReadiness(_readiness(wired)).activities
    if wired.receivers:
        starts = DeliveryStarts(client, wired.settings.task_queue)
        await abandon_old_deliveries(outbox)
        deliver = DeliverJob(ReceiverDeliveries(outbox, wired.receivers))
        activities += deliver.activities
    office: PostOffice | None = None
    if wired.notifications is not None:
        activities += DeliverNotices(SentNotices(NoticeStore(wired.engine), wired.notifications)).activities
        office = await _post_office(client, wired, wired.notifications)
    rotation = _rotation_activities(client, wired, claims(store), store, starts)
    drafts = DraftReply(DraftWriting(_draft_store(wired), wired.boundary))
    activities += [*rotation, *drafts.activities]
    # In development every worker may continue every rotation: an edit of the code leaves no parked one behind.
    deployment = UNPINNED if build_id is None else pinned_to(build_id)
    sweeping = None if starts is None else asyncio.create_task(sweep(outbox, starts))
    workflows = (*OF_WORKERS, *(OF_DELIVERIES if starts else ()), *(OF_NOTICES if office else ()))
    people = PeoplesWork()
    async with AsyncExitStack() as parts:
        if sweeping is not None:
            parts.callback(sweeping.cancel)
        if office is not None:
            parts.callback(asyncio.create_task(office.run()).cancel)
        if (collector := _collector(client, wired)) is not None:
            parts.callback(asyncio.create_task(collector.run()).cancel)
        if wired.settings.bulk_pages:
            await parts.enter_async_context(_runs(client, wired, rotation, deployment, people))
        yield Worker(
            client,
            task_queue=wired.settings.task_queue,
            workflows=workflows,
            activities=activities,
            max_concurrent_activities=wired.settings.max_concurrent_activities,
            graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
            # A stopped draft's cancellation comes with the answer to a heartbeat: the default sends one in 30 s.
            max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
            deployment_config=deployment,
            interceptors=[NotesPeople(people, OF_PEOPLE)],
            identity=identity_of(checks_of(wired.settings.keyring, wired.catalogue.version)),
        )


def _readiness(wired: WorkerContext) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """Return what a build must have before it takes rotations; its policy was read when the worker started."""
    url = wired.settings.database_url
    return {"database": answers(wired.engine), "schema": lambda: asyncio.to_thread(check_schema, url)}


def _rotation_activities(
    client: Client, wired: WorkerContext, claims: JobClaims, store: JobStore, starts: DeliveryStarts | None
) -> list[Callable[..., Any]]:
    owners_of = look_up_owners(wired.engine, wired.owners)
    waiver_of = look_up_waivers(WaiverBook(WaiverStore(wired.engine), wired.owners), wired.catalogue, owners_of)
    return [
        *Decide(wired.boundary, waiver_of).activities,
        *CreateRotationJob(
            claims,
            wired.catalogue,
            starts,
            rotation_ids=partial(rotation_ids_of, names=names_of(client)),
            state_of=store.state_of,
            owners_of=owners_of,
            waiver_of=waiver_of,
        ).activities,
        *WithdrawClaim(store, state_of=store.state_of).activities,
        *RecordEvent(store).activities,
    ]


async def _post_office(client: Client, wired: WorkerContext, notifications: Notifications) -> PostOffice:
    limit = wired.settings.daily_spend_alert_usd
    office = PostOffice(
        wired.engine,
        wired.owners,
        notifications,
        NoticeStarts(client, wired.settings.task_queue),
        troubled_runs=partial(runs_in_trouble, client),
        blocked_jobs=partial(blocked_jobs, client),
        lines=wired.catalogue,
        spent=lambda: None if limit is None else (wired.spend.today_usd, limit),
    )
    await office.start()
    return office


def look_up_owners(engine: AsyncEngine, owners: Owners) -> OwnersOf:
    """Return what says who owns the key of an order or a question; a person's question does not say it itself."""

    async def owners_of(subject: RotationRequest | JobOrder) -> tuple[str | None, str | None]:
        account, key, recorded = subject.account_id, subject.credential.key_id, subject.owner
        known = owners.owner_of(account, key, recorded)
        if known is None:
            named = {"tenant_id": subject.tenant_id, "account_id": account, "key_id": key}
            recorded = await recorded_owner(engine, **named)
            known = owners.owner_of(account, key, recorded)
        return known, recorded

    return owners_of


def _collector(client: Client, wired: WorkerContext) -> LabelCollector | None:
    retained = load_retention_settings()
    if retained.collect_labels == "off":
        return None
    store = LabelStore(wired.engine, wired.settings.keyring)
    return LabelCollector(client, LabelSources(wired.engine), store, days=retained.limits().labels)


def look_up_waivers(book: WaiverBook, catalogue: Catalogue, owners_of: OwnersOf) -> WaiverOf:
    """Return what looks up the waiver of a due key under its binding lines."""

    async def waiver_of(subject: RotationRequest | JobOrder, decision: GroundedDecision) -> AppliedWaiver | None:
        if not await book.active(subject.tenant_id):
            return None
        _, recorded = await owners_of(subject)
        return await book.find(
            catalogue.resolve(decision.source_lines),
            tenant_id=subject.tenant_id,
            account_id=subject.account_id,
            key_id=subject.credential.key_id,
            recorded_owner=recorded,
            compromised=bool(subject.credential.compromised),
        )

    return waiver_of


def _observed_by(*observers: Callable[[CallRecord], None]) -> Callable[[CallRecord], None]:
    """Return what gives each record of a call to every observer."""

    def record(call: CallRecord) -> None:
        for take in observers:
            take(call)

    return record


def _draft_store(wired: WorkerContext) -> DraftStore:
    days = load_retention_settings().drafts
    return DraftStore(wired.engine, wired.settings.keyring, retention_days=days or None)


def _snapshots_kept_for() -> timedelta | None:
    """Return how long the snapshots of runs are kept: as long as the runs themselves."""
    retention = load_retention_settings()
    return timedelta(days=retention.runs) if retention.retention == "on" and retention.runs else None


def _runs(
    client: Client,
    wired: WorkerContext,
    rotation: Sequence[Callable[..., Any]],
    deployment: WorkerDeploymentConfig,
    people: PeoplesWork,
) -> AbstractAsyncContextManager[None]:
    store, encryption = BulkStore(wired.engine), run_encryption(wired.settings.keyring)
    rotations = RunRotations(client, wired.settings.task_queue, wired.owners)
    return bulk_workers(
        client,
        wired.settings.task_queue,
        BulkRunActivities(
            store,
            BulkJudge(store, wired.bulk_boundary, rotations, encryption, _permits(wired, people)),
            OfflineRuns(store, wired.bulk_boundary, wired.batches, encryption),
            wired.catalogue,
            encryption,
            inventory_root=wired.settings.inventory_root,
            snapshots_kept_for=_snapshots_kept_for(),
        ),
        rotation,
        pages_at_once=wired.settings.bulk_pages,
        keys_per_second=wired.settings.bulk_keys_per_second,
        deployment=deployment,
        people=people,
    )


def provider_of(settings: Settings, http: Any, target: Target) -> HttpModelClient:
    """Return what asks a target of a route."""
    endpoint = settings.endpoints[target.provider]
    return HttpModelClient(http, endpoint, target.model, passes_quota_on=target.passes_quota_on)


def _most_connections(settings: Settings) -> int:
    """Return as many as there can be calls: waiting for a connection would count as the provider's time."""
    return settings.max_concurrent_activities + int(MOST_CALLS) * len({target[:2] for target in settings.targets})


def _permits(wired: WorkerContext, people: PeoplesWork) -> Callable[[str], Permits]:
    """Return what gives the permits of the model that is asked first for a task now."""
    pace = Pace(people, BETWEEN_QUESTIONS)

    def permits_of(task: str) -> Permits:
        first = wired.outages.in_order(_targets(wired.settings, task), lambda target: target[:2])[0]
        limit = wired.settings.endpoints[first.provider].limit_of(first.model)
        return PacedPermits(limit, pace)

    return permits_of


def _targets(settings: Settings, task: str) -> Sequence[Target]:
    return settings.routes.get(task) or settings.routes.get("*") or ()


def _batches(settings: Settings, http: Any) -> dict[str, BatchClient]:
    found: dict[str, BatchClient] = {}
    for task in load_tasks():
        for target in _targets(settings, task):
            endpoint = settings.endpoints[target.provider]
            batches = endpoint.provider.batches
            if endpoint.takes_batches and batches is not None and task not in found:
                found[task] = batches(http, endpoint, target.model)
    return found


async def _guard(settings: Settings, store: LedgerStore, parts: AsyncExitStack) -> Guard:
    limit = None
    if settings.tokens_per_user_hour:
        from keyturn.ledger.token_limit import SlidingTokenLimit

        shared = settings.redis_url
        limit = SlidingTokenLimit(
            settings.tokens_per_user_hour, redis_url=None if shared is None else shared.get_secret_value()
        )
        parts.push_async_callback(limit.close)
    return Guard(
        settings.prices,
        usd_per_call=settings.usd_per_call,
        usd_per_user_day=settings.usd_per_user_day,
        spent_today=store.spent_today,
        tokens=limit,
    )


async def open_cache(settings: Settings, engine: AsyncEngine, parts: AsyncExitStack) -> ResponseCache | None:
    """Return the response cache, None where it is off; `parts` closes it."""
    if settings.response_cache == "off":
        return None
    if settings.redis_url is None:
        return EncryptedCache(SqlCache(engine), settings.keyring)
    from keyturn.cache.redis import RedisCache

    cache = RedisCache(settings.redis_url.get_secret_value())
    parts.push_async_callback(cache.close)
    return EncryptedCache(cache, settings.keyring)


async def _share(settings: Settings, outages: Outages, parts: AsyncExitStack) -> None:
    """Let the fleet know what this worker finds out, where there is a Redis; what it knows already counts at once."""
    if settings.redis_url is None:
        return
    from keyturn.llm.shared_outages import SharedOutages

    names = [target[:2] for target in settings.targets]
    limits = {name: settings.endpoints[name[0]].limit_of(name[1]) for name in names}
    shared = SharedOutages(outages, settings.redis_url.get_secret_value(), names, limits)
    parts.push_async_callback(shared.close)
    await shared.exchange()
    parts.callback(asyncio.create_task(shared.watch()).cancel)


def _warn_of_unpriced(settings: Settings) -> None:
    """Say for which models no cost can be known or capped; and load the public prices now, not in the first call."""
    for target in settings.targets:
        if settings.prices.cost_usd(target.provider, target.model, Usage(0, 0)) is None:
            _log.warning(
                "price_unknown",
                provider=target.provider,
                model=target.model,
                hint="Its cost is recorded as unknown, and no cap applies to it: add its price to KEYTURN_RATE_CARD.",
            )
