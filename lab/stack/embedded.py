"""The whole stack on loopback: Temporal's dev server with UI, the codec server, the simulator, SQLite, one worker."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from temporalio.client import Client

from keyturn.database import database_url
from keyturn.keyring import Keyring
from keyturn.keyring_files import DEVELOPMENT_FILE, load_keyring, write_keys
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import StackNotStarted, child, free_port
from keyturn.lab.stack.temporal import START_SECONDS, dev_server
from keyturn.llm.providers import load_providers
from keyturn.workers.schema import migrate
from keyturn.workers.settings_faults import PLACEHOLDER_KEY
from keyturn.workflows.identity import stored_id

SIMULATED_MODEL = "simulator-1"
# Variables that would point the embedded worker at a real provider, server or database.
_OURS = ("TEMPORAL_", "KEYTURN_", "OTEL_")
# The providers whose wire formats the simulator speaks, and where each expects its paths to start.
_SIMULATED = {"openai": "/v1", "anthropic": "", "gemini": ""}


@dataclass(frozen=True)
class Ports:
    """Ports on loopback; 0 takes any free one."""

    temporal: int = 0
    ui: int = 0
    simulator: int = 0
    codec: int = 0
    desk: int = 0


@dataclass(frozen=True)
class Stack:
    """A running stack."""

    client: Client
    address: str
    ui: str
    simulator: str
    database: str
    keys: Path
    keyring: Keyring
    codec: str | None
    desk: str | None
    worker: asyncio.subprocess.Process

    def history_url(self, workflow_id: str) -> str:
        """Return where the UI shows a workflow; its id may be written with the names of account and key."""
        stored = stored_id(workflow_id, self.keyring.name_of)
        return f"{self.ui}/namespaces/default/workflows/{quote(stored, safe='')}"


@asynccontextmanager
async def embedded_stack(
    folder: Path,
    *,
    ports: Ports,
    keep: bool,
    worker_log: Path | None,
    simulated: bool = True,
    codec: bool = False,
    desk: bool = False,
) -> AsyncIterator[Stack]:
    """Yield the stack when its servers are up and its worker is started; stop all of it, the worker first, afterwards.

    Args:
        folder: where database, server state and logs are stored; an absolute path of an existing folder.
        ports: where to listen.
        keep: whether Temporal's state is stored in a file too, and not in memory.
        worker_log: the file that takes the worker's log; None writes it to standard error.
        simulated: False asks the provider that this process's environment names.
        codec: whether a codec server shows the UI clear text; its operator's token is in `folder`, `codec_token`.
        desk: whether the support desk is served.

    Raises:
        StackNotStarted: a part did not come up; what had come up is stopped.
    """
    for port in (ports.temporal, ports.ui, ports.simulator, ports.codec, ports.desk):
        _expect_free(port)
    ui_port = ports.ui or free_port()
    database = f"sqlite:///{folder / 'keyturn.db'}"
    keys = folder / DEVELOPMENT_FILE.name
    if not keys.exists():
        write_keys(keys)
    keyring = load_keyring(text=None, file=keys, development=True)
    async with AsyncExitStack() as parts:
        decoder = None
        if codec:
            serving = codec_process(ports.codec or free_port(), folder, keys=keys, ui_port=ui_port)
            decoder = await parts.enter_async_context(serving)
        client = await parts.enter_async_context(
            dev_server(
                port=ports.temporal or None,
                ui_port=ui_port,
                database=folder / "temporal.db" if keep else None,
                log=folder / "temporal.log",
                keyring=keyring,
                codec=decoder,
            )
        )
        address = client.service_client.config.target_host
        simulator = await parts.enter_async_context(simulator_process(ports.simulator))
        await asyncio.to_thread(migrate, database_url(database))
        worker = await parts.enter_async_context(
            child(
                [sys.executable, "-m", "keyturn.workers"],
                environment=worker_environment(address, database, simulator if simulated else None, keys=keys),
                folder=folder,
                log=worker_log,
            )
        )
        ui, page = f"http://127.0.0.1:{ui_port}", None
        if desk:
            environment = worker_environment(address, database, simulator, keys=keys) | {"KEYTURN_TEMPORAL_UI": ui}
            page = await parts.enter_async_context(desk_process(ports.desk or free_port(), folder, environment))
        yield Stack(client, address, ui, simulator, database, keys, keyring, decoder, page, worker)


@asynccontextmanager
async def simulator_process(port: int = 0) -> AsyncIterator[str]:
    """Yield the address of a simulator that serves; stop it afterwards. Raises StackNotStarted."""
    command = [sys.executable, "-m", "keyturn.lab.simulator", "--port", str(port)]
    async with child(command, stdout=asyncio.subprocess.PIPE) as process:
        if process.stdout is None:
            raise StackNotStarted("the simulator has no standard output")
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        if not line:
            raise StackNotStarted("the simulator did not start")
        yield line.decode().strip()


@asynccontextmanager
async def codec_process(port: int, folder: Path, *, keys: Path, ui_port: int) -> AsyncIterator[str]:
    """Yield the address of a codec server for the UI at `ui_port`; stop it afterwards. Raises StackNotStarted."""
    token = folder / "codec_token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(32))
    address = f"127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | {
        "KEYTURN_PAYLOAD_KEYS_FILE": str(keys),
        "KEYTURN_CODEC_ADDRESS": address,
        "KEYTURN_CODEC_ORIGINS": f"http://127.0.0.1:{ui_port},http://localhost:{ui_port}",
        "KEYTURN_CODEC_TOKENS": f"operator:{token.read_text().strip()}",
    }
    async with _serving("codec", address, environment, folder) as url:
        yield url


@asynccontextmanager
async def desk_process(port: int, folder: Path, environment: dict[str, str]) -> AsyncIterator[str]:
    """Yield the address of a support desk on `port`; stop it afterwards. Raises StackNotStarted."""
    address = f"127.0.0.1:{port}"
    async with _serving("desk", address, environment | {"KEYTURN_DESK_ADDRESS": address}, folder) as url:
        yield url


@asynccontextmanager
async def _serving(name: str, address: str, environment: dict[str, str], folder: Path) -> AsyncIterator[str]:
    """Yield the address of a command that serves, when it answers."""
    command = [sys.executable, "-m", "keyturn.starter", name]
    async with child(command, environment=environment, folder=folder, log=folder / f"{name}.log") as process:
        async with asyncio.timeout(START_SECONDS), loopback_client() as http:
            while process.returncode is None:
                with suppress(httpx.HTTPError):
                    (await http.get(f"http://{address}/healthz")).raise_for_status()
                    break
                await asyncio.sleep(0.05)
        if process.returncode is not None:
            raise StackNotStarted(f"the {name} exited at once: {folder / f'{name}.log'} says why")
        yield f"http://{address}"


def worker_environment(address: str, database: str, simulator: str | None, *, keys: Path | None) -> dict[str, str]:
    """Return the variables of a worker on this stack.

    Args:
        address: Temporal's address.
        database: the database's URL.
        simulator: the simulator's address; None leaves the caller's own provider settings.
        keys: the file of its payload keys; None leaves it to the default.
    """
    # The stack is the user's own, and so are the files that they schedule.
    ours = {"TEMPORAL_ADDRESS": address, "DATABASE_URL": database, "KEYTURN_INVENTORY_ROOT": "/"}
    if keys is not None:
        ours["KEYTURN_PAYLOAD_KEYS_FILE"] = str(keys)
    if simulator is None:
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
        for name in ("KEYTURN_POLICY_DIR", "KEYTURN_RATE_CARD"):  # the worker runs in another folder
            if name in theirs:
                theirs[name] = str(Path(theirs[name]).absolute())
        theirs.pop("KEYTURN_PAYLOAD_KEYS", None)
        return theirs | ours
    simulated = {
        "KEYTURN_ROUTES": ", ".join(f"{name}:{SIMULATED_MODEL}" for name in _SIMULATED),
        "KEYTURN_RATE_CARD": str(Path(__file__).parent / "rates.toml"),
    }
    providers = load_providers()
    for name, path in _SIMULATED.items():
        simulated |= {providers[name].key_variable: PLACEHOLDER_KEY, providers[name].url_variable: simulator + path}
    real = {name for one in providers.values() for name in (one.key_variable, one.url_variable)}
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in real}
    return others | ours | simulated


def _expect_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackNotStarted(f"port {port} is taken: stop what listens there, or choose another port") from None
