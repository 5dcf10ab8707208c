"""The executors of every cloud in one process, for a proof that kills it.

They are wired as `keyturn executor` is, but for what a proof has no time for: lists are whole within seconds, and a use
counts as a consumer's at once. CONTROL names what is left out on purpose, which the proof must notice.
"""

import asyncio
import json
import os
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

from pydantic import SecretStr

from keyturn.application.connection import connect
from keyturn.database import open_database
from keyturn.execution.contracts import KeyState, Need
from keyturn.execution.mapping import load_key_map
from keyturn.execution.protocols import CloudKeys
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.executors.entra.secrets import EntraSecrets
from keyturn.executors.gcp.keys import GcpServiceAccountKeys
from keyturn.executors.postgresql.roles import PostgresqlRoles
from keyturn.executors.postgresql.settings import load_roles_settings
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.targets import load_targets
from keyturn.targets.keyvault import KeyVault
from keyturn.workers.executor import executor
from keyturn.workers.executor_settings import ExecutorSettings

LISTED_WITHIN = timedelta(seconds=3)


class RetiresByTime(KeyRotation):
    """A control: the old key goes when its time is over, whoever uses it."""

    async def needs(self, rotation: KeyState, *, now: datetime) -> Need | None:
        return None

    async def uses_since(self, rotation: KeyState) -> Need | None:
        return None

    async def deactivate(self, rotation: KeyState) -> datetime:
        return await super().deactivate(rotation.model_copy(update={"is_compromised": True, "was_advanced": True}))

    async def delete(self, rotation: KeyState) -> None:
        await self._keys.delete(rotation.user, rotation.old_key_id)


class CreatesWithoutLooking(KeyRotation):
    """A control: an attempt creates a key, whatever an earlier one has left."""

    async def create(self, rotation: KeyState) -> str:
        await self._say(rotation, evidence={"step": "create_key"})
        key_id, secret = await self._keys.create(rotation.user, job_id=rotation.job_id)
        await self._targets.put(rotation.targets, secret, version=key_id)
        return await self._record_created(rotation, key_id)

    async def delete(self, rotation: KeyState) -> None:
        await self._keys.delete(rotation.user, rotation.old_key_id)


STEPS = {"": KeyRotation, "retire_by_time": RetiresByTime, "create_without_looking": CreatesWithoutLooking}


async def token_for(scope: str) -> SecretStr:
    """The token of the simulated tenant: azure-identity asks Microsoft alone."""
    return SecretStr(json.loads(os.environ["ENTRA_TOKENS"])["vault" if "vault" in scope else "graph"])


def open_clouds() -> dict[str, CloudKeys]:
    clouds: dict[str, CloudKeys] = {
        "aws": AwsAccessKeys(),
        "gcp": GcpServiceAccountKeys(),
        "entra": EntraSecrets(token=token_for),
        "postgresql": PostgresqlRoles(load_roles_settings()),
    }
    for keys in clouds.values():
        keys.visible_within = min(keys.visible_within, LISTED_WITHIN)
    return clouds


def open_targets() -> SecretTargets:
    known = {name: target for name, target in load_targets().items() if name != "keyvault"}
    openers = {
        name: lambda target=target: OpenTarget(target.open(), target.reads_back, target.check)
        for name, target in known.items()
    }
    return SecretTargets(openers | {"keyvault": lambda: OpenTarget(KeyVault(token=token_for), reads_back=True)})


async def main() -> None:
    settings = ExecutorSettings()
    engine = open_database(settings.database_url, pool_size=8)
    targets, key_map = open_targets(), load_key_map(settings.key_map)
    client = await connect()
    async with AsyncExitStack() as stack:
        for name, keys in open_clouds().items():
            steps = STEPS[os.environ.get("CONTROL", "")](
                keys,
                targets,
                JobLeases(engine),
                Outbox(engine),
                default_targets=(),
                key_map=lambda: key_map,
                own_use_within=timedelta(0),
                used_since=timedelta(seconds=1),
                created_within=LISTED_WITHIN,
            )
            account = os.environ[f"ACCOUNT_{name}"]
            own = settings.model_copy(update={"executor": name})
            await stack.enter_async_context(executor(client, steps, own, account))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
