"""Keys of four clouds, what they are stored in, and programs that log in with them all the time."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from moto.iam.models import AccessKeyLastUsed, iam_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.ssm.models import ssm_backends
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.errors import KeyturnError
from keyturn.jobs.consumers import report_moved
from keyturn.lab.simulator.entra import Entra
from keyturn.lab.simulator.gcp import PROJECT, GcpSimulator
from keyturn.lab.simulator.github import GitHubSimulator
from keyturn.lab.simulator.gitlab import GitLabSimulator
from keyturn.lab.simulator.kubernetes import Cluster
from keyturn.lab.simulator.vault import VaultSimulator
from tests.support.aws import ACCOUNT, REGION, Aws


@dataclass
class ConsumedKey:
    """A key, where its secret is, and who uses it."""

    cloud: str
    account_id: str
    user: str
    key_id: str
    secret: str
    targets: tuple[str, ...] = ()
    is_declared: bool = True


@dataclass
class World:
    """The clouds and the targets, as whoever is inside of them sees them."""

    aws: Aws
    gcp: GcpSimulator
    entra: Entra
    vault: VaultSimulator
    github: GitHubSimulator
    gitlab: GitLabSimulator
    cluster: Cluster
    database: dict[str, Any]  # where the roles log in
    admin: psycopg.Connection[Any]
    name: str  # of what it makes: the clouds are shared with other tests
    logins: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def make(self, cloud: str, number: int) -> ConsumedKey:
        """A user with one key, which was made by hand."""
        return getattr(self, f"_make_{cloud}")(number)  # type: ignore[no-any-return]

    def _make_aws(self, number: int) -> ConsumedKey:
        user = f"svc{self.name}{number}"
        backend = iam_backends[ACCOUNT]["aws"]
        backend.create_user("us-east-1", user)
        key = backend.create_access_key(user)
        secret = {"AccessKeyId": key.access_key_id, "SecretAccessKey": key.secret_access_key}
        return ConsumedKey("aws", user, user, key.access_key_id, json.dumps(secret))

    def _make_gcp(self, number: int) -> ConsumedKey:
        """Every other one is the second key of an account, which is rotated at the same time."""
        first = number if number // 4 % 2 == 0 else number - 4
        email = f"svc-{self.name}{first}@{PROJECT}.iam.gserviceaccount.com"
        self.gcp.iam.accounts.setdefault(email, {})
        hides, unknown = self.gcp.iam.hides_for, self.gcp.iam.unknown_for
        self.gcp.iam.hides_for = self.gcp.iam.unknown_for = 0
        key_id = self.gcp.iam.create_key(email, at=datetime(2025, 1, 1, tzinfo=UTC))
        self.gcp.iam.hides_for, self.gcp.iam.unknown_for = hides, unknown
        return ConsumedKey("gcp", email, email, key_id, self.gcp.iam.key_file(email, key_id))

    def _make_entra(self, number: int) -> ConsumedKey:
        application = self.entra.directory.application()
        (password,) = application.passwords.values()
        secret = {
            "tenantId": self.entra.directory.tenant,
            "clientId": application.app_id,
            "keyId": password.key_id,
            "clientSecret": password.secret,
        }
        return ConsumedKey("entra", application.app_id, application.app_id, password.key_id, json.dumps(secret))

    def _make_postgresql(self, number: int) -> ConsumedKey:
        user, password = f"kt{self.name}{number}", uuid.uuid4().hex
        names = [sql.Identifier(name) for name in (user, f"{user}_a", f"{user}_b")]
        self.admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(names[0]))
        login = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
        self.admin.execute(login.format(names[1], sql.Literal(password), names[0]))
        self.admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN IN ROLE {}").format(names[2], names[0]))
        grant = sql.SQL("GRANT {}, {} TO ktexecutor WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        self.admin.execute(grant.format(*names[1:]))
        secret = {"engine": "postgres", "username": f"{user}_a", "password": password, **self.database}
        return ConsumedKey("postgresql", user, user, f"{user}_a", json.dumps(secret))

    def keys_of(self, key: ConsumedKey) -> dict[str, bool]:
        """A user's keys, and whether each is active."""
        if key.cloud == "aws":
            return {one: state == "Active" for one, state in self.aws.keys(key.user).items()}
        if key.cloud == "gcp":
            return {name: not one.disabled for name, one in self.gcp.iam.accounts[key.user].items()}
        if key.cloud == "entra":
            application = self.entra.directory.find(None, key.user)
            return dict.fromkeys(application.passwords if application else {}, True)
        query = "SELECT rolname::text, rolcanlogin FROM pg_authid WHERE rolname = ANY(%s) AND rolpassword IS NOT NULL"
        return dict(self.admin.execute(query, [[f"{key.user}_a", f"{key.user}_b"]]).fetchall())

    async def login(self, key: ConsumedKey, text: str) -> str:
        """Log in with a secret, as its consumers do; returns the ID of its key, or raises what is wrong with it."""
        self.logins[key.cloud] += 1
        secret = json.loads(text)
        return str(await getattr(self, f"_login_{key.cloud}")(key, secret))

    async def _login_aws(self, key: ConsumedKey, secret: dict[str, Any]) -> str:
        found = {one.access_key_id: one for one in iam_backends[ACCOUNT]["aws"].list_access_keys(key.user)}
        one = found[secret["AccessKeyId"]]
        assert one.status == "Active"
        assert one.secret_access_key == secret["SecretAccessKey"]
        one.last_used = AccessKeyLastUsed(timestamp=datetime.now(UTC), service="sts", region=REGION)
        return str(one.access_key_id)

    async def _login_gcp(self, key: ConsumedKey, secret: dict[str, Any]) -> str:
        one = self.gcp.iam.accounts[key.user][secret["private_key_id"]]
        assert not one.disabled
        assert not one.unknown
        return str(secret["private_key_id"])

    async def _login_entra(self, key: ConsumedKey, secret: dict[str, Any]) -> str:
        application = self.entra.directory.find(None, key.user)
        assert application is not None
        password = application.passwords[secret["keyId"]]
        assert password.secret == secret["clientSecret"]
        assert not password.works
        self.entra.directory.sign_ins[password.key_id] = datetime.now(UTC)
        return password.key_id

    async def _login_postgresql(self, key: ConsumedKey, secret: dict[str, Any]) -> str:
        # Beside the cable that is pulled: a dropped connection is no failed login.
        own = {"user": secret["username"], "password": secret["password"], "require_auth": "scram-sha-256"}
        connection = await psycopg.AsyncConnection.connect(**self.database | own)
        await connection.close()
        return str(secret.get("key_id") or secret["username"])

    # -- targets ------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> str | None:
        """What a program finds in a target."""
        kind, _, name = path.partition(":")
        return getattr(self, f"_read_{kind}")(name)  # type: ignore[no-any-return]

    def _read_secretsmanager(self, name: str) -> str | None:
        secret = secretsmanager_backends[ACCOUNT][REGION].secrets.get(name)
        if secret is None:
            return None
        now = [one for one in secret.versions.values() if "AWSCURRENT" in one["version_stages"]]
        return str(now[0]["secret_string"]) if now else None

    def _read_ssm(self, name: str) -> str | None:
        found = ssm_backends[ACCOUNT][REGION]._parameters.get(name)
        return str(found[-1].decrypt(found[-1].value)) if found else None

    def _read_vault(self, name: str) -> str | None:
        data = self.vault.latest(name)
        return None if data is None else json.dumps(data)

    def _read_kubernetes(self, name: str) -> str | None:
        place = name.partition("?")[0]
        entries = self.cluster.entries(*place.split("/")) or {}
        return entries.get("secret")

    def _read_github(self, name: str) -> str | None:
        place, _, own = name.rpartition("/")
        return self.github.read(f"/repos/{place}", own)

    def _read_gitlab(self, name: str) -> str | None:
        project, _, own = name.rpartition("/")
        found = self.gitlab.variable(project, own)
        return None if found is None else found.value

    def _read_gcpsecrets(self, name: str) -> str | None:
        versions = self.gcp.secret_manager.secrets.get(name.rpartition("/")[2], [])
        enabled = [one.data for one in versions if one.state == "ENABLED"]
        return enabled[-1].decode() if enabled else None

    def _read_keyvault(self, name: str) -> str | None:
        versions = self.entra.vaults.secrets.get(name, [])
        return versions[-1].value if versions and versions[-1].enabled else None

    def targets_of(self, number: int) -> tuple[str, ...]:
        """Two targets for a key, each kind in turn; the first can be read back."""
        own = f"{self.name}{number}"
        paths = [
            f"vault:secret/{own}",
            f"kubernetes:prod/{own}?key=secret",
            f"gitlab:acme/app/KEY_{own}",
            f"secretsmanager:{own}",
            f"ssm:/svc/{own}",
            f"gcpsecrets:projects/{PROJECT}/secrets/{own}",
            f"keyvault:pay/{own}",
            f"github:acme/app/KEY_{own}",
        ]
        first = number % 7
        return paths[first], paths[(first + 1 + number // 7 % 7) % 8]


async def consume(
    world: World,
    key: ConsumedKey,
    name: str,
    path: str,
    *,
    reads_every: float,
    logs_in_every: float,
    report: Callable[[str], Awaitable[None]] | None,
    chance: random.Random,
) -> None:
    """Log in for ever with what a target holds, read anew every few seconds; report a new key once it was used."""
    loop = asyncio.get_running_loop()
    # As if it had been started at any time before.
    text, read_at, reported = world.read(path) or "", loop.time() - chance.random() * reads_every, {key.key_id}
    await asyncio.sleep(chance.random() * logs_in_every)
    while True:
        if loop.time() - read_at >= reads_every:
            text, read_at = world.read(path) or "", loop.time()
        try:
            used = await world.login(key, text)
        except (AssertionError, KeyError, ValueError, psycopg.Error) as error:
            world.failures.append(f"{key.cloud} {key.user} {name}: {type(error).__name__}, read from {path}")
        else:
            if report is not None and used not in reported:
                try:
                    await report(used)
                    reported.add(used)
                except KeyturnError:
                    pass  # the executor has not written it down yet: it is reported with the next login
        await asyncio.sleep(logs_in_every)


def reports_of(engine: AsyncEngine, job_id: str, consumer: str) -> Callable[[str], Awaitable[None]]:
    """What a consumer of a job's key calls when it uses another one."""

    async def report(key_id: str) -> None:
        await report_moved(engine, job_id, tenant_id="default", consumer=consumer, key_id=key_id, by=consumer)

    return report
