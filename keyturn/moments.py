"""The written forms of a moment: in UTC, to the second, as RFC 3339 has it; and how long ago it was."""

from datetime import UTC, datetime, time


def in_utc(moment: datetime | str) -> str:
    """Return a moment, or one in ISO 8601, as commands, pages and errors write it, such as 2026-11-27 09:00:00Z."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def relative_to(now: datetime, moment: datetime | str) -> str:
    """Return how far a moment is from `now` in its largest whole unit, such as `3 hours ago` or `in 20 days`."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    seconds = (moment - now).total_seconds()
    size = abs(seconds)
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(size // length)
        if count:
            span = f"{count:,} {unit}{'' if count == 1 else 's'}"
            return f"{span} ago" if seconds < 0 else f"in {span}"
    return "just now" if seconds <= 0 else "within a minute"


def name_by_creation(moment: datetime) -> str:
    """Return what an access key is called by the second of its creation."""
    return f"access_key.{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def last_moment(text: str) -> datetime:
    """Return the end of a span by what a person wrote: the end of a day, or a time; in UTC unless it says otherwise.

    Raises ValueError with what to write.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("write a day such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z") from None
    if len(text.strip()) <= len("2027-01-31"):
        moment = datetime.combine(moment.date(), time.max)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
