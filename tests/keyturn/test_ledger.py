"""The ledger: one row a call, exact sums, and nothing lost while the database is away."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import structlog
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.calls import CallRecord, FailedAttempt
from keyturn.ledger.recorder import MOST_WAITING, Recorder, recorder
from keyturn.ledger.spending import DailySpend
from keyturn.ledger.store import LedgerStore, midnight
from tests.support.proxies import cabled

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def call(**changed: Any) -> CallRecord:
    given: dict[str, Any] = {
        "trace_id": "t",
        "task": "decide_rotation",
        "provider": "openai",
        "model": "m-1",
        "prompt_version": "rotation_decision@1",
        "attempt": 1,
        "status": "ok",
        "latency_ms": 12.5,
        "input_tokens": 100,
        "output_tokens": 10,
        "cost_usd": Decimal("0.000123"),
        "called_at": NOW,
    }
    return CallRecord(**given | changed)


@pytest.fixture
def ledger(engine: AsyncEngine) -> LedgerStore:
    return LedgerStore(engine)


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_record_is_read_as_it_was_written(ledger: LedgerStore) -> None:
    """Every field, on both databases, the cost to the last digit."""
    passed = FailedAttempt(provider="anthropic", model="c-1", failure="provider_overloaded")
    written = call(cost_usd=Decimal("0.000000012345"), passed_over=(passed,), fingerprint="f" * 64, cached_tokens=7)
    await ledger.write([("1" * 32, written)])
    [row] = await ledger.calls(limit=10)
    assert CallRecord.model_validate({name: row[name] for name in CallRecord.model_fields}) == written


async def test_a_batch_that_is_written_twice_is_there_once(ledger: LedgerStore) -> None:
    """After a lost answer of the database the recorder writes again."""
    batch = [(f"{number:032d}", call(trace_id=f"t{number}")) for number in range(300)]
    await ledger.write(batch[:200])
    await ledger.write(batch)
    assert len(await ledger.calls(limit=1_000)) == 300


async def test_calls_are_found_by_what_is_known_of_them(ledger: LedgerStore) -> None:
    """Tenant, task, status and trace."""
    await ledger.write(
        [
            ("a", call(trace_id="one", called_at=NOW - timedelta(hours=1))),
            ("b", call(trace_id="two", status="failed", failure="quota_exhausted", cost_usd=None, input_tokens=None)),
            ("c", call(trace_id="three", tenant_id="other", task="draft_reply")),
        ]
    )
    assert {row["trace_id"] for row in await ledger.calls(limit=2)} == {"two", "three"}  # the newest
    assert [row["trace_id"] for row in await ledger.calls(limit=9, status="failed")] == ["two"]
    assert [row["trace_id"] for row in await ledger.calls(limit=9, tenant_id="other")] == ["three"]
    assert [row["trace_id"] for row in await ledger.calls(limit=9, task="draft_reply")] == ["three"]
    assert [row["trace_id"] for row in await ledger.calls(limit=9, trace_id="one")] == ["one"]


async def test_costs_are_summed_exactly_by_task_model_user_and_day(ledger: LedgerStore) -> None:
    """A thousand thousandths of a cent are a cent; unknown prices are counted and not summed."""
    rows = [call(cost_usd=Decimal("0.00001"), user_id=f"u{n % 2}") for n in range(1_000)]
    rows += [call(cost_usd=None, finish_reason="stop", model="m-2", called_at=NOW - timedelta(days=1))]
    rows += [call(cost_usd=Decimal(0), cache_hit=True, task="draft_reply", input_tokens=0, output_tokens=0)]
    rows += [call(called_at=NOW - timedelta(days=40))]
    await ledger.write([(str(n), row) for n, row in enumerate(rows)])
    since = NOW - timedelta(days=30)
    by_task = {row["task"]: row for row in await ledger.costs("task", since=since)}
    assert by_task["decide_rotation"]["cost_usd"] == Decimal("0.01")
    assert (by_task["decide_rotation"]["calls"], by_task["decide_rotation"]["unpriced"]) == (1_001, 1)
    assert (by_task["draft_reply"]["cost_usd"], by_task["draft_reply"]["cache_hits"]) == (Decimal(0), 1)
    by_model = await ledger.costs("model", since=since)
    assert [(row["model"], row["calls"]) for row in by_model] == [("m-1", 1_001), ("m-2", 1)]
    by_user = {row["user"]: row["cost_usd"] for row in await ledger.costs("user", since=since)}
    assert by_user["u0"] == by_user["u1"] == Decimal("0.005")
    by_day = await ledger.costs("day", since=since)
    assert [row["day"] for row in by_day] == ["2026-11-20", "2026-11-21"]
    assert await ledger.total_spent(since=midnight(NOW)) == Decimal("0.01")
    assert await ledger.total_spent(since=midnight(NOW), tenant_id="default", user_id="u0") == Decimal("0.005")
    assert await ledger.total_spent(since=NOW + timedelta(days=1)) == 0


async def test_records_are_written_in_the_background_and_the_last_ones_at_the_end(ledger: LedgerStore) -> None:
    """A recording call does not wait; a stopping worker loses nothing."""
    async with recorder(ledger) as recording:
        for number in range(450):
            recording.record(call(trace_id=f"t{number}"))
        assert await ledger.calls(limit=1) == []
    assert len(await ledger.calls(limit=1_000)) == 450


class Away:
    """A ledger whose database is away for the first `times` writes."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.rows: list[str] = []

    async def write(self, calls: list[tuple[str, CallRecord]]) -> None:
        if self.times > 0:
            self.times -= 1
            raise OperationalError("INSERT", {}, Exception("gone"))
        self.rows += [record.trace_id for _, record in calls]


async def test_a_driver_that_hides_its_cancellation_does_not_keep_a_worker_from_stopping() -> None:
    """It raises an error of its own, as if the database were away."""

    class Hiding(Away):
        async def write(self, calls: list[tuple[str, CallRecord]]) -> None:
            if self.times > 0:
                began.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.times = 0
                    raise OperationalError("INSERT", {}, Exception("gone")) from None
            await super().write(calls)

    began, store = asyncio.Event(), Hiding(times=1)
    away: Any = store
    async with asyncio.timeout(20):
        async with recorder(away) as recording:
            recording.record(call(trace_id="kept"))
            await began.wait()
    assert store.rows == ["kept"]


async def test_nothing_is_lost_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch, events: list[Any]) -> None:
    """It is logged, and written when the database is back."""
    monkeypatch.setattr("keyturn.ledger.recorder.RETRY_SECONDS", 0.01)
    store: Any = Away(times=2)
    async with recorder(store) as recording:
        recording.record(call(trace_id="kept"))
        async with asyncio.timeout(5):
            while not store.rows:
                await asyncio.sleep(0.01)
    assert store.rows == ["kept"]
    assert [event["event"] for event in events] == ["ledger_unavailable", "ledger_unavailable"]


async def test_a_database_that_never_comes_back_costs_bounded_memory_and_is_reported(events: list[Any]) -> None:
    """The oldest rows go first; the log has all of them."""
    store: Any = Away(times=10**9)
    recording = Recorder(store)
    for number in range(MOST_WAITING + 1):
        recording.record(call(trace_id=f"t{number}"))
    assert events[0]["event"] == "ledger_rows_lost"
    with pytest.raises(OperationalError):
        await recording.flush()


async def test_a_connection_that_says_nothing_any_more_is_given_up(
    postgresql: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within half a minute, and not when TCP does: its rows are written by another connection, once."""
    monkeypatch.setattr("keyturn.ledger.store.WRITE_SECONDS", 0.5)
    async with cabled(postgresql) as (cable, engine):
        ledger = LedgerStore(engine)
        await ledger.write([("1" * 32, call())])
        silent = asyncio.create_task(cable.mute(60))
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await ledger.write([("2" * 32, call())])
        # The driver tries for ten more seconds to have the server stop what it does.
        assert asyncio.get_running_loop().time() - began < 30
        silent.cancel()
        await asyncio.gather(silent, return_exceptions=True)
        cable.pull()
        monkeypatch.setattr("keyturn.ledger.store.WRITE_SECONDS", 20)
        await ledger.write([("2" * 32, call())])
        assert len(await ledger.calls(limit=10)) == 2


async def test_the_daily_spend_is_the_fleets_and_alerts_once(events: list[Any]) -> None:
    """The others' calls come from the ledger, one's own at once; over the threshold it is logged once a day."""

    async def total(since: datetime) -> Decimal:
        assert since == midnight(datetime.now(UTC))
        return Decimal("0.99")

    spend = DailySpend(Decimal(1), total)
    await spend.refresh()
    assert events == []
    for _ in range(3):
        spend.add(call(cost_usd=Decimal("0.02")))
    spend.add(call(cost_usd=None))
    assert spend.today_usd == Decimal("1.05")
    [event] = events
    assert (event["event"], event["today_usd"], event["threshold_usd"]) == ("daily_spend_over", "1.0100", "1.0000")


async def test_a_row_that_the_database_cannot_take_does_not_hold_up_the_others(
    ledger: LedgerStore, events: list[Any]
) -> None:
    """It is logged and left out; the rest of its batch is written."""
    recording = Recorder(ledger)
    for number, cost in enumerate((Decimal(1), Decimal(10) ** 12, Decimal(2))):
        recording.record(call(trace_id=f"t{number}", cost_usd=cost))
    await recording.flush()
    assert {row["trace_id"] for row in await ledger.calls(limit=9)} == {"t0", "t2"}
    assert [(event["event"], event["trace_id"]) for event in events] == [("ledger_rows_lost", "t1")]


async def test_an_unknown_cost_is_not_shown_as_nothing(ledger: LedgerStore) -> None:
    """Of a server that does not count tokens, or whose price is unknown."""
    await ledger.write([("a", call(cost_usd=None, input_tokens=None, output_tokens=None, finish_reason="stop"))])
    [row] = await ledger.costs("task", since=NOW - timedelta(days=1))
    assert (row["cost_usd"], row["unpriced"]) == (None, 1)
