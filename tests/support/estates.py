"""Estates for the tests: inventories of any size, a provider that decides by the evidence, and a worker on both."""

import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker

from keyturn.application.encryption import names_of
from keyturn.application.runs import Handle, start_run
from keyturn.application.versioning import UNPINNED
from keyturn.bulk.contracts import BulkOrder, BulkSource
from keyturn.bulk.offline import OfflineRuns
from keyturn.bulk.pages import BulkJudge
from keyturn.bulk.store import BulkStore
from keyturn.cache.sql import SqlCache
from keyturn.calls import CallRecord
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.lab import stack
from keyturn.ledger.prices import RateCard
from keyturn.llm.batches import BatchClient
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.concurrency import ConcurrencyLimit
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.guard import Guard
from keyturn.llm.providers import price_lists_of_providers
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.tasks.definition import Prompt
from keyturn.waivers.store import WaiverBook, WaiverStore
from keyturn.workers.bulk import BulkRunActivities, load_source, run_encryption
from keyturn.workers.bulk_workers import bulk_workers
from keyturn.workers.people_first import (
    BETWEEN_QUESTIONS,
    OF_PEOPLE,
    NotesPeople,
    Pace,
    PacedPermits,
    PeoplesWork,
)
from keyturn.workers.rate_card import read_rate_card
from keyturn.workers.run_rotations import RunRotations
from keyturn.workers.wiring import look_up_owners, look_up_waivers
from keyturn.workflows.bulk import BulkWorkflow, bulk_id
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.boundaries import guarded
from tests.support.keys import KEYRING

LINE = "CIS-AWS-4.0-1.14"
NOW = (datetime.now(UTC) - timedelta(days=1)).replace(hour=9, minute=0, second=0, microsecond=0)


def estate(file: Path, *, keys: int, due: Callable[[int], bool] = lambda number: number % 10 == 0) -> Path:
    """Write an inventory of `keys` keys; those that are `due` are older than the line's window.

    The others are unknown of age, so that the model is asked, and says that it is not specified.
    """
    with file.open("w") as opened:
        for number in range(keys):
            row: dict[str, Any] = {
                "account_id": f"acct_{number:06}",
                "key_id": f"key_{number:06}",
                "kind": "access_key",
            }
            if due(number):
                row["last_rotated_at"] = (NOW - timedelta(days=100 + number % 100)).isoformat()
            opened.write(json.dumps(row) + "\n")
    return file


class Judge:
    """A provider that decides by the evidence in the prompt; `fails` may raise for a call, by its number from 1."""

    name = "scripted"
    model = "m-1"
    passes_quota_on = False

    def __init__(self, fails: Callable[[int], BaseException | None] = lambda _number: None) -> None:
        self.concurrency = ConcurrencyLimit()
        self.asked: Counter[str] = Counter()
        self.calls = 0
        self.fails = fails

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        with self.concurrency.call():
            return self._answer(prompt)

    def _answer(self, prompt: Prompt) -> Completion:
        self.calls += 1
        failure = self.fails(self.calls)
        if failure is not None:
            raise failure
        account = re.search(r'"account_id":\s*"([^"]+)"', prompt.user)
        assert account is not None
        self.asked[account[1]] += 1
        if "record_id" in prompt.user:
            said: dict[str, Any] = {
                "summary": "Logins.",
                "record_ids": ["r1"],
                "needs_attention": "evil" in prompt.user,
            }
        elif re.search(r'"age_days":\s*null', prompt.user):
            said = {"decision": "not_specified", "rotation_window_days": None, "source_line_ids": []}
        else:
            said = {"decision": "eligible", "rotation_window_days": 90, "source_line_ids": [LINE]}
        return Completion(json.dumps(said), "complete", "stop", "m-1", Usage(250, 40))


class BulkPlace:
    """A worker for runs, in this process."""

    def __init__(self, client: Client, queue: str, engine: AsyncEngine, provider: Any, catalogue: Catalogue) -> None:
        self.client = client
        self.queue = queue
        self.engine = engine
        self.provider = provider
        self.catalogue = catalogue
        self.store = BulkStore(engine)
        self.encryption = run_encryption(KEYRING)
        self.tenant = f"t-{uuid.uuid4().hex[:12]}"  # the server is shared, and the same keys mean the same rotation
        self.records: list[CallRecord] = []
        self.permits = getattr(provider, "concurrency", None) or ConcurrencyLimit()
        self.batches: dict[str, BatchClient] = {}
        self.boundary = ModelBoundary(
            {"*": [provider]}, catalogue, guard=guarded(), record=self.records.append, cache=SqlCache(engine)
        )

    def price_of_simulator(self) -> None:
        """Let the simulator's model have a price."""
        rates = read_rate_card(Path(stack.__file__).parent / "rates.toml")
        self.boundary = ModelBoundary(
            {"*": [self.provider]},
            self.catalogue,
            guard=Guard(RateCard(rates, lists=price_lists_of_providers())),
            record=self.records.append,
            cache=SqlCache(self.engine),
        )

    async def load(self, file: Path, run_id: str, **changed: Any) -> int:
        """Read an inventory into a run; returns how many keys are to be asked about."""
        source = BulkSource(
            **{"path": str(file), "policies": (LINE,), "question": "May it be rotated?", "observed_at": NOW} | changed
        )
        run = await load_source(
            source,
            run_id,
            self.tenant,
            bulk_id(self.tenant, run_id),
            self.store,
            self.catalogue,
            self.encryption,
            on_progress=lambda _count: None,
        )
        return run.asks

    def runs(self, *, inventory_root: Path | None, people: PeoplesWork | None = None) -> BulkRunActivities:
        """What the worker's activities do."""
        pace = Pace(people or PeoplesWork(), BETWEEN_QUESTIONS)
        judge = BulkJudge(
            self.store,
            self.boundary,
            RunRotations(self.client, self.queue),
            self.encryption,
            lambda _: PacedPermits(self.permits, pace),
        )
        offline = OfflineRuns(self.store, self.boundary, self.batches, self.encryption)
        return BulkRunActivities(
            self.store, judge, offline, self.catalogue, self.encryption, inventory_root=inventory_root
        )

    @asynccontextmanager
    async def working(self, *, pages_at_once: int = 2, keys_per_second: float | None = None) -> AsyncIterator[None]:
        from tests.support.workers_for_tests import rotation_activities

        work = PeoplesWork()
        runs = self.runs(inventory_root=Path("/"), people=work)
        waiver_of = look_up_waivers(
            WaiverBook(WaiverStore(self.engine), Owners()), self.catalogue, look_up_owners(self.engine, Owners())
        )
        rotation = rotation_activities(
            self.boundary, JobStore(self.engine), self.catalogue, names_of(self.client), waiver_of
        )
        people = Worker(
            self.client,
            task_queue=self.queue,
            workflows=[RotationWorkflow, BulkWorkflow],
            activities=rotation,
            interceptors=[NotesPeople(work, OF_PEOPLE)],
        )
        async with (
            bulk_workers(
                self.client,
                self.queue,
                runs,
                rotation,
                pages_at_once=pages_at_once,
                keys_per_second=keys_per_second,
                deployment=UNPINNED,
                people=work,
            ),
            people,
        ):
            yield


def bulk_place(client: Client, queue: str, engine: AsyncEngine, provider: Any) -> BulkPlace:
    return BulkPlace(client, queue, engine, provider, load_catalogue())


async def started(place: BulkPlace, run_id: str, **changed: Any) -> Handle:
    order = BulkOrder(**{"run_id": run_id, "tenant_id": place.tenant, "page_size": 10} | changed)
    return await start_run(place.client, order, task_queue=place.queue)


async def jobs_of(engine: AsyncEngine) -> set[str]:
    """The accounts that have a job, each with one; and each job with its audit row."""
    async with engine.connect() as connection:
        accounts = list((await connection.execute(select(rotation_jobs.c.account_id))).scalars())
        created = select(func.count()).select_from(job_audit).where(job_audit.c.event == "created")
        assert (await connection.execute(created)).scalar_one() == len(accounts)
    assert len(set(accounts)) == len(accounts)
    return set(accounts)


def due(count: int) -> set[str]:
    return {f"acct_{number:06}" for number in range(0, count, 10)}
