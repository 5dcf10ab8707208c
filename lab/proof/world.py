"""The real stack of a proof, in a throw-away folder: its processes may be killed, stopped and cut off at any moment."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.connection import TemporalUnreachable, connect
from keyturn.database import database_url, open_database, transaction
from keyturn.jobs.rows import WITHDRAWN
from keyturn.jobs.tables import rotation_jobs
from keyturn.keyring import Keyring
from keyturn.keyring_files import load_keyring, write_keys
from keyturn.lab.cluster.servers import Cluster
from keyturn.lab.proof.cable import Cable
from keyturn.lab.proof.database import PostgreSQL
from keyturn.lab.proof.hosts import Host, hosts
from keyturn.lab.proof.operation_record import Incident
from keyturn.lab.proof.plan import STRICTER_LINE
from keyturn.lab.proof.worker import CLOCKS_DAYS
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import StackNotStarted, child
from keyturn.lab.stack.temporal import dev_server_command
from keyturn.web.ports import free_loopback_port
from keyturn.workers.schema import migrate

WORKERS = 2
BUILDS = ("b1", "b2")  # of the workers, on a cluster
# Starts in a row that end by themselves: a minute, longer than a database is away here.
STARTS_IN_VAIN = 30
LINE_TO_APPROVE = "PROOF-1"
APPROVER = "omar"
NEEDS_APPROVAL = f"""
[[line]]
id = "{LINE_TO_APPROVE}"
version = 1
wording = "Stale service-account keys must rotate within 30 days."
applies_to = ["service_account_key"]
window_days = 30
approval = "required"
approvers = ["{APPROVER}"]
rule = {{ when = "stale" }}
source = {{ benchmark = "The proof", release = "1", id = "1" }}

[[line]]
id = "{STRICTER_LINE}"
version = 1
wording = "Stale service-account keys must rotate within 10 days."
applies_to = ["service_account_key"]
window_days = 10
rule = {{ when = "stale" }}
source = {{ benchmark = "The proof", release = "1", id = "2" }}
"""


class World:
    """The stack, and what may be done to it."""

    def __init__(
        self,
        folder: Path,
        database: URL,
        simulator: str,
        keyring: Keyring,
        cables: dict[str, Cable],
        chance: random.Random,
    ) -> None:
        self.folder = folder
        self.chance = chance
        self.database = database
        self.simulator = simulator
        self.keyring = keyring
        self.cables = cables
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.befell: list[Incident] = []
        self.failed: list[str] = []  # what could not be brought about, and why
        self.to_deploy: list[str] = []  # on a cluster: the deployments that are still to come
        self.policies = folder / "policies"
        self.disk: Path | None = None  # a small separate one, where one may be mounted
        self.hosts: list[Host] = []  # the workers' and then the server's, where they may be made
        self.postgresql: PostgreSQL | None = None
        self.cluster: Cluster | None = None  # of Temporal's production server, in place of the development server
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def temporal(self) -> str:
        """Temporal's address, behind its cable."""
        return self.cables["temporal"].address

    async def client(self) -> Client:
        """Return a client with a new connection, as soon as the server answers."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await connect(self.temporal, keyring=self.keyring)
                except TemporalUnreachable:
                    await asyncio.sleep(0.1)

    async def wait_for_thaw(self, frozen_seconds: float) -> None:
        """Wait until every attempt that was frozen has woken up and done what it does."""
        # A mark with a number: from then on it was frozen. One with `.thaw`: it was let go, and needs no time for that.
        frozen = [mark for mark in self.marks.glob("*-freeze*") if mark.suffix[1:].isdecimal()]
        marks = [mark.stat().st_mtime for mark in frozen]
        wakes = max(marks, default=0.0) + frozen_seconds
        # A claim takes as long as its transaction may.
        await asyncio.sleep(max(wakes - time.time(), 0) + 3.0)

    async def jobs_of(self, account: str) -> int:
        """Return how many jobs an account has now; raises JobStoreUnavailable."""
        table = rotation_jobs.c
        query = select(func.count()).where(table.account_id == account, table.status != WITHDRAWN)
        engine = open_database(self.database, pool_size=1)
        try:
            async with transaction(engine) as connection:
                return int((await connection.execute(query)).scalar_one())
        finally:
            await engine.dispose()

    async def forget_index(self, name: str) -> None:
        """Drop an index of the database, for a control that would not have it."""
        engine = open_database(self.database, pool_size=1)
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP INDEX {name}"))
        await engine.dispose()

    def kill(self, name: str) -> None:
        """Kill a process with -9; its supervisor starts it again."""
        self._signal(name, signal.SIGKILL)

    def move_clock(self, name: str) -> None:
        """Have a worker's clock show another time from now on; one that is just starting dies of it."""
        self._signal(name, signal.SIGUSR1)

    async def freeze(self, name: str, seconds: float) -> None:
        """Let a process stand still for so long."""
        self._signal(name, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(name, signal.SIGCONT)

    async def cut_off(self, host: Host, seconds: float) -> None:
        """Let no packet reach a host or leave it for so long."""
        host.cut_off()
        try:
            await asyncio.sleep(seconds)
        finally:
            host.heal()

    def _signal(self, name: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, KeyError):
            self.processes[name].send_signal(number)

    async def heal(self) -> None:
        """Have the database server up, if there is one; and every host of a cluster."""
        if self.postgresql is not None:
            await self.postgresql.heal()
        if self.cluster is not None:
            await self.cluster.heal()

    async def supervise(
        self,
        name: str,
        command: Callable[[], list[str | Path]],
        environment: dict[str, str] | None,
        *,
        starts_in_vain: int = STARTS_IN_VAIN,
    ) -> None:
        """Run a process, and start it again whenever it has ended, until cancelled; raises StackNotStarted.

        One that ends by itself time after time cannot start: no fault that we make lasts so long.
        """
        in_vain = 0
        while in_vain < starts_in_vain:
            try:
                async with child(command(), environment=environment, log=self.folder / f"{name}.log") as process:
                    self.processes[name] = process
                    try:
                        await process.wait()
                    finally:
                        if process.returncode is None:
                            process.kill()
                    # Killed by us, it has a negative status.
                    in_vain = in_vain + 1 if process.returncode and process.returncode > 0 else 0
            except OSError as error:
                self.failed.append(f"{name} did not start: {error!r}")
            await asyncio.sleep(0.2)  # one that cannot start takes no whole core
        printed = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        raise StackNotStarted(f"{name} does not start: {printed[-1][:300] if printed else 'it printed nothing'}")


@asynccontextmanager
async def world(
    folder: Path,
    database: str,
    *,
    control: str | None,
    chance: random.Random,
    cluster: Cluster | None = None,
    pooler: URL | None = None,
) -> AsyncIterator[World]:
    """Yield a world whose parts are up: servers, and two workers, each on a separate host where that may be.

    Args:
        folder: an existing folder, its own.
        database: the URL of an empty database; PostgreSQL's is reached through a cable.
        control: the control that the workers are, if any; then they have one host, and its clock is right.
        chance: what befalls it.
        cluster: of Temporal's production server, with the database in it; then all workers are on this host, each of
            another build.
        pooler: where the workers reach the database, if by another address.
    """
    keys = folder / "payload_keys"
    write_keys(keys)
    keyring = load_keyring(text=None, file=keys, development=True)
    port = free_loopback_port()
    async with AsyncExitStack() as parts:
        places = [] if control or cluster else parts.enter_context(hosts(WORKERS + 1))
        outside = places[0].outside if places else "127.0.0.1"
        servers = places[WORKERS] if places else None
        ip = servers.address if servers is not None else "127.0.0.1"
        if cluster is not None:
            ip, _, at = cluster.address.rpartition(":")
            port = int(at)
        cables = {"temporal": await parts.enter_async_context(Cable(ip, port).open(outside))}
        url = database_url(database)
        await asyncio.to_thread(migrate, url)
        seen_by_workers = database
        if url.get_backend_name() == "postgresql":
            cables["database"] = await parts.enter_async_context(_cable_to(pooler or url).open(outside))
            seen_by_workers = _through(cables["database"], pooler or url)
        simulator = await parts.enter_async_context(simulator_process())
        there = urlsplit(simulator)
        cables["provider"] = await parts.enter_async_context(Cable("127.0.0.1", there.port or 80).open(outside))
        made = World(folder, url, simulator, keyring, cables, chance)
        made.hosts = places
        made.cluster = cluster
        # Its parts reach each other by 127.0.0.1, and the workers it by its address.
        listening = "127.0.0.1" if servers is None else "0.0.0.0"  # noqa: S104 - in a separate namespace
        server = dev_server_command(port, ip=listening, database=folder / "temporal.db")
        server = [*(servers.prefix if servers is not None else ()), *server]
        environment = _environment(made, seen_by_workers, keys)
        watch = await parts.enter_async_context(_watched())
        if cluster is None:
            watch(made.supervise("temporal", lambda: server, None))
        await made.client()
        for number in range(WORKERS):
            build = {"KEYTURN_BUILD_ID": BUILDS[number]} if cluster is not None else {}
            command = partial(_worker_command, made, number, control)
            watch(made.supervise(f"worker_{number}", command, environment | build))
        yield made


def _environment(made: World, database: str, keys: Path) -> dict[str, str]:
    """Write the proof's policy lines, and return the variables of its workers."""
    made.policies.mkdir()
    (made.policies / "proof.toml").write_text(NEEDS_APPROVAL)
    provider = f"http://{made.cables['provider'].address}"
    environment = worker_environment(made.temporal, database, provider, keys=keys)
    environment |= {"KEYTURN_TOKENS_PER_USER_HOUR": "0"}
    return environment | {"KEYTURN_BULK_PAGES": "1", "KEYTURN_POLICY_DIR": str(made.policies)}


def _worker_command(made: World, number: int, control: str | None) -> list[str | Path]:
    """Return the command of a worker that is started now, perhaps with another clock."""
    days = 0 if control else made.chance.choice(CLOCKS_DAYS)
    if days:
        made.befell.append(Incident("start_with_another_clock", time.time()))
    command: list[str | Path] = [sys.executable, "-m", "keyturn.lab.proof.worker", made.marks, str(days)]
    host = made.hosts[number].prefix if made.hosts else ()
    return [*host, *command, *([control] if control else [])]


def _cable_to(database: URL) -> Cable:
    """Return a cable to PostgreSQL, by TCP or its Unix socket."""
    port = database.port or 5432
    path = None if database.host else f"{database.query['host']}/.s.PGSQL.{port}"
    return Cable(database.host or "", port, path=path)


def _through(cable: Cable, database: URL) -> str:
    """Return the URL of a database behind a cable."""
    host, _, port = cable.address.rpartition(":")
    through = database.set(drivername="postgresql", host=host, port=int(port), query={})
    return through.render_as_string(hide_password=False)


@asynccontextmanager
async def _watched() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Yield what runs a supervisor beside the body; one that fails ends the body with its error."""
    tasks: list[asyncio.Task[None]] = []
    owner = asyncio.current_task()
    failed: list[BaseException] = []

    def end_body(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and owner is not None:
            failed.append(error)
            owner.cancel()

    def watch(supervisor: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(supervisor))
        tasks[-1].add_done_callback(end_body)

    try:
        yield watch
    except asyncio.CancelledError:
        if failed and owner is not None:
            owner.uncancel()
            raise failed[0] from None
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask_simulator(address: str, method: str, path: str, body: object = None) -> object:
    """Ask the simulator's control."""
    async with loopback_client(address, timeout=30) as http:
        answer = await http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None
