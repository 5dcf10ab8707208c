"""Logs: JSON for machines, readable lines in a terminal; the SDK's own records go the same way."""

import logging
import os
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal

import structlog
from structlog.typing import Processor
from temporalio.exceptions import ApplicationError

from keyturn.rotations.outcomes import Failed

# What a record of a failed attempt has beside its event, so that the rest is found by it.
FIELDS_OF_ATTEMPTS = ("activity", "attempt", "kind", "hint", "workflow_id")


# What a person reads of a model call as it goes by; `keyturn calls --json` and the log as JSON have the rest.
FIELDS_OF_CALLS = frozenset(
    {
        *("event", "logger", "level", "timestamp", "status", "task", "provider", "model", "attempt", "failure"),
        *("latency_ms", "input_tokens", "output_tokens", "cost_usd", "trace_id"),
    }
)


def shorten_calls(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out of a model call what a terminal has no room for, and what is not known of it."""
    if event.get("event") != "model_call":
        return event
    kept = {name: value for name, value in event.items() if name in FIELDS_OF_CALLS and value is not None}
    return kept | {name: value for name, value in event.items() if name.startswith("_")}


class ExpectedFailures(logging.Filter):
    """Makes one line of an attempt that failed by a named error; whatever nobody foresaw keeps its traceback.

    The SDK logs every failure that is not repeated with some twenty lines of stack, which say where the error was
    raised, and not what it was.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True: the record is written, whether it was rewritten or not."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ApplicationError) and error.details and isinstance(error.details[0], Failed):
            of = getattr(record, "temporal_activity", {})
            record.msg, record.args, record.exc_info, record.exc_text = "attempt_failed", (), None, None
            record.activity, record.attempt = of.get("activity_type"), of.get("attempt")
            record.workflow_id = of.get("workflow_id")
            record.kind, record.hint = error.type, error.details[0].hint
        return True


def configure_logging(log_format: Literal["auto", "json", "console"], *, level: int = logging.INFO) -> None:
    """Send every log record of this process to standard error, one line each.

    Args:
        log_format: json, console, or auto: console if standard error is a terminal.
        level: the lowest level that is written.
    """
    as_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: Iterable[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    of_attempts = structlog.stdlib.ExtraAdder(allow=FIELDS_OF_ATTEMPTS)
    # Plain tracebacks only: the pretty ones print the values of local variables, which contain questions and keys.
    # https://no-color.org: and a file is no terminal either.
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    renderer: list[Processor] = (
        [shorten_calls, console]
        if as_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, of_attempts],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    attempts = logging.getLogger("temporalio.activity")
    attempts.filters[:] = [ExpectedFailures()]
    # httpx logs each request's URL at INFO, which the call record says better; alembic logs its own set-up.
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
