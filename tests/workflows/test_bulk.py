"""Whole estates on a real server and both databases: exactly the right jobs, whatever stops a run on its way."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker

from keyturn.activities.judge_page import HALT_SECONDS, JudgePage
from keyturn.application.answers import AnswerRefused, answer
from keyturn.application.any_id import find_id, summary_of_any
from keyturn.application.parked import waiting_rotations
from keyturn.application.runs import Handle, RunStopped, follow, start_run, states_of_runs
from keyturn.bulk.contracts import (
    HALTED,
    BulkOrder,
    BulkOutcome,
    BulkPage,
    BulkSource,
    BulkStatus,
    PageResult,
    RunProgress,
    RunResult,
)
from keyturn.bulk.errors import UnknownRun
from keyturn.bulk.load import digest_of
from keyturn.bulk.pages import BulkJudge
from keyturn.bulk.store import OPEN
from keyturn.bulk.tables import bulk_items
from keyturn.call_errors import ContextWindowExceeded
from keyturn.database import open_database
from keyturn.inventory.errors import InventoryInvalid, InventoryRefused
from keyturn.jobs.store import JobStore
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.ledger.prices import RateCard
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import ProviderUnavailable, QuotaExhausted, RateLimited
from keyturn.llm.guard import Guard
from keyturn.llm.wire import Completion, OnText
from keyturn.payload_errors import PayloadError
from keyturn.progress import summary_of
from keyturn.rotations.contracts import Abandonment, Denial, Resumption
from keyturn.tasks.definition import Prompt
from keyturn.workers.bulk import run_encryption
from keyturn.workers.run_rotations import RunRotations
from keyturn.workflows.bulk import (
    BATCH_LOOK_FIRST,
    BATCH_WITHIN,
    BULK_QUEUE,
    FOLLOW_WITHIN,
    LOOK_FIRST,
    BulkWorkflow,
    next_batch_look,
    next_look,
)
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import facts, order
from tests.support.estates import LINE, NOW, BulkPlace, Judge, bulk_place, due, estate, jobs_of, started
from tests.support.keys import KEYRING

OMAR = Resumption(operator="omar")
LUNCH = Abandonment(operator="omar", reason="lunch")


@pytest.fixture
def place(temporal: Client, queue: str, engine: AsyncEngine) -> BulkPlace:
    return bulk_place(temporal, queue, engine, Judge())


async def until(handle: Handle, state: Callable[[BulkStatus], bool]) -> BulkStatus:
    async with asyncio.timeout(60):
        async for status in follow(handle, every=0.02):
            if isinstance(status, BulkStatus) and state(status):
                return status
    raise AssertionError("it ended before")


def test_a_runs_looks_fit_into_a_history_and_nobody_waits_much_longer_for_them() -> None:
    """A day of looks at rotations, or 26 hours at any number of batches; Temporal ends a history of 51,200 events."""
    passed, wait, looks = timedelta(0), LOOK_FIRST, 0
    while passed < FOLLOW_WITHIN:
        assert wait <= max(passed / 10, LOOK_FIRST)
        passed, wait, looks = passed + wait, next_look(passed + wait), looks + 1
    assert looks * 11 < 51_200 / 2, "the run's pages are in it, too"
    for left in (1, 10, 1_000):
        passed, wait, looks = timedelta(0), BATCH_LOOK_FIRST, 0
        while passed < BATCH_WITHIN:
            passed, wait, looks = passed + wait, next_batch_look(wait, left), looks + left
        assert looks * 6 < 51_200, left


async def test_each_key_that_is_due_gets_its_one_job_and_no_other_does(
    place: BulkPlace, engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """A hundred keys, ten of them due: one call a key, ten jobs of ten rotations, and the cost is reported."""
    assert await place.load(estate(tmp_path / "keys.jsonl", keys=100), run_id) == 100
    async with place.working():
        handle = await started(place, run_id)
        outcome = await handle.result()
    assert (outcome.status, outcome.progress.outcomes) == ("done", {"job_created": 10, "not_specified": 90})
    assert (outcome.progress.total, outcome.progress.asked) == (100, 100)
    assert await jobs_of(engine) == due(100)
    # The rotation's own decision is the answer that the page was given, from the cache: nothing is paid twice.
    assert (place.provider.calls, set(place.provider.asked.values())) == (100, {1})
    (item, *_) = await place.store.items(run_id, after=0, limit=1)
    assert (item["outcome"], item["decided_by"], item["policy_lines"]) == ("job_created", "model", [f"{LINE}@1"])
    assert item["job_id"].startswith("job_")
    run = await place.store.run(run_id, tenant_id=place.tenant)
    assert "May it be rotated?" not in str(run) + str(await place.store.items(run_id, after=0, limit=100))
    paid = [record.cost_usd or Decimal(0) for record in place.records]
    assert outcome.progress.cost_usd == sum(paid, Decimal(0))


async def test_a_key_that_has_its_job_under_another_line_is_no_failure(
    sqlite_place: BulkPlace, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """The item names the job; and the same run again asks nothing about it, which would only cost."""
    place = sqlite_place
    urgent = order(tenant_id=place.tenant, account_id="acct_000000", credential=facts(key_id="key_000000"))
    decision = urgent.decision.model_copy(update={"rotate_by": datetime.now(UTC) - timedelta(days=30)})
    urgent = urgent.model_copy(update={"decision": decision})
    held = await JobStore(sqlite_engine).create_once(urgent, idempotency_key="another-line", fence=1)
    await place.load(estate(tmp_path / "keys.jsonl", keys=20), run_id)
    async with place.working():
        outcome = await (await started(place, run_id)).result()
        assert outcome.progress.outcomes == {"job_exists": 1, "job_created": 1, "not_specified": 18}
        asked = place.provider.calls
        await (await started(place, run_id)).result()
        assert place.provider.calls == asked
    (item, *_) = await place.store.items(run_id, after=0, limit=1)
    assert (item["outcome"], item["reason"]) == ("job_exists", "open_job_exists")
    assert f"`keyturn status {held.job_id}`" in item["explanation"]
    assert "1 already has a job" in summary_of(outcome.progress)


async def test_what_the_evidence_settles_is_not_asked_unless_one_says_so(
    sqlite_place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """Young and inactive keys are written down with their reason; `always_ask` asks about them too."""
    place = sqlite_place
    file = tmp_path / "keys.csv"
    file.write_text(
        "account_id,key_id,kind,age_days,active\na,k1,access_key,5,\nb,k2,access_key,400,false\nc,k3,access_key,,\nd,,,,\n"
    )
    assert await place.load(file, run_id) == 1
    items = await place.store.items(run_id, after=0, limit=10)
    assert [(item["outcome"], item["reason"], item["ask"]) for item in items] == [
        ("nothing_due", "inside_every_window", None),
        ("nothing_due", "inactive", None),
        (None, None, 1),
        ("bad_row", None, None),
    ]
    assert await place.load(file, f"{run_id}-all", always_ask=True) == 3


async def test_a_run_that_is_begun_again_asks_nothing_twice(
    place: BulkPlace, engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Cancelled in the middle, then the same command: it continues with what is open."""
    file = estate(tmp_path / "keys.jsonl", keys=200)
    await place.load(file, run_id)
    async with place.working():
        handle = await started(place, run_id, pages_at_once=1)
        await until(handle, lambda now: now.progress.asked >= 30)
        await answer(handle, "cancel", LUNCH)
        first = await handle.result()
        assert first.status == "cancelled"
        assert 30 <= first.progress.asked < 200
        with pytest.raises(AnswerRefused, match="ended"):
            await answer(handle, "pause", OMAR)
        await place.load(file, run_id)
        second = await (await started(place, run_id)).result()
    assert (second.status, second.progress.asked) == ("done", 200)
    assert set(place.provider.asked.values()) == {1}
    assert await jobs_of(engine) == due(200)


class SlowJudge(Judge):
    """One that needs half a second for an answer."""

    begun = 0  # calls that were made, whether or not their answer was waited for

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        with self.concurrency.call():
            self.begun += 1
            await asyncio.sleep(0.5)
            return self._answer(prompt)


@pytest.mark.parametrize("page_size", [300, 10])
async def test_a_run_is_paused_and_goes_on_by_hand(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path, page_size: int
) -> None:
    """While it is paused no key is asked about, also of a page that has begun; what was being asked ends, and counts.

    Small pages wait in line for the worker when the run is paused: none of them begins.
    """
    provider = SlowJudge()
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    await place.load(estate(tmp_path / "keys.jsonl", keys=300, due=lambda number: False), run_id)
    async with place.working():
        handle = await started(place, run_id, page_size=page_size)
        while not provider.calls:
            await asyncio.sleep(0.05)
        await answer(handle, "pause", OMAR)
        with pytest.raises(AnswerRefused, match="not_running"):
            await answer(handle, "pause", OMAR)
        status = await until(handle, lambda now: now.phase == "paused")
        asked = -1
        while asked != provider.calls:  # what was being asked ends
            asked = provider.calls
            await asyncio.sleep(0.5)  # nothing to wait for: that nothing happens is the point
        assert asked < 300
        assert status.paused == "by_hand"
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.outcomes == {"not_specified": 300}
    assert (provider.begun, set(provider.asked.values())) == (300, {1}), "nothing that was paid is asked again"


async def test_what_a_run_is_at_is_said_in_the_same_words_whoever_is_asked(
    sqlite_place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """Also of one that was ended from outside, and so could not write its end."""
    place = sqlite_place
    file = estate(tmp_path / "keys.jsonl", keys=4)
    paused, failed, cancelled, done = (f"{run_id}-{name}" for name in ("paused", "failed", "cancelled", "done"))
    for name in (paused, failed, cancelled, done):
        await place.load(file, name)

    async def states() -> dict[str, tuple[str, str]]:
        rows = await place.store.runs(tenant_id=place.tenant, limit=10)
        listed = await states_of_runs(place.client, rows)
        found: dict[str, tuple[str, str]] = {}
        for name in (paused, failed, cancelled, done):
            summary = await summary_of_any(place.client, find_id(name, tenant=place.tenant))
            found[name.rpartition("-")[2]] = (listed[name], summary.state)
        return found

    async with place.working():
        runs = {name: await started(place, name, paused="by_hand") for name in (paused, failed, cancelled)}
        runs[done] = await started(place, done)
        await runs[done].result()
        for name in (paused, failed, cancelled):
            await until(runs[name], lambda now: now.phase == "paused")
        await runs[failed].terminate("the operator's mistake")
        await answer(runs[cancelled], "cancel", Abandonment(operator="omar", reason="not now"))
        await runs[cancelled].result()
        expected = {name: (name, name) for name in ("paused", "failed", "cancelled", "done")}
        async with asyncio.timeout(30):
            while await states() != expected:  # visibility follows histories within seconds
                await asyncio.sleep(0.1)
        await answer(runs[paused], "cancel", Abandonment(operator="omar", reason="not now"))
        status = await runs[paused].query(BulkWorkflow.status)
        assert (status.paused, status.hint, status.cancelled) == (None, None, True)


async def test_where_no_price_is_known_one_call_is_made_and_those_that_wait_for_its_cost_are_not(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    provider = SlowJudge()
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    place.boundary = ModelBoundary(
        {"*": [provider]}, place.catalogue, guard=Guard(RateCard({})), record=place.records.append
    )
    await place.load(estate(tmp_path / "keys.jsonl", keys=40, due=lambda number: False), run_id)
    async with place.working():
        handle = await started(place, run_id, page_size=40, max_usd=Decimal(5))
        status = await until(handle, lambda now: now.phase == "paused")
    assert (status.paused, provider.calls) == ("price_unknown", 1)


async def test_while_jobs_come_temporal_is_not_asked_about_each_rotation(
    sqlite_place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """It is once none has come since the last look: a rotation that ended without a job is found then."""
    looked: list[str] = []

    class Rotations:
        async def start(self, request: Any) -> str:
            raise AssertionError

        async def look(self, workflow_id: str) -> None:
            looked.append(workflow_id)

    place = sqlite_place
    await place.load(estate(tmp_path / "keys.jsonl", keys=3, due=lambda _number: True), run_id)
    begun = [{"ordinal": number, "outcome": "started", "workflow_id": f"w-{number}"} for number in (1, 2, 3)]
    await place.store.store_verdicts(run_id, begun, over=OPEN)
    judge = BulkJudge(place.store, place.boundary, Rotations(), place.encryption, lambda _task: place.permits)
    found = iter([1, 0])

    async def update(_run_id: str, *, tenant_id: str) -> int:
        return next(found)

    place.store.update_job_outcomes = update  # type: ignore[assignment, method-assign]
    for expected in ([], ["w-1", "w-2", "w-3"]):
        result = await judge.update_outcomes(run_id, tenant_id=place.tenant)
        assert (result.left, sorted(looked)) == (3, expected)


async def test_a_run_that_is_resumed_before_its_pages_have_stopped_goes_on(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    provider = SlowJudge()
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    await place.load(estate(tmp_path / "keys.jsonl", keys=100, due=lambda number: False), run_id)
    async with place.working(pages_at_once=1):
        handle = await started(place, run_id, page_size=50)
        while not provider.calls:
            await asyncio.sleep(0.05)
        await answer(handle, "pause", OMAR)
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.outcomes == {"not_specified": 100}


async def test_a_quota_that_is_used_up_pauses_the_run_at_once(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Instead of asking the rest: calls that were under way, and then none. Resumed, it asks what was left open."""
    exhausted = True
    provider = SlowJudge(lambda number: QuotaExhausted("no money") if exhausted and number > 25 else None)
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    await place.load(estate(tmp_path / "keys.jsonl", keys=300), run_id)
    async with place.working():
        handle = await started(place, run_id)
        status = await until(handle, lambda now: now.phase == "paused")
        assert (status.paused, provider.calls < 60) == ("quota_exhausted", True)
        assert status.hint is not None
        exhausted = False
        await answer(handle, "resume", OMAR)
        outcome = await handle.result()
    assert outcome.progress.outcomes == {"job_created": 30, "not_specified": 270}
    assert set(provider.asked.values()) == {1}


async def test_twenty_failures_in_a_row_pause_the_run_and_single_ones_do_not(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """A provider that is down for good pauses it before the rest is burned through; one key's failure is one key's."""
    down = False
    provider = Judge(lambda number: ProviderUnavailable("down") if down or number % 30 == 29 else None)
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    await place.load(estate(tmp_path / "keys.jsonl", keys=100), run_id)
    async with place.working(pages_at_once=1):
        outcome = await (await started(place, run_id, page_size=50, pages_at_once=1)).result()
        # Asked again with the page: nothing is left over.
        assert outcome.progress.outcomes == {"job_created": 10, "not_specified": 90}
        down = True
        before = provider.calls
        other = estate(tmp_path / "other.jsonl", keys=400, due=lambda number: False)
        other.write_text(other.read_text().replace("acct_", "other_"))
        await place.load(other, f"{run_id}-2")
        handle = await started(place, f"{run_id}-2", page_size=50, pages_at_once=1)
        status = await until(handle, lambda now: now.phase == "paused")
        assert status.paused == "provider_unavailable"
        assert provider.calls - before <= 3 * 28  # three attempts of one page: twenty, and what was under way
        down = False
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.outcomes == {"not_specified": 400}


async def test_what_one_item_alone_is_refused_for_is_its_own_failure_and_the_same_command_asks_it_again(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """One that is too long for the model would otherwise hold a run for ever. What was paid before is counted once."""
    too_long = True
    provider = Judge(lambda number: ContextWindowExceeded("too long") if too_long and number == 7 else None)
    place = bulk_place(temporal, queue, sqlite_engine, provider)
    file = estate(tmp_path / "keys.jsonl", keys=40, due=lambda number: False)
    await place.load(file, run_id)
    async with place.working(pages_at_once=1):
        first = await (await started(place, run_id, pages_at_once=1)).result()
        assert first.progress.outcomes == {"not_specified": 39, "failed": 1}
        too_long = False
        await place.load(file, run_id)
        paid = first.progress.cost_usd
        second = await (await started(place, run_id, pages_at_once=1, max_usd=paid * 2)).result()
    assert second.progress.outcomes == {"not_specified": 40}
    assert (second.progress.asked, provider.calls) == (40, 41)
    assert paid < second.progress.cost_usd < paid * 2


async def test_what_an_attempt_writes_that_woke_up_late_undoes_nothing(
    place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """Its item continued without it: a rotation was started, or has ended."""
    await place.load(estate(tmp_path / "keys.jsonl", keys=1), run_id)
    write = place.store.store_verdicts
    for outcome, over, stays in (
        ("failed", OPEN, "failed"),
        ("eligible", OPEN, "eligible"),
        ("failed", OPEN, "eligible"),
        ("started", ["eligible"], "started"),
        ("eligible", OPEN, "started"),
        ("rejected", ["started"], "rejected"),
        ("started", ["eligible"], "rejected"),
    ):
        await write(run_id, [{"ordinal": 1, "outcome": outcome}], over=over)
        (item,) = await place.store.items(run_id, after=0, limit=2)
        assert item["outcome"] == stays


async def test_a_list_of_key_ids_beside_a_report_makes_another_run(tmp_path: Path) -> None:
    """The same report, first without key ids and then with them, is not the same question."""
    file, ids = tmp_path / "report.csv", tmp_path / "keys.json"
    file.write_text("user\n")
    ids.write_text("{}")
    plain = BulkSource(path=str(file), policies=(LINE,), question="May it?", user_id="luna")
    joined = plain.model_copy(update={"access_keys": str(ids)})
    digests = {await digest_of(plain, file), await digest_of(joined, file)}
    ids.write_text("{ }")
    digests.add(await digest_of(joined, file))
    assert len(digests) == 3
    assert await digest_of(plain.model_copy(update={"user_id": "omar"}), file) in digests


async def test_a_limit_of_cost_pauses_the_run(sqlite_place: BulkPlace, run_id: str, tmp_path: Path) -> None:
    """Once; resumed, it continues without a limit."""
    place = sqlite_place
    await place.load(estate(tmp_path / "keys.jsonl", keys=60), run_id)
    async with place.working(pages_at_once=1):
        handle = await started(place, run_id, pages_at_once=1, max_usd=Decimal("0.0000001"))
        status = await until(handle, lambda now: now.phase == "paused")
        if status.progress.cost_usd == 0:
            pytest.fail("the scripted model has no price: the limit could not be reached")
        assert (status.paused, status.progress.asked) == ("max_usd_reached", 1)
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.asked == 60


async def test_a_limit_of_cost_holds_to_within_one_call(sqlite_place: BulkPlace, run_id: str, tmp_path: Path) -> None:
    """With several pages and many calls at once; what the limit allows is used."""
    place = sqlite_place
    await place.load(estate(tmp_path / "keys.jsonl", keys=60), run_id)
    each, limit = Decimal("0.00098"), Decimal("0.03")  # a call, and some thirty of the sixty
    async with place.working():
        handle = await started(place, run_id, pages_at_once=3, max_usd=limit)
        status = await until(handle, lambda now: now.phase == "paused")
        assert status.paused == "max_usd_reached"
        assert limit - each < status.progress.cost_usd <= limit + each, (limit, each)
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.asked == 60


async def test_a_limit_of_cost_pauses_a_run_whose_model_has_no_price(
    sqlite_place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """At the first answer: the limit could not be kept. Resumed, the run goes on without one."""
    place = sqlite_place
    place.boundary = ModelBoundary(
        {"*": [place.provider]}, place.catalogue, guard=Guard(RateCard({})), record=place.records.append
    )
    await place.load(estate(tmp_path / "keys.jsonl", keys=60), run_id)
    async with place.working():
        handle = await started(place, run_id, pages_at_once=3, max_usd=Decimal("0.03"))
        status = await until(handle, lambda now: now.phase == "paused")
        assert (status.paused, status.progress.asked) == ("price_unknown", 1)
        assert status.hint is not None
        assert "KEYTURN_RATE_CARD" in status.hint
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.asked == 60


async def test_answers_from_the_cache_do_not_make_a_call_look_cheap(
    sqlite_place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """Most of the run is cached at no cost: the limit is measured by the dearest call, and not by the average."""
    place = sqlite_place
    await place.load(estate(tmp_path / "first.jsonl", keys=50), f"{run_id}-first")
    file = estate(tmp_path / "all.jsonl", keys=100)
    await place.load(file, run_id)
    each = Decimal("0.00098")
    async with place.working():
        await (await started(place, f"{run_id}-first")).result()
        limit = each * 10
        handle = await started(place, run_id, pages_at_once=3, max_usd=limit)
        status = await until(handle, lambda now: now.phase == "paused")
        assert status.paused == "max_usd_reached"
        assert limit - each < status.progress.cost_usd <= limit + each, (limit, each)
        await answer(handle, "resume", OMAR)
        assert (await handle.result()).progress.asked == 100
    assert place.provider.calls == 100


async def test_a_long_run_goes_on_under_new_histories(sqlite_place: BulkPlace, run_id: str, tmp_path: Path) -> None:
    """Its history never comes near the server's limit, and nothing is counted twice."""
    place = sqlite_place
    await place.load(estate(tmp_path / "keys.jsonl", keys=400), run_id)
    async with place.working():
        handle = await started(place, run_id, events_a_history=100)
        first = (await handle.describe()).run_id
        outcome = await handle.result()
        last = (await handle.describe()).run_id
    assert outcome.progress.outcomes == {"job_created": 40, "not_specified": 360}
    assert first != last
    history = await place.client.get_workflow_handle(handle.id, run_id=first).fetch_history()
    assert len(history.events) < 200
    assert set(place.provider.asked.values()) == {1}


class Stopping:
    """Executes a run of twelve pages, of which 8 and 9 cannot be judged until it continues under a new history."""

    def __init__(self) -> None:
        self.judged: list[int] = []
        self.stops = 0
        self.later = asyncio.Event()
        self.fixed = False

    async def load(self, order: BulkOrder, *, workflow_id: str, at: datetime) -> RunProgress:
        self.fixed = order.next_page > 0
        return RunProgress(total=120, asks=120, asked=10 * order.next_page)

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        number = page.first // 10
        if number in {8, 9} and not self.fixed:
            if number == 9:
                await self.later.wait()
            else:
                self.stops += 1
            raise PayloadError("its key is not here")
        self.judged.append(number)
        return PageResult(progress=RunProgress(total=10, asks=10, asked=10))

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        return RunResult(progress=RunProgress(total=120, asks=120, asked=10 * len(self.judged)), left=0)

    async def end(self, run_id: str, status: str) -> None: ...


async def test_pages_that_were_stopped_are_in_the_next_history_too(temporal: Client, queue: str, run_id: str) -> None:
    """They stand in front, the last that stopped first: the new history starts at the first that is open."""
    runs: Any = Stopping()
    pages, rounds = JudgePage(runs), 0
    activities: list[Callable[..., Any]] = [pages.load_run, pages.judge_page, pages.settle_run, pages.end_run]
    async with (
        Worker(temporal, task_queue=queue, workflows=[BulkWorkflow]),
        Worker(temporal, task_queue=queue + BULK_QUEUE, activities=activities),
        asyncio.timeout(60),
    ):
        order = BulkOrder(run_id=run_id, page_size=10, pages_at_once=2, events_a_history=200)
        handle = await start_run(temporal, order, task_queue=queue)
        while not runs.fixed:
            while runs.stops == rounds and not runs.fixed:
                await asyncio.sleep(0.02)
            rounds += 1
            await until(handle, lambda now: now.paused is not None or runs.fixed)
            runs.later.set()
            while (await handle.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.02)
            runs.later.clear()
            with suppress(AnswerRefused):  # it has resumed already
                await answer(handle, "resume", OMAR)
        outcome = await handle.result()
    assert outcome.progress.asked == 120
    assert sorted(runs.judged) == list(range(12))


class Halting(Stopping):
    """Executes a run whose first page asks until it is halted; `then` is what it returns, and what follows fails."""

    def __init__(self, then: PageResult) -> None:
        super().__init__()
        self.then = then
        self.begun = asyncio.Event()

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        self.judged.append(page.first)
        if self.begun.is_set():
            raise PayloadError("its key is not here")
        self.begun.set()
        await stop.wait()
        return self.then


@asynccontextmanager
async def halting(client: Client, queue: str, run_id: str, then: PageResult) -> AsyncIterator[tuple[Handle, Any]]:
    runs: Any = Halting(then)
    pages = JudgePage(runs)
    activities: list[Callable[..., Any]] = [pages.load_run, pages.judge_page, pages.settle_run, pages.end_run]
    async with (
        Worker(client, task_queue=queue, workflows=[BulkWorkflow]),
        Worker(
            client,
            task_queue=queue + BULK_QUEUE,
            activities=activities,
            max_heartbeat_throttle_interval=timedelta(seconds=HALT_SECONDS),
        ),
        asyncio.timeout(60),
    ):
        order = BulkOrder(run_id=run_id, page_size=10, pages_at_once=1)
        handle = await start_run(client, order, task_queue=queue)
        await runs.begun.wait()
        yield handle, runs


async def test_a_halted_page_of_which_nothing_is_left_counts_once(temporal: Client, queue: str, run_id: str) -> None:
    """All of its keys were being asked about when the run was paused: it is not judged again."""
    progress = RunProgress(total=10, asks=10, asked=10, outcomes={"not_specified": 10})
    async with halting(temporal, queue, run_id, PageResult(progress=progress, stopped=HALTED)) as (handle, runs):
        await answer(handle, "pause", OMAR)
        await until(handle, lambda now: now.phase == "paused")
        await answer(handle, "resume", OMAR)
        status = await until(handle, lambda now: now.phase == "paused")
        assert (status.progress.asked, runs.judged[:2]) == (10, [1, 11])
        await answer(handle, "cancel", LUNCH)
        await handle.result()


async def test_a_page_that_fails_after_it_was_halted_pauses_the_run(temporal: Client, queue: str, run_id: str) -> None:
    """It was halted once; what it does after the run was resumed is its own."""
    progress = RunProgress(total=10, asks=10, asked=4)
    async with halting(temporal, queue, run_id, PageResult(progress=progress, stopped=HALTED)) as (handle, _):
        await answer(handle, "pause", OMAR)
        assert (await until(handle, lambda now: now.phase == "paused")).paused == "by_hand"
        await answer(handle, "resume", OMAR)
        assert (await until(handle, lambda now: now.phase == "paused")).paused == PayloadError.kind
        await answer(handle, "cancel", LUNCH)
        await handle.result()


async def test_a_cancelled_run_is_not_paused_by_what_its_pages_met_at_last(
    temporal: Client, queue: str, run_id: str
) -> None:
    progress = RunProgress(total=10, asks=10, asked=4)
    async with halting(temporal, queue, run_id, PageResult(progress=progress, stopped="quota_exhausted")) as (
        handle,
        _,
    ):
        await answer(handle, "cancel", LUNCH)
        assert (await handle.result()).status == "cancelled"
        status = await handle.query(BulkWorkflow.status)
    assert (status.paused, status.cancelled) == (None, True)


async def test_what_fails_while_a_page_is_halted_stays_open(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Even at the last attempt: the page is judged again when the run is resumed."""
    stop = asyncio.Event()

    def fails(_number: int) -> BaseException:
        stop.set()
        return RateLimited("429")

    place = bulk_place(temporal, queue, sqlite_engine, Judge(fails))
    await place.load(estate(tmp_path / "keys.jsonl", keys=10, due=lambda number: False), run_id)
    rotations = RunRotations(temporal, "nobody")
    judge = BulkJudge(place.store, place.boundary, rotations, place.encryption, lambda _task: place.permits)
    page = BulkPage(run_id=run_id, tenant_id=place.tenant, first=1, last=10)
    halted = await judge.judge(page, attempt=3, last_attempt=True, stop=stop)
    assert (halted.stopped, halted.progress.asked) == (HALTED, 0)


async def test_keys_that_wait_for_a_person_do_not_hold_the_run(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """A line that wants an approval: the rotations wait, each its own, and the run says so and ends."""
    from keyturn.policy.catalogue import Catalogue, load_catalogue

    changed = {"approval": "required", "approvers": ("omar",)}
    catalogue = Catalogue(line.model_copy(update=changed) if line.id == LINE else line for line in load_catalogue())
    place = BulkPlace(temporal, queue, sqlite_engine, Judge(), catalogue)
    await place.load(estate(tmp_path / "keys.jsonl", keys=20), run_id)
    async with place.working():
        outcome = await (await started(place, run_id)).result()
        assert outcome.progress.outcomes == {"waiting": 2, "not_specified": 18}
        waiting = [row async for row in waiting_rotations(temporal, tenant=None, kind="approval", limit=1_000)]
        rows = await place.store.started_items(run_id, "waiting", after=0, limit=10)
        ids = [row["workflow_id"] for row in rows]
        assert set(ids) <= {row.workflow_id for row in waiting}
        refused, forgotten = map(temporal.get_workflow_handle, ids)
        status = await refused.query(RotationWorkflow.status)
        assert status.decision is not None
        await answer(refused, "deny", Denial(approver="omar", digest=status.decision.digest, reason="not now"))
        await refused.result()
        await forgotten.terminate()
        async with sqlite_engine.begin() as connection:  # its history has expired
            gone = {"workflow_id": f"rotate:{uuid.uuid4().hex}"}
            await connection.execute(update(bulk_items).where(bulk_items.c.workflow_id == forgotten.id).values(gone))
        again = await (await started(place, run_id)).result()
    assert again.progress.outcomes == {"rejected": 1, "failed": 1, "not_specified": 18}, "as they are when asked again"
    assert await jobs_of(sqlite_engine) == set()


async def test_workers_that_come_and_go_leave_exactly_the_jobs_of_an_undisturbed_run(
    temporal: Client, queue: str, engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Each worker is stopped in the middle of its pages, its calls cut off; the last one ends the run."""
    provider = Judge()
    place = bulk_place(temporal, queue, engine, provider)
    await place.load(estate(tmp_path / "keys.jsonl", keys=300), run_id)
    handle: Handle | None = None
    for seen in (40, 120, 200):
        working = place.working()
        async with working:
            handle = handle or await started(place, run_id)
            async with asyncio.timeout(60):
                while provider.calls < seen:
                    await asyncio.sleep(0.005)
    assert handle is not None
    async with place.working():
        outcome = await handle.result()
    assert outcome.progress.outcomes == {"job_created": 30, "not_specified": 270}
    assert await jobs_of(engine) == due(300)


async def test_a_scan_is_summarised_account_by_account_and_its_texts_are_encrypted(
    sqlite_place: BulkPlace, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """The nightly job beside rotations, by the same machinery: records and summaries are encrypted in the database."""
    place = sqlite_place
    file = tmp_path / "scan.jsonl"
    row = '{"account_id": "acct_%03d", "records": [{"record_id": "r1", "text": "%s login hunter2"}]}\n'
    file.write_text("".join(row % (number, "evil" if number % 5 == 0 else "plain") for number in range(25)))
    await place.load(file, run_id, task="summarize_scan", policies=(), question="")
    async with place.working():
        outcome = await (await started(place, run_id)).result()
    assert outcome.progress.outcomes == {"attention": 5, "summarized": 20}
    items = await place.store.items(run_id, after=0, limit=100)
    assert "hunter2" not in str(items)
    assert "Logins" not in str(items)
    assert "Logins." in place.encryption.decrypt(run_id, items[0]["content"])
    assert await jobs_of(sqlite_engine) == set()


async def test_a_run_of_a_directory_reads_its_newest_file_when_it_begins(
    sqlite_place: BulkPlace, tmp_path: Path
) -> None:
    """As a schedule has it: the run is named for the time when it fired."""
    place = sqlite_place
    folder = tmp_path / "inventories"
    folder.mkdir()
    estate(folder / "a.jsonl", keys=30)
    newest = estate(folder / "b.jsonl", keys=10)
    newest.touch()
    source = BulkSource(path=str(folder), policies=(LINE,), question="May it be rotated?", observed_at=NOW)
    async with place.working():
        name = f"nightly-{uuid.uuid4().hex[:8]}"
        handle = await started(place, name, source=source)
        outcome: BulkOutcome = await handle.result()
    assert (outcome.progress.total, outcome.run_id.startswith(f"{name}-20")) == (10, True)
    run = await place.store.run(outcome.run_id, tenant_id=place.tenant)
    assert run.source == str(newest)


async def read_below(root: Path | None, place: BulkPlace, source: BulkSource) -> RunProgress:
    """What a worker does first of a schedule's run."""
    order = BulkOrder(run_id=f"r-{uuid.uuid4().hex}", tenant_id=place.tenant, source=source)
    return await place.runs(inventory_root=root).load(order, workflow_id="bulk:t:r", at=datetime.now(UTC))


@pytest.mark.parametrize("way", ["elsewhere", "link", "folder_of_links", "up", "key_ids", "device", "pipe", "no_root"])
async def test_a_worker_reads_no_file_that_its_operator_did_not_give_it(
    way: str, sqlite_place: BulkPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A schedule's path is whatever its maker wrote; the failure says which rule, and not a letter of the file."""
    root = tmp_path / "inventories"
    (root / "links").mkdir(parents=True)
    shadow = tmp_path / "shadow"
    shadow.write_text("root:$6$hunter2:19000:0:99999:7:::\n")
    good = estate(root / "good.jsonl", keys=3)
    (root / "link").symlink_to(shadow)
    (root / "links" / "newest.csv").symlink_to(shadow)
    os.mkfifo(root / "pipe")
    path = {
        "elsewhere": shadow,
        "link": root / "link",
        "folder_of_links": root / "links",
        "up": root / ".." / "shadow",
        "device": Path("/dev/zero"),
        "pipe": root / "pipe",
    }.get(way, good)
    source = BulkSource(path=str(path), policies=(LINE,), question="May it be rotated?", observed_at=NOW)
    if way == "key_ids":
        source = source.model_copy(update={"access_keys": str(shadow)})
    run_root = {"no_root": None, "device": Path("/")}.get(way, root)
    async with asyncio.timeout(10):
        with pytest.raises(InventoryRefused) as refused:
            await read_below(run_root, sqlite_place, source)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("name", ["hunter2\0", "hunter2" * 60, "hunter2\udcff"], ids=["NUL", "too long", "no Unicode"])
async def test_a_path_that_is_none_is_refused_by_name(name: str, sqlite_place: BulkPlace, tmp_path: Path) -> None:
    """What the operating system raises of it would quote the path, in history and in the log."""
    source = BulkSource(path="x", policies=(LINE,), question="May it be rotated?", observed_at=NOW)
    source = source.model_copy(update={"path": f"{tmp_path}/{name}"})
    with pytest.raises(InventoryInvalid) as refused:
        await read_below(tmp_path, sqlite_place, source)
    assert "hunter2" not in str(refused.value)


async def test_what_a_worker_cannot_read_is_not_quoted_in_its_failure(sqlite_place: BulkPlace, tmp_path: Path) -> None:
    """A file below the root may still be another one than was meant."""
    file = tmp_path / "notes.csv"
    file.write_text("account_id,key_id,hunter2\na,b,c\n")
    source = BulkSource(path=str(file), policies=(LINE,), question="May it be rotated?", observed_at=NOW)
    with pytest.raises(InventoryInvalid, match="a column that is none of") as refused:
        await read_below(tmp_path, sqlite_place, source)
    assert "hunter2" not in str(refused.value)


async def test_a_load_that_was_cut_off_is_finished_and_one_of_other_bytes_begins_anew(
    place: BulkPlace, run_id: str, tmp_path: Path
) -> None:
    """Killed while it read: the same file continues; a file that changed in between is read from its start."""
    file = estate(tmp_path / "keys.jsonl", keys=1_200)
    seen = 0

    def kill(count: int) -> None:
        nonlocal seen
        seen = count
        raise KeyboardInterrupt

    from keyturn.workers.bulk import load_source

    source = BulkSource(path=str(file), policies=(LINE,), question="May it?", observed_at=NOW)
    with pytest.raises(KeyboardInterrupt):
        await load_source(
            source, run_id, place.tenant, "bulk:x", place.store, place.catalogue, place.encryption, on_progress=kill
        )
    assert seen == 500
    assert not (await place.store.run(run_id, tenant_id=place.tenant)).loaded
    estate(file, keys=700)
    assert await place.load(file, run_id) == 700
    assert (await place.store.progress(run_id)).total == 700
    file.unlink()
    with pytest.raises(InventoryInvalid, match="cannot be read"):
        await place.load(file, run_id)
    with pytest.raises(UnknownRun):
        await place.store.run(run_id, tenant_id="another")


async def test_a_cap_of_keys_a_second_holds_a_run(
    temporal: Client, queue: str, sqlite: URL, run_id: str, tmp_path: Path
) -> None:
    """At the server, for all workers together: six pages of fifty at a hundred keys a second take some seconds."""
    engine = open_database(sqlite)
    place = bulk_place(temporal, queue, engine, Judge())
    await place.load(estate(tmp_path / "keys.jsonl", keys=300, due=lambda number: False), run_id)
    async with place.working(keys_per_second=100):
        began = time.perf_counter()
        outcome = await (await started(place, run_id, page_size=50)).result()
        took = time.perf_counter() - began
    await engine.dispose()
    assert outcome.progress.outcomes == {"not_specified": 300}
    assert took > 2  # at once it takes less than a second


async def test_a_page_that_cannot_be_judged_waits_for_a_person_and_a_run_that_was_ended_is_reported(
    temporal: Client, queue: str, sqlite: URL, run_id: str, tmp_path: Path
) -> None:
    """The question is encrypted under a key that this worker does not hold: nothing is asked, and nothing is lost."""
    engine = open_database(sqlite)
    place = bulk_place(temporal, queue, engine, Judge())
    place.encryption = run_encryption(parse_keyring(new_keyring_text(), source="another"))
    await place.load(estate(tmp_path / "keys.jsonl", keys=20), run_id)
    place.encryption = run_encryption(KEYRING)
    async with place.working():
        handle = await started(place, run_id)
        status = await until(handle, lambda now: now.phase == "paused")
        assert (status.paused, status.progress.asked) == ("payload_key_unknown", 0)
        assert place.provider.calls == 0
        await handle.terminate()
        with pytest.raises(RunStopped, match="terminated"):
            await until(handle, lambda now: False)
    await engine.dispose()
