"""`make cluster`: run a cluster until Ctrl-C, and say how it is reached."""

import asyncio
import signal
import sys

import click

from keyturn.lab.cluster.programs import VERSION, build_programs
from keyturn.lab.cluster.servers import SERVICES, cluster
from keyturn.lab.stack.processes import StackNotStarted


async def _run() -> None:
    click.echo(f"Temporal's server {VERSION}; the first build of it takes some minutes.")
    programs = await asyncio.to_thread(build_programs)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with cluster(programs) as running:
        hosts = ", ".join(f"{name} {running.ip_of(name)}" for name in SERVICES)
        click.echo(f"It runs: {hosts}, postgresql {running.ip_of_database}. Logs are in {running.folder}.")
        click.echo("Programs reach it by:\n")
        for name, value in running.environment.items():
            click.echo(f"export {name}={value}")
        click.echo(f"export DATABASE_URL={running.database}")
        click.echo("\nCtrl-C stops it and removes its data.")
        await ended.wait()


if __name__ == "__main__":
    try:
        asyncio.run(_run())
    except StackNotStarted as error:
        sys.exit(f"Error: {error}")  # which says what to do; the hint is about the embedded stack
