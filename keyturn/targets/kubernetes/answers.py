"""Answers of an API server, and what went wrong by name.

Sources: kubernetes.io/docs/reference/using-api/api-concepts, and the Status object of apimachinery's meta/v1.
"""

import re
from typing import Any

from keyturn.backoff import wait_asked_for
from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretManagedElsewhere
from keyturn.execution.http import Received
from keyturn.foreign_json import read_json

_WORD = re.compile(r"[A-Za-z]{1,64}")
_MANAGER_IN = re.compile(r'conflict with "([ -~]{1,128}?)"')
# What passes by itself: a timeout of the server's, throttling.
_PASSING = {408, 429}


def read_answer(method: str, url: str, answer: Received) -> dict[str, Any] | None:
    """Return the object of an answer; None if there is none. Raises CloudUnavailable, CloudRefused."""
    status, found = answer.status, _object_in(answer)
    if 200 <= status < 300:
        if found is None or found.get("kind") in {None, "Status"}:
            raise CloudUnavailable(f"{method} {name_of(url)}: {status} with an answer that is none of an API server")
        return found
    said = found if found is not None and found.get("kind") == "Status" else {}
    reason = str(said.get("reason", ""))
    text = f"{method} {name_of(url)}: {status} {reason if _WORD.fullmatch(reason) else ''}".rstrip()
    if status == 404 and reason == "NotFound" and _names(said, url):
        return None
    if status == 409:
        managers = _managers_in(said)
        if not managers:
            raise CloudUnavailable(f"{text}: it has changed since it was read")
        raise SecretManagedElsewhere(f"{text}: {', '.join(managers)} manages a field that Keyturn would write")
    if status in _PASSING or status >= 500:
        raise CloudUnavailable(text, retry_after=wait_asked_for(answer.headers))
    raise CloudRefused(text)


def read_listing(method: str, url: str, answer: Received) -> dict[str, Any] | None:
    """Return a page of metadata; None if its `continue` has expired. Raises CloudUnavailable, CloudRefused."""
    if answer.status == 410:
        return None
    found = read_answer(method, url, answer)
    if found is None or found.get("kind") != "PartialObjectMetadataList":
        raise CloudRefused(f"{method} {name_of(url)}: the server lists whole objects, and not their metadata alone")
    return found


def _object_in(answer: Received) -> dict[str, Any] | None:
    try:
        found = read_json(answer.content)
    except ValueError:  # which holds the answer: nothing is raised from here
        return None
    return found if isinstance(found, dict) else None


def _names(said: dict[str, Any], url: str) -> bool:
    """Whether the Status is about the object of the URL: a namespace that is missing is another one."""
    details = said.get("details")
    return isinstance(details, dict) and [details.get("kind"), details.get("name")] == url.split("/")[-2:]


def _managers_in(said: dict[str, Any]) -> list[str]:
    """Return who owns the fields of a conflict (`FieldManagerConflict`), each once; none if it is of another kind."""
    details = said.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    messages = [str(cause.get("message", "")) for cause in causes or () if isinstance(cause, dict)]
    found = [name[1][:64] for message in messages if (name := _MANAGER_IN.search(message))]
    return list(dict.fromkeys(found))[:4]


def name_of(url: str) -> str:
    """Return an object's URL as people write it, `secrets prod/pay`; a listing's as `secrets in prod`, `namespaces`."""
    parts = url.split("/")
    if "namespaces" not in parts[:-1]:
        return parts[-1]
    namespace, plural, *name = parts[parts.index("namespaces") + 1 :]
    return f"{plural} {namespace}/{name[0]}" if name else f"{plural} in {namespace}"
