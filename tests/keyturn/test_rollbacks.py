"""A rollback ends at the old key, whatever is late, missing or in between; the new key goes only after that."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.execution.contracts import KeyState
from keyturn.execution.errors import (
    CloudRefused,
    CloudUnavailable,
    NewKeyMissing,
    RollbackImpossible,
    SecretNotStored,
)
from keyturn.execution.protocols import CloudKey
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.jobs.errors import JobClosed, StaleClaim
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.targets.secretsmanager.store import SecretsManager, _token
from tests.keyturn.test_interrupted_steps import OLD, Rotation, Versions, secret_of
from tests.keyturn.test_keys_that_end import Lagging, deactivated, ends
from tests.support.aws import job_for

USER = "svc-pay"


class _LateVersions(Versions):
    """A store that shows, once, the secret before its restore."""

    stale: SecretStr | None = None

    async def current(self, name: str) -> SecretStr | None:
        if self.stale is not None:
            shown, self.stale = self.stale, None
            return shown
        return await super().current(name)

    async def restore(self, name: str) -> None:
        now = self.versions[-1]
        await super().restore(name)
        self.stale = now


async def rotation_with(engine: AsyncEngine, store: JobStore, **stores: Versions) -> Rotation:
    job_id = await job_for(store, engine, USER, OLD)
    return Rotation(job_id, engine, Lagging(), stores or {"vault": Versions(OLD)})


@pytest.fixture
async def rotation(sqlite_engine: AsyncEngine, sqlite_store: JobStore) -> Rotation:
    return await rotation_with(sqlite_engine, sqlite_store)


async def is_rolled_back(rotation: Rotation, engine: AsyncEngine, state: KeyState) -> bool:
    """Roll back, again where that is to be retried; returns whether the job ended."""
    for _ in range(3):
        try:
            await rotation.steps.roll_back(state, "rolled back")
            break
        except CloudUnavailable:
            continue
    row, _ = await JobLeases(engine).show(rotation.order.job_id, tenant_id="default")
    return str(row["status"]) == "failed"


async def test_a_deactivation_that_was_repeated_and_wakes_up_after_a_rollback_is_undone(rotation: Rotation) -> None:
    """The first try's row was lost, so the second finds the key inactive, and still is what deactivates it last."""
    state = await rotation.create(await rotation.begin())
    await rotation.cloud.set_active(USER, OLD, False)
    say, said = rotation.steps._say, 0

    async def frozen(*words: Any, **named: Any) -> None:
        nonlocal said
        await say(*words, **named)
        said += 1
        if said == 2:  # right before the deactivation
            rotation.steps._say = say  # type: ignore[method-assign]
            await rotation.roll_back_elsewhere(state)

    rotation.steps._say = frozen  # type: ignore[method-assign]
    with pytest.raises((StaleClaim, JobClosed)):
        await rotation.steps.deactivate(state)
    assert {key_id: key.is_active for key_id, key in rotation.cloud.keys.items()} == {OLD: True}


async def test_an_old_key_is_deleted_while_the_new_one_lives_for_less_than_another_overlap(rotation: Rotation) -> None:
    """The waits are over by then: only what is left of them counts."""
    state = await rotation.create(await rotation.begin())
    new, now = str(state.new_key_id), datetime.now(UTC)
    rotation.cloud.keys[new] = rotation.cloud.keys[new]._replace(expires_at=now + timedelta(hours=12))
    since = await rotation.steps.deactivate(state.model_copy(update={"is_compromised": True, "was_advanced": True}))
    assert now <= since, "and a leaked key goes however soon the new one ends"
    before = since - state.waits.grace
    await rotation.steps.delete(state.model_copy(update={"deactivated_at": before, "verified_at": before}))
    assert set(rotation.cloud.keys) == {new}


async def test_a_target_goes_back_to_an_inactive_key_that_it_held_before(
    rotation: Rotation, sqlite_engine: AsyncEngine
) -> None:
    rotation.cloud.most_keys = 10
    rotation.cloud.keys["AKIADEAD"] = CloudKey("AKIADEAD", False, datetime.now(UTC) - timedelta(days=400))
    rotation.stores["vault"].versions[:] = [secret_of("AKIADEAD")]
    state = await rotation.create(await rotation.begin())
    assert await is_rolled_back(rotation, sqlite_engine, state)
    assert await rotation.stored() == "AKIADEAD"


async def test_a_second_target_goes_back_to_the_key_that_it_held_before(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    stores = {"vault": Versions(OLD), "secretsmanager": Versions("AKIALASTYEAR")}
    rotation = await rotation_with(sqlite_engine, sqlite_store, **stores)
    assert await is_rolled_back(rotation, sqlite_engine, await rotation.create(await rotation.begin()))


async def test_what_a_target_held_in_the_place_of_an_id_is_not_in_the_audit_trail(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """Where an ID should be, people have pasted the secret; the rollback goes back to it all the same."""
    pasted = "wJalrXUtnFEMI/made-up-secret-of-a-test"
    stores = {"vault": Versions(OLD), "secretsmanager": Versions(pasted)}
    rotation = await rotation_with(sqlite_engine, sqlite_store, **stores)
    assert await is_rolled_back(rotation, sqlite_engine, await rotation.create(await rotation.begin()))
    assert stores["secretsmanager"].versions[-1] == secret_of(pasted)
    _, trail = await JobLeases(sqlite_engine).show(rotation.order.job_id, tenant_id="default")
    assert pasted not in str([row["detail"] for row in trail])


async def test_a_store_that_shows_its_restored_secret_late_is_asked_again(
    sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """Nothing is stored over what it has restored, and the new key stays until it shows that."""
    rotation = await rotation_with(sqlite_engine, sqlite_store, vault=_LateVersions(OLD))
    state = await rotation.create(await rotation.begin())
    with pytest.raises(CloudUnavailable, match="still shows"):
        await rotation.steps.roll_back(state, "rolled back")
    assert str(state.new_key_id) in rotation.cloud.keys
    assert await is_rolled_back(rotation, sqlite_engine, state)
    assert await rotation.stored() == OLD


async def test_a_key_of_a_lost_attempt_between_both_is_passed_over(
    rotation: Rotation, sqlite_engine: AsyncEngine
) -> None:
    state = await rotation.create(await rotation.begin())
    await rotation.steps._say(state, evidence={"created_key": "AKIAZOMBIE"})
    rotation.stores["vault"].versions.insert(1, secret_of("AKIAZOMBIE"))
    assert await is_rolled_back(rotation, sqlite_engine, state)
    assert await rotation.stored() == OLD


async def test_the_new_key_stays_where_a_rollback_died_at_the_secret_of_a_key_that_is_gone(rotation: Rotation) -> None:
    """Between going back and storing the new one again, each later try finds it so and refuses it."""
    state = await rotation.create(await rotation.begin())
    rotation.stores["vault"].versions[0] = secret_of("AKIALONGGONE")

    async def away() -> None:
        raise CloudUnavailable("vault is away")

    rotation.stores["vault"].before_put.append(away)
    with pytest.raises(CloudUnavailable):
        await rotation.steps.roll_back(state, "rolled back")
    for _ in range(2):
        with pytest.raises(SecretNotStored, match="holds the secret of a key that does not work"):
            await rotation.steps.roll_back(state, "rolled back")
    assert str(state.new_key_id) in rotation.cloud.keys


async def test_a_rollback_needs_no_right_to_activate_a_key_that_is_active(
    rotation: Rotation, sqlite_engine: AsyncEngine
) -> None:
    """It is the way out of a rotation that is blocked because that right is missing."""
    state = await rotation.create(await rotation.begin())

    async def refuse(*_: object) -> None:
        raise CloudRefused("UpdateAccessKey: AccessDenied")

    rotation.cloud.set_active = refuse  # type: ignore[method-assign, assignment]
    assert await is_rolled_back(rotation, sqlite_engine, state)


async def test_a_rollback_activates_the_old_key_before_anything_else_can_fail(rotation: Rotation) -> None:
    """What uses a key beside them is not known now, and the outage ends all the same."""
    state = await rotation.create(await rotation.begin())
    state = state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})
    await rotation.steps._say(state, evidence={"step": "create_key"})
    rotation.cloud.add_key("AKIAEXTRA")

    async def away(*_: object) -> Any:
        raise CloudUnavailable("GetAccessKeyLastUsed: ServiceUnavailable")

    rotation.cloud.use_of = away  # type: ignore[method-assign, assignment]
    with pytest.raises(CloudUnavailable):
        await rotation.steps.roll_back(state, "rolled back")
    assert rotation.cloud.keys[OLD].is_active


async def test_an_activation_by_a_list_that_is_late_is_in_the_audit_trail(
    rotation: Rotation, sqlite_engine: AsyncEngine
) -> None:
    state = await rotation.create(await rotation.begin())
    before = await rotation.cloud.list_keys(USER)
    state = state.model_copy(update={"deactivated_at": await rotation.steps.deactivate(state)})
    rotation.cloud.shown = before  # type: ignore[attr-defined]
    await rotation.steps.roll_back(state, "rolled back")
    _, trail = await JobLeases(sqlite_engine).show(rotation.order.job_id, tenant_id="default")
    assert [row["detail"]["activated"] for row in trail if "activated" in row["detail"]] == [OLD]
    assert rotation.cloud.keys[OLD].is_active


async def refuse_to_activate(*_: object) -> None:
    raise CloudRefused("UpdateAccessKey: AccessDenied")


@pytest.mark.parametrize("is_active", [False, True], ids=["inactive", "expired"])
async def test_a_target_never_goes_back_to_a_key_that_is_there_and_does_not_work(
    rotation: Rotation, is_active: bool
) -> None:
    rotation.cloud.most_keys = 10
    state = await rotation.create(await rotation.begin())
    past = datetime.now(UTC) - timedelta(days=1)
    rotation.cloud.keys["AKIADEAD"] = CloudKey("AKIADEAD", is_active, past, expires_at=past if is_active else None)
    rotation.stores["vault"].versions[0] = secret_of("AKIADEAD")
    with pytest.raises(SecretNotStored, match="would go back"):
        await rotation.steps.roll_back(state, "rolled back")
    assert str(state.new_key_id) in rotation.cloud.keys


async def test_a_rollback_to_a_key_that_has_expired_says_so_before_its_cloud_does(rotation: Rotation) -> None:
    state = await deactivated(rotation)
    ends(rotation, OLD, datetime.now(UTC) - timedelta(seconds=1))
    rotation.cloud.set_active = refuse_to_activate  # type: ignore[method-assign, assignment]
    with pytest.raises(RollbackImpossible, match="has expired"):
        await rotation.steps.roll_back(state, "rolled back")


async def test_the_only_key_that_works_stays_even_if_no_list_shows_it(rotation: Rotation) -> None:
    state = await rotation.create(await rotation.begin())
    ends(rotation, OLD, datetime.now(UTC) - timedelta(seconds=1))
    rotation.cloud.hidden.add(str(state.new_key_id))
    with pytest.raises(RollbackImpossible):
        await rotation.steps.roll_back(state, "rolled back")
    assert str(state.new_key_id) in rotation.cloud.keys


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_the_new_key_stays_where_the_old_one_cannot_be_activated(rotation: Rotation, is_recorded: bool) -> None:
    """By what the rotation knows, or by the trail alone, under a list that still shows the old key as active."""
    state = await rotation.create(await rotation.begin())
    before = await rotation.cloud.list_keys(USER)
    since = await rotation.steps.deactivate(state)
    if is_recorded:
        state = state.model_copy(update={"deactivated_at": since})
    rotation.cloud.shown = before  # type: ignore[attr-defined]
    rotation.cloud.set_active = refuse_to_activate  # type: ignore[method-assign, assignment]
    with pytest.raises(CloudRefused):
        await rotation.steps.roll_back(state, "rolled back")
    assert str(state.new_key_id) in rotation.cloud.keys


async def test_a_deactivation_whose_answer_and_row_were_lost_is_undone_under_a_late_list(rotation: Rotation) -> None:
    state = await rotation.create(await rotation.begin())
    rotation.cloud.shown = await rotation.cloud.list_keys(USER)  # type: ignore[attr-defined]
    await rotation.cloud.set_active(USER, OLD, False)
    await rotation.steps.roll_back(state, "rolled back")
    assert rotation.cloud.keys[OLD].is_active


async def test_a_cloud_whose_keys_are_never_inactive_is_not_asked_to_activate_one(rotation: Rotation) -> None:
    rotation.cloud.has_inactive_state = False
    state = await rotation.create(await rotation.begin())

    async def never(*_: object) -> None:
        raise AssertionError("no such call")

    rotation.cloud.set_active = never  # type: ignore[method-assign, assignment]
    await rotation.steps.roll_back(state, "rolled back")
    assert set(rotation.cloud.keys) == {OLD}


async def test_a_lost_new_key_is_reported_where_the_old_one_cannot_be_activated(rotation: Rotation) -> None:
    rotation.cloud.has_inactive_state = False
    state = await deactivated(rotation)
    del rotation.cloud.keys[str(state.new_key_id)]
    with pytest.raises(NewKeyMissing):
        await rotation.steps.uses_since(state)


async def test_a_leaked_key_is_deleted_whatever_a_late_list_says(rotation: Rotation) -> None:
    state = (await deactivated(rotation)).model_copy(update={"is_compromised": True, "was_advanced": True})
    listed = await rotation.cloud.list_keys(USER)
    rotation.cloud.shown = [key._replace(is_active=True) for key in listed]  # type: ignore[attr-defined]
    rotation.cloud.state_shown_within = timedelta(minutes=2)
    await rotation.steps.delete(state)
    assert OLD not in rotation.cloud.keys


def test_no_two_long_versions_are_one_to_secrets_manager() -> None:
    """It takes a second one of the same token for the first, and moves nothing."""
    one, two = (_token(f"instead-of-{'a' * 63}{last}") for last in "xy")
    assert one != two
    assert len(one) <= 64


class _SecretsManager:
    """AWS's rule of ClientRequestToken: what is said again with the same one is ignored, and moves no label."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.stages: dict[str, str] = {}
        self.created = datetime.now(UTC)

    def get_secret_value(self, SecretId: str, VersionStage: str) -> dict[str, Any]:  # noqa: N803 - AWS's names
        if VersionStage not in self.stages:
            error: Any = {"Error": {"Code": "ResourceNotFoundException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
            raise ClientError(error, "GetSecretValue")
        version = self.stages[VersionStage]
        return {"VersionId": version, "SecretString": self.texts[version], "CreatedDate": self.created}

    def put_secret_value(self, SecretId: str, ClientRequestToken: str, SecretString: str) -> dict[str, Any]:  # noqa: N803
        if ClientRequestToken not in self.texts:
            self.texts[ClientRequestToken] = SecretString
            if "AWSCURRENT" in self.stages:
                self.stages["AWSPREVIOUS"] = self.stages["AWSCURRENT"]
            self.stages["AWSCURRENT"] = ClientRequestToken
        return {}


async def test_secrets_manager_holds_the_new_key_after_any_number_of_refused_rollbacks() -> None:
    store = SecretsManager.__new__(SecretsManager)
    store._client = _SecretsManager()
    for key in ("AKIALONGGONE", "AKIANEW"):
        await store.put("n", SecretStr(json.dumps({"key": key})), version=key)
    targets = SecretTargets({"sm": lambda: OpenTarget(store, reads_back=True)})

    def is_of(key: str, secret: SecretStr | None) -> bool:
        return secret is not None and json.loads(secret.get_secret_value())["key"] == key

    for _ in range(4):
        with pytest.raises(SecretNotStored, match="would go back"):
            await targets.restore(
                ["sm:n"], lambda it: is_of("AKIANEW", it), version="AKIANEW", may_hold=lambda it: is_of("AKIAOLD", it)
            )
        assert is_of("AKIANEW", await store.current("n"))
