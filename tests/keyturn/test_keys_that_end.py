"""Lists that are older than what was done, and keys that end by themselves: some key always works, or it is said."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.contracts import KeyState
from keyturn.execution.errors import CloudUnavailable, NewKeyMissing, RollbackImpossible, SecretNotStored
from keyturn.execution.protocols import CloudKey
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.workflows.rotate_key import STEP_START_TO_CLOSE
from tests.keyturn.test_interrupted_steps import OLD, Cloud, Rotation, Versions, secret_of
from tests.support.aws import job_for

DAY = timedelta(days=1)


class Lagging(Cloud):
    """A cloud whose lists show each key as it was when `shown` was set."""

    shown: list[CloudKey] | None = None

    async def list_keys(self, user: str) -> list[CloudKey]:
        return await super().list_keys(user) if self.shown is None else self.shown


@pytest.fixture
async def rotation(sqlite_engine: AsyncEngine, sqlite_store: JobStore) -> Rotation:
    job_id = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD)
    return Rotation(job_id, sqlite_engine, Lagging(), {"vault": Versions(OLD)})


async def deactivated(rotation: Rotation) -> KeyState:
    state = await rotation.create(await rotation.begin())
    return state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})


def ends(rotation: Rotation, key_id: str, at: datetime) -> None:
    rotation.cloud.keys[key_id] = rotation.cloud.keys[key_id]._replace(expires_at=at)


async def status_of(rotation: Rotation, engine: AsyncEngine) -> str:
    row, _ = await JobLeases(engine).show(rotation.order.job_id, tenant_id="default")
    return str(row["status"])


async def test_a_rollback_activates_the_old_key_though_a_list_still_shows_it_as_active(rotation: Rotation) -> None:
    """Right after the deactivation, by a read that is eventually consistent: both keys would have been dead."""
    state = await rotation.create(await rotation.begin())
    before = await rotation.cloud.list_keys("svc-pay")
    state = state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})
    assert isinstance(rotation.cloud, Lagging)
    rotation.cloud.shown = before
    await rotation.steps.roll_back(state, "rolled back")
    assert {key_id: key.is_active for key_id, key in rotation.cloud.keys.items()} == {OLD: True}
    assert await rotation.stored() == OLD


@pytest.mark.parametrize("step", ["uses_since", "delete"])
async def test_a_list_of_before_the_deactivation_is_no_activation_by_hand(rotation: Rotation, step: str) -> None:
    """A person would have to end that wait; and by the same list nothing is deleted."""
    state = await rotation.create(await rotation.begin())
    before = await rotation.cloud.list_keys("svc-pay")
    state = state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})
    assert isinstance(rotation.cloud, Lagging)
    rotation.cloud.shown, rotation.cloud.state_shown_within = before, timedelta(minutes=2)
    if step == "uses_since":
        assert await rotation.steps.uses_since(state) is None
    else:
        with pytest.raises(CloudUnavailable, match="not listed as inactive yet"):
            await rotation.steps.delete(state)
        assert OLD in rotation.cloud.keys


async def test_a_new_key_that_is_not_listed_yet_is_not_called_deleted(rotation: Rotation) -> None:
    state = await rotation.create(await rotation.begin())
    assert isinstance(rotation.cloud, Lagging)
    rotation.cloud.shown = [key for key in await rotation.cloud.list_keys("svc-pay") if key.key_id == OLD]
    rotation.cloud.state_shown_within = timedelta(minutes=2)
    with pytest.raises(CloudUnavailable, match="not listed yet"):
        await rotation.steps.deactivate(state)
    assert rotation.cloud.keys[OLD].is_active


async def test_no_rollback_leads_to_an_old_key_that_has_expired(rotation: Rotation, sqlite_engine: AsyncEngine) -> None:
    """Rotations are ordered shortly before the end: the new key is the only one that works."""
    state = await rotation.create(await rotation.begin())
    ends(rotation, OLD, datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(RollbackImpossible, match="the old key has expired"):
        await rotation.steps.roll_back(state, "rolled back")
    assert set(rotation.cloud.keys) == {OLD, str(state.new_key_id)}
    assert await rotation.stored() == state.new_key_id
    assert await status_of(rotation, sqlite_engine) != "failed"


async def test_a_job_whose_old_key_expired_before_there_was_a_new_one_may_be_rolled_back(
    rotation: Rotation, sqlite_engine: AsyncEngine
) -> None:
    state = await rotation.begin()
    ends(rotation, OLD, datetime.now(UTC) - timedelta(seconds=1))
    await rotation.steps.roll_back(state, "rolled back")
    assert await status_of(rotation, sqlite_engine) == "failed"


@pytest.mark.parametrize("left", [7 * DAY, timedelta(seconds=-1)])
async def test_a_new_key_that_ends_before_the_old_one_goes_stops_the_rotation_while_both_work(
    rotation: Rotation, left: timedelta
) -> None:
    """As an organization's policy makes keys of a week, and the waits are eight days."""
    state = await rotation.create(await rotation.begin())
    ends(rotation, str(state.new_key_id), datetime.now(UTC) + left)
    said = "shorten the waits" if left > timedelta(0) else "the new key has expired"
    for step in (rotation.steps.needs(state, now=datetime.now(UTC)), rotation.steps.deactivate(state)):
        with pytest.raises(NewKeyMissing, match=said):
            await step
    assert rotation.cloud.keys[OLD].is_active
    ends(rotation, str(state.new_key_id), datetime.now(UTC) + 9 * DAY)
    await rotation.steps.deactivate(state)


@pytest.mark.parametrize("how", ["deleted", "inactive", "expired"])
async def test_where_the_new_key_is_lost_in_the_grace_the_old_one_works_again(rotation: Rotation, how: str) -> None:
    """Within one look, and not at its deletion days later."""
    state = await deactivated(rotation)
    new = str(state.new_key_id)
    if how == "deleted":
        del rotation.cloud.keys[new]
    elif how == "inactive":
        await rotation.cloud.set_active("svc-pay", new, False)
    else:
        ends(rotation, new, datetime.now(UTC) - timedelta(seconds=1))
    need = await rotation.steps.uses_since(state)
    assert need is not None
    assert need.kind == "new_key_missing"
    assert how in need.by[0]
    assert rotation.cloud.keys[OLD].is_active


async def test_a_leaked_key_stays_off_whatever_becomes_of_the_new_one(rotation: Rotation) -> None:
    state = await deactivated(rotation)
    state = state.model_copy(update={"is_compromised": True, "was_advanced": True})
    del rotation.cloud.keys[str(state.new_key_id)]
    with pytest.raises(NewKeyMissing):
        await rotation.steps.uses_since(state)
    assert not rotation.cloud.keys[OLD].is_active


async def test_a_target_never_goes_back_to_the_secret_of_another_key(rotation: Rotation) -> None:
    """Its version before was disabled by hand, and the one before that is of a key that is long gone."""
    state = await rotation.create(await rotation.begin())
    rotation.stores["vault"].versions[0] = secret_of("AKIALONGGONE")
    with pytest.raises(SecretNotStored, match="would go back to the secret of a key that does not work"):
        await rotation.steps.roll_back(state, "rolled back")
    assert await rotation.stored() == state.new_key_id
    assert str(state.new_key_id) in rotation.cloud.keys


def test_a_step_waits_for_as_long_as_a_cloud_may_take_to_know_a_key(rotation: Rotation) -> None:
    """Google's sixty seconds, and seven minutes more."""
    steps = rotation.with_settings(known_within=None)
    assert steps._known_within == timedelta(seconds=90)
    rotation.cloud.state_shown_within = timedelta(minutes=8)
    steps = rotation.with_settings(known_within=None)
    assert steps._known_within == timedelta(minutes=8) < STEP_START_TO_CLOSE


async def test_an_old_key_that_a_list_still_shows_as_inactive_is_deactivated(rotation: Rotation) -> None:
    """It was activated again a moment ago: what is recorded as deactivated must be."""
    state = await rotation.create(await rotation.begin())
    assert isinstance(rotation.cloud, Lagging)
    keys = await rotation.cloud.list_keys("svc-pay")
    rotation.cloud.shown = [key._replace(is_active=key.key_id != OLD) for key in keys]
    await rotation.steps.deactivate(state)
    assert not rotation.cloud.keys[OLD].is_active
