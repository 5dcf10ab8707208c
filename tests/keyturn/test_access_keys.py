"""Rotating an access key, step by step, against moto's IAM and Secrets Manager over a network that loses answers."""

import functools
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.execution.contracts import AccessKeyState, KeyRotationOrder, SecretStore
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    AwsRefused,
    AwsUnavailable,
    ForeignKey,
    KeyLimit,
    KeyNotFound,
    NewKeyMissing,
    OldKeyInUse,
    RollbackImpossible,
    SecretNotKept,
)
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.executors.aws.steps import AccessKeyRotation
from keyturn.jobs.errors import JobClosed, JobHeld, StaleClaim
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.targets.file import SecretFiles
from keyturn.targets.secretsmanager.store import SecretsManager
from tests.support.aws import ACCOUNT, Aws, Loss, Network, job_for

T = TypeVar("T")
AGAIN, ANEW = "the step is tried again", "everything begins anew"


@pytest.fixture
async def engine(sqlite: Any) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)  # what differs between databases is tested with the leases
    yield engine
    await engine.dispose()


@pytest.fixture
def steps(aws: Aws, network: Network, engine: AsyncEngine) -> AccessKeyRotation:
    return steps_on(aws, network, engine)


def steps_on(aws: Aws, network: Network, engine: AsyncEngine, secrets: SecretStore | None = None) -> AccessKeyRotation:
    keys, manager = clients_on(aws, network.address)
    return AccessKeyRotation(keys, secrets or manager, JobLeases(engine), secret_name="keyturn/{user}")


@functools.cache
def clients_on(aws: Aws, address: str) -> tuple[AwsAccessKeys, SecretsManager]:
    """What calls AWS there. It remembers nothing of a call, and making it costs as much as a whole rotation."""
    settings = aws.settings(address)
    return AwsAccessKeys(**settings), SecretsManager(**settings)


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """As Temporal does: what passes is tried again."""
    for _ in range(5):
        try:
            return await step()
        except AwsUnavailable:
            continue
    return await step()


async def begun(steps: AccessKeyRotation, job_id: str) -> AccessKeyState:
    job = await patiently(lambda: steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT)))
    return await patiently(lambda: steps.record(job))


async def created(steps: AccessKeyRotation, rotation: AccessKeyState) -> AccessKeyState:
    made = await patiently(lambda: steps.create(rotation))
    rotation = rotation.model_copy(update={"new_key_id": made})
    await patiently(lambda: steps.verify(rotation))
    return rotation


async def deactivated(steps: AccessKeyRotation, rotation: AccessKeyState) -> AccessKeyState:
    moment = await patiently(lambda: steps.deactivate(rotation))
    return rotation.model_copy(update={"deactivated_at": moment})


async def rotated(steps: AccessKeyRotation, job_id: str) -> AccessKeyState:
    rotation = await deactivated(steps, await created(steps, await begun(steps, job_id)))
    await patiently(lambda: steps.delete(rotation))
    await patiently(lambda: steps.close(rotation))
    return rotation


async def audit_details(engine: AsyncEngine, job_id: str) -> list[dict[str, Any]]:
    _, trail = await JobLeases(engine).show(job_id, tenant_id="default")
    return [dict(row["detail"]) for row in trail]


def expect_a_working_key(aws: Aws, user: str, old: str) -> None:
    """At every moment: the old key works, or the new one does and its secret is where it is looked for."""
    keys = aws.keys(user)
    stored = aws.stored(f"keyturn/{user}")
    assert keys.get(old) == "Active" or (stored is not None and keys.get(stored) == "Active")


async def test_a_key_is_rotated_with_its_evidence(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """One new working key, its secret stored, the old key gone; the job records each step, and never the secret."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    rotation = await rotated(steps, job_id)
    assert aws.keys(user) == {rotation.new_key_id: "Active"}
    assert aws.stored(f"keyturn/{user}") == rotation.new_key_id
    job, trail = await JobLeases(engine).show(job_id, tenant_id="default")
    assert job["status"] == "done"
    states = [row["event"] for row in trail]
    assert [state for at, state in enumerate(states) if states[at - 1 : at] != [state]] == [
        "created", "claimed", "rotating", "verifying", "grace", "done",
    ]  # fmt: skip
    details = [dict(row["detail"]) for row in trail]
    assert {"aws_account": ACCOUNT, "iam_user": user, "keys_before": old} in details
    assert {"old_key_id": old, "new_key_id": rotation.new_key_id} in details
    assert all(row["actor"] == f"execute:{job_id}" for row in trail[1:])
    assert rotation.new_key_id is not None
    async with engine.connect() as connection:
        for table in ("rotation_jobs", "job_audit", "outbox"):
            rows = str((await connection.execute(text(f"SELECT * FROM {table}"))).all())
            assert aws.secret_of(user, rotation.new_key_id) not in rows


async def calls_of_a_rotation(aws: Aws, network: Network, store: JobStore, engine: AsyncEngine) -> list[str]:
    user, old = aws.user()
    await rotated(steps_on(aws, network, engine), await job_for(store, engine, user, old))
    return list(network.calls)


LOSSES = [("answer_lost", AGAIN), ("answer_lost", ANEW), ("request_lost", AGAIN), ("request_lost", ANEW)]
# Of a call that only looks, a lost request leaves what a lost answer leaves: `make prove-executor` loses those, too.
LOOKS = ("Get", "List", "Describe")
EACH_WAY = bool(os.environ.get("PROOF_KILLS"))


@pytest.mark.parametrize(("how", "after"), LOSSES)
async def test_whichever_call_to_aws_is_lost_there_is_one_new_working_key_and_no_orphan(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine, how: Loss, after: str
) -> None:
    """Each call in turn, its request or its answer; and never a moment without a working key.

    Started anew, the executor was killed there and its workflow is gone as well: only the job's trail is left.
    """
    calls = await calls_of_a_rotation(aws, network, store, engine)
    assert {"ListAccessKeys", "CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey", "PutSecretValue"} < set(calls)
    for lost, call in enumerate(calls, start=1):
        if call.startswith(LOOKS) and (how, after) != LOSSES[0] and not EACH_WAY:
            continue
        user, old = aws.user()
        job_id = await job_for(store, engine, user, old)
        network.calls.clear()
        network.lose, network.how = lost, how
        network.after_each = partial(expect_a_working_key, aws, user, old)
        steps = steps_on(aws, network, engine)
        if after == ANEW:
            with pytest.raises(AwsUnavailable):
                await rotated_at_once(steps, job_id)
            steps = steps_on(aws, network, engine)
        rotation = await rotated(steps, job_id)
        assert len(network.calls) > lost, "the loss was reached"
        assert aws.keys(user) == {rotation.new_key_id: "Active"}, call
        assert aws.stored(f"keyturn/{user}") == rotation.new_key_id, call
        job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
        assert job["status"] == "done"


async def rotated_at_once(steps: AccessKeyRotation, job_id: str) -> None:
    """Without patience: the first failure ends it."""
    rotation = await steps.record(await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT)))
    rotation = rotation.model_copy(update={"new_key_id": await steps.create(rotation)})
    await steps.verify(rotation)
    rotation = rotation.model_copy(update={"deactivated_at": await steps.deactivate(rotation)})
    await steps.delete(rotation)
    await steps.close(rotation)


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
async def test_whichever_call_of_a_rollback_is_lost_the_old_key_works_again_and_the_new_one_is_gone(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine, how: Loss
) -> None:
    """Even after the old one was deactivated; and never a moment without a working key."""
    lost, done = 0, False
    while not done:
        lost += 1
        user, old = aws.user()
        job_id = await job_for(store, engine, user, old)
        steps = steps_on(aws, network, engine)
        network.lose = None
        rotation = await deactivated(steps, await created(steps, await begun(steps, job_id)))
        network.calls.clear()
        network.lose, network.how = lost, how
        network.after_each = partial(expect_a_working_key, aws, user, old)
        await patiently(partial(steps.roll_back, rotation, "the importer broke"))
        done = len(network.calls) < lost
        assert aws.keys(user) == {old: "Active"}
        assert aws.stored(f"keyturn/{user}") is None  # there was none before
        job, trail = await JobLeases(engine).show(job_id, tenant_id="default")
        assert (job["status"], trail[-1]["detail"]) == ("failed", {"reason": "the importer broke"})
    assert lost > 6


async def test_a_rollback_brings_the_secret_before_back(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """Rotated once, then a second time and back: the first new key's secret is the stored one again."""
    user, old = aws.user()
    first = await rotated(steps, await job_for(store, engine, user, old))
    assert first.new_key_id is not None
    rotation = await created(steps, await begun(steps, await job_for(store, engine, user, first.new_key_id)))
    assert aws.stored(f"keyturn/{user}") == rotation.new_key_id != first.new_key_id
    await steps.roll_back(rotation, "too early")
    assert aws.keys(user) == {first.new_key_id: "Active"}
    assert aws.stored(f"keyturn/{user}") == first.new_key_id


async def test_a_rollback_before_there_is_a_key_changes_nothing_at_aws(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """Only the job is closed."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, user, old))
    network.calls.clear()
    await steps.roll_back(rotation, "not now")
    assert network.calls == ["GetCallerIdentity", "ListAccessKeys"]
    assert aws.keys(user) == {old: "Active"}


async def test_after_the_old_key_is_deleted_there_is_no_way_back(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    rotation = await deactivated(
        steps, await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    )
    await steps.delete(rotation)
    with pytest.raises(RollbackImpossible):
        await steps.roll_back(rotation, "too late")
    assert aws.keys(user) == {rotation.new_key_id: "Active"}


@pytest.mark.parametrize("case", ["two keys", "another key", "an inactive key", "no user", "root"])
async def test_what_cannot_be_rotated_is_refused_before_anything_is_changed(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine, case: str
) -> None:
    """At the limit of two keys; a key that is not the user's, or inactive; another account; an unknown user."""
    user, old = aws.user()
    iam, account, key = aws.client("iam"), f"arn:aws:iam::{ACCOUNT}:user/{user}", old
    expected: type[Exception] = KeyNotFound
    if case == "two keys":
        iam.create_access_key(UserName=user)
        expected = KeyLimit
    elif case == "another key":
        key = aws.user()[1]
    elif case == "an inactive key":
        iam.update_access_key(UserName=user, AccessKeyId=old, Status="Inactive")
    elif case == "no user":
        account = f"arn:aws:iam::{ACCOUNT}:user/nobody-of-this-name"
    else:
        account, expected = f"arn:aws:iam::{ACCOUNT}:root", AccountMismatch
    before = aws.keys(user)
    job_id = await job_for(store, engine, account, key)
    job = await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))
    with pytest.raises(expected) as caught:
        await steps.record(job)
    assert aws.keys(user) == before
    assert set(network.calls) <= {"ListAccessKeys", "GetCallerIdentity"}
    with pytest.raises(expected):
        await steps.plan(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))
    await steps.refuse(job, str(caught.value))
    assert (await audit_details(engine, job_id))[-1] == {"reason": str(caught.value)}


ELSEWHERE = "999999999999"


@pytest.mark.parametrize(
    "case", ["an ARN of it", "its root", "a user of the same name", "a user that is not here", "no AWS name at all"]
)
async def test_a_job_of_another_account_is_left_for_its_own_executor(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine, case: str
) -> None:
    """Neither claimed nor closed: users of one name are in many accounts, and a key is in one."""
    user, old = aws.user()
    account, key = {
        "an ARN of it": (f"arn:aws:iam::{ELSEWHERE}:user/{user}", old),
        "its root": (f"arn:aws:iam::{ELSEWHERE}:root", old),
        "a user of the same name": (user, "AKIAELSEWHERE0000000"),
        "a user that is not here": ("svc-elsewhere", old),
        "no AWS name at all": ("projects/pay/serviceAccounts/x", old),
    }[case]
    job_id = await job_for(store, engine, account, key)
    with pytest.raises(AnotherAccount):
        await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))
    job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
    assert (job["status"], job["lease_owner"]) == ("open", None)
    assert await JobLeases(engine).free(tenant_id="default", kind="access_key", limit=10) == [job_id]
    assert set(network.calls) <= {"ListAccessKeys", "GetCallerIdentity"}


async def test_a_step_changes_nothing_with_another_accounts_credentials(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """As when a profile is edited under a running executor, or a queue is shared by mistake."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    rotation = await created(steps, await begun(steps, job_id))
    moved = rotation.model_copy(update={"cloud_account": ELSEWHERE})
    before, calls = aws.keys(user), len(network.calls)
    for step in (steps.create, steps.verify, steps.deactivate, steps.delete):
        with pytest.raises(AnotherAccount):
            await step(moved)
    with pytest.raises(AnotherAccount):
        await steps.roll_back(moved, "back")
    with pytest.raises(AnotherAccount):
        await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ELSEWHERE))
    assert aws.keys(user) == before
    assert set(network.calls[calls:]) == {"GetCallerIdentity"}


async def test_an_arn_names_its_user(aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine) -> None:
    """With a path before the name, as AWS's own lists have it."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, f"arn:aws:iam::{ACCOUNT}:user/teams/pay/{user}", old))
    assert (rotation.user, rotation.keys_before) == (user, (old,))


@pytest.mark.parametrize("when", ["before we began to create", "after, but it is used", "and its maker calls it ours"])
async def test_a_key_that_somebody_else_made_is_never_touched(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine, when: str
) -> None:
    """Made by hand while the rotation was on its way: it stops, and says so."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    if when == "and its maker calls it ours":
        leases = JobLeases(engine)
        said: dict[str, Any] = {"tenant_id": "default", "lease": timedelta(minutes=1)}
        token = (await leases.claim(job_id, owner="mallory", **said)).token
        evidence = {"iam_user": user, "keys_before": old, "step": "create_access_key"}
        await leases.heartbeat(job_id, token=token, state=None, evidence=evidence, **said)
        async with engine.begin() as connection:  # a minute later
            await connection.execute(text("UPDATE rotation_jobs SET lease_until = created_at"))
    rotation = await begun(steps, job_id)
    if when == "after, but it is used":
        network.calls.clear()
        network.lose, network.how = 4, "request_lost"  # whose credentials, ListAccessKeys, GetSecretValue, this one
        with pytest.raises(AwsUnavailable):
            await steps.create(rotation)
        assert network.calls[-1] == "CreateAccessKey"
    made = aws.client("iam").create_access_key(UserName=user)["AccessKey"]
    if when == "after, but it is used":
        await AwsAccessKeys(**aws.settings()).signs(made["AccessKeyId"], SecretStr(made["SecretAccessKey"]))
    for step in (steps.create, steps.create):
        with pytest.raises(ForeignKey):
            await step(rotation)
    await steps.roll_back(rotation, "somebody else is at it")
    assert aws.keys(user) == {old: "Active", made["AccessKeyId"]: "Active"}


async def test_an_attempt_that_wakes_up_beside_another_one_stores_no_secret_of_its_own(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key was taken for lost and deleted meanwhile: the stored secret is that of the key that is there."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, user, old))
    create, others = AwsAccessKeys.create, []

    async def freezes(self: AwsAccessKeys, user_name: str) -> tuple[str, SecretStr]:
        made = await create(self, user_name)
        monkeypatch.setattr(AwsAccessKeys, "create", create)
        others.append(await steps.create(rotation))
        return made

    monkeypatch.setattr(AwsAccessKeys, "create", freezes)
    with pytest.raises(AwsUnavailable):
        await steps.create(rotation)
    assert aws.keys(user) == {old: "Active", others[0]: "Active"}
    assert aws.stored(f"keyturn/{user}") == others[0]
    assert await steps.create(rotation) == others[0]


async def test_the_old_key_stays_while_the_new_one_does_not_work(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """Deactivated or deleted by another, or another secret stored in its place: the old key is not touched."""
    user, old = aws.user()
    rotation = await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    iam, name = aws.client("iam"), f"keyturn/{user}"
    iam.update_access_key(UserName=user, AccessKeyId=rotation.new_key_id, Status="Inactive")
    with pytest.raises(NewKeyMissing):
        await steps.deactivate(rotation)
    iam.update_access_key(UserName=user, AccessKeyId=rotation.new_key_id, Status="Active")
    kept = aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    for text_of_another in ("not ours", json.dumps({"AccessKeyId": "AKIAOTHER", "SecretAccessKey": "x"})):
        aws.client("secretsmanager").put_secret_value(SecretId=name, SecretString=text_of_another)
        with pytest.raises(NewKeyMissing):
            await steps.deactivate(rotation)
    assert aws.keys(user)[old] == "Active"
    aws.client("secretsmanager").put_secret_value(SecretId=name, SecretString=kept)
    rotation = await deactivated(steps, rotation)
    iam.delete_access_key(UserName=user, AccessKeyId=rotation.new_key_id)
    with pytest.raises(NewKeyMissing):
        await steps.delete(rotation)
    assert aws.keys(user) == {old: "Inactive"}


@pytest.mark.parametrize("how", ["it was used", "it was activated"])
async def test_an_old_key_that_is_still_needed_is_not_deleted(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine, how: str
) -> None:
    """Used after it was deactivated, or activated by another: something needs it, and an operator must look."""
    user, old = aws.user()
    secret = aws.secret_of(user, old)
    rotation = await deactivated(
        steps, await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    )
    if how == "it was used":  # moto lets an inactive key sign; for AWS it is the time that counts
        await AwsAccessKeys(**aws.settings()).signs(old, SecretStr(secret))
        rotation = rotation.model_copy(update={"deactivated_at": datetime.now(UTC) - timedelta(hours=2)})
    else:
        aws.client("iam").update_access_key(UserName=user, AccessKeyId=old, Status="Active")
    with pytest.raises(OldKeyInUse):
        await steps.delete(rotation)
    assert old in aws.keys(user)


async def test_a_step_that_was_frozen_changes_nothing_after_the_job_was_claimed_anew(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """A rollback claims the job anew: the deactivation that wakes up then finds its claim too old."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    rotation = await created(steps, await begun(steps, job_id))
    anew = await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))
    assert anew.token == rotation.token + 1
    network.calls.clear()
    for step in (steps.deactivate, steps.create, steps.prolong):
        with pytest.raises(StaleClaim):
            await step(rotation)
    assert not {"UpdateAccessKey", "DeleteAccessKey", "CreateAccessKey"} & set(network.calls)
    await steps.roll_back(rotation.model_copy(update={"token": anew.token}), "changed our minds")
    with pytest.raises(JobClosed):
        await steps.deactivate(rotation)
    assert aws.keys(user) == {old: "Active"}


async def test_a_job_that_somebody_else_holds_is_left_alone(
    aws: Aws, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    leases = JobLeases(engine)
    await leases.claim(job_id, tenant_id="default", owner="a pipeline", lease=timedelta(hours=1))
    with pytest.raises(JobHeld):
        await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))
    assert await leases.free(tenant_id="default", kind="access_key", limit=10) == []
    await leases.cancel(job_id, tenant_id="default", actor="luna", reason="not needed")
    with pytest.raises(JobClosed):
        await steps.claim(KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT))


async def test_only_free_jobs_for_access_keys_are_listed_the_most_urgent_first(
    aws: Aws, store: JobStore, engine: AsyncEngine
) -> None:
    later = await job_for(store, engine, "a", "AKIA1", due_in=timedelta(days=3))
    sooner = await job_for(store, engine, "b", "AKIA2", due_in=timedelta(days=1))
    leases = JobLeases(engine)
    assert await leases.free(tenant_id="default", kind="access_key", limit=10) == [sooner, later]
    assert await leases.free(tenant_id="default", kind="service_account_key", limit=10) == []
    assert await leases.free(tenant_id="another", kind="access_key", limit=10) == []


async def test_a_dry_run_shows_each_step_and_changes_nothing(
    aws: Aws, network: Network, steps: AccessKeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    before = await audit_details(engine, job_id)
    plan = await steps.plan(
        KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT, grace=timedelta(days=3), overlap=timedelta(hours=12))
    )
    assert plan[0].startswith(f"record the keys of {user}: {old}, last used never")
    assert [step for step in plan if "12 hours" in step or "3 days, to finish before" in step] != []
    assert len(plan) == 9
    assert set(network.calls) == {"ListAccessKeys", "GetAccessKeyLastUsed", "GetCallerIdentity"}
    assert await audit_details(engine, job_id) == before


async def test_a_refusal_of_aws_is_named_by_its_code_alone(aws: Aws, network: Network, engine: AsyncEngine) -> None:
    """Wrong credentials, no region, no server at the address: what to do is said, and nothing of what was sent."""
    wrong = AwsAccessKeys(**aws.settings(network.address) | {"aws_secret_access_key": "hunter2"})
    with pytest.raises(AwsRefused) as refused:
        await wrong.list_keys("svc")
    assert str(refused.value) == "ListAccessKeys: SignatureDoesNotMatch"
    nobody = AwsAccessKeys(**aws.settings("http://127.0.0.1:9"))
    with pytest.raises(AwsUnavailable) as silent:
        await nobody.list_keys("svc")
    assert str(silent.value) == "no answer: EndpointConnectionError"
    with pytest.raises(AwsRefused, match="NoRegionError"):
        SecretsManager(**aws.settings() | {"region_name": None})


async def test_a_key_whose_secret_could_not_be_stored_is_an_orphan_and_its_secret_in_no_error(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine
) -> None:
    """The store fails just after the key was created: the error names the store, and the key is an orphan."""

    class Full(SecretsManager):
        async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
            raise SecretNotKept("the store is full")

    user, old = aws.user()
    steps = steps_on(aws, network, engine, Full(**aws.settings(network.address)))
    rotation = await begun(steps, await job_for(store, engine, user, old))
    for _ in range(3):
        with pytest.raises(SecretNotKept) as caught:
            await steps.create(rotation)
        lost = next(key for key in aws.keys(user) if key != old)
        secret = aws.secret_of(user, lost)
        assert secret not in str(caught.value) + repr(caught.value.__dict__)
        assert len(aws.keys(user)) == 2, "the orphan of the time before was deleted, and only it"


# -- secrets in files -----------------------------------------------------------------------------------------------


async def test_a_secret_in_a_file_is_readable_by_its_owner_alone_and_replaced_as_a_whole(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "secrets")
    await files.put("keyturn/svc", "AKIA1", SecretStr("one"))
    await files.put("keyturn/svc", "AKIA2", SecretStr("two"))
    await files.put("keyturn/svc", "AKIA2", SecretStr("two"))  # said again: the one before stays AKIA1
    (file,) = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    current = await files.current("keyturn/svc")
    assert current is not None
    assert (current[0], current[1].get_secret_value()) == ("AKIA2", "two")
    await files.restore("keyturn/svc", instead_of="AKIA9")  # not the current one: nothing to undo
    await files.restore("keyturn/svc", instead_of="AKIA2")
    await files.restore("keyturn/svc", instead_of="AKIA2")
    back = await files.current("keyturn/svc")
    assert back is not None
    assert back[0] == "AKIA1"
    await files.restore("keyturn/svc", instead_of="AKIA1")
    assert await files.current("keyturn/svc") is None


async def test_a_folder_that_is_open_to_others_takes_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(SecretNotKept, match="chmod 700"):
        await SecretFiles(folder).put("keyturn/svc", "AKIA1", SecretStr("one"))
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    (folder / "keyturn_svc.json").write_text("not json")
    with pytest.raises(SecretNotKept, match="cannot be read"):
        await SecretFiles(folder).current("keyturn/svc")
