"""The commands that bring their own servers: `demo` and `dev`."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from keyturn.database import database_url
from keyturn.errors import SettingsInvalid
from keyturn.lab.stack.embedded import Ports, Stack, embedded_stack, locked

T = TypeVar("T")


@click.command()
def demo() -> None:
    """Show rotations on an embedded stack in a temporary folder, then stop the stack.

    \b
    Example:
      keyturn demo
    """
    with tempfile.TemporaryDirectory(prefix="keyturn-demo-") as folder:
        worked = asyncio.run(_until_signal(_demo(Path(folder))))
    if not worked:
        click.echo("the demo was interrupted" if worked is None else "a step failed", err=True)
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--folder",
    default=".keyturn",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the stack's state.",
)
@click.option("--port", default=7233, show_default=True, help="Port of Temporal.")
@click.option("--ui-port", default=8233, show_default=True, help="Port of Temporal's UI.")
@click.option("--simulator-port", default=8401, show_default=True, help="Port of the simulator.")
@click.option("--codec-port", default=8402, show_default=True, help="Port of the codec server.")
@click.option("--desk-port", default=8404, show_default=True, help="Port of the support desk.")
@click.option("--real-model", is_flag=True, help="Ask the providers that KEYTURN_ROUTES names, not the simulator.")
def dev(
    folder: Path, port: int, ui_port: int, simulator_port: int, codec_port: int, desk_port: int, real_model: bool
) -> None:
    """Run the embedded stack until Ctrl-C. The next start resumes from its stored state.

    Worker, desk and codec server read your settings, also from .env, as in production; the stack brings Temporal, the
    simulator and, without DATABASE_URL, a database. A port of 0 takes a free one.

    \b
    Example:
      keyturn dev
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("KEYTURN_ENVIRONMENT") == "production":
        raise SettingsInvalid("KEYTURN_ENVIRONMENT is production, and the embedded stack is for development")
    ports = Ports(port, ui_port, simulator_port, codec_port, desk_port)
    with locked(folder):
        asyncio.run(_until_signal(_dev(folder, ports, simulated=not real_model)))


async def _demo(folder: Path) -> bool:
    from keyturn.lab.stack.demo import show

    log = folder / "worker.log"
    async with embedded_stack(folder, ports=Ports(), keep=False, worker_log=log) as stack:
        click.echo(f"Temporal UI: {stack.ui} (while the demo runs; `make dev` keeps one running)\n")
        worked = await show(stack, click.echo)
        if not worked:
            click.echo(log.read_text(errors="replace")[-4_000:], err=True)
        return worked


async def _dev(folder: Path, ports: Ports, *, simulated: bool) -> None:
    running = embedded_stack(
        folder,
        ports=ports,
        keep=True,
        worker_log=None,
        simulated=simulated,
        codec=True,
        desk=True,
        own_settings=True,
    )
    async with running as stack:
        _print_addresses(stack, folder, default_port=ports.temporal == 7233, simulated=simulated)
        status = await stack.worker.wait()
        click.echo(f"the worker exited with status {status}: its log above says why", err=True)
        raise click.exceptions.Exit(1)


def _print_addresses(stack: Stack, folder: Path, *, default_port: bool, simulated: bool) -> None:
    """Print where everything is, and what another terminal needs to reach it."""
    prefix = "" if default_port else f"TEMPORAL_ADDRESS={stack.address} "
    if folder != Path(".keyturn").absolute():
        prefix += "" if stack.keys is None else f"KEYTURN_PAYLOAD_KEYS_FILE={stack.keys} "
        prefix += "" if os.environ.get("DATABASE_URL") else f"DATABASE_URL={stack.database} "
    click.echo(f"Desk          {stack.desk} (ask, watch a reply being drafted, approve)")
    click.echo(f"Temporal UI   {stack.ui}\nTemporal      {stack.address}")
    url = database_url(stack.database)
    click.echo(f"Database      {url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)}")
    token = folder / "codec_token"
    shown = token.relative_to(Path.cwd()) if token.is_relative_to(Path.cwd()) else token
    # The dev server has no option by which its UI sends a browser's session: the signed-in page says what to tick.
    click.echo(f"Codec server  {stack.codec} (the UI shows ciphertext until you sign in here with {shown})")
    if simulated:
        click.echo(f"Simulator     {stack.simulator} (make it fail: POST /control/faults)")
        if os.environ.get("KEYTURN_ROUTES"):
            click.echo("Model         the simulator answers, not KEYTURN_ROUTES: --real-model asks those")
    else:
        click.echo(f"Model         {os.environ.get('KEYTURN_ROUTES', '')}")
    click.echo(
        "\nIn another terminal:\n"
        f"  {prefix}.venv/bin/keyturn rotate --account acct_10234 --key-id key_01 --policy P-7 --stale \\\n"
        '    --question "May the stale key be rotated?"\n'
        "\nCtrl-C stops everything.\n"
    )


async def _until_signal(work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work`; on Ctrl-C, SIGTERM or SIGHUP end it in order and return None."""
    task = asyncio.ensure_future(work)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        click.echo("\nstopped", err=True)
        return None
