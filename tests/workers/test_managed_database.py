"""A managed PostgreSQL: TLS only, no superuser, a replica beside it, and a failover while jobs are made.

The programs are Debian's. In the locale C initdb makes a cluster of the encoding SQL_ASCII, which is tried here, too.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from keyturn.database import database_url, open_database
from keyturn.errors import DatabaseReadOnly, JobStoreRefused, JobStoreUnavailable, SettingsInvalid
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.web.ports import free_loopback_port
from keyturn.workers.schema import check_schema, migrate
from tests.support.backups import AFTER, BEFORE, create_job, expect_as_it_was
from tests.support.cases import order

_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
BIN = _INSTALLED[-1].parent if _INSTALLED else None
needs_it = pytest.mark.skipif(BIN is None, reason="Debian's PostgreSQL is not installed (apt install postgresql)")
PASSWORD = "a-password-of-the-tests"
OWNER = "keyturn"


@dataclass
class Cluster:
    """A server that may be started and stopped; its files are in `folder`."""

    folder: Path
    port: int

    def url(self, **query: str) -> URL:
        base = f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{self.port}/keyturn"
        return database_url(base).update_query_dict({"sslmode": "require"} | query)

    def run(self, program: str, *arguments: str | Path, **environment: str) -> str:
        """Run one of PostgreSQL's programs as the user that owns the files: it will not run as root."""
        assert BIN is not None
        done = subprocess.run(
            [BIN / program, *arguments],
            user=_user() if os.getuid() == 0 else None,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C"} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder.parent}"
        self.run("pg_ctl", "-w", "-D", self.folder, "-l", f"{self.folder}.log", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-D", self.folder, "-m", "immediate", "stop")

    def sql(self, text: str) -> None:
        host = ("-h", str(self.folder.parent), "-p", str(self.port))
        self.run("psql", *host, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", text)

    def promote(self) -> None:
        self.run("pg_ctl", "-w", "-D", self.folder, "promote")

    def hand_over(self) -> None:
        """Give the files to the user that PostgreSQL runs as."""
        if os.getuid() == 0:
            owner = pwd.getpwnam(_user())
            for place in (self.folder.parent, *self.folder.parent.iterdir()):
                os.chown(place, owner.pw_uid, owner.pw_gid)


def _user() -> str:
    return "postgres"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyturn-ha-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def primary(folder: Path) -> Iterator[Cluster]:
    """As clouds give one: TLS or nothing, passwords, and a role that owns a database and no more."""
    made = Cluster(folder / "one", free_loopback_port())
    made.hand_over()
    made.run("initdb", "-D", made.folder, "-U", "postgres", "--auth=trust", "--no-sync")
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    key += ["-subj", "/CN=127.0.0.1", "-days", "2"]
    key += ["-keyout", f"{made.folder}/server.key", "-out", f"{made.folder}/server.crt"]
    subprocess.run(key, check=True, capture_output=True)
    for name in ("server.key", "server.crt"):
        if os.getuid() == 0:
            shutil.chown(made.folder / name, _user())
        os.chmod(made.folder / name, 0o600)
    settings = (
        "ssl = on\nfsync = off\nwal_level = replica\nmax_wal_senders = 4\nhot_standby = on\nmax_connections = 40\n"
    )
    with (made.folder / "postgresql.conf").open("a") as opened:
        opened.write(settings)
    (made.folder / "pg_hba.conf").write_text(
        "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        f"hostssl replication {OWNER} 127.0.0.1/32 scram-sha-256\n"
    )
    made.start()
    try:
        made.sql(f"CREATE ROLE {OWNER} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        made.sql(f"CREATE DATABASE keyturn OWNER {OWNER}")
        migrate(made.url())
        yield made
    finally:
        made.stop()


@pytest.fixture
def replica(primary: Cluster, folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder / f"replica-{free_loopback_port()}", free_loopback_port())
    source = f"host=127.0.0.1 port={primary.port} user={OWNER} password={PASSWORD} sslmode=require"
    made.run("pg_basebackup", "-d", source, "-D", made.folder, "-R", "--checkpoint=fast", "--no-sync")
    made.start()
    yield made
    made.stop()


@needs_it
async def test_jobs_are_made_over_tls_by_a_role_that_owns_its_database_and_no_more(primary: Cluster) -> None:
    assert check_schema(primary.url())
    engine = open_database(primary.url())
    made = await JobStore(engine).create_once(order(), idempotency_key="tls", fence=1)
    assert made.created
    await engine.dispose()


@needs_it
async def test_a_database_is_restored_from_pg_dump_by_the_role_that_owns_it(primary: Cluster, folder: Path) -> None:
    """As the documents write it, into an empty database of the same owner."""
    job_id, _ = await create_job(primary.url(), BEFORE)
    server = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", OWNER)
    primary.run("pg_dump", *server, "--format=custom", "--file", folder / "keyturn.dump", "keyturn")
    await create_job(primary.url(), AFTER)
    primary.sql(f"CREATE DATABASE restored OWNER {OWNER}")
    restore = ("--exit-on-error", "--no-owner", "--dbname", "restored", folder / "keyturn.dump")
    primary.run("pg_restore", *server, *restore)
    await expect_as_it_was(primary.url().set(database="restored"), job_id)


@needs_it
async def test_without_tls_the_server_refuses_by_name(primary: Cluster) -> None:
    engine = open_database(primary.url(sslmode="disable"))
    with pytest.raises(JobStoreRefused, match="no encryption"):
        await JobStore(engine).create_once(order(), idempotency_key="clear", fence=1)
    await engine.dispose()
    with pytest.raises(JobStoreRefused, match="no encryption"):
        check_schema(primary.url(sslmode="disable"))


@needs_it
async def test_a_replica_is_told_from_a_primary_at_a_workers_start_and_at_a_write(
    primary: Cluster, replica: Cluster
) -> None:
    with pytest.raises(DatabaseReadOnly, match="a replica, or a failover"):
        check_schema(replica.url())
    engine = open_database(replica.url())
    with pytest.raises(DatabaseReadOnly):
        await JobStore(engine).create_once(order(), idempotency_key="replica", fence=1)
    await engine.dispose()
    with pytest.raises(DatabaseReadOnly):
        check_schema(replica.url(target_session_attrs="read-write"))


@needs_it
async def test_a_failover_while_jobs_are_made_makes_each_once(primary: Cluster, folder: Path) -> None:
    """Both hosts are named, as libpq writes it. The replica has all that was confirmed, and becomes the primary."""
    one = Cluster(folder / "old", free_loopback_port())
    source = f"host=127.0.0.1 port={primary.port} user={OWNER} password={PASSWORD} sslmode=require"
    one.run("pg_basebackup", "-d", source, "-D", one.folder, "--checkpoint=fast", "--no-sync")
    one.start()
    other = Cluster(folder / "new", free_loopback_port())
    own = f"host=127.0.0.1 port={one.port} user={OWNER} password={PASSWORD} sslmode=require"
    other.run("pg_basebackup", "-d", own, "-D", other.folder, "-R", "--checkpoint=fast", "--no-sync")
    other.start()
    one.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")  # what is confirmed is on both
    one.sql("SELECT pg_reload_conf()")
    hosts = f"127.0.0.1:{one.port},127.0.0.1:{other.port}"
    url = database_url(
        f"postgresql://{OWNER}:{PASSWORD}@{hosts}/keyturn?sslmode=require&target_session_attrs=read-write"
    )
    engine = open_database(url)
    store = JobStore(engine)
    failed = 0

    async def made(number: int) -> str:
        nonlocal failed
        ordered, key = order(), f"failover-{number}"
        async with asyncio.timeout(60):
            while True:
                try:
                    return (await store.create_once(ordered, idempotency_key=key, fence=1)).job_id
                except JobStoreUnavailable:
                    failed += 1
                    await asyncio.sleep(0.2)

    try:
        before = await asyncio.gather(*(made(number) for number in range(20)))
        under_way = asyncio.gather(*(made(number) for number in range(20, 200)))
        await asyncio.to_thread(one.stop)
        other.promote()
        after = await under_way
        jobs = {job["job_id"] for job in await store.jobs(tenant_id="default", limit=1_000)}
        assert {*before, *after} <= jobs
        assert len({*before, *after}) == 200
        claim = await JobLeases(engine).claim(after[0], tenant_id="default", owner="omar", lease=timedelta(minutes=1))
        assert claim.token == 1
        assert failed > 0
    finally:
        await engine.dispose()
        other.stop()


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ("postgresql://u:p@a:1,b:2/d?target_session_attrs=read-write", ("a:1", "b:2")),
        ("postgres://u@a,b,c/d", ("a", "b", "c")),
        ("postgresql+psycopg://a,b/d", ("a", "b")),
    ],
)
def test_several_hosts_are_read_as_libpq_writes_them(given: str, hosts: tuple[str, ...]) -> None:
    url = database_url(given)
    assert url.query["host"] == hosts
    assert url.database == "d"


@pytest.mark.parametrize("given", ["postgresql://u:hunter2,x/w@127.0.0.1/d", "postgresql://u:p,w@h/d"])
def test_a_password_is_never_taken_for_hosts(given: str) -> None:
    assert database_url(given).host in {"127.0.0.1", "h"}


@pytest.mark.parametrize("given", ["postgresql://u:p@[::1]:5432,[::2]:5433/d", "postgresql://hunter2:x,y/d"])
def test_hosts_that_are_none_are_refused_without_a_part_of_them(given: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        database_url(given)
    assert "hunter2" not in str(refused.value)
