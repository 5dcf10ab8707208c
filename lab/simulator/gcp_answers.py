"""What the simulated Google's APIs have in common: their errors, and JSON without what is empty."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

MESSAGE = "a message of the simulated Google"  # of each error: no program is to repeat it
# From the path's words, the body and query, and the caller's email address, to the answer's JSON.
Handler = Callable[[dict[str, str], dict[str, Any], str], dict[str, Any]]


class Refused(Exception):
    """An error, by its HTTP status, status word and details: https://google.aip.dev/193."""

    def __init__(self, status: int, word: str, *details: Mapping[str, Any]) -> None:
        super().__init__(word)
        error = {"code": status, "message": MESSAGE, "status": word, "details": list(details)}
        self.body: dict[str, Any] = {"error": error}
        self.status = status


def fields_if(condition: bool, **fields: Any) -> dict[str, Any]:
    """Return the fields if the condition holds: JSON of Google's leaves out what is empty."""
    return fields if condition else {}


def decoded(part: str) -> dict[str, Any]:
    """Return a part of a JSON Web Token; an empty object if it is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=="))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def page_of(name: str, entries: list[dict[str, Any]], sent: Mapping[str, Any], *, most: int) -> dict[str, Any]:
    """Return a page of a listing (https://google.aip.dev/158): of the size that is asked for, and at most `most`."""
    size, start = min(int(sent.get("pageSize", most)), most), int(sent.get("pageToken", "0"))
    shown = entries[start : start + size]
    more = start + size < len(entries)
    return fields_if(bool(shown), **{name: shown}) | fields_if(more, nextPageToken=str(start + size))
