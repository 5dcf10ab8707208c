"""Cursors of lists that are sorted by a moment: where the next page starts, whatever was added meanwhile."""

import base64
import binascii
import json
from datetime import UTC, datetime

from keyturn.errors import InvalidRequest


def cursor_at(moment: datetime, row_id: str) -> str:
    """Return the cursor of the page that starts after a row, by its moment and its id."""
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), row_id]).encode()).decode()


def read_cursor(after: str) -> tuple[datetime, str]:
    """Return the moment and the id in a cursor; raises InvalidRequest if it is none."""
    try:
        moment, row_id = json.loads(base64.b64decode(after, altchars=b"-_", validate=True))
        if not (isinstance(row_id, str) and row_id.isascii() and row_id.isprintable() and len(row_id) <= 64):
            raise ValueError
        return datetime.fromisoformat(moment).astimezone(UTC), row_id
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
        raise InvalidRequest("the list cannot be continued from there: start at its first page") from None
