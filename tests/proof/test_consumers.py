"""No consumer is cut off: keys of four clouds are rotated into eight kinds of targets while everything fails.

`make prove-consumers` rotates 10,000 keys; `make test` some. Executors are killed with -9 in turn, every cloud and
target loses, halves and throttles a share of its calls, databases drop connections, and lists lag. Two programs a key
log in all the time with what they last read: one reads its target often, the other seldom. The clouds are simulators.
"""

import asyncio
import json
import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from keyturn.application.answers import AnswerRefused, NoWorkerAnswers, answer
from keyturn.contracts import CredentialKind
from keyturn.database import open_database
from keyturn.execution.contracts import KeyRotationOrder, KeyRotationOutcome, KeyWaits
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.lab.proof.cable import Cable
from keyturn.lab.simulator.entra import Entra
from keyturn.lab.simulator.gcp import PROJECT, GcpSimulator
from keyturn.lab.simulator.github import GitHubSimulator
from keyturn.lab.simulator.gitlab import GitLabSimulator
from keyturn.lab.simulator.kubernetes import Cluster
from keyturn.lab.simulator.vault import VaultSimulator
from keyturn.lab.stack.processes import child
from keyturn.rotations.contracts import Resumption
from keyturn.targets import load_targets
from keyturn.targets.keyvault import KeyVault
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workflows.rotate_key import RotateKeyWorkflow, execution_id
from tests.support.aws import ACCOUNT, Aws
from tests.support.consumers import ConsumedKey, World, consume, reports_of
from tests.support.executor_under_fire import token_for
from tests.support.faulty_proxy import FaultyProxy
from tests.support.key_rotations import create_job
from tests.support.servers import fake_server

ROTATIONS = int(os.environ.get("PROOF_ROTATIONS", "8"))
RATE = float(os.environ.get("PROOF_FAULT_RATE", "0.03"))
AT_ONCE = 24 if ROTATIONS < 100 else 120
SELDOM = 8.0  # s
KILL_EVERY = (
    9.0 if ROTATIONS > 100 else 15.0
)  # s; what a killed executor did is noticed after its heartbeats are missed: 20 s
SEED = 20261127
TOKEN = "token-of-the-executor-in-a-proof-0123456789"
CLOUDS = ("aws", "gcp", "entra", "postgresql")
KINDS: dict[str, CredentialKind] = {
    "aws": "access_key",
    "gcp": "service_account_key",
    "entra": "service_account_key",
    "postgresql": "system_account_password",
}
# A day of waiting is some seconds here. A consumer that reads seldom does so within less than the quiet time... and it
# logs in so often that the old key is not quiet while it is used.
WAITS = KeyWaits(
    overlap=timedelta(seconds=1),
    grace=timedelta(seconds=3),
    quiet=timedelta(seconds=4),
    idle=timedelta(days=1),
    check_every=timedelta(seconds=1),
)
Handle = WorkflowHandle[RotateKeyWorkflow, KeyRotationOutcome]


@pytest.fixture
def admin(postgresql_server: str) -> Iterator[psycopg.Connection[Any]]:
    """The server lets roles whose names start with kt in by their password only, and one of them creates no roles."""
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        (file,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(file).read_text()
        Path(file).write_text(f'local all "/^kt" scram-sha-256\n{before}')
        connection.execute("ALTER SYSTEM SET scram_iterations = 256")  # a login a second, of hundreds
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("SET scram_iterations = 256")
        connection.execute(f"CREATE ROLE ktexecutor LOGIN CREATEROLE PASSWORD '{TOKEN}' IN ROLE pg_read_all_stats")
        yield connection
        roles = [name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^kt'")]
        for role in sorted(roles, key=lambda name: ("_" not in name, name == "ktexecutor")):
            connection.execute(f'DROP ROLE "{role}"'.encode())
        Path(file).write_text(before)
        connection.execute("ALTER SYSTEM RESET scram_iterations")
        connection.execute("SELECT pg_reload_conf()")


class Fire:
    """The world, and what goes wrong between it and the executors."""

    def __init__(self, world: World, environment: dict[str, str], chance: random.Random) -> None:
        self.world = world
        self.environment = environment
        self.chance = chance
        self.proxies: list[FaultyProxy] = []
        self.kills = 0
        self.resumed: Counter[str] = Counter()


@asynccontextmanager
async def world_of(aws: Aws, admin: psycopg.Connection[Any], tmp_path: Path, *, rate: float) -> AsyncIterator[Fire]:
    """Every simulator, each behind a proxy of its own; the roles' server behind a cable that is pulled."""
    chance = random.Random(SEED)
    gcp, entra = GcpSimulator(), Entra()
    entra.directory.reports_sign_ins = True
    vault = VaultSimulator(tokens={TOKEN: {"secret/*": {"create", "read", "update", "delete", "list"}}})
    github = GitHubSimulator(tokens={TOKEN: ("/repos/acme",)}, places={"/repos/acme/app"})
    gitlab = GitLabSimulator(tokens={TOKEN: "acme/app"}, projects={"acme/app": []})
    cluster = Cluster(token=TOKEN)
    token_file, google_file = tmp_path / "token", tmp_path / "google.json"
    token_file.write_text(TOKEN)
    async with AsyncExitStack() as stack:
        fire = Fire(None, {}, chance)  # type: ignore[arg-type]

        async def proxied(address: str) -> str:
            proxy = FaultyProxy(address, rate=rate, chance=chance)
            fire.proxies.append(proxy)
            return (await stack.enter_async_context(proxy.served())).address

        served = {
            name: await proxied(await stack.enter_async_context(fake_server(application)))
            for name, application in {
                "gcp": gcp.application(),
                "entra": entra.serve(),
                "vault": vault.application(),
                "github": github.application(),
                "gitlab": gitlab.application(),
                "cluster": cluster.application(),
            }.items()
        }
        google_file.write_text(gcp.executor_file(served["gcp"]))
        gcp.iam.hides_for = gcp.iam.unknown_for = gcp.secret_manager.hides_for = 1  # what is new is unknown for a while
        cable = Cable("", 0, path=f"{admin.info.host}/.s.PGSQL.{admin.info.port}")
        await stack.enter_async_context(cable.open("127.0.0.1"))
        pulling = asyncio.create_task(_pull(cable, chance, rate))
        stack.callback(pulling.cancel)
        fire.environment = {
            **aws.environment(await proxied(aws.address)),
            "GOOGLE_APPLICATION_CREDENTIALS": str(google_file),
            **{
                f"KEYTURN_GCP_{name}_URL": served["gcp"] for name in ("IAM", "POLICY_ANALYZER", "MONITORING", "SECRETS")
            },
            "KEYTURN_GCP_TOKEN_URL": f"{served['gcp']}/token",
            "KEYTURN_GRAPH_URL": served["entra"],
            "AZURE_AUTHORITY_HOST": served["entra"],
            "KEYTURN_KEYVAULT_URL": f"{served['entra']}/{{vault}}",
            "ENTRA_TOKENS": json.dumps({name: entra.token_for(name) for name in ("graph", "vault")}),
            "VAULT_ADDR": served["vault"],
            "VAULT_TOKEN": TOKEN,
            "GITHUB_API_URL": served["github"],
            "GITHUB_TOKEN": TOKEN,
            "GITLAB_URL": served["gitlab"],
            "GITLAB_TOKEN": TOKEN,
            "KEYTURN_KUBERNETES_URL": served["cluster"],
            "KEYTURN_KUBERNETES_TOKEN_FILE": str(token_file),
            "KEYTURN_ROLES_DATABASE_URL": f"postgresql://ktexecutor:{TOKEN}@{cable.address}/postgres",
            "KEYTURN_ROLES_CONSUMER_URL": f"postgresql://{cable.address}/postgres",
        }
        inside = {"host": admin.info.host, "port": int(admin.info.port), "dbname": "postgres"}
        name = f"p{uuid.uuid4().hex[:5]}x"
        fire.world = World(aws, gcp, entra, vault, github, gitlab, cluster, inside, admin, name)
        yield fire


async def _pull(cable: Cable, chance: random.Random, rate: float) -> None:
    while rate:
        await asyncio.sleep(chance.uniform(4, 12))
        cable.pull()


def keys_of(world: World, count: int, clouds: tuple[str, ...]) -> list[ConsumedKey]:
    """The keys to rotate; what PostgreSQL and Google know of a use is too little: their consumers are declared."""
    keys = []
    for number in range(count):
        key = world.make(clouds[number % len(clouds)], number)
        key.targets = world.targets_of(number)
        key.is_declared = key.cloud in {"gcp", "postgresql"} or number % 8 < 4
        keys.append(key)
    return keys


async def store_old_secrets(keys: list[ConsumedKey], monkeypatch: pytest.MonkeyPatch, fire: Fire) -> None:
    """Write each key's secret into its targets, as a person would have, before anything fails."""
    for name, value in fire.environment.items():
        monkeypatch.setenv(name, value)
    rates = [proxy.rate for proxy in fire.proxies]
    for proxy in fire.proxies:
        proxy.rate = 0
    stores = {name: target.open() for name, target in load_targets().items() if name not in {"file", "keyvault"}}
    stores["keyvault"] = KeyVault(token=token_for)
    turns = asyncio.Semaphore(8)

    async def write(key: ConsumedKey) -> None:
        async with turns:
            for path in key.targets:
                kind, _, place = path.partition(":")
                if kind == "gcpsecrets":
                    fire.world.gcp.secret_manager.secrets.setdefault(place.rpartition("/")[2], [])
                await stores[kind].put(place, SecretStr(key.secret), version="by-hand")

    await asyncio.gather(*map(write, keys))
    for proxy, rate in zip(fire.proxies, rates, strict=True):
        proxy.rate = rate


def write_key_map(keys: list[ConsumedKey], file: Path) -> None:
    tables = []
    for key in keys:
        paths = ", ".join(f'"{path}"' for path in key.targets)
        consumers = 'consumers = ["often", "seldom"]\n' if key.is_declared else ""
        named = f'key_id = "{key.key_id}"\n' if key.cloud == "gcp" else ""
        tables.append(f'[[key]]\naccount = "{key.account_id}"\n{named}targets = [{paths}]\n{consumers}')
    file.write_text("\n".join(tables))


@asynccontextmanager
async def executors(fire: Fire, environment: dict[str, str], log: Path, *, kills: bool) -> AsyncIterator[None]:
    """Two processes with the executors of all clouds, one of which is killed now and then, and started again."""
    command: list[str | Path] = [sys.executable, "-m", "tests.support.executor_under_fire"]

    async def live(number: int) -> None:
        while True:
            async with child(command, environment=environment, log=log) as process:
                wait = fire.chance.uniform(1, 2) * KILL_EVERY + number * KILL_EVERY / 2
                if number == 0 and fire.kills == 0:
                    wait = 8.0  # the first one for certain while the first keys are rotated
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), wait if kills else None)
                if process.returncode is None:
                    process.kill()
                    fire.kills += 1

    living = [asyncio.create_task(live(number)) for number in range(2)]
    try:
        yield
    finally:
        for one in living:
            one.cancel()
        await asyncio.gather(*living, return_exceptions=True)


async def rotate(fire: Fire, key: ConsumedKey, client: Client, engine: AsyncEngine, settings: ExecutorSettings) -> Any:
    """Rotate one key while its consumers log in; returns how that ended."""
    job_id = await create_job(JobStore(engine), key.account_id, key.key_id, kind=KINDS[key.cloud])
    chance = random.Random(f"{SEED}{key.user}")
    slow = 3.0 if key.cloud == "postgresql" else 0.7
    consumers = [
        asyncio.create_task(
            consume(
                fire.world,
                key,
                name,
                path,
                reads_every=reads,
                logs_in_every=slow,
                report=reports_of(engine, job_id, name) if key.is_declared else None,
                chance=chance,
            )
        )
        for name, path, reads in (("often", key.targets[0], 0.5), ("seldom", key.targets[1], SELDOM))
    ]
    try:
        await asyncio.sleep(slow)
        account = fire.environment[f"ACCOUNT_{key.cloud}"]
        handle = await client.start_workflow(
            RotateKeyWorkflow.run,
            KeyRotationOrder(job_id=job_id, cloud_account=account, waits=WAITS),
            id=execution_id(job_id),
            task_queue=settings.queue(account),
        )
        outcome = await _follow(fire, handle)
        await asyncio.sleep(slow + SELDOM)  # the one that reads seldom has read by then
        return job_id, outcome
    finally:
        for one in consumers:
            if one.done() and not one.cancelled() and one.exception() is not None:
                fire.world.failures.append(f"{key.cloud} {key.user}: a consumer has crashed: {one.exception()!r}")
            one.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)


async def _follow(fire: Fire, handle: Handle) -> KeyRotationOutcome:
    """Wait for the end; what blocks for good is resumed, as an operator does who sees that its fault has passed."""
    # Google's lists may be minutes behind: each lost request to create a key is waited for, 8 minutes, and of 10,000
    # keys some lose three. The short form ends before the test's own limit, which would not say what it was at.
    for _ in range(120 if ROTATIONS > 100 else 17):
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(handle.result())), 30)
        with suppress(RPCError, AnswerRefused, NoWorkerAnswers, TimeoutError):
            status = await asyncio.wait_for(handle.query(RotateKeyWorkflow.status), 5)
            needs = {"old_key_in_use", "new_key_not_seen", "consumers_not_moved", "key_use_unknown"}
            if status.blocked is not None and (status.blocked not in needs or status.step == "grace"):
                fire.resumed[f"{status.step}: {status.blocked}"] += 1
                await answer(handle, "resume", Resumption(operator="luna"))
    raise AssertionError(f"{handle.id} does not end: {await handle.query(RotateKeyWorkflow.status)}")


async def under_fire(
    aws: Aws,
    admin: psycopg.Connection[Any],
    temporal: Client,
    database: URL,
    payload_keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    count: int,
    control: str = "",
    clouds: tuple[str, ...] = CLOUDS,
    kills: bool = True,
    rate: float = RATE,
    prepare: Callable[[World], None] = lambda world: None,
) -> tuple[Fire, list[ConsumedKey], list[Any], list[list[dict[str, Any]]]]:
    """Rotate so many keys; returns the world, the keys, how each ended, and the details of each audit trail."""
    async with world_of(aws, admin, tmp_path, rate=rate) as fire:
        keys = keys_of(fire.world, count, clouds)
        url = database.set(drivername="postgresql").render_as_string(hide_password=False)
        key_map = tmp_path / "keys.toml"
        fire.environment |= {
            "PATH": os.environ["PATH"],
            "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
            "DATABASE_URL": url,
            "KEYTURN_PAYLOAD_KEYS_FILE": str(payload_keys),
            "KEYTURN_TASK_QUEUE": f"proof-{tmp_path.name}",
            "KEYTURN_KEY_MAP": str(key_map),
            "CONTROL": control,
            "ACCOUNT_aws": ACCOUNT,
            "ACCOUNT_gcp": PROJECT,
            "ACCOUNT_entra": fire.world.entra.directory.tenant,
            "ACCOUNT_postgresql": str(admin.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0]),  # type: ignore[index]
        }
        write_key_map(keys, key_map)
        await store_old_secrets(keys, monkeypatch, fire)
        prepare(fire.world)
        settings = ExecutorSettings()
        engine = open_database(database, pool_size=16)
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(key: ConsumedKey) -> Any:
            async with turns:
                return await rotate(fire, key, temporal, engine, settings)

        async with executors(fire, fire.environment, tmp_path / "executors.log", kills=kills):
            ended = await asyncio.gather(*map(one, keys))
        leases = JobLeases(engine)
        rows = [(await leases.show(job_id, tenant_id="default"))[1] for job_id, _ in ended]
        trails = [[dict(row["detail"]) for row in trail] for trail in rows]
        await _expect_no_secret(engine, fire, keys, tmp_path / "executors.log")
        await engine.dispose()
        return fire, keys, ended, trails


async def _expect_no_secret(engine: AsyncEngine, fire: Fire, keys: list[ConsumedKey], log: Path) -> None:
    """Of a sample: neither the old nor the new secret is in the database or in a log."""
    kept = log.read_text(errors="replace")
    async with engine.connect() as connection:
        for table in ("rotation_jobs", "job_audit", "outbox"):
            kept += str((await connection.execute(text(f"SELECT * FROM {table}"))).all())
    for key in keys[:: max(1, len(keys) // 200)]:
        for whole in (key.secret, fire.world.read(key.targets[0]) or "{}"):
            fields = json.loads(whole)
            for name in ("SecretAccessKey", "clientSecret", "password"):
                assert fields.get(name, "no secret") not in kept, f"the secret of {key.user} is stored"
    assert "PRIVATE KEY" not in kept


def wrongs(fire: Fire, keys: list[ConsumedKey], ended: list[Any], trails: list[list[dict[str, Any]]]) -> list[str]:
    """What did not end as it must."""
    found = []
    names: dict[str, set[str]] = {}  # the new keys of each user
    for key, (_, outcome) in zip(keys, ended, strict=True):
        new = str(outcome.new_key_id)
        names.setdefault(key.user, set()).add(new if key.cloud != "postgresql" else new.partition(".")[0])
    for key, (_, outcome), trail in zip(keys, ended, trails, strict=True):
        present = fire.world.keys_of(key)
        if outcome.status != "done" or {name for name, active in present.items() if active} != names[key.user]:
            found.append(f"{key.cloud} {key.user}: {outcome.status}, {len(present)} keys, orphan or old one")
        elif len(present) != len(names[key.user]):
            found.append(f"{key.cloud} {key.user}: {len(present)} keys")
        stored = [json.loads(fire.world.read(path) or "{}") for path in key.targets]
        if any(one != stored[0] for one in stored):
            found.append(f"{key.cloud} {key.user}: its targets differ")
        steps = [name for row in trail for name in ("new_key_id", "verified", "deactivated", "deleted") if name in row]
        order_of_first = list(dict.fromkeys(steps))
        if order_of_first != ["new_key_id", "verified", "deactivated", "deleted"]:
            found.append(f"{key.cloud} {key.user}: its trail has {order_of_first}")
    return found


Proof = Callable[..., Awaitable[tuple[Fire, list[ConsumedKey], list[Any], list[list[dict[str, Any]]]]]]


@pytest.fixture
def proof(
    aws: Aws,
    admin: psycopg.Connection[Any],
    temporal: Client,
    postgresql: URL,
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Proof:
    return partial(under_fire, aws, admin, temporal, postgresql, keys, tmp_path, monkeypatch)


# A step whose executor is killed and whose next calls are lost waits for minutes, as it does everywhere.
@pytest.mark.timeout(0 if ROTATIONS > 100 else 600)
async def test_no_consumer_is_cut_off_while_everything_fails(proof: Proof) -> None:
    fire, made, ended, trails = await proof(count=ROTATIONS)
    met = Counter[str]()
    for proxy in fire.proxies:
        met.update(proxy.met)
    logins = fire.world.logins
    sys.stdout.write(
        f"{len(made)} rotations, {fire.kills} kills, {sum(logins.values())} logins {dict(logins)}, "
        f"{sum(met.values())} faults {dict(met)}, resumed {dict(fire.resumed)}\n"
    )
    assert fire.world.failures == []
    assert wrongs(fire, made, ended, trails) == []
    assert fire.kills >= 1
    assert sum(met.values()) > ROTATIONS / 2


async def test_the_proof_notices_a_key_that_is_retired_by_time_alone(proof: Proof) -> None:
    fire, *_ = await proof(count=8, control="retire_by_time", clouds=("aws",), kills=False, rate=0)
    assert any("aws" in failure for failure in fire.world.failures)


async def test_the_proof_notices_a_key_that_is_created_without_looking(proof: Proof) -> None:
    def lose(world: World) -> None:
        world.entra.fail("addPassword", "answer_lost", times=2)

    control = {"control": "create_without_looking", "clouds": ("entra",), "kills": False, "rate": 0, "prepare": lose}
    fire, made, ended, trails = await proof(count=3, **control)
    assert any("orphan" in wrong for wrong in wrongs(fire, made, ended, trails))
