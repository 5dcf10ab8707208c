"""Uses that a cloud tells of hours after they happened, or stops telling of, once the old key is deactivated."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.contracts import KeyState, KeyUse
from keyturn.execution.errors import CloudUnavailable, OldKeyInUse, SecretManagedElsewhere
from keyturn.jobs.store import JobStore
from tests.keyturn.test_interrupted_steps import OLD, Cloud, Rotation, Versions
from tests.support.aws import job_for

HOUR = timedelta(hours=1)


class Silent(Cloud):
    """A cloud that may stop saying when keys are used."""

    says = True

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        return await super().use_of(user, key_id) if self.says else KeyUse(is_known=False)


@pytest.fixture
async def rotation(sqlite_engine: AsyncEngine, sqlite_store: JobStore) -> Rotation:
    job_id = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD)
    return Rotation(job_id, sqlite_engine, Silent(), {"vault": Versions(OLD)})


async def deactivated(rotation: Rotation, **changed: object) -> KeyState:
    state = (await rotation.create(await rotation.begin())).model_copy(update=changed)
    return state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})


@pytest.mark.parametrize("step", ["uses_since", "delete"])
async def test_a_use_of_before_the_deactivation_that_was_not_known_then_brings_the_old_key_back(
    rotation: Rotation, step: str
) -> None:
    """A nightly program: its use was a day old at the deactivation, and the cloud reported the next one later."""
    rotation.cloud.used[OLD] = datetime.now(UTC) - 24.5 * HOUR
    state = await deactivated(rotation)
    assert await rotation.steps.uses_since(state) is None, "what was known then is no news"
    rotation.cloud.used[OLD] = datetime.now(UTC) - 0.5 * HOUR
    if step == "delete":
        with pytest.raises(OldKeyInUse):
            await rotation.steps.delete(state)
        assert OLD in rotation.cloud.keys
        return
    need = await rotation.steps.uses_since(state)
    assert need is not None
    assert need.kind == "old_key_in_use"
    assert rotation.cloud.keys[OLD].is_active


async def test_a_cloud_that_stops_saying_what_is_used_lets_no_key_be_deleted(rotation: Rotation) -> None:
    """Its report is withdrawn, or a right is lost, while the old key waits for its end."""
    state = await deactivated(rotation)
    rotation.cloud.says = False  # type: ignore[attr-defined]
    for step in (rotation.steps.uses_since, rotation.steps.delete):
        with pytest.raises(CloudUnavailable, match="does not say any more"):
            await step(state)
    assert OLD in rotation.cloud.keys
    rotation.cloud.says = True  # type: ignore[attr-defined]
    await rotation.steps.delete(state)
    assert OLD not in rotation.cloud.keys


@pytest.mark.parametrize("shown", ["by a person", "by consumers"])
async def test_a_key_whose_use_was_never_known_goes_by_what_else_showed_it(rotation: Rotation, shown: str) -> None:
    rotation.cloud.says = shown == "by consumers"  # type: ignore[attr-defined]
    state = await deactivated(rotation, **({"consumers": ("pay-api",)} if shown == "by consumers" else {}))
    rotation.cloud.says = False  # type: ignore[attr-defined]
    assert await rotation.steps.uses_since(state) is None
    await rotation.steps.delete(state)
    assert OLD not in rotation.cloud.keys


class Shared(Versions):
    """A store whose entry another program manages."""

    async def entries_of_others(self, name: str) -> Mapping[str, Sequence[str]]:
        return {"helm": ["password"]}

    async def expect_ours(self, name: str) -> None:
        raise SecretManagedElsewhere("prod/pay: helm manages an entry")


async def test_no_key_is_created_whose_secret_another_program_would_not_let_in(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """A dry run says so, too."""
    job_id = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD)
    rotation = Rotation(job_id, sqlite_engine, Cloud(), {"kubernetes": Shared(OLD)})
    with pytest.raises(SecretManagedElsewhere):
        await rotation.steps.plan(rotation.order)
    state = await rotation.begin()
    with pytest.raises(SecretManagedElsewhere):
        await rotation.steps.create(state)
    assert list(rotation.cloud.keys) == [OLD]
