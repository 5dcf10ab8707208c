"""Steps that something comes between: a process that is frozen and wakes up, a person's hand, a changed key map."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyUse
from keyturn.execution.errors import CloudRefused, CloudUnavailable, ForeignKey, KeyLimit, OldKeyInUse, TargetUnusable
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.execution.protocols import CloudKey
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.jobs.errors import JobClosed, StaleClaim
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from tests.support.aws import job_for
from tests.support.key_rotations import patiently

ACCOUNT, OLD = "111111111111", "AKIAOLD"
Then = Callable[[], Awaitable[None]]


class Cloud:
    """One user's keys. `before` holds what happens first when a call of that name arrives, once."""

    most_keys, visible_within, state_shown_within, has_inactive_state = 2, timedelta(0), timedelta(0), True

    def __init__(self) -> None:
        self.keys = {OLD: CloudKey(OLD, True, datetime.now(UTC) - timedelta(days=100))}
        self.used: dict[str, datetime] = {}
        self.before: dict[str, Then] = {}
        self.hidden: set[str] = set()
        self._made = 0

    async def _arrive(self, call: str) -> None:
        if then := self.before.pop(call, None):
            await then()

    def add_key(self, key_id: str) -> None:
        self.keys[key_id] = CloudKey(key_id, True, datetime.now(UTC))

    async def account(self) -> str:
        return ACCOUNT

    def account_named_in(self, account_id: str) -> str | None:
        return None

    def user_of(self, account_id: str, own: str) -> str:
        return account_id

    async def list_keys(self, user: str) -> list[CloudKey]:
        return [key for key in self.keys.values() if key.key_id not in self.hidden]

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        await self._arrive("create")
        self._made += 1
        key_id = f"AKIANEW{self._made}"
        self.add_key(key_id)
        return key_id, secret_of(key_id)

    def key_in(self, secret: SecretStr) -> str | None:
        return str(json.loads(secret.get_secret_value())["key"])

    async def verify(self, user: str, secret: SecretStr) -> str:
        await self._arrive("verify")
        return user

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        return KeyUse(last_used_at=self.used.get(key_id))

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        await self._arrive("set_active")
        self.keys[key_id] = self.keys[key_id]._replace(is_active=is_active)

    async def delete(self, user: str, key_id: str) -> None:
        await self._arrive("delete")
        self.keys.pop(key_id, None)


class Versions:
    """A secret store that keeps each version."""

    def __init__(self, key_id: str | None = None) -> None:
        self.versions = [] if key_id is None else [secret_of(key_id)]
        self.before_put: list[Then] = []

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        if self.before_put:
            await self.before_put.pop()()
        if self.versions[-1:] != [secret]:
            self.versions.append(secret)

    async def current(self, name: str) -> SecretStr | None:
        return self.versions[-1] if self.versions else None

    async def restore(self, name: str) -> None:
        self.versions = self.versions[:-1]


def secret_of(key_id: str) -> SecretStr:
    return SecretStr(json.dumps({"key": key_id}))


class Rotation:
    """A job, and the steps of its rotation."""

    def __init__(self, job_id: str, engine: AsyncEngine, cloud: Cloud, stores: Mapping[str, Versions]) -> None:
        self.order = KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT)
        self.cloud, self.stores, self._engine = cloud, stores, engine
        self.steps = self.with_settings()

    def with_settings(self, **more: Any) -> KeyRotation:
        openers = {name: partial(OpenTarget, store, reads_back=True) for name, store in self.stores.items()}
        default: dict[str, Any] = {"default_targets": [f"{name}:keyturn/{{user}}" for name in self.stores]}
        default |= {"known_every": timedelta(0), "known_within": timedelta(seconds=1)}
        leases, outbox = JobLeases(self._engine), Outbox(self._engine)
        return KeyRotation(self.cloud, SecretTargets(openers), leases, outbox, **default | more)

    async def begin(self) -> KeyState:
        return await self.steps.record(self.order, await self.steps.claim(self.order))

    async def create(self, state: KeyState) -> KeyState:
        state = state.model_copy(update={"new_key_id": await patiently(lambda: self.steps.create(state))})
        return state.model_copy(update={"verified_at": await self.steps.verify(state)})

    async def roll_back_elsewhere(self, state: KeyState) -> None:
        """As an operator orders it from another executor, which claims the job anew."""
        job = await self.steps.claim(self.order)
        await self.steps.roll_back(state.model_copy(update={"token": job.token}), "rolled back")

    async def stored(self, name: str = "vault") -> str | None:
        held = await self.stores[name].current("")
        return None if held is None else self.cloud.key_in(held)


@pytest.fixture
async def rotation(sqlite_engine: AsyncEngine, sqlite_store: JobStore) -> Rotation:
    job_id = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD)
    return Rotation(job_id, sqlite_engine, Cloud(), {"vault": Versions(OLD), "secretsmanager": Versions(OLD)})


@pytest.mark.parametrize("at", ["the verification of the new key", "the write to the first target"])
async def test_an_attempt_that_wakes_up_after_a_rollback_leaves_no_deleted_key_in_a_target(
    rotation: Rotation, at: str
) -> None:
    state = await rotation.begin()

    async def frozen() -> None:
        await rotation.roll_back_elsewhere(state)

    if at.startswith("the verification"):
        rotation.cloud.before["verify"] = frozen
    else:
        rotation.stores["vault"].before_put.append(frozen)
    with pytest.raises((StaleClaim, JobClosed)):
        await rotation.steps.create(state)
    assert list(rotation.cloud.keys) == [OLD]
    assert [await rotation.stored(name) for name in rotation.stores] == [OLD, OLD]


async def test_a_secret_that_is_stored_while_its_key_is_rolled_back_is_taken_out_again(rotation: Rotation) -> None:
    """Within one workflow both have the same claim: the attempt to create the key is not refused yet."""
    state = await rotation.create(await rotation.begin())

    async def stored_late() -> None:
        await rotation.stores["vault"].put("", secret_of(str(state.new_key_id)), version="")

    rotation.cloud.before["delete"] = stored_late
    await rotation.steps.roll_back(state, "rolled back")
    assert list(rotation.cloud.keys) == [OLD]
    assert [await rotation.stored(name) for name in rotation.stores] == [OLD, OLD]


async def test_a_copy_to_further_targets_is_not_made_after_a_rollback(
    rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await rotation.begin()
    await rotation.steps.create(state)
    trail_of = rotation.steps._trail_of

    async def frozen(job_id: str, tenant_id: str) -> Any:
        found = await trail_of(job_id, tenant_id)
        monkeypatch.undo()
        await rotation.roll_back_elsewhere(state)
        return found

    monkeypatch.setattr(rotation.steps, "_trail_of", frozen)
    with pytest.raises((StaleClaim, JobClosed)):
        await rotation.steps.create(state)
    assert [await rotation.stored(name) for name in rotation.stores] == [OLD, OLD]


async def test_a_deactivation_that_arrives_after_a_rollback_is_undone(rotation: Rotation) -> None:
    state = await rotation.create(await rotation.begin())

    async def frozen() -> None:
        await rotation.roll_back_elsewhere(state)

    rotation.cloud.before["set_active"] = frozen
    with pytest.raises((StaleClaim, JobClosed)):
        await rotation.steps.deactivate(state)
    assert [(key.key_id, key.is_active) for key in rotation.cloud.keys.values()] == [(OLD, True)]


async def test_a_key_that_came_into_use_again_is_not_deactivated(rotation: Rotation) -> None:
    """Such as during a freeze: it was quiet when it was last looked at."""
    state = await rotation.create(await rotation.begin())
    rotation.cloud.used[OLD] = datetime.now(UTC)
    with pytest.raises(OldKeyInUse):
        await rotation.steps.deactivate(state)
    assert rotation.cloud.keys[OLD].is_active
    compromised = state.model_copy(update={"is_compromised": True, "was_advanced": True})
    await rotation.steps.deactivate(compromised)
    assert not rotation.cloud.keys[OLD].is_active


@pytest.mark.parametrize("refusal", [CloudRefused("CreateAccessKey: AccessDenied"), KeyLimit("two keys")])
async def test_a_key_that_a_person_made_after_ours_was_refused_is_left_alone(
    rotation: Rotation, refusal: Exception
) -> None:
    """By its date it could be the one whose answer was lost: but the answer was there."""
    state = await rotation.begin()

    async def refuse() -> None:
        rotation.cloud.add_key("AKIAPERSON")
        raise refusal

    rotation.cloud.before["create"] = refuse
    with pytest.raises((CloudRefused, CloudUnavailable)):
        await rotation.steps.create(state)
    with pytest.raises(ForeignKey):
        await rotation.steps.create(state)
    await rotation.steps.roll_back(state, "rotated by hand")
    assert set(rotation.cloud.keys) == {OLD, "AKIAPERSON"}


@pytest.mark.parametrize("how", ["a person has deleted it", "no list shows it"])
async def test_a_rollback_takes_a_key_out_of_the_targets_that_is_not_listed(rotation: Rotation, how: str) -> None:
    state = await rotation.create(await rotation.begin())
    new = str(state.new_key_id)
    if how == "no list shows it":
        rotation.cloud.hidden.add(new)
    else:
        del rotation.cloud.keys[new]
    await rotation.steps.roll_back(state, "it does not work")
    assert list(rotation.cloud.keys) == [OLD]
    assert [await rotation.stored(name) for name in rotation.stores] == [OLD, OLD]


async def test_a_stored_key_that_no_list_shows_is_taken_up_by_the_next_attempt(rotation: Rotation) -> None:
    """The answer of an attempt was lost, and the list lags: consumers may have read the stored key already."""
    state = await rotation.begin()
    made = await rotation.steps.create(state)
    rotation.cloud.hidden.add(made)
    assert await rotation.steps.create(state) == made
    assert set(rotation.cloud.keys) == {OLD, made}


async def test_a_target_that_holds_another_users_key_is_not_written_over(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """Users of one name in two accounts, or a wrong path: something reads that key."""
    job_id = await job_for(sqlite_store, sqlite_engine, "svc-pay", OLD)
    rotation = Rotation(job_id, sqlite_engine, Cloud(), {"vault": Versions("AKIAOTHERS")})
    with pytest.raises(TargetUnusable, match="none of this user's"):
        await rotation.begin()
    assert list(rotation.cloud.keys) == [OLD]


async def test_a_run_that_begins_anew_waits_for_the_consumers_that_the_first_one_wrote_down(rotation: Rotation) -> None:
    """Its workflow is gone, and the key map was changed since: the consumers know the map as it was."""

    def mapped(place: str, *consumers: str) -> KeyRotation:
        table = KeyMapping(account="svc-pay", targets=(f"vault:{place}",), consumers=consumers, overlap_hours=720)
        return rotation.with_settings(key_map=lambda: KeyMap([table]))

    rotation.steps = mapped("prod/pay", "monthly")
    first = await rotation.create(await rotation.begin())
    rotation.steps = mapped("prod/moved")
    anew = await rotation.begin()
    assert (anew.targets, anew.consumers, anew.waits) == (first.targets, ("monthly",), first.waits)
    assert (anew.waits.overlap, anew.deactivated_at) == (timedelta(days=30), None)


async def test_a_run_that_begins_anew_in_the_grace_goes_on_there(rotation: Rotation) -> None:
    state = await rotation.create(await rotation.begin())
    moment = await rotation.steps.deactivate(state)
    anew = await rotation.begin()
    assert anew.deactivated_at is not None
    assert abs(anew.deactivated_at - moment) < timedelta(seconds=5)
