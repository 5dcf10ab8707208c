"""A cluster of Temporal's production server: two frontends, two histories, two matchings, a worker, PostgreSQL.

Each process has an address of its own on loopback (127.0.0.0/8 is all this machine's, on Linux), as hosts have. What
`deploy/` has for production is what sets it up: the roles, the schemas, the namespace, the dynamic configuration.
"""

import asyncio
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from keyturn.lab.cluster.configuration import FRONTEND_PORT, PORTS, write_configuration
from keyturn.lab.cluster.entrance import entrance, forwarded
from keyturn.lab.cluster.postgresql import (
    ADMINISTRATOR,
    PORT,
    ask_postgresql,
    copy_postgresql,
    create_roles,
    postgresql_on,
    promote_postgresql,
    run_script,
)
from keyturn.lab.cluster.programs import Programs, build_programs
from keyturn.lab.stack.certificates import SERVER_NAME, Certificates, write_certificates
from keyturn.lab.stack.network import Network, free_network
from keyturn.lab.stack.processes import StackNotStarted, child, program
from keyturn.workflows.visibility import ACCOUNT

# By host: its service, and the last part of its address.
SERVICES = {
    "frontend-1": ("frontend", 1),
    "frontend-2": ("frontend", 2),
    "history-1": ("history", 3),
    "history-2": ("history", 4),
    "matching-1": ("matching", 5),
    "matching-2": ("matching", 6),
    "worker-1": ("worker", 7),
}
DATABASE, STANDBY = "postgresql", "standby"
STARTS_OF_A_DATABASE = 5  # a killed one's children hold its memory for a second or two
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
# A host joins the others in some seconds, and has its shards a moment later.
START_SECONDS = 90.0


class Cluster:
    """A cluster that runs.

    Attributes:
        address: a plain address on loopback that stands before all frontends, and shows the client's certificate.
        environment: the variables by which a program reaches a frontend itself, with certificates.
        database: the URL of Keyturn's own database.
        administrator: the URL of PostgreSQL's administrator.
        folder: of logs and certificates.
        programs: what its hosts are started by.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        programs: Programs,
        certificates: Certificates,
        passwords: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.address = ""
        self._network = network
        self.programs = programs
        self._certificates = certificates
        self._passwords = passwords
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._failed_over = False
        self._hosts: dict[str, AsyncExitStack] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        role = f"{ADMINISTRATOR}:{passwords[ADMINISTRATOR]}"
        self.administrator = f"postgresql://{role}@{self.ip_of_database}:{PORT}/postgres"
        self.database = f"postgresql://keyturn:{passwords['keyturn']}@{self.ip_of_database}:{PORT}/keyturn"

    @property
    def ip_of_database(self) -> str:
        """Where PostgreSQL is reached."""
        return self.ip_of(DATABASE)

    @property
    def frontends(self) -> list[str]:
        """The IPs of the frontends."""
        return [self.ip_of(name) for name, (service, _) in SERVICES.items() if service == "frontend"]

    def ip_of(self, name: str) -> str:
        """Return where a host listens."""
        return self._network.ip({DATABASE: 9, STANDBY: 10}.get(name) or SERVICES[name][1])

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of Temporal's SDK and command line for the first frontend."""
        client = self._certificates.client
        return {
            "TEMPORAL_ADDRESS": f"{self.frontends[0]}:{FRONTEND_PORT}",
            "TEMPORAL_TLS": "true",
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(self._certificates.authority),
            "TEMPORAL_TLS_SERVER_NAME": SERVER_NAME,
            "TEMPORAL_TLS_CLIENT_CERT_PATH": str(client.certificate),
            "TEMPORAL_TLS_CLIENT_KEY_PATH": str(client.key),
        }

    async def change(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take hosts away and start them again by `step`, one step after the other.

        A step that has begun is not cancelled with its caller: half of it would leave a host, or the database, stopped.
        """

        async def alone() -> None:
            async with self._changing:
                await step()

        task = asyncio.create_task(alone())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def heal(self) -> None:
        """Wait for the steps under way, and have every host up; raises StackNotStarted."""
        await asyncio.gather(*self._changes, return_exceptions=True)
        if self.primary not in self._hosts:
            await self.start_database(self.primary)
        for name in SERVICES:
            if name not in self._hosts:
                await self.start(name)

    async def start(self, name: str) -> None:
        """Start a host by `programs`, and wait until it answers; raises StackNotStarted."""
        service, _ = SERVICES[name]
        command: list[str | Path] = [self.programs.server, "--config-file", self._configuration(name)]
        command += ["--allow-no-auth", "start", "--service", service]
        async with AsyncExitStack() as running:
            process = await running.enter_async_context(child(command, log=self.folder / f"{name}.log"))
            await self._expect_port(name, process)
            self._processes[name] = process
            self._hosts[name] = running.pop_all()

    async def start_database(self, name: str = DATABASE) -> None:
        """Start PostgreSQL, or its standby; raises StackNotStarted."""
        left = STARTS_OF_A_DATABASE
        while name not in self._hosts:
            left -= 1
            try:
                async with AsyncExitStack() as running:
                    log, password = self.folder / f"{name}.log", self._passwords[ADMINISTRATOR]
                    server = postgresql_on(self.ip_of(name), self.folder / name, log, password=password)
                    self._processes[name] = await running.enter_async_context(server)
                    self._hosts[name] = running.pop_all()
            except StackNotStarted:
                if not left:
                    raise
                await asyncio.sleep(0.5)

    async def bring_schemas(self, programs: Programs) -> None:
        """Bring the databases to the schemas of `programs`, which older servers bear; raises StackNotStarted."""
        tools = self.folder / f"tools-{programs.version}"
        tools.mkdir(exist_ok=True)
        if not (tools / "temporal-sql-tool").exists():
            (tools / "temporal-sql-tool").symlink_to(programs.sql_tool)
        environment = {
            "PATH": f"{tools}:{os.environ.get('PATH', os.defpath)}",
            "SQL_HOST": self.ip_of_database,
            "SQL_PORT": str(PORT),
            "SQL_USER": "temporal",
            "SQL_PASSWORD": self._passwords["temporal"],
        }
        await run_script(["/bin/sh", str(DEPLOY / "temporal" / "schema.sh")], environment)

    async def add_standby(self) -> None:
        """Have a standby follow PostgreSQL's log; a commit from now on is on both, or has not happened."""
        await copy_postgresql(self.ip_of(DATABASE), self.folder / STANDBY, password=self._passwords[ADMINISTRATOR])
        await self.start_database(STANDBY)
        await self._set_standbys(DATABASE, "*")

    async def fail_over(self) -> None:
        """Kill PostgreSQL for good; its standby is the primary from then on, and has its address."""
        await self.kill(DATABASE)
        await promote_postgresql(self.folder / STANDBY)
        await self._set_standbys(STANDBY, "")
        self._hosts[DATABASE] = AsyncExitStack()
        self._failed_over = True
        moved = forwarded(self.ip_of(DATABASE), PORT, self.ip_of(STANDBY))
        await self._hosts[DATABASE].enter_async_context(moved)

    async def _set_standbys(self, name: str, names: str) -> None:
        statements = f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()"
        await ask_postgresql(self.ip_of(name), *statements, password=self._passwords[ADMINISTRATOR])

    @property
    def primary(self) -> str:
        """The name of the database's host that takes writes."""
        return STANDBY if self._failed_over else DATABASE

    async def stop(self, name: str) -> None:
        """Ask a host to end, as a deployment does, and wait until it has."""
        self._processes.pop(name, None)
        await self._hosts.pop(name).aclose()

    async def kill(self, name: str) -> None:
        """End a host at once (kill -9)."""
        with suppress(ProcessLookupError):
            self._processes[name].kill()
        await self.stop(name)

    def freeze(self, name: str, *, thaw: bool = False) -> None:
        """Halt a host, which then answers nothing while its connections stay open; or let it go on."""
        self._processes[name].send_signal(signal.SIGCONT if thaw else signal.SIGSTOP)

    async def close(self) -> None:
        """Stop what runs, the last started first."""
        for task in self._changes:
            task.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for name in reversed(list(self._hosts)):
            await self.stop(name)

    def _configuration(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    async def _expect_port(self, name: str, process: asyncio.subprocess.Process) -> None:
        calls, _ = PORTS[SERVICES[name][0]]
        if SERVICES[name][0] == "worker":
            return  # it serves no calls
        until = time.monotonic() + START_SECONDS
        while process.returncode is None and time.monotonic() < until:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(self.ip_of(name), calls)
                writer.close()
                return
            await asyncio.sleep(0.1)
        # The log itself goes with the cluster.
        last = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
        how = "did not answer" if process.returncode is None else f"ended with status {process.returncode}"
        raise StackNotStarted(f"{name} {how}: {''.join(last)[:500]}")


@asynccontextmanager
async def cluster(programs: Programs | None = None) -> AsyncIterator[Cluster]:
    """Yield a cluster with a namespace that Keyturn can use; raises StackNotStarted. Its files end with it."""
    if sys.platform != "linux":
        raise StackNotStarted("a cluster needs Linux, where each of its processes has an address on loopback")
    if not DEPLOY.is_dir():
        raise StackNotStarted("a cluster is set up by the scripts in deploy/: run it in a checkout")
    built = await asyncio.to_thread(build_programs) if programs is None else programs
    with tempfile.TemporaryDirectory(prefix="keyturn-cluster-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - PostgreSQL's files in it are another user's, if we are root
        async with _cluster_in(Path(folder), built) as running:
            yield running


@asynccontextmanager
async def _cluster_in(folder: Path, programs: Programs) -> AsyncIterator[Cluster]:
    network = free_network(FRONTEND_PORT)
    passwords = {role: secrets.token_urlsafe(24) for role in (ADMINISTRATOR, "keyturn", "temporal")}
    addresses = [network.ip(last) for _, last in SERVICES.values()]
    certificates = write_certificates(folder / "certificates", addresses)
    made = Cluster(folder, network, programs, certificates, passwords)
    async with AsyncExitStack() as parts:
        database = made.ip_of_database
        parts.push_async_callback(made.close)
        await made.start_database()
        await create_roles(database, DEPLOY / "postgresql" / "roles.sh", passwords)
        await made.bring_schemas(programs)
        for name in SERVICES:
            write_configuration(
                folder / f"{name}.yaml",
                ip=made.ip_of(name),
                frontend=made.frontends[0],
                database=database,
                password=passwords["temporal"],
                certificates=certificates,
                dynamic=DEPLOY / "temporal" / "dynamicconfig.yaml",
                archive=folder / "archive",
            )
        # The first one writes the cluster's record. When all did so at once, one ended, once in twenty starts.
        first, *others = SERVICES
        await made.start(first)
        await asyncio.gather(*(made.start(name) for name in others))
        await _make_namespace(made)
        made.address = await parts.enter_async_context(entrance(made.frontends, certificates))
        yield made


async def _make_namespace(made: Cluster) -> None:
    """Make the namespace as production does, and wait until all frontends know it."""
    path = f"{program('temporal').parent}:{os.environ.get('PATH', os.defpath)}"
    environment = {"PATH": path, "HOME": str(made.folder), **made.environment}
    await run_script(["/bin/sh", str(DEPLOY / "temporal" / "namespace.sh")], environment)
    await _until("`keyturn namespace` failed", [str(program("keyturn")), "namespace"], environment)
    # Each frontend reads the namespace anew every few seconds, and refuses until then what it has not heard of.
    listed = [str(program("temporal")), "workflow", "list", "--query", f"{ACCOUNT.name}='none'"]
    for ip in made.frontends:
        address = {"TEMPORAL_ADDRESS": f"{ip}:{FRONTEND_PORT}"}
        await _until(f"the frontend {ip} does not know the search attributes", listed, {**environment, **address})


async def _until(fault: str, command: list[str], environment: Mapping[str, str]) -> None:
    """Run a command until it succeeds; raises StackNotStarted, with what it said last."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return await run_script(command, environment)
        except StackNotStarted as error:
            if time.monotonic() > until:
                raise StackNotStarted(f"{fault}: {error}") from None
        await asyncio.sleep(1)
