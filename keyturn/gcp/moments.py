"""Moments in the JSON of Google's APIs. Pure."""

from datetime import datetime


def moment_in(fields: object, name: str) -> datetime | None:
    """Return a moment of RFC 3339 in a JSON object; None if there is none."""
    value = fields.get(name) if isinstance(fields, dict) else None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
