"""Freezes and the calendar: when nothing may be changed."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.execution.errors import CalendarInvalid
from keyturn.freezes.calendar import Calendar, load_calendar
from keyturn.freezes.store import FreezeStore

BERLIN = ZoneInfo("Europe/Berlin")
TEXT = """
zone = "Europe/Berlin"

[[window]]
days = ["mon", "tue"]
from = "20:00"
to = "04:00"

[[freeze]]
from = 2026-12-21T00:00:00
to = 2027-01-04T06:00:00
reason = "end of the year"
"""


@pytest.fixture
async def engine(sqlite: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)
    yield engine
    await engine.dispose()


def load(tmp_path: Path, text: str) -> Calendar:
    file = tmp_path / "calendar.toml"
    file.write_text(text)
    return load_calendar(file)


@pytest.mark.parametrize(
    ("local", "reason"),
    [
        ("2026-11-30T19:59", "it is outside of the maintenance windows: the next one starts at 2026-11-30 20:00"),
        ("2026-11-30T20:00", None),  # a Monday
        ("2026-12-01T03:59", None),
        ("2026-12-01T04:00", "it is outside of the maintenance windows: the next one starts at 2026-12-01 20:00"),
        ("2026-12-02T03:59", None),  # Tuesday's window, on Wednesday
        ("2026-12-02T20:00", "it is outside of the maintenance windows: the next one starts at 2026-12-07 20:00"),
        ("2026-11-30T01:00", "it is outside of the maintenance windows"),  # not Sunday's
        ("2026-12-21T21:00", "end of the year, until 2027-01-04 06:00 Europe/Berlin"),
        ("2027-01-04T06:00", "it is outside of the maintenance windows"),
        ("2026-07-06T20:00", None),  # summer time
        ("2026-07-06T19:59", "it is outside of the maintenance windows"),
    ],
)
def test_windows_and_freezes_are_of_the_calendars_zone(tmp_path: Path, local: str, reason: str | None) -> None:
    now = datetime.fromisoformat(local).replace(tzinfo=BERLIN).astimezone(UTC)
    found = load(tmp_path, TEXT).reason_to_wait(now)
    assert (found is None) == (reason is None), found
    assert reason is None or (found or "").startswith(reason)


def test_an_exposed_key_waits_for_no_window_and_for_every_freeze(tmp_path: Path) -> None:
    """It harms more each hour; who freezes rotations has a reason for all of them."""
    calendar = load(tmp_path, TEXT)
    friday = datetime(2026, 11, 27, 12, tzinfo=UTC)
    assert "outside of the maintenance windows" in str(calendar.reason_to_wait(friday))
    assert calendar.reason_to_wait(friday, urgent=True) is None
    frozen = datetime(2026, 12, 25, 12, tzinfo=UTC)
    assert "end of the year" in str(calendar.reason_to_wait(frozen, urgent=True))


def test_a_calendar_of_freezes_alone_allows_every_other_time(tmp_path: Path) -> None:
    calendar = load(tmp_path, "[[freeze]]\nfrom = 2026-12-21T00:00:00\nto = 2026-12-22T00:00:00\n")
    assert calendar.reason_to_wait(datetime(2026, 12, 20, 23, 59, tzinfo=UTC)) is None
    assert calendar.reason_to_wait(datetime(2026, 12, 21, 0, 0, tzinfo=UTC)) is not None
    assert load_calendar(None).reason_to_wait(datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has neither a"),
        ("zone = 'Mars/Olympus'\n[[window]]\nfrom='20:00'\nto='21:00'", "is no time zone of the IANA database"),
        ("[[window]]\nfrom='20:00'\nto='20:00'", "from and to are the same"),
        ("[[window]]\nfrom='8pm'\nto='21:00'", "write a time of day as 20:00"),
        ("[[window]]\nfrom='20:00'\nto='24:00'", "midnight as 00:00"),
        ("[[window]]\nfrom='20:00Z'\nto='21:00'", "write a time of day as 20:00"),
        ("[[window]]\ndays=['monday']\nfrom='20:00'\nto='21:00'", r"\[\[window\]\] 1: days: Input should be 'mon'"),
        ("[[window]]\ndays=[]\nfrom='20:00'\nto='21:00'", r"\[\[window\]\] 1: days"),
        ("[window]\nfrom='20:00'\nto='21:00'", "with two brackets"),
        ("[[windows]]\nfrom='20:00'\nto='21:00'", "windows"),
        ("[[freeze]]\nfrom = 2026-12-22T00:00:00\nto = 2026-12-21T00:00:00", "it ends before it starts"),
        ("[[freeze]]\nfrom = 2026-12-22T00:00:00Z\nto = 2026-12-23T00:00:00", "it is of the calendar's zone"),
        ("[[freeze]", "is not TOML"),
    ],
)
def test_a_calendar_that_cannot_be_right_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(CalendarInvalid, match=fault):
        load(tmp_path, text)


def test_a_window_may_end_at_midnight(tmp_path: Path) -> None:
    calendar = load(tmp_path, "[[window]]\nfrom='20:00'\nto='00:00'")
    day = datetime(2026, 11, 30, tzinfo=UTC)
    open_at = [hour for hour in range(24) if calendar.reason_to_wait(day + timedelta(hours=hour)) is None]
    assert open_at == [20, 21, 22, 23]


@pytest.mark.parametrize(("encoding", "is_read"), [("utf-8-sig", True), ("utf-16", False), ("cp1252", False)])
def test_a_calendar_that_an_editor_of_windows_has_saved_is_read_or_named(
    tmp_path: Path, encoding: str, is_read: bool
) -> None:
    file = tmp_path / "calendar.toml"
    text = "[[freeze]]\r\nfrom = 2026-12-21T00:00:00\r\nto = 2026-12-22T00:00:00\r\nreason = 'Jahresübergang'\r\n"
    file.write_bytes(text.encode(encoding))
    if is_read:
        assert load_calendar(file).freeze[0].reason == "Jahresübergang"
    else:
        with pytest.raises(CalendarInvalid, match="is not UTF-8: save it with this encoding"):
            load_calendar(file)


async def test_a_freeze_holds_its_tenant_or_one_account_until_it_ends(engine: AsyncEngine) -> None:
    store = FreezeStore(engine)
    every = await store.start(tenant_id="t", by="luna", reason="incident", cloud_account=None, until=None)
    one = await store.start(tenant_id="t", by="omar", reason="audit", cloud_account="1", until=None)
    past = datetime.now(UTC) - timedelta(seconds=1)
    await store.start(tenant_id="t", by="omar", reason="over", cloud_account=None, until=past)

    async def active(account: str | None, tenant: str = "t") -> list[str]:
        return [str(row["freeze_id"]) for row in await store.active(tenant_id=tenant, cloud_account=account)]

    assert await active(None) == [every, one]
    assert await active("1") == [every, one]
    assert await active("2") == [every]
    assert await active("1", "other") == []
    assert await store.end(tenant_id="other", by="eve") == 0
    assert await store.end(tenant_id="t", by="luna", freeze_id=every) == 1
    assert await active("2") == []
    assert await store.end(tenant_id="t", by="luna", freeze_id=every) == 0, "it has ended"
    assert await store.end(tenant_id="t", by="luna") >= 1
    assert await active("1") == []


def test_when_clocks_change_a_freeze_ends_once_and_a_window_that_is_left_out_is_not_announced(tmp_path: Path) -> None:
    """Half past two comes twice on 25 October 2026 in Berlin, and not at all on 28 March 2027."""
    file = tmp_path / "calendar.toml"
    file.write_text("zone = 'Europe/Berlin'\n[[freeze]]\nfrom = 2026-10-24T20:00:00\nto = 2026-10-25T02:30:00\n")
    frozen = load_calendar(file)
    at = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    held = [frozen.reason_to_wait(at + timedelta(minutes=15 * step)) is not None for step in range(9)]
    assert held == [True] * 6 + [False] * 3, "it ends at the second half past two, and does not begin again"
    file.write_text("zone = 'Europe/Berlin'\n[[window]]\nfrom = '02:00'\nto = '03:00'\n")
    reason = load_calendar(file).reason_to_wait(datetime(2027, 3, 28, 0, 30, tzinfo=UTC))
    assert reason is not None
    assert "the next one starts at 2027-03-29 02:00" in reason
