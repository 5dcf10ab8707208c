"""The composition root: the only place that names concrete classes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities.create_rotation_job import CreateRotationJob, JobClaims
from activities.decide import Decide
from keyturn.jobs.database import open_database
from keyturn.jobs.store import JobStore
from keyturn.ledger.prices import RateCard
from keyturn.ledger.records import log_call
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.providers.openai import OpenAIProvider, http_client
from keyturn.policy.catalogue import load_catalogue
from workers.settings import Settings
from workflows.rotation import RotationWorkflow

# A deployment that stops a worker lets its calls end: 30 s outlast the default call (20 s and 5 s of margin).
GRACEFUL_SHUTDOWN = timedelta(seconds=30)

Claims = Callable[[JobStore], JobClaims]


@asynccontextmanager
async def wired_worker(
    client: Client, settings: Settings, *, claims: Claims = lambda store: store
) -> AsyncIterator[Worker]:
    """Yield the worker that `settings` describe, not yet running, and close what it opened afterwards.

    Args:
        client: a connected client.
        settings: the worker's settings.
        claims: what stands before the job store; tests put there a store that dies at a chosen point.
    """
    catalogue = load_catalogue(settings.policy_dir)
    rate_card = RateCard(settings.rates)
    rate_card.cost_usd(settings.model, 0, 0)  # loads the public prices now, if it needs them, and not in the first call
    engine = open_database(settings.database_url)
    try:
        async with http_client(settings.max_concurrent_activities) as http:
            provider = OpenAIProvider(
                http, base_url=settings.openai_base_url, model=settings.model, api_key=settings.openai_api_key
            )
            boundary = ModelBoundary(provider, catalogue, record=log_call, price=rate_card.cost_usd)
            activities: list[Callable[..., Any]] = [
                Decide(boundary).decide,
                CreateRotationJob(claims(JobStore(engine)), catalogue).create_rotation_job,
            ]
            yield Worker(
                client,
                task_queue=settings.task_queue,
                workflows=[RotationWorkflow],
                activities=activities,
                max_concurrent_activities=settings.max_concurrent_activities,
                graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
            )
    finally:
        await engine.dispose()
