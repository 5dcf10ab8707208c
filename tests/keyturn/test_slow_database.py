"""A database that is slow, and not away: what is lost, paid twice or misreported while a disk or a network stalls."""

import asyncio
import itertools
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.bulk.contracts import BulkPage
from keyturn.bulk.pages import BulkJudge
from keyturn.cache.key import CacheKey
from keyturn.cache.sql import SqlCache
from keyturn.database import SQLITE_BUSY_MILLISECONDS, database_url, open_database, transaction
from keyturn.drafts.errors import DraftTakenOver
from keyturn.drafts.store import DraftStore
from keyturn.drafts.writing import DraftWriting
from keyturn.errors import JobStoreRefused, JobStoreUnavailable
from keyturn.jobs.tables import rotation_events
from keyturn.ledger.recorder import recorder
from keyturn.ledger.store import LedgerStore, midnight
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.wire import Completion, Usage
from keyturn.policy.catalogue import load_catalogue
from keyturn.workers.run_rotations import RunRotations
from tests.keyturn.test_ledger import call
from tests.support.boundaries import guarded
from tests.support.cases import NOW, request
from tests.support.estates import Judge, bulk_place, estate
from tests.support.keys import KEYRING
from tests.support.proxies import cabled
from tests.support.workers_for_tests import ELIGIBLE, Script

KEY = CacheKey("decide_rotation", "rotation_decision@1", "1", "d" * 64)
WHOSE = {"tenant_id": "default", "account_id": "acct_1", "requested_by": "luna", "run_id": "r"}


async def test_lookups_that_were_given_up_hold_no_connection_for_ever(
    postgresql: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections lose their other end at once, as at a failover; new ones are taken as soon as that is noticed."""
    monkeypatch.setattr("keyturn.database.TRANSACTION_SECONDS", 1.0)
    async with cabled(postgresql) as (cable, engine):
        cache = SqlCache(engine)
        async with transaction(engine), transaction(engine):
            pass
        cable.strand()
        assert await asyncio.gather(*(cache.find([KEY]) for _ in range(2))) == [None, None]
        # The driver takes five seconds to give a statement up.
        async with asyncio.timeout(30):
            while engine.pool.checkedout():  # type: ignore[attr-defined]
                await asyncio.sleep(0.05)
        async with transaction(engine) as one, transaction(engine) as other:
            for connection in (one, other):
                await connection.execute(text("SELECT 1"))


async def test_what_reads_the_ledger_says_that_the_database_does_not_answer(
    sqlite_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that all else has for it."""
    monkeypatch.setattr("keyturn.database.TRANSACTION_SECONDS", 0.1)
    ledger, cache = LedgerStore(sqlite_engine), SqlCache(sqlite_engine)
    async with sqlite_engine.connect():  # another caller has SQLite's one connection
        for read in (ledger.costs("task", since=midnight(datetime.now(UTC))), ledger.calls(limit=1), cache.clear()):
            with pytest.raises(JobStoreUnavailable):
                await read


async def test_a_stopping_worker_tries_until_its_time_is_over(sqlite_engine: AsyncEngine) -> None:
    """Its last rows wait for the holder of the connection, longer than the pool does."""
    ledger, busy = LedgerStore(sqlite_engine), SimpleNamespace(times=3)
    write = ledger.write

    async def slow(calls: Any) -> None:
        if busy.times:
            busy.times -= 1
            raise TimeoutError
        await write(calls)

    ledger.write = slow  # type: ignore[method-assign]
    async with recorder(ledger) as recording:
        recording.record(call(trace_id="last"))
    assert [row["trace_id"] for row in await ledger.calls(limit=9)] == ["last"]


async def test_a_beginning_anew_whose_answer_was_lost_is_the_same_when_it_is_said_again(engine: AsyncEngine) -> None:
    """Another provider continues writing; and a writer that was taken over starts nothing anew."""
    store = DraftStore(engine, KEYRING)
    first = await store.start("draft_1", **WHOSE, attempt=1)
    await store.show(first, "Of the first provider", first=True)
    anew = await store.anew(first)
    assert await store.anew(first) == anew
    await store.show(anew, "Of the second", first=True)
    draft = await store.find("draft_1", tenant_id="default")
    assert (draft.text, draft.generation) == ("Of the second", 2)
    await store.start("draft_1", **WHOSE, attempt=2)
    with pytest.raises(DraftTakenOver):
        await store.anew(first)


async def test_an_answer_is_not_held_back_by_what_shows_it() -> None:
    """A write that cannot be cancelled, as a driver's that waits for its disk, continues behind it."""
    begun, stalled, shown = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def show(*_: Any, **__: Any) -> None:
        begun.set()
        while not stalled.is_set():
            try:
                await asyncio.shield(stalled.wait())
            except asyncio.CancelledError:
                continue
        shown.set()

    async def answer(*_: Any, on_text: Any, **__: Any) -> Any:
        on_text("The text")
        await begun.wait()
        return SimpleNamespace(verdict=SimpleNamespace(text="The text"), call=call())

    async def start(*_: Any, **__: Any) -> None: ...

    store: Any = SimpleNamespace(start=start, show=show)
    asked: Any = SimpleNamespace(tenant_id="default", account_id="acct_1", user_id="luna")
    writing = DraftWriting(store, SimpleNamespace(answer=answer))
    async with asyncio.timeout(5):
        written = await writing.write("draft_1", asked, run_id="r", attempt=1)
    stalled.set()
    await shown.wait()  # nothing of it is left to the tests behind
    assert written.text == "The text"


async def test_verdicts_that_could_not_be_written_are_written_with_the_next(
    temporal: Client, sqlite_engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are paid for: a page that meets a database that is away for a moment leaves none of them behind."""
    place = bulk_place(temporal, "nobody", sqlite_engine, Judge())
    await place.load(estate(tmp_path / "keys.jsonl", keys=12, due=lambda _: False), "run-1")
    judged, faults = place.store.store_verdicts, [JobStoreUnavailable("away")]

    async def sometimes(*given: Any, **named: Any) -> None:
        if faults:
            raise faults.pop()
        await judged(*given, **named)

    monkeypatch.setattr(place.store, "store_verdicts", sometimes)
    judge = BulkJudge(
        place.store,
        place.boundary,
        RunRotations(temporal, "nobody"),
        place.encryption,
        lambda _: place.permits,
    )
    page = BulkPage(run_id="run-1", tenant_id=place.tenant, first=1, last=12)
    with pytest.raises(JobStoreUnavailable):
        await judge.judge(page, attempt=1, last_attempt=False)
    assert not faults
    asked = place.provider.calls
    assert (await place.store.progress("run-1")).asked == asked
    await judge.judge(page, attempt=2, last_attempt=False)
    assert (await place.store.progress("run-1")).asked == 12
    assert place.provider.calls == 12, "nothing was asked twice"


async def test_an_answer_of_a_batch_that_could_not_be_kept_is_not_recorded_as_taken(
    sqlite_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be asked for once more, at the whole price."""
    records: list[Any] = []
    cache = SqlCache(sqlite_engine)
    boundary = ModelBoundary(
        {"*": [Script(ELIGIBLE)]}, load_catalogue(), guard=guarded(), record=records.append, cache=cache
    )
    answer = Completion(ELIGIBLE, "complete", "stop", "m-1", Usage(250, 40))
    async with sqlite_engine.connect():
        with monkeypatch.context() as hurried:
            hurried.setattr("keyturn.database.TRANSACTION_SECONDS", 0.1)
            with pytest.raises(JobStoreUnavailable, match="could not be cached"):
                await boundary.take(request(), answer, Script.name, Script.model, Decimal("0.5"))
    assert records == []
    assert await boundary.take(request(), answer, Script.name, Script.model, Decimal("0.5"))
    assert len(records) == 1


async def test_a_write_that_is_cancelled_at_any_of_its_steps_leaves_sqlite_unlocked_while_its_error_is_still_held(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    """A statement that is not ended keeps its lock as long as the cancellation's traceback references its cursor."""
    row = {"event_id": "e", "tenant_id": "t", "workflow_id": "w", "at": NOW, "event": "e", "actor": "a", "detail": {}}

    async def write(engine: AsyncEngine) -> None:
        async with transaction(engine) as connection:
            await connection.execute(insert(rotation_events), [row, row | {"event_id": "f"}])

    held: list[BaseException | None] = []
    while not held or held[-1] is not None:
        file = tmp_path / f"{len(held)}.db"
        shutil.copyfile(migrated_sqlite, file)  # with a rollback journal: the first connection turns it to WAL
        engine = open_database(database_url(f"sqlite:///{file}"))
        writing = asyncio.create_task(write(engine))
        with _cancelled_at_step(len(held) + 1, writing):
            held += await asyncio.gather(writing, return_exceptions=True)
        with closing(sqlite3.connect(file, timeout=0.1, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            written = other.execute("SELECT count(*) FROM rotation_events").fetchone()
            assert written in {(0,), (2,)}, "all, where it was cancelled while it committed, or nothing"
            other.execute("ROLLBACK")
        await engine.dispose()
    assert written == (2,)
    assert {type(error) for error in held[:-1]} == {asyncio.CancelledError}
    assert len(held) > 5, "the driver takes more steps than these"


async def test_a_new_sqlite_file_may_be_opened_while_another_process_writes_to_it(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    """SQLite lets no one wait who would turn a file to WAL meanwhile: it says at once that it is locked."""
    file = tmp_path / "keyturn.db"
    shutil.copyfile(migrated_sqlite, file)
    engine = open_database(database_url(f"sqlite:///{file}"))

    async def read() -> None:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE alembic_version SET version_num = version_num")
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        assert not reading.done()
        other.execute("COMMIT")
        await reading
    await engine.dispose()


async def test_a_sqlite_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path, migrated_sqlite: Path) -> None:
    """Only another one's write is waited for."""
    file = tmp_path / "keyturn.db"
    shutil.copyfile(migrated_sqlite, file)
    engine = open_database(database_url(f"sqlite:///file:{file}?mode=ro&uri=true"))
    began = time.monotonic()
    with pytest.raises(JobStoreRefused):
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))
    assert time.monotonic() - began < SQLITE_BUSY_MILLISECONDS / 1000 / 2
    await engine.dispose()


@contextmanager
def _cancelled_at_step(number: int, task: "asyncio.Task[None]") -> Iterator[None]:
    """Cancel `task` while SQLite's thread does the step of this number: the driver logs when it begins one."""
    steps = itertools.count(1)
    loop = asyncio.get_running_loop()

    def cancel(record: logging.LogRecord) -> bool:
        if record.msg.startswith("executing") and next(steps) == number:
            loop.call_soon_threadsafe(task.cancel)
        return False

    log = logging.getLogger("aiosqlite")
    level = log.level
    log.addFilter(cancel)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeFilter(cancel)
        log.setLevel(level)
