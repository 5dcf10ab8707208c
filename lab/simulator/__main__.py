"""`python -m keyturn.lab.simulator [--host H] [--port P]`: serve until interrupted."""

import asyncio
import contextlib
import signal
import sys

import click
from aiohttp import web

from keyturn.lab.simulator.server import Simulator


async def serve(host: str, port: int) -> None:
    """Serve on `host` and `port` (0: any free one) until SIGINT or SIGTERM; the first line printed is the address."""
    runner = web.AppRunner(Simulator().application(), access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host, port, shutdown_timeout=0.2)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
        ) from None
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    address = runner.addresses[0]
    sys.stdout.write(f"http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    await stop.wait()
    await runner.cleanup()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8401, show_default=True, help="Port to listen on; 0 takes any free one.")
def main(host: str, port: int) -> None:
    """Serve a simulated model provider that speaks the wire formats of OpenAI, Anthropic and Gemini."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(host, port))


if __name__ == "__main__":
    main()
