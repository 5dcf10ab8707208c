"""A run's questions through a provider's batch endpoint: submitted once, collected when it has answered.

What is accepted goes into the cache of answers, at half the price in the ledger. Then the pages are judged as ever:
what a batch answered is found there and grounded like any answer, and what it left out is asked at once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from keyturn.bulk.contracts import BatchResult, OfflineBatch
from keyturn.bulk.pages import Encryption, request_of
from keyturn.bulk.store import BulkStore, Run
from keyturn.contracts import ModelTask
from keyturn.errors import SettingsInvalid
from keyturn.llm.batches import BatchClient
from keyturn.llm.providers import load_providers
from keyturn.llm.wire import Completion
from keyturn.tasks.definition import Prompt

CLOCKS_AGREE_WITHIN = timedelta(minutes=5)  # this machine's and the provider's


class OfflineBoundary(Protocol):
    """Makes prompts and accepts answers; see `keyturn.llm.boundary.ModelBoundary`."""

    def prompt_of(self, request: ModelTask) -> Prompt: ...  # noqa: D102
    async def take(  # noqa: D102
        self, request: ModelTask, completion: Completion, provider: str, model: str, price: Decimal
    ) -> bool: ...


class OfflineRuns:
    """Submits and collects the batches of runs.

    Args:
        store: of the runs.
        boundary: of the model.
        providers: the batch client of each task; a task without one has none.
        encryption: of the run's texts.
    """

    def __init__(
        self,
        store: BulkStore,
        boundary: OfflineBoundary,
        providers: Mapping[str, BatchClient],
        encryption: Encryption,
    ) -> None:
        self._store = store
        self._boundary = boundary
        self._providers = providers
        self._encryption = encryption

    async def submit(self, batch: OfflineBatch) -> None:
        """Submit a batch, unless it was; one whose submit was cut off is looked for first.

        Raises:
            ProviderError: call again, it is not paid twice.
            SettingsInvalid: no provider of the route has batches.
            UnknownRun, JobStoreUnavailable: nothing was submitted.
        """
        known = await self._store.batch(batch.run_id, batch.number)
        if known is not None and known["batch_id"] is not None:
            return
        run = await self._store.run(batch.run_id, tenant_id=batch.tenant_id)
        provider = self._provider(run)
        items = await self._store.open_items(batch.run_id, batch.first, batch.last)
        if not items:
            return
        marker = f"{run.run_id}/{batch.number}"
        batch_id = None
        if known is None:
            names = {"provider": provider.name, "model": provider.model}
            await self._store.intend(run.run_id, batch.number, requests=len(items), **names)
        else:
            others = await self._store.known_batches(provider.name)
            since = known["intended_at"] - CLOCKS_AGREE_WITHIN
            batch_id = await provider.find(marker, count=known["requests"], since=since, known=others)
        if batch_id is None:
            batch_id = await provider.submit(marker, self._prompts(run, items))
        await self._store.note_batch(run.run_id, batch.number, batch_id=batch_id)

    async def collect(self, batch: OfflineBatch) -> BatchResult:
        """Cache the answers of a batch if it has ended; those that are missing are left to be asked at once.

        Raises:
            ProviderError, JobStoreUnavailable: call again; no answer is recorded twice.
        """
        known = await self._store.batch(batch.run_id, batch.number)
        if known is None or known["batch_id"] is None or known["ended_at"] is not None:
            return BatchResult(running=False, accepted=0 if known is None else known["answered"] or 0)
        run = await self._store.run(batch.run_id, tenant_id=batch.tenant_id)
        provider = self._provider(run)
        state = await provider.state(known["batch_id"])
        if state == "running":
            return BatchResult(running=True)
        accepted = 0
        if state == "ended":
            items = await self._store.open_items(batch.run_id, batch.first, batch.last)
            waiting = {_custom_id(run, item): item for item in items}
            async for answer in provider.answers(known["batch_id"]):
                item = waiting.pop(
                    answer.custom_id, None
                )  # a duplicate, or an answer that was not asked for, is skipped
                if item is None or answer.completion is None:
                    continue
                request = request_of(run, item, self._encryption)
                accepted += await self._boundary.take(
                    request, answer.completion, provider.name, provider.model, provider.price
                )
        await self._store.note_batch(run.run_id, batch.number, ended_at=datetime.now(UTC), answered=accepted)
        return BatchResult(running=False, accepted=accepted)

    def _provider(self, run: Run) -> BatchClient:
        provider = self._providers.get(run.task)
        if provider is None:
            having = ", ".join(name for name, one in load_providers().items() if one.batches is not None)
            raise SettingsInvalid(
                f"KEYTURN_ROUTES: --offline needs an endpoint with batches in the task's route: {having}, or one of "
                "KEYTURN_ENDPOINTS that has them"
            )
        return provider

    def _prompts(self, run: Run, items: Sequence[Mapping[str, Any]]) -> list[tuple[str, Prompt]]:
        return [
            (_custom_id(run, item), self._boundary.prompt_of(request_of(run, item, self._encryption))) for item in items
        ]


def _custom_id(run: Run, item: Mapping[str, Any]) -> str:
    """Letters, digits, - and _, as both providers accept them; unique to this run."""
    return f"k{item['ordinal']}-{hashlib.sha256(run.run_id.encode()).hexdigest()[:16]}"
