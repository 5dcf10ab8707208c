"""Programs that a target restarts: they have moved when their rollout is complete, and the old key stays until then."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.contracts import KeyUse
from keyturn.jobs.store import JobStore
from tests.keyturn.test_interrupted_steps import OLD, Cloud, Rotation, Versions
from tests.support.aws import job_for


class Restarting(Versions):
    """A store whose programs are restarted; `left` are those that still run with the secret before."""

    left: Sequence[str] | None = ("prod: deployment/pay-api: 1 of 3 pods are new, 2 old ones are left",)

    def restarts(self, name: str) -> bool:
        return self.left is not None

    async def unfinished_rollouts(self, name: str) -> Sequence[str] | None:
        return self.left


async def test_the_old_key_waits_for_a_rollout_and_for_nothing_else(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cloud does not say when a key is used, and no consumer is declared: the complete rollout says enough."""
    job_id, pods = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD), Restarting(OLD)
    rotation = Rotation(job_id, sqlite_engine, Cloud(), {"vault": Versions(OLD), "kubernetes": pods})
    state = await rotation.create(await rotation.begin())

    async def unknown(user: str, key_id: str) -> KeyUse:
        return KeyUse(is_known=False)

    monkeypatch.setattr(rotation.cloud, "use_of", unknown)
    need = await rotation.steps.needs(state, now=datetime.now(UTC))
    assert need is not None
    assert (need.kind, need.by) == ("consumers_not_moved", tuple(Restarting.left or ()))
    pods.left = ()
    assert await rotation.steps.needs(state, now=datetime.now(UTC)) is None
    pods.left = None
    unwatched = await rotation.steps.needs(state, now=datetime.now(UTC))
    assert unwatched is not None
    assert unwatched.kind == "key_use_unknown"


async def test_a_complete_rollout_hides_no_use_of_the_old_key(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """Another program reads the same secret, and is not restarted."""
    job_id, pods = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD), Restarting(OLD)
    rotation = Rotation(job_id, sqlite_engine, Cloud(), {"kubernetes": pods})
    state = await rotation.create(await rotation.begin())
    pods.left = ()
    rotation.cloud.used[OLD] = datetime.now(UTC) - timedelta(hours=1)
    need = await rotation.steps.needs(state, now=datetime.now(UTC))
    assert need is not None
    assert need.kind == "old_key_in_use"
