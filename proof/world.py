"""The real stack of a proof, in a throw-away folder: its processes may be killed, stopped and cut off at any moment."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
from sqlalchemy import text
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.database import database_url, open_database
from keyturn.keyring import Keyring, load_keyring, write_keys
from stack.embedded import simulator_process, worker_environment
from stack.processes import child, free_port
from stack.temporal import dev_server_command
from workers.schema import migrate
from workflows.connection import TemporalUnreachable, connect


class Cable:
    """A TCP proxy in front of a server. Pulled, every connection through it breaks off in both directions."""

    def __init__(self, host: str, port: int, *, path: str | None = None) -> None:
        self._host, self._port, self._path = host, port, path
        self._ends: set[asyncio.StreamWriter] = set()
        self.port = 0

    def pull(self) -> None:
        """Break every connection off."""
        for end in list(self._ends):
            end.transport.abort()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Cable"]:
        """Pass connections on until it is left."""
        server = await asyncio.start_server(self._passed, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.pull()

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._path is not None:
                ours = await asyncio.open_unix_connection(self._path)
            else:
                ours = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, ours[1]}
        try:
            await asyncio.gather(_copy(reader, ours[1]), _copy(ours[0], writer))
        except asyncio.CancelledError:  # the loop ends; streams of Python 3.11 would complain of it
            return
        finally:
            for end in (writer, ours[1]):
                end.transport.abort()
                self._ends.discard(end)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        writer.close()


class World:
    """The stack, and what may be done to it."""

    def __init__(self, folder: Path, database: URL, simulator: str, keyring: Keyring, cables: dict[str, Cable]) -> None:
        self.folder = folder
        self.database = database
        self.simulator = simulator
        self.keyring = keyring
        self.cables = cables
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.happened: dict[str, int] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def temporal(self) -> str:
        """Temporal's address, behind its cable."""
        return f"127.0.0.1:{self.cables['temporal'].port}"

    async def client(self) -> Client:
        """A client of its own connection, as soon as the server answers."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await connect(self.temporal, keyring=self.keyring)
                except TemporalUnreachable:
                    await asyncio.sleep(0.1)

    async def thawed(self, frozen_seconds: float) -> None:
        """Wait until every attempt that was frozen has woken up and done what it does; and records are written."""
        marks = [mark.stat().st_mtime for mark in self.marks.iterdir() if "-freeze" in mark.name]
        wakes = max(marks, default=0.0) + frozen_seconds
        # The ledger is written in batches of a second; and a claim takes as long as its transaction may.
        await asyncio.sleep(max(wakes - time.time(), 0) + 3.0)

    async def forget_index(self, name: str) -> None:
        """Drop an index of the database, for a control that would not have it."""
        engine = open_database(self.database, pool_size=1)
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP INDEX {name}"))
        await engine.dispose()

    def kill(self, name: str) -> None:
        """Kill a process with -9; what watches over it begins it again."""
        with suppress(ProcessLookupError, KeyError):
            self._processes[name].send_signal(signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Let a process stand still."""
        with suppress(ProcessLookupError, KeyError):
            self._processes[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let it go on."""
        with suppress(ProcessLookupError, KeyError):
            self._processes[name].send_signal(signal.SIGCONT)

    async def watched(self, name: str, command: list[str | Path], environment: dict[str, str] | None) -> None:
        """Run a process, and begin it again whenever it has ended, until cancelled."""
        while True:
            async with child(command, environment=environment, log=self.folder / f"{name}.log") as process:
                self._processes[name] = process
                try:
                    await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()


@asynccontextmanager
async def world(folder: Path, database: str, *, workers: int, control: str | None) -> AsyncIterator[World]:
    """Yield a world whose parts are up.

    Args:
        folder: an existing folder, its own.
        database: the URL of an empty database; PostgreSQL's is reached through a cable.
        workers: how many processes poll.
        control: the control that they are, if any.
    """
    keys = folder / "payload_keys"
    write_keys(keys)
    keyring = load_keyring(text=None, file=keys, development=True)
    port = free_port()
    async with AsyncExitStack() as parts:
        cables = {"temporal": await parts.enter_async_context(Cable("127.0.0.1", port).laid())}
        url = database_url(database)
        await asyncio.to_thread(migrate, url)
        seen_by_workers = database
        if url.get_backend_name() == "postgresql":
            socket = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
            cables["database"] = await parts.enter_async_context(Cable("", 0, path=socket).laid())
            through = url.set(drivername="postgresql", host="127.0.0.1", port=cables["database"].port, query={})
            seen_by_workers = through.render_as_string(hide_password=False)
        simulator = await parts.enter_async_context(simulator_process())
        made = World(folder, url, simulator, keyring, cables)
        server = dev_server_command(port, database=folder / "temporal.db")
        environment = worker_environment(made.temporal, seen_by_workers, simulator, keys=keys)
        environment |= {"KEYTURN_BULK_PAGES": "0", "KEYTURN_ANSWER_CACHE": "off", "KEYTURN_TOKENS_PER_USER_HOUR": "0"}
        command: list[str | Path] = [sys.executable, "-m", "proof.worker", made.marks]
        watched = [asyncio.create_task(made.watched("temporal", server, None))]
        parts.push_async_callback(_ended, watched)
        await made.client()
        for number in range(workers):
            named = [*command, *([control] if control else [])]
            watched.append(asyncio.create_task(made.watched(f"worker_{number}", named, environment)))
        yield made


async def _ended(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def simulated(address: str, method: str, path: str, body: object = None) -> object:
    """Ask the simulator's control."""
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as http:
        answer = await http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None
