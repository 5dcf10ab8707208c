"""Logs: JSON for machines, readable lines in a terminal; the SDK's own records go the same way."""

import logging
import sys
from collections.abc import Iterable
from typing import Literal

import structlog
from structlog.typing import Processor


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
    # Plain tracebacks only: the pretty ones print the values of local variables, which contain questions and keys.
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
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
            foreign_pre_chain=list(shared),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # httpx logs each request's URL at INFO, which the call record says better; alembic logs its own set-up.
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
