"""Rotating the passwords of two login roles at a real PostgreSQL, whose executor is no superuser."""

import asyncio
import base64
import hmac
import json
import os
import traceback
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.errors import KeyturnError, SettingsInvalid
from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyWaits
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    CloudRefused,
    CloudUnavailable,
    ForeignKey,
    KeyLimit,
    KeyNotFound,
    NewKeyMissing,
    OldKeyInUse,
    RollbackImpossible,
    UserGone,
)
from keyturn.execution.protocols import CloudKeys
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.postgresql import EXECUTOR
from keyturn.executors.postgresql.names import Mark, is_generated, new_key_id, read_comment, role_in, write_comment
from keyturn.executors.postgresql.roles import PostgresqlRoles
from keyturn.executors.postgresql.scram import scram_verifier
from keyturn.executors.postgresql.settings import RolesSettings, load_roles_settings
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.targets.file import SecretFiles
from tests.support.key_rotations import create_job, patiently

T = TypeVar("T")
job_for = partial(create_job, kind="system_account_password")
Loss = Literal["request", "answer"]
AT_ONCE = KeyWaits(overlap=timedelta(0), grace=timedelta(0), quiet=timedelta(0))
PREFIX = "kt"  # of the roles that the server lets in by password only


class Server:
    """A real server with an executor and the two roles of a user; each name is of one test."""

    def __init__(self, url: URL, *, user: str) -> None:
        self.folder, self.database = str(url.query["host"]), str(url.database)
        self.admin = psycopg.connect(url.set(drivername="postgresql").render_as_string(False), autocommit=True)
        self.user, self.executor, self.password = user, f"{PREFIX}ex_{uuid.uuid4().hex[:7]}", uuid.uuid4().hex
        self.a, self.b = f"{user}_a", f"{user}_b"
        self.old = {"engine": "postgres", "username": self.a, "password": uuid.uuid4().hex, **self.address()}
        self.run("CREATE ROLE {} NOLOGIN", user)
        self.run(f"CREATE ROLE {{}} LOGIN PASSWORD '{self.old['password']}' IN ROLE {{}}", self.a, user)
        self.run("CREATE ROLE {} NOLOGIN IN ROLE {}", self.b, user)
        self.run(
            f"CREATE ROLE {{}} LOGIN CREATEROLE PASSWORD '{self.password}' IN ROLE pg_read_all_stats", self.executor
        )
        self.run("GRANT {}, {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", self.a, self.b, self.executor)

    def address(self) -> dict[str, Any]:
        return {"host": self.folder, "port": 5432, "dbname": self.database}

    def run(self, statement: str, *names: str) -> None:
        self.admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def ask(self, query: str, *values: Any) -> Any:
        row = self.admin.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def url(self, host: str | None = None) -> str:
        return f"postgresql://{self.executor}:{self.password}@/{self.database}?host={host or self.folder}"

    def keys(self, url: str | None = None, **changed: str) -> PostgresqlRoles:
        values = {"KEYTURN_ROLES_DATABASE_URL": url or self.url()} | changed
        return PostgresqlRoles(RolesSettings(**values))  # type: ignore[arg-type]

    def comment(self, role: str) -> str | None:
        found = self.ask("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", role)
        return None if found is None else str(found)

    def can_login(self, role: str) -> bool:
        return bool(self.ask("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", role))

    def verifier(self, role: str) -> str | None:
        found = self.ask("SELECT rolpassword FROM pg_authid WHERE rolname = %s", role)
        return None if found is None else str(found)

    def end_sessions(self, *roles: str) -> None:
        """End sessions of roles, as an administrator does, and wait until they have ended."""
        self.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = ANY(%s)", [list(roles)]
        )

    def drop(self) -> None:
        roles = [self.b, self.a, self.user, self.executor]
        self.end_sessions(*roles)
        for role in roles:
            self.run("DROP ROLE IF EXISTS {}", role)
        self.admin.close()


@pytest.fixture(scope="module")
def by_password_only(postgresql_server: str) -> Iterator[None]:
    """The server trusts whoever is on its socket: the roles of this file are let in by their passwords only."""
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        (file,) = admin.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(file).read_text()
        Path(file).write_text(f'local all "/^{PREFIX}" scram-sha-256\n{before}')
        admin.execute("SELECT pg_reload_conf()")
        probe = f"{PREFIX}_probe_{uuid.uuid4().hex[:8]}"
        admin.execute(f"CREATE ROLE {probe} LOGIN".encode())
        host, trusted = admin.info.host, True
        while trusted:  # until the server has read the file
            try:
                psycopg.connect(host=host, user=probe, dbname="postgres").close()
            except psycopg.OperationalError:
                trusted = False
        yield
        admin.execute(f"DROP ROLE {probe}".encode())
        Path(file).write_text(before)
        admin.execute("SELECT pg_reload_conf()")


@pytest.fixture
def server(postgresql: URL, by_password_only: None) -> Iterator[Server]:
    one = Server(postgresql, user=f"{PREFIX}{uuid.uuid4().hex[:10]}")
    yield one
    one.drop()


@pytest.fixture
def store(sqlite_store: JobStore) -> JobStore:
    return sqlite_store


@pytest.fixture
def engine(sqlite_engine: AsyncEngine) -> AsyncEngine:
    return sqlite_engine


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    return folder


def steps_on(keys: CloudKeys, engine: AsyncEngine, secrets: Path) -> KeyRotation:
    """The steps, with a file a user; a use of the new key counts from the moment that it was verified."""
    targets = SecretTargets({"file": lambda: OpenTarget(SecretFiles(), reads_back=True)})
    paths = [f"file:{secrets}/{{user}}"]
    own = timedelta(0)
    return KeyRotation(keys, targets, JobLeases(engine), Outbox(engine), default_targets=paths, own_use_within=own)


async def recorded(steps: KeyRotation, job_id: str) -> KeyState:
    asked = KeyRotationOrder(job_id=job_id, cloud_account=await steps.account(), waits=AT_ONCE)
    return await steps.record(asked, await steps.claim(asked))


async def created(steps: KeyRotation, rotation: KeyState) -> KeyState:
    rotation = rotation.model_copy(update={"new_key_id": await patiently(lambda: steps.create(rotation))})
    return rotation.model_copy(update={"verified_at": await patiently(lambda: steps.verify(rotation))})


async def deactivated(steps: KeyRotation, rotation: KeyState) -> KeyState:
    moment = await patiently(lambda: steps.deactivate(rotation))
    return rotation.model_copy(update={"deactivated_at": moment})


async def until_unseen(steps: KeyRotation, rotation: KeyState) -> list[str]:
    """Ask until nothing is seen to need the old key, which a person then ends; returns what needed it."""
    kinds: list[str] = []
    while (need := await steps.needs(rotation, now=datetime.now(UTC))) is not None:
        if need.kind == "key_use_unknown":
            break
        kinds.append(need.kind)
        await asyncio.sleep(0)
    return kinds


async def finished(steps: KeyRotation, rotation: KeyState) -> KeyState:
    rotation = await deactivated(steps, rotation)
    assert await steps.uses_since(rotation) is None
    await patiently(lambda: steps.delete(rotation))
    await steps.close(rotation)
    return rotation


async def log_in(secret: dict[str, Any], **changed: Any) -> psycopg.AsyncConnection[Any]:
    """Log in by a secret's fields, as any program does."""
    given = {name: secret[name] for name in ("host", "port", "dbname", "password")} | {"user": secret["username"]}
    return await psycopg.AsyncConnection.connect(**given | changed, autocommit=True)


def secret_in(secrets: Path, user: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((secrets / user).read_text())
    return found


class Consumer:
    """A program that logs in by what its file holds, again and again, and ends a session when the next one is open."""

    def __init__(self, file: Path) -> None:
        self.file, self.as_roles = file, list[str]()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator["Consumer"]:
        stop = asyncio.Event()
        working = asyncio.create_task(self._work(stop))
        yield self
        stop.set()
        await working  # a login that failed is raised here

    async def _work(self, stop: asyncio.Event) -> None:
        before = None
        while not stop.is_set():
            session = await log_in(json.loads(self.file.read_text()), application_name="pay-api")
            (known_as,) = await (await session.execute("SELECT current_user")).fetchone() or ("",)
            self.as_roles.append(known_as)
            if before is not None:
                await before.close()
            before = session
        if before is not None:
            await before.close()


# -- a whole rotation -------------------------------------------------------------------------------------------------


async def test_a_consumer_never_fails_to_log_in_through_two_rotations_one_after_the_other(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """There and back: the second job names its key as an audit does, by the bare role that the first one has filled."""
    file = secrets / server.user
    file.write_text(json.dumps(server.old))
    steps = steps_on(server.keys(), engine, secrets)
    rotations: list[KeyState] = []
    async with Consumer(file).at_work() as consumer:
        for account, old, new in ((server.user, server.a, server.b), (server.b, server.b, server.a)):
            job_id = await job_for(store, account, old)
            rotation = await created(steps, await recorded(steps, job_id))
            assert rotation.new_key_id is not None
            assert rotation.new_key_id.startswith(f"{new}.")
            assert (server.can_login(server.a), server.can_login(server.b)) == (True, True), "both work at once"
            needed = await until_unseen(steps, rotation)
            assert set(needed) <= {"old_key_in_use"}
            rotations.append(await finished(steps, rotation))
            assert (server.can_login(old), server.verifier(old), server.comment(old)) == (False, None, None)
            assert (await JobLeases(engine).show(job_id, tenant_id="default"))[0]["status"] == "done"
    roles = [role for at, role in enumerate(consumer.as_roles) if consumer.as_roles[at - 1 : at] != [role]]
    assert roles == [server.a, server.b, server.a]
    listed = await server.keys().list_keys(server.user)
    assert [(key.key_id, key.is_active, key.job_id) for key in listed] == [
        (rotations[1].new_key_id, True, rotations[1].job_id)
    ]
    assert secret_in(secrets, server.user) | {"password": ""} == {
        **{"engine": "postgres", "username": server.a, "password": "", "key_id": rotations[1].new_key_id},
        **server.address(),
    }


async def test_no_log_no_error_and_no_row_of_the_job_has_the_password(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """The server logs every statement of the executor, and sees the verifier only."""
    server.run("ALTER ROLE {} SET log_statement = 'all'", server.executor)
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    password = secret_in(secrets, server.user)["password"]
    log = (Path(server.ask("SHOW data_directory")) / "log").read_text(errors="replace")
    assert f'ALTER ROLE "{server.b}" WITH LOGIN PASSWORD \'SCRAM-SHA-256$' in log
    assert password not in log
    server.run("REVOKE {} FROM {}", server.user, server.b)
    with pytest.raises(CloudRefused) as caught:
        await steps.verify(rotation)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(caught.value)
    assert password not in shown
    assert server.password not in shown + repr(steps._keys) + repr(vars(steps._keys))
    async with engine.connect() as connection:
        for table in ("rotation_jobs", "job_audit", "outbox"):
            assert password not in str((await connection.execute(text(f"SELECT * FROM {table}"))).all())


async def test_a_session_of_the_old_role_blocks_and_is_named(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """It is remembered when it has ended. Then no one knows, whatever the new role does: others come for a moment."""
    (secrets / server.user).write_text(json.dumps(server.old))
    session = await log_in(server.old, application_name="nightly\nbatch")
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    quiet = rotation.model_copy(update={"waits": KeyWaits(quiet=timedelta(hours=1))})
    for _ in range(2):
        need = await steps.needs(quiet, now=datetime.now(UTC))
        assert need is not None
        assert (need.kind, need.by) == ("old_key_in_use", (r"nightly\x0abatch@local",))
        await session.close()
        server.end_sessions(server.a)
        session = await log_in(server.old, application_name="nightly\nbatch")
    await session.close()
    server.end_sessions(server.a)
    need = await steps.needs(quiet, now=datetime.now(UTC))
    assert need is not None
    assert need.kind == "old_key_in_use", "an hour has not passed since it was seen"
    session = await log_in(secret_in(secrets, server.user))
    need = await steps.needs(rotation, now=datetime.now(UTC) + timedelta(seconds=1))
    assert need is not None
    assert need.kind == "key_use_unknown"
    await session.close()


async def test_a_session_that_outlives_the_deactivation_brings_the_old_role_back(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """NOLOGIN ends no session, and neither do we."""
    session = await log_in(server.old, application_name="report")
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    rotation = await deactivated(steps, rotation)
    assert not server.can_login(server.a)
    earlier = rotation.model_copy(update={"deactivated_at": datetime.now(UTC) - timedelta(hours=1)})
    with pytest.raises(OldKeyInUse):
        await steps.delete(earlier)
    need = await steps.uses_since(earlier)
    assert need is not None
    assert need.by == ("report@local",)
    assert server.can_login(server.a)
    (known_as,) = await (await session.execute("SELECT current_user")).fetchone() or ("",)
    assert known_as == server.a
    await (await log_in(server.old)).close()
    await session.close()


@pytest.mark.parametrize("when", ["at once", "after the deactivation"])
async def test_a_rollback_brings_the_old_password_back_and_takes_the_new_one(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path, when: str
) -> None:
    file = secrets / server.user
    file.write_text(json.dumps(server.old))
    server.run("COMMENT ON ROLE {} IS 'owner: pay''s team\n\n  keyturn: not ours'", server.b)
    others = server.comment(server.b)
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    assert str(server.comment(server.b)).startswith(f"{others}\nkeyturn: key={rotation.new_key_id} job=")
    new = secret_in(secrets, server.user)
    if when != "at once":
        rotation = await deactivated(steps, rotation)
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            await log_in(server.old)
    for _ in range(2):
        with suppress(KeyturnError):  # the second time, the job is closed
            await steps.roll_back(rotation, "the importer broke")
    assert secret_in(secrets, server.user) == server.old
    await (await log_in(server.old)).close()
    with pytest.raises(psycopg.OperationalError):
        await log_in(new)
    assert (server.can_login(server.b), server.verifier(server.b), server.comment(server.b)) == (False, None, others)
    assert [key.key_id for key in await server.keys().list_keys(server.user)] == [server.a]
    job, trail = await JobLeases(engine).show(rotation.job_id, tenant_id="default")
    assert (job["status"], trail[-1]["detail"]) == ("failed", {"reason": "the importer broke"})


async def test_after_the_old_password_is_deleted_there_is_no_way_back(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    rotation = await deactivated(steps, rotation)
    await steps.delete(rotation)
    await steps.delete(rotation)  # again, as after a lost answer
    with pytest.raises(RollbackImpossible):
        await steps.roll_back(rotation, "too late")
    await (await log_in(secret_in(secrets, server.user))).close()


async def test_the_role_that_is_filled_by_hand_during_a_rotation_is_foreign(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await recorded(steps, await job_for(store, server.user, server.a))
    server.run("ALTER ROLE {} LOGIN PASSWORD 'by hand'", server.b)
    before = server.verifier(server.b)
    with pytest.raises(ForeignKey):
        await steps.create(rotation)
    await steps.roll_back(rotation, "by hand")
    assert server.verifier(server.b) == before


# -- connections that end -------------------------------------------------------------------------------------------


class Breaking:
    """Passes connections on, and has the server end the session at a chosen statement that changes a role."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.at, self.loss, self.seen = 0, "request", 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the URL of the server through here."""
        listening = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        yield self.server.url("127.0.0.1") + f"&port={port}&sslmode=disable"
        listening.close()

    def arm(self, at: int, loss: Loss) -> None:
        self.at, self.loss, self.seen = at, loss, 0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_unix_connection(f"{self.server.folder}/.s.PGSQL.5432")
        lost = asyncio.Event()
        try:
            await asyncio.gather(self._requests(reader, outside, lost), self._answers(inside, writer, lost))
        finally:
            for end in (writer, outside):
                end.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        changes = False
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                is_change = b"ALTER ROLE" in chunk or b"COMMENT ON ROLE" in chunk
                changes = changes or is_change
                if is_change or (changes and b"COMMIT" in chunk):
                    self.seen += 1
                    if self.seen == self.at and self.loss == "request":
                        self.server.end_sessions(self.server.executor)
                    elif self.seen == self.at:
                        lost.set()
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                if lost.is_set():  # the server has done it, and says so here: its answer is what is lost
                    self.server.end_sessions(self.server.executor)
                    break
                writer.write(chunk)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize("loss", ["request", "answer"])
async def test_whichever_statement_the_session_ends_at_a_step_that_is_repeated_has_one_effect(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path, loss: Loss
) -> None:
    """Each statement of each changing step in turn, rotation after rotation on the same two roles, there and back."""
    breaking = Breaking(server)
    holder, other, old_id = server.a, server.b, server.a
    reached = dict.fromkeys(("create", "deactivate", "delete"), 0)
    async with breaking.open() as url:
        steps = steps_on(server.keys(url), engine, secrets)
        at = 0
        while at == max(reached.values()):
            at += 1
            rotation = await recorded(steps, await job_for(store, server.user, old_id))
            breaking.arm(at, loss)
            rotation = await created(steps, rotation)
            reached["create"] += breaking.seen >= at
            assert [key.key_id for key in await server.keys().list_keys(server.user)] == [
                *rotation.keys_before,
                rotation.new_key_id,
            ], "one new password beside the old one, and its secret is the stored one"
            breaking.arm(at, loss)
            rotation = await deactivated(steps, rotation)
            reached["deactivate"] += breaking.seen >= at
            assert (server.can_login(holder), server.can_login(other)) == (False, True)
            breaking.arm(at, loss)
            for _ in range(2):  # and once more, having been done
                await patiently(partial(steps.delete, rotation))
            reached["delete"] += breaking.seen >= at
            await steps.close(rotation)
            assert (server.verifier(holder), server.comment(holder)) == (None, None)
            assert [key.key_id for key in await server.keys().list_keys(server.user)] == [rotation.new_key_id]
            await (await log_in(secret_in(secrets, server.user), host=server.folder, port=5432)).close()
            assert rotation.new_key_id is not None
            holder, other, old_id = other, holder, rotation.new_key_id
    assert reached == {"create": 3, "deactivate": 3, "delete": 3}, "ALTER ROLE, COMMENT ON ROLE, COMMIT"


@pytest.mark.parametrize("loss", ["request", "answer"])
async def test_whichever_statement_of_a_rollback_the_session_ends_at_the_old_password_works_again(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path, loss: Loss
) -> None:
    """After the deactivation: two roles are changed, one after the other."""
    breaking = Breaking(server)
    (secrets / server.user).write_text(json.dumps(server.old))
    at, reached = 0, 0
    async with breaking.open() as url:
        steps = steps_on(server.keys(url), engine, secrets)
        while at == reached:
            at += 1
            breaking.arm(0, loss)
            rotation = await recorded(steps, await job_for(store, server.user, server.a))
            rotation = await deactivated(steps, await created(steps, rotation))
            breaking.arm(at, loss)
            await patiently(partial(steps.roll_back, rotation, "not now"))
            reached += breaking.seen >= at
            assert (server.verifier(server.b), server.comment(server.b)) == (None, None)
            assert secret_in(secrets, server.user) == server.old
            await (await log_in(server.old)).close()
    assert reached == 6


async def test_a_password_whose_answer_was_lost_is_replaced_and_only_it(server: Server) -> None:
    """By the job in its comment, the steps know whose it is."""
    keys = server.keys()
    lost, _ = await keys.create(server.user, job_id="job-1")
    (old, orphan) = await keys.list_keys(server.user)
    assert (old.key_id, orphan.key_id, orphan.job_id) == (server.a, lost, "job-1")
    await keys.delete(server.user, orphan.key_id)
    await keys.delete(server.user, orphan.key_id)
    again, secret = await keys.create(server.user, job_id="job-1")
    assert again != lost
    assert keys.key_in(secret) == again
    await keys.delete(server.user, lost)  # a late repetition: it is the lost one's, and not the new one's
    with pytest.raises(CloudUnavailable):
        await keys.set_active(server.user, lost, False)
    assert await keys.verify(server.user, secret) == server.b


async def test_of_two_that_create_at_once_one_does(server: Server) -> None:
    """The lock is the pair's."""
    keys = [server.keys(), server.keys()]
    found = await asyncio.gather(*(one.create(server.user, job_id="job-1") for one in keys), return_exceptions=True)
    (created_one,) = [one for one in found if isinstance(one, tuple)]
    (refused,) = [one for one in found if not isinstance(one, tuple)]
    assert isinstance(refused, KeyLimit)
    assert await keys[0].verify(server.user, created_one[1]) == server.b


async def test_a_server_that_is_not_there_passes_and_a_wrong_password_does_not(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CloudUnavailable):
        await server.keys(server.url(str(tmp_path))).account()
    wrong = uuid.uuid4().hex
    with pytest.raises(CloudRefused) as caught:
        await server.keys(server.url().replace(server.password, wrong)).list_keys(server.user)
    assert wrong not in str(caught.value) + repr(caught.value) + "".join(traceback.format_exception(caught.value))


async def test_a_lock_that_another_session_has_passes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyturn.executors.postgresql import connections, pairs

    monkeypatch.setattr(connections, "_LIMITS", "SELECT set_config('lock_timeout', '50ms', true)")
    server.admin.execute("SELECT pg_advisory_lock(%s)", [pairs._lock_of(server.user)])
    with pytest.raises(CloudUnavailable, match="55P03"):
        await server.keys().create(server.user, job_id="job-1")
    assert server.verifier(server.b) is None


# -- what is never touched -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("ALTER ROLE {b} SUPERUSER", "superuser"),
        ("GRANT {root} TO {b}", "superuser, or may become one"),
        ("ALTER ROLE {b} REPLICATION", "may replicate"),
        ("ALTER ROLE {b} VALID UNTIL '2001-01-01'", "VALID UNTIL"),
        ("REVOKE {user} FROM {b}", "no member of the group"),
        ("REVOKE {a}, {b} FROM {executor}", "SQLSTATE 42501"),
        ("DROP ROLE {b}", "there is no role"),
    ],
)
async def test_a_role_that_must_not_be_changed_or_cannot_is_refused(server: Server, case: str, says: str) -> None:
    """By an executor that is a superuser, too, as far as it is the executor that refuses."""
    root = f"{PREFIX}root_{uuid.uuid4().hex[:8]}"
    server.run("CREATE ROLE {} SUPERUSER", root)
    names = {"a": server.a, "b": server.b, "user": server.user, "executor": server.executor, "root": root}
    server.admin.execute(sql.SQL(case).format(**{name: sql.Identifier(value) for name, value in names.items()}))
    if "42501" not in says:
        server.run("ALTER ROLE {} SUPERUSER", server.executor)
    try:
        before = server.verifier(server.a)
        with pytest.raises(CloudRefused, match=says):
            await server.keys().create(server.user, job_id="job-1")
        assert server.verifier(server.a) == before
        if "superuser" in says or "replicate" in says:
            for call in (
                server.keys().list_keys(server.user),
                server.keys().set_active(server.user, server.a, False),
                server.keys().delete(server.user, server.a),
            ):
                with pytest.raises(CloudRefused, match=says):
                    await call
            assert server.can_login(server.a)
    finally:
        server.run("DROP ROLE {}", root)


async def test_the_executors_own_role_is_never_changed(server: Server) -> None:
    """Even if it is the second one of a pair that a job names."""
    user, _, suffix = server.executor.partition("_")
    keys = server.keys(KEYTURN_ROLES_SUFFIXES=f"_{suffix},_other")
    for call in (keys.list_keys(user), keys.create(user, job_id="job-1"), keys.delete(user, server.executor)):
        with pytest.raises(CloudRefused, match="executor's own"):
            await call
    assert server.verifier(server.executor) is not None


async def test_an_absent_second_role_is_created_where_that_is_allowed(server: Server) -> None:
    server.run("DROP ROLE {}", server.b)
    server.run("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", server.user, server.executor)
    keys = server.keys(KEYTURN_ROLES_CREATE="on")
    key_id, secret = await keys.create(server.user, job_id="job-1")
    assert await keys.verify(server.user, secret) == server.b
    await keys.delete(server.user, key_id)
    assert not server.can_login(server.b)


@pytest.mark.usefixtures("by_password_only")
async def test_a_name_that_must_be_quoted_is_one_name(postgresql: URL) -> None:
    server = Server(postgresql, user=f"{PREFIX}-Pay-{uuid.uuid4().hex[:6]}")
    try:
        key_id, secret = await server.keys().create(server.user, job_id="job-1")
        assert await server.keys().verify(server.user, secret) == server.b
        await server.keys().delete(server.user, key_id)
        assert server.verifier(server.b) is None
    finally:
        server.drop()


@pytest.mark.parametrize(
    "account",
    [
        'app"; DROP ROLE app; --',
        "app;",
        "app user",
        "app.b",
        "",
        "_app",
        "a" * 60,
        "arn:aws:iam::1:user/app",
        "ä",
        "a\n",
    ],
)
async def test_an_account_that_is_no_role_name_is_a_mismatch(server: Server, account: str) -> None:
    with pytest.raises(AccountMismatch):
        server.keys().user_of(account, "7301234567890123456")


async def test_an_account_is_the_group_or_a_role_of_it_and_may_name_its_server(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    keys = server.keys()
    own = await keys.account()
    assert own == str(server.ask("SELECT system_identifier FROM pg_control_system()"))
    for account in ("app", "app_a", "app_b", f"{own}/app", f"{own}/app_b"):
        assert keys.user_of(account, own) == "app"
    assert (keys.account_named_in("app"), keys.account_named_in("1/app")) == (None, "1")
    steps = steps_on(keys, engine, secrets)
    for account, key_id in (
        (f"1/{server.user}", server.a),
        (server.user, server.b),
        ("no-such-user", "no-such-user_a"),
    ):
        with pytest.raises(AnotherAccount):
            await recorded(steps, await job_for(store, account, key_id))
    await recorded(steps, await job_for(store, f"{own}/{server.user}", server.a))


async def test_without_the_right_to_the_identifier_the_account_is_the_servers_address(server: Server) -> None:
    server.admin.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    place = server.folder.strip("/").replace("/", "_")
    assert await server.keys().account() == f"{place}:5432:{server.database}"
    _, secret = await server.keys().create(server.user, job_id="job-1")
    assert await server.keys().verify(server.user, secret) == server.b


async def test_a_user_with_two_passwords_with_an_inactive_one_or_with_none_is_not_started(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    steps = steps_on(server.keys(), engine, secrets)
    job_id = await job_for(store, f"{await steps.account()}/{server.user}", server.a)
    server.run("ALTER ROLE {} LOGIN", server.b)
    with pytest.raises(KeyLimit):
        await recorded(steps, job_id)
    server.run("ALTER ROLE {} NOLOGIN", server.b)
    await server.keys().set_active(server.user, server.a, False)
    with pytest.raises(KeyNotFound, match="inactive"):
        await recorded(steps, job_id)
    await server.keys().delete(server.user, server.a)
    with pytest.raises(KeyNotFound):
        await recorded(steps, job_id)
    with pytest.raises(UserGone):
        await server.keys().list_keys("no-such-user")
    with pytest.raises(UserGone):
        await server.keys().create("no-such-user", job_id="job-1")


# -- what a key is called --------------------------------------------------------------------------------------------


def test_the_id_of_a_password_names_its_role_and_no_other_password() -> None:
    first, second = new_key_id("app_b"), new_key_id("app_b")
    assert first != second
    assert role_in(first) == role_in(second) == role_in("app_b") == "app_b"
    assert is_generated(first)
    assert not is_generated("app_b")


def test_the_comment_keeps_what_others_wrote_to_the_letter() -> None:
    key_id = "app_b.5f0c6a3e91d2"
    moment = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
    marks = (
        Mark("app_b"),
        Mark(key_id, "job-1", moment),
        Mark(key_id, "job-1", moment, moment),
        Mark("app_b", seen_at=moment),
    )
    for others in (
        None,
        "one line",
        "two\nlines\n",
        "\n",
        "keyturn: key=app_a job=job-1",
        "keyturn: key=app_b created=x",
    ):
        for mark in marks:
            assert read_comment(write_comment(others, mark), "app_b") == (others, mark)
    copied = "keyturn: key=app_a.5f0c6a3e91d2 job=job-1"
    assert read_comment(copied, "app_b") == (copied, None)
    impossible = "keyturn: key=app_b created=2026-02-31T00:00:00.000000Z"
    assert read_comment(impossible, "app_b") == (impossible, None)


async def test_by_its_bare_name_only_a_password_that_is_deactivated_is_deleted(server: Server) -> None:
    """The role may have a later password than the one that was meant."""
    keys = server.keys()
    with pytest.raises(CloudRefused):
        await keys.delete(server.user, server.a)
    assert server.verifier(server.a) is not None
    await keys.set_active(server.user, server.a, False)
    await keys.set_active(server.user, server.a, False)
    assert [(key.key_id, key.is_active) for key in await keys.list_keys(server.user)] == [(server.a, False)]
    await keys.delete(server.user, server.a)
    assert await keys.list_keys(server.user) == []


@pytest.mark.parametrize(
    "stored",
    [
        "not json",
        "[]",
        "null",
        '{"username": "app_b", "password": "x"}',
        '{"username": "app_b", "password": "x", "key_id": "app_a.5f0c6a3e91d2"}',
        '{"username": "app_b", "password": 1, "key_id": "app_b.5f0c6a3e91d2"}',
        '{"username": "app_b", "password": "x", "key_id": "app_b"}',
    ],
)
async def test_a_secret_that_is_not_ours_is_no_key_and_is_not_used(server: Server, stored: str) -> None:
    assert server.keys().key_in(SecretStr(stored)) is None
    with pytest.raises(NewKeyMissing):
        await server.keys().verify("app", SecretStr(stored))


async def test_a_password_that_does_not_log_in_is_a_missing_key(server: Server) -> None:
    """Changed by hand, deactivated, or of another user's role."""
    keys = server.keys()
    key_id, secret = await keys.create(server.user, job_id="job-1")
    with pytest.raises(NewKeyMissing):
        await keys.verify("another", secret)
    await keys.set_active(server.user, key_id, False)
    with pytest.raises(NewKeyMissing):
        await keys.verify(server.user, secret)
    await keys.set_active(server.user, key_id, True)
    assert await keys.verify(server.user, secret) == server.b
    server.run("ALTER ROLE {} PASSWORD 'by hand'", server.b)
    with pytest.raises(NewKeyMissing) as caught:
        await keys.verify(server.user, secret)
    assert json.loads(secret.get_secret_value())["password"] not in "".join(traceback.format_exception(caught.value))


async def test_where_the_server_trusts_whoever_comes_a_login_proves_nothing(postgresql: URL) -> None:
    server = Server(postgresql, user=f"trusted{uuid.uuid4().hex[:6]}")
    try:
        _, secret = await server.keys().create(server.user, job_id="job-1")
        with pytest.raises(CloudRefused, match=r"pg_hba\.conf"):
            await server.keys().verify(server.user, secret)
    finally:
        server.drop()


async def test_a_database_that_the_executor_may_not_enter_is_named(server: Server) -> None:
    """PUBLIC has CONNECT by default, and hardened servers take it."""
    server.run("CREATE DATABASE {}", server.user)
    try:
        server.run("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", server.user)
        url = server.url().replace(f"/{server.database}?", f"/{server.user}?")
        with pytest.raises(CloudRefused, match="GRANT CONNECT ON DATABASE"):
            await server.keys(url).list_keys(server.user)
        with pytest.raises(CloudRefused, match="names does not exist"):
            await server.keys(url.replace(f"/{server.user}?", "/absent?")).list_keys(server.user)
    finally:
        server.run("DROP DATABASE {}", server.user)


async def test_a_role_that_inherits_nothing_has_its_rights_by_set_role(server: Server) -> None:
    server.run("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE", server.user, server.b)
    _, secret = await server.keys().create(server.user, job_id="job-1")
    assert await server.keys().verify(server.user, secret) == server.b
    server.run("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", server.user, server.b)
    with pytest.raises(CloudRefused, match="42501"):
        await server.keys().verify(server.user, secret)


# -- use -------------------------------------------------------------------------------------------------------------


async def test_a_session_of_an_earlier_password_is_no_use_of_the_new_one(server: Server) -> None:
    """Nor is our own login, which a pooler may leave open."""
    server.run("ALTER ROLE {} LOGIN PASSWORD 'earlier'", server.b)
    earlier = await log_in(server.old | {"username": server.b, "password": "earlier"})  # pragma: allowlist secret
    server.run("ALTER ROLE {} NOLOGIN PASSWORD NULL", server.b)
    key_id, secret = await server.keys().create(server.user, job_id="job-1")
    fields = json.loads(secret.get_secret_value())
    ours = await log_in(fields, application_name="keyturn-verify")
    use = await server.keys().use_of(server.user, key_id)
    assert (use.last_used_at, use.is_known) == (None, False)
    session = await log_in(fields, application_name="")
    assert (await server.keys().use_of(server.user, key_id)).by == ("unnamed@local",)
    for one in (earlier, ours, session):
        await one.close()


async def test_without_the_right_to_read_sessions_their_absence_proves_nothing(server: Server) -> None:
    """That there is one shows all the same."""
    server.run("REVOKE pg_read_all_stats FROM {}", server.executor)
    use = await server.keys().use_of(server.user, server.a)
    assert (use.last_used_at, use.is_known) == (None, False)
    session = await log_in(server.old, application_name="pay-api")
    use = await server.keys().use_of(server.user, server.a)
    assert use.last_used_at is not None
    assert (use.by, use.is_known) == (("pay-api@hidden",), True)
    await session.close()


async def test_a_session_that_ends_right_after_the_new_password_is_there_was_seen(server: Server) -> None:
    """By whoever created it: the old role does not look as if no one had ever used it."""
    session = await log_in(server.old)
    key_id, _ = await server.keys().create(server.user, job_id="job-1")
    await session.close()
    server.end_sessions(server.a)
    use = await server.keys().use_of(server.user, server.a)
    assert (use.last_used_at is not None, use.by) == (True, ())
    assert (await server.keys().use_of(server.user, key_id)).last_used_at is None


async def test_a_dry_run_writes_nothing(server: Server, store: JobStore, engine: AsyncEngine, secrets: Path) -> None:
    session = await log_in(server.old)
    steps = steps_on(server.keys(), engine, secrets)
    job_id = await job_for(store, server.user, server.a)
    plan = await steps.plan(KeyRotationOrder(job_id=job_id, cloud_account=await steps.account()))
    assert "by unnamed@local" in plan[0]
    assert (server.comment(server.a), server.comment(server.b)) == (None, None)
    await session.close()


async def test_a_password_whose_past_is_unknown_is_never_idle(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """A program that logs in for a moment now and then shows at no check, and its password must not be taken."""
    await (await log_in(server.old)).close()
    server.end_sessions(server.a)
    steps = steps_on(server.keys(), engine, secrets)
    job_id = await job_for(store, server.user, server.a)
    plan = await steps.plan(KeyRotationOrder(job_id=job_id, cloud_account=await steps.account()))
    assert "last used unknown" in plan[0]
    assert "until an operator says that nothing else uses it" in plan[4]
    assert "idle" not in plan[4]


# -- settings, and the verifier --------------------------------------------------------------------------------------


def test_the_verifier_is_that_of_the_rfcs_example() -> None:
    """RFC 7677, section 3: the server's signature there follows from our ServerKey."""
    verifier = scram_verifier("pencil", 4096, salt=base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    signature = hmac.digest(base64.b64decode(verifier.rpartition(":")[2]), message.encode(), "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="  # pragma: allowlist secret


async def test_the_servers_number_of_iterations_is_taken(server: Server) -> None:
    server.run("ALTER ROLE {} SET scram_iterations = 5000", server.executor)
    _, secret = await server.keys().create(server.user, job_id="job-1")
    assert str(server.verifier(server.b)).startswith("SCRAM-SHA-256$5000:")
    assert await server.keys().verify(server.user, secret) == server.b


async def test_consumers_may_connect_elsewhere_than_the_executor(server: Server) -> None:
    link = f"/tmp/{PREFIX}-{uuid.uuid4().hex[:8]}"
    os.symlink(server.folder, link)
    server.run("CREATE DATABASE {}", server.user)
    try:
        elsewhere = f"postgresql:///{{user}}?host={link}"
        keys = server.keys(KEYTURN_ROLES_CONSUMER_URL=elsewhere)
        _, secret = await keys.create(server.user, job_id="job-1")
        fields = json.loads(secret.get_secret_value())
        assert (fields["host"], fields["port"], fields["dbname"]) == (link, 5432, server.user)
        assert await keys.verify(server.user, secret) == server.b
    finally:
        os.unlink(link)
        server.run("DROP DATABASE {}", server.user)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "postgresql://ex:hunter2@db.example/app", "must say sslmode"),  # pragma: allowlist secret
        ("DATABASE_URL", "postgresql://ex@localhost,db.example/app?sslmode=prefer", "must say sslmode"),
        ("DATABASE_URL", "host=localhost hostaddr=10.0.0.1 user=ex password=hunter2 dbname=app", "must say sslmode"),
        ("DATABASE_URL", "postgresql://ex:hunter2@/app", "names no host"),  # pragma: allowlist secret
        ("DATABASE_URL", "postgresql://127.0.0.1:5432", "names no user, no dbname"),
        ("DATABASE_URL", "hunter2", "is no connection URL"),
        ("CONSUMER_URL", "postgresql://ex:hunter2@db.example/app", "without a user"),  # pragma: allowlist secret
        ("SUFFIXES", "_a", "two different suffixes"),
        ("SUFFIXES", "_a,_a", "two different suffixes"),
        ("SUFFIXES", "_a,a", "neither ends in the other"),
        ("SUFFIXES", '_a,"', "two different suffixes"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv("KEYTURN_ROLES_DATABASE_URL", "postgresql://ex@127.0.0.1/app")
    monkeypatch.setenv(f"KEYTURN_ROLES_{name}", value)
    with pytest.raises(SettingsInvalid, match=f"KEYTURN_ROLES_{name}: .*{says}") as caught:
        load_roles_settings()
    assert "hunter2" not in str(caught.value) + "".join(traceback.format_exception(caught.value))


def test_the_executor_is_opened_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (EXECUTOR.name, EXECUTOR.kind, EXECUTOR.extra) == ("postgresql", "system_account_password", "")
    with pytest.raises(SettingsInvalid, match="KEYTURN_ROLES_DATABASE_URL is not set"):
        EXECUTOR.open()
    url = "postgresql://ex@one.example:5432,two.example:5433/app?sslmode=verify-full"
    monkeypatch.setenv("KEYTURN_ROLES_DATABASE_URL", url)
    (opened,) = EXECUTOR.open()
    assert (opened.most_keys, opened.has_inactive_state, opened.visible_within) == (2, True, timedelta(0))
    assert load_roles_settings().address_for("app") == {
        "host": "one.example,two.example",
        "port": "5432,5433",
        "dbname": "app",
    }


async def test_a_role_whose_password_ends_before_the_old_one_goes_stops_the_rotation(
    server: Server, store: JobStore, engine: AsyncEngine, secrets: Path
) -> None:
    """By VALID UNTIL: the old password would have been deleted, and the new one refused."""
    (secrets / server.user).write_text(json.dumps(server.old))
    soon = datetime.now(UTC) + timedelta(hours=3)
    server.run(f"ALTER ROLE {{}} VALID UNTIL '{soon.isoformat()}'", server.b)
    steps = steps_on(server.keys(), engine, secrets)
    rotation = await created(steps, await recorded(steps, await job_for(store, server.user, server.a)))
    waits = rotation.waits.model_copy(update={"grace": timedelta(days=7)})
    rotation = rotation.model_copy(update={"waits": waits})
    with pytest.raises(NewKeyMissing, match="the new key ends at"):
        await steps.deactivate(rotation)
    server.run("ALTER ROLE {} VALID UNTIL '2020-01-01'", server.b)
    with pytest.raises(NewKeyMissing, match="the new key has expired"):
        await steps.deactivate(rotation)
    assert server.can_login(server.a)
    server.run("ALTER ROLE {} VALID UNTIL 'infinity'", server.b)
    await steps.deactivate(rotation)


@pytest.mark.parametrize("until", ["9999-12-31 23:59:59+00", "20000-01-01", "infinity"])
async def test_a_date_that_no_calendar_of_ours_has_is_none(server: Server, until: str) -> None:
    """People write one for never; the list of roles is read as ever."""
    server.run(f"ALTER ROLE {{}} VALID UNTIL '{until}'", server.a)
    keys = await server.keys().list_keys(server.user)
    assert [(key.key_id, key.expires_at) for key in keys] == [(server.a, None)]
