"""A candidate against the labelled cases: its boundary, apart from the worker's, and the replay on it.

The calls cost money, so that they are in the ledger, under the user `eval`. Nothing else of production knows of them:
no answer is cached or read from the cache (unless that is asked for), no user's limit is used up, and an outage of the
candidate is not shared with workers.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.labels.errors import NoLabels
from keyturn.labels.replay import AT_ONCE, Replay, Replayed
from keyturn.labels.store import LabelStore
from keyturn.ledger.recorder import recorder
from keyturn.ledger.store import LedgerStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.budget import Budget
from keyturn.llm.guard import Guard
from keyturn.llm.http import http_client
from keyturn.policy.catalogue import Catalogue
from keyturn.rotations.contracts import RotationRequest
from keyturn.tasks.decide_rotation import TASK
from keyturn.workers.settings import Settings, load_settings
from keyturn.workers.wiring import open_cache, provider_of

PROMPT_VERSION: str = RotationRequest.model_fields["prompt_version"].default


def load_candidate(route: str | None) -> Settings:
    """Return a worker's settings with the candidate's route in place of its own; raises SettingsInvalid."""
    if route is not None:
        os.environ["KEYTURN_ROUTES"] = route  # checked as a worker's own is, with the keys that it needs
    return load_settings()


async def replay_labels(
    engine: AsyncEngine,
    settings: Settings,
    catalogue: Catalogue,
    *,
    tenant_id: str,
    prompt_version: str | None = None,
    limit: int | None = None,
    max_usd: Decimal | None = None,
    cached: bool = False,
) -> Sequence[Replayed]:
    """Ask the candidate a tenant's labelled cases, the newest first; returns what it made of each.

    Args:
        engine: the database.
        settings: the candidate's, as of `load_candidate`.
        catalogue: the candidate's policy lines.
        tenant_id: whose cases.
        prompt_version: of the wording; None for the current one.
        limit: of cases; None for all.
        max_usd: what the calls may cost, measured by the dearest so far; None for no limit.
        cached: whether the response cache answers, and takes new answers.

    Raises:
        NoLabels: there is no case.
        PayloadError: the keys here do not open a case.
        UnknownPromptVersion: there is no such wording.
    """
    version = prompt_version or PROMPT_VERSION
    TASK.instructions(version)
    cases = await LabelStore(engine, settings.keyring).cases(tenant_id=tenant_id, limit=limit)
    if not cases:
        raise NoLabels(f"tenant {tenant_id} has no labelled case")
    async with open_candidate(engine, settings, catalogue, cached=cached) as boundary:
        budget = None if max_usd is None else Budget(max_usd, None, may_exceed=False)
        return await Replay(boundary, catalogue, version, budget).run(cases)


@asynccontextmanager
async def open_candidate(
    engine: AsyncEngine, settings: Settings, catalogue: Catalogue, *, cached: bool
) -> AsyncIterator[ModelBoundary]:
    """Yield the candidate's boundary; the last records are written when it is closed."""
    async with AsyncExitStack() as parts:
        http = await parts.enter_async_context(http_client(AT_ONCE))
        ledger = await parts.enter_async_context(recorder(LedgerStore(engine)))
        routes = settings.routes
        yield ModelBoundary(
            {task: [provider_of(settings, http, target) for target in route] for task, route in routes.items()},
            catalogue,
            guard=Guard(settings.prices, usd_per_call=settings.usd_per_call),
            record=ledger.record,
            cache=await open_cache(settings, engine, parts) if cached else None,
        )
