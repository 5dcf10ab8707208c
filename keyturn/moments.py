"""The written form of a moment: in UTC, to the second, as RFC 3339 has it."""

from datetime import UTC, datetime


def in_utc(moment: datetime | str) -> str:
    """Return a moment, or one in ISO 8601, as commands, pages and errors write it, such as 2026-11-27 09:00:00Z."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
