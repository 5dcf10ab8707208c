"""The calendar of changes: windows in which rotations may change something, and freezes in which they may not.

    zone = "Europe/Berlin"

    [[window]]
    days = ["mon", "tue", "wed", "thu"]
    from = "20:00"
    to = "04:00"

    [[freeze]]
    from = 2026-12-18T18:00:00
    to = 2027-01-04T06:00:00
    reason = "end of the year"

Times are of `zone`, its summer time included. A window that ends before it starts ends on the next day. Without a
window, every time is one.
"""

import itertools
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from keyturn.contracts import ONE_LINE, Contract
from keyturn.execution.errors import CalendarInvalid
from keyturn.settings import field_faults
from keyturn.toml_files import read_toml

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def zone_name(name: str) -> str:
    """Return the name of a time zone; raises ValueError if there is none of it."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone of the IANA database, such as Europe/Berlin or UTC") from None
    return name


def _time(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            value = time.fromisoformat(value)
    if isinstance(value, time) and value.tzinfo is None:
        return value
    raise ValueError("write a time of day as 20:00, and midnight as 00:00")


ClockTime = Annotated[time, BeforeValidator(_time)]  # of a day, without a zone


def _local(value: object) -> object:
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise ValueError("write it as 2026-12-18T18:00:00, without quotes and offset: it is of the calendar's zone")
    return value


class Window(Contract):
    """A time of the week in which rotations may change something."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    start: ClockTime = Field(alias="from")
    end: ClockTime = Field(alias="to")

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.start == self.end:
            raise ValueError("from and to are the same: leave the window out for a whole day")
        return self


class CalendarFreeze(Contract):
    """A time in which no rotation changes anything."""

    start: Annotated[datetime, BeforeValidator(_local)] = Field(alias="from")
    end: Annotated[datetime, BeforeValidator(_local)] = Field(alias="to")
    reason: str = Field(default="a freeze of the calendar", max_length=200, pattern=ONE_LINE)

    @model_validator(mode="after")
    def _ends_later(self) -> Self:
        if self.end <= self.start:
            raise ValueError("it ends before it starts")
        return self


class Calendar(Contract):
    """When rotations may change something; an empty one allows every time."""

    zone: Annotated[str, AfterValidator(zone_name)] = "UTC"
    window: tuple[Window, ...] = Field(default=(), max_length=50)
    freeze: tuple[CalendarFreeze, ...] = Field(default=(), max_length=500)

    def reason_to_wait(self, now: datetime, *, urgent: bool = False) -> str | None:
        """Return why nothing may be changed at a moment; None if it may.

        What is `urgent`, an exposed key, waits for no window: it harms more each hour. A freeze holds it, too.
        """
        for freeze in self.freeze:
            # Of an hour that a clock has twice, the first time starts it, and the second one ends it.
            if self._moment(freeze.start) <= now < self._moment(freeze.end, fold=1):
                return f"{freeze.reason}, until {freeze.end:%Y-%m-%d %H:%M} {self.zone}"
        openings = [] if urgent else self._openings(now)
        if self.window and not urgent and not any(start <= now < end for start, end in openings):
            opens = next((start.astimezone(ZoneInfo(self.zone)) for start, _ in openings if start > now), None)
            when = "" if opens is None else f": the next one starts at {opens:%Y-%m-%d %H:%M} {self.zone}"
            return f"it is outside of the maintenance windows{when}"
        return None

    def _moment(self, local: datetime, *, fold: int = 0) -> datetime:
        """Return a time of the zone's clock in UTC; one that the clock leaves out as if it went on."""
        return local.replace(tzinfo=ZoneInfo(self.zone), fold=fold).astimezone(UTC)

    def _openings(self, now: datetime) -> list[tuple[datetime, datetime]]:
        """The windows from yesterday's to those of next week, in UTC and in their order, without those left out."""
        today = now.astimezone(ZoneInfo(self.zone)).date()
        found = []
        for ahead, window in itertools.product(range(-1, 8), self.window):
            day = today + timedelta(days=ahead)
            if DAYS[day.weekday()] in window.days:
                last = day if window.start < window.end else day + timedelta(days=1)
                start = self._moment(datetime.combine(day, window.start))
                end = self._moment(datetime.combine(last, window.end), fold=1)
                if start < end:
                    found.append((start, end))
        return sorted(found)


def load_calendar(file: Path | None) -> Calendar:
    """Return the calendar of a file, an empty one for None; raises CalendarInvalid with every fault."""
    if file is None:
        return Calendar()
    content = read_toml(file, CalendarInvalid)
    faults: list[str] = []
    for name, model in (("window", Window), ("freeze", CalendarFreeze)):
        tables = content.get(name, [])
        if not isinstance(tables, list):
            raise CalendarInvalid(f"{file}: write [[{name}]], with two brackets")
        for number, table in enumerate(tables, 1):
            try:
                model.model_validate(table)
            except ValidationError as error:
                faults += [f"{file}, [[{name}]] {number}: {fault}" for fault in field_faults(error)]
    if faults:
        raise CalendarInvalid("\n".join(faults[:20]))
    try:
        calendar = Calendar.model_validate(content)
    except ValidationError as error:
        raise CalendarInvalid("\n".join(f"{file}: {fault}" for fault in field_faults(error)[:20])) from None
    if not calendar.window and not calendar.freeze:
        raise CalendarInvalid(f"{file} has neither a [[window]] nor a [[freeze]]")
    return calendar
