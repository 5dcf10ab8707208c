"""The reference of log events, from the calls in the source that write them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keyturn.calls import CallRecord
from keyturn.lab.documentation.markdown import code, page, table

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("keyturn", "activities", "application", "workflows", "workers", "starter", "desk")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Arguments of the logger that are no fields of the event.
NO_FIELDS = {"exc_info", "stack_info"}
LEAD = """\
A process writes one line for each event to standard error: JSON, or text on a terminal (`KEYTURN_LOG_FORMAT`).
Every event has `event`, `level`, `logger` and `timestamp` beside its own fields.
No field holds a question, a prompt, an answer, a key or a secret.
"""


@dataclass
class Event:
    """One event: where it is written, how grave it is, and its fields."""

    name: str
    loggers: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)


def log_events_page() -> str:
    """Return the page of every event, by name."""
    rows = (
        [code(event.name), _list(event.levels), _list(event.loggers), ", ".join(map(code, event.fields))]
        for event in sorted(events(), key=lambda event: event.name)
    )
    return page("Log events", LEAD.strip(), table(HEAD, rows))


HEAD = ("event", "level", "logger", "fields")


def events() -> list[Event]:
    """Return every event that the program writes."""
    found: dict[str, Event] = defaultdict(lambda: Event(""))
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for one in _events_of(file):
                known = found.setdefault(one.name, Event(one.name))
                known.loggers |= one.loggers
                known.levels |= one.levels
                known.fields |= one.fields
    return list(found.values())


def _events_of(file: Path) -> Iterator[Event]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    logger = next(_loggers(tree), "")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.args[0]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            continue
        levels = _levels(node.func)
        if levels:
            yield Event(name.value, {logger}, levels, dict.fromkeys(_fields(node)))


def _loggers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_logger":
            yield ast.literal_eval(node.args[0])


def _levels(function: ast.expr) -> set[str]:
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "_log":
        return {function.attr.replace("exception", "error")} & LEVELS
    # `event = _log.info if ... else _log.warning`
    return {"info", "warning"} if isinstance(function, ast.Name) and function.id == "event" else set()


def _fields(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg is None:  # the one event that writes a whole record
            yield from (name for name in CallRecord.model_fields if name != "status")
        elif keyword.arg not in NO_FIELDS:
            yield keyword.arg


def _list(values: set[str]) -> str:
    return ", ".join(map(code, sorted(values)))
