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
        [
            code(event.name),
            _list(event.levels),
            MEANINGS.get(event.name, ""),
            _list(event.loggers),
            ", ".join(map(code, event.fields)),
        ]
        for event in sorted(events(), key=lambda event: event.name)
    )
    return page("Log events", LEAD.strip(), table(HEAD, rows))


HEAD = ("event", "level", "meaning", "logger", "fields")
MEANINGS = {
    "account_unreachable": "A cloud account of the executor cannot be asked yet; it is tried again, and the others work.",
    "build_not_current": "The worker polls, and new rotations start on another build.",
    "cache_unavailable": "Redis did not answer: a lookup counts as a miss.",
    "codec_signed_in": "An operator signed in on the codec server's page.",
    "daily_spend_over": "The day's cost has passed the alert's threshold; once a day.",
    "daily_spend_unknown": "The day's cost could not be read.",
    "deliveries_set_aside": "Messages of before a channel was switched on became dead letters.",
    "leaks_reported": "A signed report of exposed keys was taken: how many matches it has, and how many keys are known.",
    "leak_of_an_unknown_key": "A reported key is in no inventory and no job: it is marked, and nothing rotates it yet.",
    "leak_not_reported": "A reported key has a name that cannot be used: it is not marked, and the others are.",
    "public_keys_not_read": "The keys that sign leak reports cannot be read; those that were read before count for a day.",
    "leak_without_policy_line": "A reported key is marked, and no policy line covers it: nothing rotates it.",
    "file_read_again": "A key map or calendar was changed: what it holds now counts.",
    "file_not_read_again": "A key map or calendar was changed and cannot be read: what it held before stays in force.",
    "notice_unreadable": "A row or a stored notice cannot be read as one: it is left out, and the others go on.",
    "notices_not_sent": "The database or Temporal did not answer: notices are looked for again in ten seconds.",
    "delivery_not_started": "Temporal did not start a job's delivery; the next sweep starts it.",
    "executor_started": "The executor polls and looks for jobs.",
    "executor_stopped": "The executor has stopped; its steps had ended.",
    "executor_stopping": "The executor takes nothing new, and lets its steps end.",
    "job_left": "A job is left to another executor, or to a person.",
    "job_not_looked_at": "A job could not be checked; it is looked at again.",
    "jobs_held_back": "A limit of the executor holds so many jobs back until others are done.",
    "jobs_not_looked_for": "Temporal or the database did not answer; the executor looks again.",
    "labels_collected": "What people decided became labelled cases, or its history was gone or not opened by the keys.",
    "labels_not_collected": "The database or Temporal did not answer: labels are collected ten minutes later.",
    "ledger_rows_lost": "Records of calls were not written, and no more of them can be kept in memory.",
    "ledger_unavailable": "Records of calls wait in memory until the database answers.",
    "model_call": "A call ended: its record, without question and answer.",
    "no_build_id": "In production without a build, rotations do not stay with the code that started them.",
    "outages_not_shared": "Redis did not answer: the worker knows of its own outages alone.",
    "records_deleted": "Records older than their retention were deleted, once a day.",
    "payload_key_worn": "A payload key has encrypted so often that it is to be replaced.",
    "payloads_decoded": "An operator decrypted payloads: who, of which namespace, and their digests.",
    "price_unknown": "A model of a route has no price: its cost is unknown, and no cap applies.",
    "provider_circuit_closed": "A provider answers again, and is asked in its turn.",
    "provider_circuit_open": "A provider has failed several times, and is asked last for a while.",
    "provider_field_refused": "A compatible server refused an optional field, which is left out from now on.",
    "provider_key_not_renewed": "A provider's key could not be renewed; the old one is used until it ends.",
    "request_failed": "A server of ours failed unexpectedly; `where` is the file and line.",
    "request_refused": "A server of ours refused a request.",
    "serving": "A server of ours listens.",
    "shared_token_limit_unavailable": "Redis did not answer: the worker counts tokens on its own.",
    "worker_started": "The worker polls.",
    "worker_stopped": "The worker has stopped; its calls had ended.",
    "worker_stopping": "The worker takes nothing new, and lets its calls end.",
}


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
    if isinstance(function, ast.Attribute):
        logger = function.value.func if isinstance(function.value, ast.Call) else function.value  # `_log` or `_log()`
        if isinstance(logger, ast.Name) and logger.id == "_log":
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
