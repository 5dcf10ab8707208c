"""The whole stack on loopback: Temporal's dev server with UI, the codec server, the simulator, SQLite, one worker."""

import asyncio
import dataclasses
import fcntl
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from temporalio.client import Client

from keyturn.database import database_url
from keyturn.keyring import Keyring
from keyturn.keyring_files import DEVELOPMENT_FILE, keyring_from_environment, load_keyring, write_keys
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import StackNotStarted, child
from keyturn.lab.stack.temporal import START_SECONDS, dev_server
from keyturn.llm.providers import load_providers
from keyturn.web.ports import free_loopback_port
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
    keys: Path | None
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
    own_settings: bool = False,
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
        own_settings: whether worker, desk and codec server read the caller's settings, database and payload keys, in
            the caller's folder, as in production; else they see none of them.

    Raises:
        StackNotStarted: a part did not come up; what had come up is stopped.
    """
    for name, port in dataclasses.asdict(ports).items():
        _expect_free(name, port)
    ui_port = ports.ui or free_loopback_port()
    database, keys = _database_and_keys(folder, own_settings=own_settings)
    keyring = keyring_from_environment() if keys is None else load_keyring(text=None, file=keys, development=True)
    where = Path.cwd() if own_settings else folder
    environment_of = own_environment if own_settings else worker_environment
    async with AsyncExitStack() as parts:
        decoder = None
        if codec:
            around = own_environment("", database, None, keys=keys) if own_settings else {}
            serving = codec_process(
                ports.codec or free_loopback_port(), folder, keys=keys, ui_port=ui_port, where=where, around=around
            )
            decoder = await parts.enter_async_context(serving)
        server = dev_server(
            port=ports.temporal or None,
            ui_port=ui_port,
            database=folder / "temporal.db" if keep else None,
            log=folder / "temporal.log",
            keyring=keyring,
            codec=decoder,
        )
        client = await parts.enter_async_context(server)
        address = client.service_client.config.target_host
        simulator = await parts.enter_async_context(simulator_process(ports.simulator))
        await asyncio.to_thread(migrate, database_url(database))
        worker = await parts.enter_async_context(
            child(
                [sys.executable, "-m", "keyturn.workers"],
                environment=environment_of(address, database, simulator if simulated else None, keys=keys),
                folder=where,
                log=worker_log,
            )
        )
        ui, page = f"http://127.0.0.1:{ui_port}", None
        if desk:
            environment = environment_of(address, database, simulator, keys=keys) | {"KEYTURN_TEMPORAL_UI": ui}
            serving = desk_process(ports.desk or free_loopback_port(), folder, environment, where=where)
            page = await parts.enter_async_context(serving)
        yield Stack(client, address, ui, simulator, database, keys, keyring, decoder, page, worker)


def _database_and_keys(folder: Path, *, own_settings: bool) -> tuple[str, Path | None]:
    """Return the database's URL, and the file of payload keys, made where there is none; None: the caller has keys."""
    database = f"sqlite:///{folder / 'keyturn.db'}"
    if own_settings:
        database = os.environ.get("DATABASE_URL") or database
        if os.environ.get("KEYTURN_PAYLOAD_KEYS") or os.environ.get("KEYTURN_PAYLOAD_KEYS_FILE"):
            return database, None
    keys = folder / DEVELOPMENT_FILE.name
    if not keys.exists():
        write_keys(keys)
    return database, keys


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
async def codec_process(
    port: int, folder: Path, *, keys: Path | None, ui_port: int, where: Path, around: Mapping[str, str]
) -> AsyncIterator[str]:
    """Yield the address of a codec server for the UI at `ui_port`; stop it afterwards. Raises StackNotStarted.

    Args:
        port: on loopback.
        folder: where its token and its log are.
        keys: the file of its payload keys; None leaves them to `around`.
        ui_port: of the UI that may ask it.
        where: the folder that it runs in.
        around: further variables, such as the caller's settings.
    """
    token = folder / "codec_token"
    if not token.exists() or not token.read_text().strip():  # a start that was killed may have left it empty
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(32))
    address = f"127.0.0.1:{port}"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    mine = {} if keys is None else {"KEYTURN_PAYLOAD_KEYS_FILE": str(keys)}
    environment = {**bare, **around, **mine} | {
        "KEYTURN_CODEC_ADDRESS": address,
        "KEYTURN_CODEC_ORIGINS": f"http://127.0.0.1:{ui_port},http://localhost:{ui_port}",
        "KEYTURN_CODEC_TOKENS": f"operator:{token.read_text().strip()}",
    }
    async with _serving("codec", address, environment, folder, where) as url:
        yield url


@asynccontextmanager
async def desk_process(
    port: int, folder: Path, environment: dict[str, str], *, where: Path | None = None
) -> AsyncIterator[str]:
    """Yield the address of a support desk on `port`, in `where`; stop it afterwards. Raises StackNotStarted."""
    address = f"127.0.0.1:{port}"
    async with _serving(
        "desk", address, environment | {"KEYTURN_DESK_ADDRESS": address}, folder, where or folder
    ) as url:
        yield url


@asynccontextmanager
async def _serving(
    name: str, address: str, environment: dict[str, str], folder: Path, where: Path
) -> AsyncIterator[str]:
    """Yield the address of a command that serves, in `where`, when it answers; its log is in `folder`."""
    command = [sys.executable, "-m", "keyturn.starter", name]
    async with child(command, environment=environment, folder=where, log=folder / f"{name}.log") as process:
        async with asyncio.timeout(START_SECONDS), loopback_client() as http:
            while process.returncode is None:
                with suppress(httpx.HTTPError):
                    (await http.get(f"http://{address}/healthz")).raise_for_status()
                    break
                await asyncio.sleep(0.05)
        if process.returncode is not None:
            raise StackNotStarted(f"the {name} exited at once: {folder / f'{name}.log'} says why")
        yield f"http://{address}"


def own_environment(address: str, database: str, simulator: str | None, *, keys: Path | None) -> dict[str, str]:
    """Return the caller's own variables, for a worker, desk or codec server on this stack; see `worker_environment`.

    Where the stack has a server of its own (Temporal; the simulator, unless a provider is asked), it is used.
    """
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    ours = {"TEMPORAL_ADDRESS": address, "DATABASE_URL": database}
    if keys is not None:
        ours["KEYTURN_PAYLOAD_KEYS_FILE"] = str(keys)
    if "KEYTURN_INVENTORY_ROOT" not in theirs:  # the stack is the user's own, and so are the files that they schedule
        ours["KEYTURN_INVENTORY_ROOT"] = "/"
    return theirs | ours | ({} if simulator is None else _simulated_providers(simulator))


def worker_environment(address: str, database: str, simulator: str | None, *, keys: Path | None) -> dict[str, str]:
    """Return the variables of a worker on this stack, with none of the caller's settings but a provider's.

    Args:
        address: Temporal's address.
        database: the database's URL.
        simulator: the simulator's address; None leaves the caller's own provider settings.
        keys: the file of its payload keys; None leaves it to the default.
    """
    if simulator is None:
        return own_environment(address, database, None, keys=keys)
    ours = {"TEMPORAL_ADDRESS": address, "DATABASE_URL": database, "KEYTURN_INVENTORY_ROOT": "/"}
    if keys is not None:
        ours["KEYTURN_PAYLOAD_KEYS_FILE"] = str(keys)
    real = {name for one in load_providers().values() for name in (one.key_variable, one.url_variable)}
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in real}
    return others | ours | _simulated_providers(simulator)


def _simulated_providers(simulator: str) -> dict[str, str]:
    """Return the variables by which the simulator is asked in the place of each provider."""
    providers = load_providers()
    simulated = {
        "KEYTURN_ROUTES": ", ".join(f"{name}:{SIMULATED_MODEL}" for name in _SIMULATED),
        "KEYTURN_RATE_CARD": str(Path(__file__).parent / "rates.toml"),
    }
    for name, path in _SIMULATED.items():
        simulated |= {providers[name].key_variable: PLACEHOLDER_KEY, providers[name].url_variable: simulator + path}
    return simulated


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: two stacks on one state would overwrite each other's; raises StackNotStarted."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackNotStarted(
                f"another `keyturn dev` runs on {folder}: stop that one, or name another --folder"
            ) from None
        yield


def _expect_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            option = "--port" if name == "temporal" else f"--{name}-port"
            raise StackNotStarted(
                f"port {port} is taken: stop what listens there, or choose another by {option} (0 takes a free one)"
            ) from None
