"""The real Temporal dev server, tuned, as a child process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.client import Client

from keyturn.application.connection import TemporalUnreachable, connect
from keyturn.keyring import Keyring
from keyturn.lab.stack.processes import StackNotStarted, child, program
from keyturn.web.ports import free_loopback_port
from keyturn.workflows.visibility import SEARCH_ATTRIBUTES, type_of

# By default the server's transfer queue polls 20 times a second, and each hop of a workflow waits about 45 ms for it.
# Only for an embedded server: a production server's operator sets their own.
TUNING = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.transferProcessorMaxPollHostRPS": "20000",
}
START_SECONDS = 20.0  # it starts in 0.2 s; a loaded machine may take some seconds
PROBE_SECONDS = 0.05
STARTS = 3  # a port that was free may be taken before the server has it, or one of those that it chooses itself


@asynccontextmanager
async def dev_server(
    *,
    port: int | None = None,
    ui_port: int | None = None,
    database: Path | None = None,
    log: Path | None = None,
    keyring: Keyring | None = None,
    codec: str | None = None,
) -> AsyncIterator[Client]:
    """Yield a client of a dev server that is ready, and stop the server afterwards.

    Args:
        port: its port on loopback; None for a free one.
        ui_port: the port of its UI; None for no UI.
        database: the file that keeps its state; None keeps it in memory.
        log: the file that takes its output; None throws it away.
        keyring: what encrypts the client's payloads; None leaves them plain.
        codec: where the UI finds the codec server.

    Raises:
        StackNotStarted: it did not come up.
    """
    for left in reversed(range(1 if port is not None else STARTS)):
        at = port or free_loopback_port()
        command = dev_server_command(at, ui_port=ui_port, database=database, codec=codec)
        async with child(command, log=log or Path("/dev/null")) as process:
            try:
                client = await _ready(process, f"127.0.0.1:{at}", keyring)
            except StackNotStarted:
                if left and process.returncode is not None:
                    continue
                raise
            yield client
            return


def dev_server_command(
    port: int,
    *,
    ip: str = "127.0.0.1",
    ui_port: int | None = None,
    database: Path | None = None,
    codec: str | None = None,
) -> list[str | Path]:
    """Return the command that runs a dev server; see `dev_server`."""
    command: list[str | Path] = [program("temporal"), "server", "start-dev", "--port", str(port)]
    command += ["--ip", ip, "--log-level", "warn"]
    command += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port)]
    command += [] if database is None else ["--db-filename", str(database)]
    command += [] if codec is None else ["--ui-codec-endpoint", codec]
    for attribute in SEARCH_ATTRIBUTES:
        command += ["--search-attribute", f"{attribute.name}={type_of(attribute)}"]
    for key, value in TUNING.items():
        command += ["--dynamic-config-value", f"{key}={value}"]
    return command


async def _ready(process: asyncio.subprocess.Process, address: str, keyring: Keyring | None) -> Client:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            return await connect(address, keyring=keyring)
        except TemporalUnreachable as error:
            if process.returncode is not None:
                raise StackNotStarted(f"Temporal's dev server exited with status {process.returncode}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise StackNotStarted(
                    f"Temporal's dev server is not ready after {START_SECONDS:g} s: {error}"
                ) from None
        await asyncio.sleep(PROBE_SECONDS)
