"""Where notices go: a file of routes, by owner, topic and severity.

    desk = "https://desk.example.org"
    zone = "Europe/Berlin"

    [[route]]
    owners = ["payments"]
    to = ["slack:payments", "smtp:pay-team@example.org"]
    digest_minutes = 60
    quiet = { from = "20:00", to = "07:00" }

    [[route]]
    severities = ["urgent"]
    to = ["pagerduty:security"]

What a route leaves out it does not ask for: the second one is about every owner. A topic may end in `*`; the owner
`unowned` is that of keys that no one owns. A notice goes by every route that matches, and once to each destination. A
digest collects an owner's notices of so many minutes in one message; in quiet hours notices wait until these end. What
is urgent waits for neither; what is due at the same moment still shares an owner's message.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings

from keyturn.contracts import UNOWNED, Contract, Owner, ShortIdentifier
from keyturn.faults import faults_of
from keyturn.freezes.calendar import ClockTime, zone_name
from keyturn.notices.contracts import CLOSING, TOPICS, Notice, Severity
from keyturn.notices.errors import RoutesInvalid
from keyturn.people import is_among
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, http_url
from keyturn.toml_files import read_toml

# A day: an owner who hears of it later has not heard of it.
MOST_DIGEST_MINUTES = 1_440
# CHANNEL, or CHANNEL:ADDRESS.
Destination = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}(?::[!-~]{1,160})?$")]


def _topic(pattern: str) -> str:
    if not any(fnmatchcase(topic, pattern) for topic in TOPICS):
        raise ValueError(f"names no topic; there are {', '.join(TOPICS)}")
    return pattern


TopicPattern = Annotated[str, StringConstraints(pattern=r"^[a-z_.*]{1,32}$"), AfterValidator(_topic)]


class Quiet(Contract):
    """Hours in which notices wait, by the clock of the file's zone; they may go over midnight."""

    start: ClockTime = Field(alias="from")
    end: ClockTime = Field(alias="to")

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.start == self.end:
            raise ValueError("from and to are the same: leave quiet out, or name two times")
        return self

    def until(self, moment: datetime) -> datetime:
        """Return when quiet hours end that a local moment lies in; the moment itself if it lies in none."""
        clock = moment.time().replace(tzinfo=None)
        over_midnight = self.end < self.start
        within = (clock >= self.start or clock < self.end) if over_midnight else (self.start <= clock < self.end)
        if not within:
            return moment
        day = moment.date() + timedelta(days=1 if over_midnight and clock >= self.start else 0)
        return datetime.combine(day, self.end, moment.tzinfo)


class Route(Contract):
    """A table of the file: which notices go where.

    Attributes:
        to: the destinations, as CHANNEL or CHANNEL:ADDRESS.
        owners: of keys of these owners; None for every one.
        topics: of these topics; None for every one.
        severities: of these severities; None for every one.
        tenants: of these tenants; None for every one.
        digest_minutes: an owner's notices of so many minutes share a message; 0 sends each at once.
        quiet: hours in which they wait; None for none.
    """

    to: tuple[Destination, ...] = Field(min_length=1, max_length=16)
    owners: tuple[Owner, ...] | None = Field(default=None, min_length=1, max_length=256)
    topics: tuple[TopicPattern, ...] | None = Field(default=None, min_length=1, max_length=len(TOPICS))
    severities: tuple[Severity, ...] | None = Field(default=None, min_length=1, max_length=3)
    tenants: tuple[ShortIdentifier, ...] | None = Field(default=None, min_length=1, max_length=64)
    digest_minutes: int = Field(default=15, ge=0, le=MOST_DIGEST_MINUTES, strict=True)
    quiet: Quiet | None = None

    def takes(self, notice: Notice) -> bool:
        """Whether a notice goes by this route."""
        return (
            self.is_of(notice)
            and (self.topics is None or any(fnmatchcase(notice.topic, one) for one in self.topics))
            and (self.severities is None or notice.severity in self.severities)
        )

    def is_of(self, notice: Notice) -> bool:
        """Whether a notice is of this route's owners and tenants."""
        return (self.tenants is None or notice.tenant_id in self.tenants) and (
            self.owners is None or is_among(notice.owner or UNOWNED, self.owners)
        )

    def due(self, notice: Notice, now: datetime, zone: ZoneInfo, *, alone: bool) -> datetime:
        """Return when a notice goes, by UTC; `alone` if it shares no message, and so waits for no digest."""
        if notice.severity == "urgent":
            return now
        moment = now
        if (
            self.digest_minutes and not alone
        ):  # the end of the window that the moment lies in: all of the window go together
            length = self.digest_minutes * 60
            moment = datetime.fromtimestamp((int(now.timestamp()) // length + 1) * length, UTC)
        if self.quiet is not None:
            moment = self.quiet.until(moment.astimezone(zone)).astimezone(UTC)
        return moment


class Send(NamedTuple):
    """Where and when a notice goes, and what it may share a message with."""

    destination: str
    due_at: datetime
    grouped_by: str
    is_urgent: bool


class Routes(Contract):
    """The whole file.

    Attributes:
        desk: the address of the desk, for links; None for none.
        zone: the time zone of quiet hours.
        route: the routes.
    """

    desk: Annotated[str, AfterValidator(http_url)] | None = None
    zone: Annotated[str, AfterValidator(zone_name)] = "UTC"
    route: tuple[Route, ...] = Field(min_length=1, max_length=1_000)

    def sends(
        self, notice: Notice, now: datetime, *, alone: Collection[str] = (), closing: Collection[str] = ()
    ) -> Sequence[Send]:
        """Return where and when a notice goes: once to each destination, by the earliest of its routes.

        Args:
            notice: what is to be sent.
            now: the present moment.
            alone: the channels that take one notice a message, such as those that open an issue for each job.
            closing: the channels that close what they opened for a job: how a job ends goes there by each route of its
                owner, whatever topics and severities the route asks for.
        """
        zone, found = ZoneInfo(self.zone), dict[str, datetime]()
        for route in self.route:
            for destination in route.to:
                channel = destination.partition(":")[0]
                if route.takes(notice) or (channel in closing and notice.topic in CLOSING and route.is_of(notice)):
                    due = route.due(notice, now, zone, alone=channel in alone)
                    found[destination] = min(due, found.get(destination, due))
        return [
            Send(
                destination,
                due,
                notice.event_id
                if destination.partition(":")[0] in alone
                else f"{notice.tenant_id} {notice.owner or UNOWNED}{' urgent' if notice.severity == 'urgent' else ''}",
                notice.severity == "urgent",
            )
            for destination, due in found.items()
        ]

    @property
    def destinations(self) -> Sequence[str]:
        """Every destination that a route names, each once."""
        return sorted({destination for route in self.route for destination in route.to})


class NotifySettings(BaseSettings):
    """Where the routes of notices are written."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    routes: Path | None = Field(
        default=None,
        alias="KEYTURN_NOTIFY",
        description="The file of routes: which notices go to whom, by owner, topic and severity. Without it, no one "
        "is notified.",
    )


def load_routes(file: Path) -> Routes:
    """Return the routes of a file; raises RoutesInvalid with every fault."""
    try:
        return Routes.model_validate(read_toml(file, RoutesInvalid))
    except ValidationError as error:
        faults = [f"{file}, {_place(field)}: {reason}" for field, reason in faults_of(error)]
        raise RoutesInvalid("\n".join(faults[:20])) from None


def _place(field: str) -> str:
    """Return where a fault is, as people count: `[[route]] 2, to`."""
    first, *rest = field.split(".")
    if first != "route" or not rest:
        return field or "the file"
    number, *inner = rest
    return ", ".join([f"[[route]] {int(number) + 1}", *inner[:1]])


def faults_of_destinations(
    routes: Routes,
    addresses: Mapping[str, Collection[str] | None],
    fault_of: Callable[[str, str], str | None] = lambda channel, address: None,
) -> Sequence[str]:
    """Return what is wrong with the destinations of routes.

    Args:
        routes: the routes.
        addresses: of each channel that is on, the addresses that its settings name; None if it takes any.
        fault_of: returns what is wrong with an address of a channel that takes any.
    """
    faults = []
    for destination in routes.destinations:
        channel, _, address = destination.partition(":")
        if channel not in addresses:
            on = f", and {', '.join(sorted(addresses))} is" if addresses else ""
            settings = f"its settings KEYTURN_{channel.upper()}_*"
            faults.append(f"{destination}: the channel {channel} is not set up here by {settings}{on}")
            continue
        known = addresses[channel]
        if known is not None and address not in known:
            names = ", ".join(sorted(known)) or "no address"
            faults.append(f"{destination}: the settings of {channel} name {names}")
        elif (fault := fault_of(channel, address)) is not None:
            faults.append(f"{destination}: {fault}")
    return faults
