"""`keyturn jobs serve`: the jobs' HTTP interface as a process."""

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from keyturn.starter.database import with_database
from keyturn.tokens import parse_tokens
from keyturn.workers.jobs_settings import load_jobs_settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@click.command()
def serve() -> None:
    """Serve the jobs' HTTP interface until Ctrl-C, for the callers that KEYTURN_JOBS_TOKENS names.

    \b
    Example:
      KEYTURN_JOBS_TOKENS=default/rotator:$(openssl rand -hex 24) keyturn jobs serve
    """
    from keyturn.jobs.leases import JobLeases
    from keyturn.web.serving import served
    from keyturn.workers.jobs_api import jobs_application
    from keyturn.workers.local_settings import load_local_settings
    from keyturn.workers.telemetry import configure_logging

    settings = load_jobs_settings()
    configure_logging(load_local_settings().log_format)

    async def run(engine: "AsyncEngine") -> None:
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        consumers = settings.consumers.get_secret_value()
        application = jobs_application(
            JobLeases(engine),
            parse_tokens(settings.tokens.get_secret_value()),
            parse_tokens(consumers) if consumers else {},
        )
        async with served(application, settings.address, setting="KEYTURN_JOBS_ADDRESS"):
            await stop.wait()

    with_database(run, pool_size=16)
