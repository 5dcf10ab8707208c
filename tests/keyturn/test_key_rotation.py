"""Rotating an access key, step by step, against moto's IAM and Secrets Manager over a network that loses answers."""

import asyncio
import functools
import json
import os
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from aiohttp import web
from botocore.exceptions import ClientError, CredentialRetrievalError, MetadataRetrievalError
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.aws import _failure_of
from keyturn.contracts import CredentialFacts
from keyturn.database import open_database
from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyWaits
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    AnotherKeyNamed,
    CloudRefused,
    CloudUnavailable,
    ForeignKey,
    KeyLimit,
    KeyNotFound,
    MappedTwice,
    NewKeyMissing,
    OldKeyInUse,
    RollbackImpossible,
    SecretNotStored,
    TargetUnusable,
)
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.execution.protocols import SecretStore
from keyturn.execution.steps import KeyRotation, _in_a_name
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.jobs.errors import JobClosed, JobHeld, StaleClaim
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.moments import name_by_creation
from keyturn.targets.file import SecretFiles
from keyturn.targets.secretsmanager.store import SecretsManager, _token
from tests.support.aws import ACCOUNT, Aws, Loss, Network, job_for
from tests.support.cases import order as job_order
from tests.support.key_rotations import patiently
from tests.support.servers import fake_server

T = TypeVar("T")
AGAIN, ANEW = "the step is tried again", "everything begins anew"


@pytest.fixture
async def engine(sqlite: Any) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)  # what differs between databases is tested with the leases
    yield engine
    await engine.dispose()


@pytest.fixture
def steps(aws: Aws, network: Network, engine: AsyncEngine) -> KeyRotation:
    return steps_on(aws, network, engine)


def steps_on(
    aws: Aws, network: Network, engine: AsyncEngine, secrets: SecretStore | None = None, **more: Any
) -> KeyRotation:
    keys, manager = clients_on(aws, network.address)
    keys._asked_of = None  # as a process that has just started
    targets = SecretTargets(
        {
            "secretsmanager": lambda: OpenTarget(secrets or manager, reads_back=True),
            "file": lambda: OpenTarget(SecretFiles(), reads_back=True),
        }
    )
    defaults: dict[str, Any] = {"default_targets": ["secretsmanager:keyturn/{user}"], "known_every": timedelta(0)}
    defaults["known_within"] = timedelta(seconds=1)
    more = defaults | more
    return KeyRotation(keys, targets, JobLeases(engine), Outbox(engine), **more)


def order_of(job_id: str, **more: Any) -> KeyRotationOrder:
    return KeyRotationOrder(job_id=job_id, cloud_account=ACCOUNT, **more)


@functools.cache
def clients_on(aws: Aws, address: str) -> tuple[AwsAccessKeys, SecretsManager]:
    """What calls AWS there. It remembers nothing of a call, and making it costs as much as a whole rotation."""
    settings = aws.settings(address)
    keys = AwsAccessKeys(**settings)
    keys.state_shown_within = timedelta(0)  # moto is consistent
    return keys, SecretsManager(**settings)


async def used(aws: Aws, key_id: str, secret: str) -> None:
    """What a consumer of a key does with it."""
    pair = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
    await asyncio.to_thread(boto3.client("sts", **aws.settings() | pair).get_caller_identity)


async def begun(steps: KeyRotation, job_id: str) -> KeyState:
    job = await patiently(lambda: steps.claim(order_of(job_id)))
    return await patiently(lambda: steps.record(order_of(job_id), job))


async def created(steps: KeyRotation, rotation: KeyState) -> KeyState:
    made = await patiently(lambda: steps.create(rotation))
    rotation = rotation.model_copy(update={"new_key_id": made})
    verified = await patiently(lambda: steps.verify(rotation))
    return rotation.model_copy(update={"verified_at": verified})


async def deactivated(steps: KeyRotation, rotation: KeyState) -> KeyState:
    moment = await patiently(lambda: steps.deactivate(rotation))
    return rotation.model_copy(update={"deactivated_at": moment})


async def rotated(steps: KeyRotation, job_id: str) -> KeyState:
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
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
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
    recorded = {"cloud_account": ACCOUNT, "user": user, "old_key_id": old, "keys_before": old}
    recorded |= {"target_01": f"secretsmanager:keyturn/{user}", "overlap": "24 hours", "grace": "7 days"}
    recorded["waits"] = KeyWaits().model_dump_json()
    assert any(recorded == {name: row.get(name) for name in recorded} and "old_created_at" in row for row in details)
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
            with pytest.raises(CloudUnavailable):
                await rotated_at_once(steps, job_id)
            steps = steps_on(aws, network, engine)
        rotation = await rotated(steps, job_id)
        assert len(network.calls) > lost, "the loss was reached"
        assert aws.keys(user) == {rotation.new_key_id: "Active"}, call
        assert aws.stored(f"keyturn/{user}") == rotation.new_key_id, call
        job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
        assert job["status"] == "done"


async def rotated_at_once(steps: KeyRotation, job_id: str) -> None:
    """Without patience: the first failure ends it."""
    rotation = await steps.record(order_of(job_id), await steps.claim(order_of(job_id)))
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
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
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
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """Only the job is closed."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, user, old))
    network.calls.clear()
    await steps.roll_back(rotation, "not now")
    assert network.calls == ["ListAccessKeys"]
    assert aws.keys(user) == {old: "Active"}


async def test_after_the_old_key_is_deleted_there_is_no_way_back(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
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
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine, case: str
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
    job = await steps.claim(order_of(job_id))
    with pytest.raises(expected) as caught:
        await steps.record(order_of(job_id), job)
    assert aws.keys(user) == before
    assert set(network.calls) <= {"ListAccessKeys", "GetCallerIdentity"}
    with pytest.raises(expected):
        await steps.plan(order_of(job_id))
    await steps.refuse(job, str(caught.value))
    assert (await audit_details(engine, job_id))[-1] == {"reason": str(caught.value)}


async def test_a_job_that_was_given_another_keys_id_is_refused(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """A credential report knew the key by its creation; whoever states that date for a key of theirs names that one."""
    user, old = aws.user()
    young = aws.client("iam").create_access_key(UserName=user)["AccessKey"]["AccessKeyId"]
    listed = aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
    [made] = [key["CreateDate"] for key in listed if key["AccessKeyId"] == old]
    for key_id, is_right in ((young, False), (old, True)):
        made_by = {"kind": "access_key", "last_rotated_at": made, "observed_at": datetime.now(UTC)}
        for number, name in enumerate((name_by_creation(made), key_id)):
            credential = CredentialFacts(key_id=name, **made_by)
            ordered = job_order(account_id=user).model_copy(update={"credential": credential})
            stored = await store.create_once(ordered, idempotency_key=f"{user}:{key_id}:{number}", fence=1)
        job = await steps.claim(order_of(stored.job_id))
        assert job.key_id == key_id
        if is_right:
            with pytest.raises(KeyLimit):  # the user has two: the key itself is the right one
                await steps.plan(order_of(stored.job_id))
            continue
        with pytest.raises(AnotherKeyNamed, match="created at another time"):
            await steps.plan(order_of(stored.job_id))
        with pytest.raises(AnotherKeyNamed, match="created at another time"):
            await steps.record(order_of(stored.job_id), job)
        await steps.refuse(job, "another key")


ELSEWHERE = "999999999999"


@pytest.mark.parametrize(
    "case", ["an ARN of it", "its root", "a user of the same name", "a user that is not here", "no AWS name at all"]
)
async def test_a_job_of_another_account_is_left_for_its_own_executor(
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine, case: str
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
        await steps.claim(order_of(job_id))
    job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
    assert (job["status"], job["lease_owner"]) == ("open", None)
    assert await JobLeases(engine).free(tenant_id="default", kind="access_key", limit=10) == [job_id]
    assert set(network.calls) <= {"ListAccessKeys", "GetCallerIdentity"}


async def test_a_step_changes_nothing_with_another_accounts_credentials(
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine
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
    assert network.calls[calls:] == []  # the account of these credentials is known


async def test_an_arn_names_its_user(aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine) -> None:
    """With a path before the name, as AWS's own lists have it."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, f"arn:aws:iam::{ACCOUNT}:user/teams/pay/{user}", old))
    assert (rotation.user, rotation.keys_before) == (user, (old,))


@pytest.mark.parametrize("when", ["before we began to create", "after, but it is used", "and its maker calls it ours"])
async def test_a_key_that_somebody_else_made_is_never_touched(
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine, when: str
) -> None:
    """Made by hand while the rotation was on its way: it stops, and says so."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    if when == "and its maker calls it ours":
        leases = JobLeases(engine)
        said: dict[str, Any] = {"tenant_id": "default", "lease": timedelta(minutes=1)}
        token = (await leases.claim(job_id, owner="mallory", **said)).token
        evidence = {"user": user, "keys_before": old, "step": "create_key"}
        await leases.heartbeat(job_id, token=token, state=None, evidence=evidence, **said)
        async with engine.begin() as connection:  # a minute later
            await connection.execute(text("UPDATE rotation_jobs SET lease_until = created_at"))
    rotation = await begun(steps, job_id)
    if when == "after, but it is used":
        network.calls.clear()
        network.lose, network.how = 4, "request_lost"  # after the list, and the secret twice
        with pytest.raises(CloudUnavailable):
            await steps.create(rotation)
        assert network.calls[-1] == "CreateAccessKey"
    made = aws.client("iam").create_access_key(UserName=user)["AccessKey"]
    if when == "after, but it is used":
        await used(aws, made["AccessKeyId"], made["SecretAccessKey"])
    for step in (steps.create, steps.create):
        with pytest.raises(ForeignKey):
            await step(rotation)
    await steps.roll_back(rotation, "somebody else is at it")
    assert aws.keys(user) == {old: "Active", made["AccessKeyId"]: "Active"}


@pytest.mark.parametrize("call", ["create", "verify"])
async def test_an_attempt_that_wakes_up_beside_another_one_stores_no_secret_of_its_own(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Its key was taken for lost and deleted meanwhile: the stored secret is that of the key that is there."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, user, old))
    work, others = getattr(AwsAccessKeys, call), []

    async def freezes(self: AwsAccessKeys, *arguments: Any, **more: Any) -> Any:
        done = await work(self, *arguments, **more)
        monkeypatch.setattr(AwsAccessKeys, call, work)
        others.append(await steps.create(rotation))
        return done

    monkeypatch.setattr(AwsAccessKeys, call, freezes)
    with pytest.raises(CloudUnavailable):
        await steps.create(rotation)
    assert aws.keys(user) == {old: "Active", others[0]: "Active"}
    assert aws.stored(f"keyturn/{user}") == others[0]
    assert await steps.create(rotation) == others[0]


async def test_an_attempt_that_wakes_up_while_another_one_looks_stores_no_secret_of_its_own(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has seen that its key is not stored, and is about to delete it."""
    user, old = aws.user()
    rotation = await begun(steps, await job_for(store, engine, user, old))
    verify, has_looked, may_go_on = AwsAccessKeys.verify, asyncio.Event(), asyncio.Event()
    current = SecretsManager.current

    async def looks(self: SecretsManager, name: str) -> SecretStr | None:
        found = await current(self, name)
        has_looked.set()
        await may_go_on.wait()
        return found

    async def freezes(self: AwsAccessKeys, user_name: str, secret: SecretStr) -> str:
        known_as = await verify(self, user_name, secret)
        monkeypatch.setattr(AwsAccessKeys, "verify", verify)
        monkeypatch.setattr(SecretsManager, "current", looks)
        others.append(asyncio.create_task(steps.create(rotation)))
        await has_looked.wait()
        monkeypatch.setattr(SecretsManager, "current", current)
        return known_as

    others: list[asyncio.Task[str]] = []
    monkeypatch.setattr(AwsAccessKeys, "verify", freezes)
    with pytest.raises(CloudUnavailable, match="a later attempt creates the key"):
        await steps.create(rotation)
    may_go_on.set()
    new = await others[0]
    assert aws.keys(user) == {old: "Active", new: "Active"}
    assert aws.stored(f"keyturn/{user}") == new


async def test_the_old_key_stays_while_the_new_one_does_not_work(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
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
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine, how: str
) -> None:
    """Used after it was deactivated, or activated by another: something needs it, and an operator must look."""
    user, old = aws.user()
    secret = aws.secret_of(user, old)
    rotation = await deactivated(
        steps, await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    )
    if how == "it was used":  # moto lets an inactive key sign; for AWS it is the time that counts
        await used(aws, old, secret)
        rotation = rotation.model_copy(update={"deactivated_at": datetime.now(UTC) - timedelta(hours=2)})
    else:
        aws.client("iam").update_access_key(UserName=user, AccessKeyId=old, Status="Active")
    with pytest.raises(OldKeyInUse):
        await steps.delete(rotation)
    assert old in aws.keys(user)


async def test_a_step_that_was_frozen_changes_nothing_after_the_job_was_claimed_anew(
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """A rollback claims the job anew: the deactivation that wakes up then finds its claim too old."""
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    rotation = await created(steps, await begun(steps, job_id))
    anew = await steps.claim(order_of(job_id))
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
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    leases = JobLeases(engine)
    await leases.claim(job_id, tenant_id="default", owner="a pipeline", lease=timedelta(hours=1))
    with pytest.raises(JobHeld):
        await steps.claim(order_of(job_id))
    assert await leases.free(tenant_id="default", kind="access_key", limit=10) == []
    await leases.cancel(job_id, tenant_id="default", actor="luna", reason="not needed")
    with pytest.raises(JobClosed):
        await steps.claim(order_of(job_id))


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
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    before = await audit_details(engine, job_id)
    waits = KeyWaits(grace=timedelta(days=3), overlap=timedelta(hours=12))
    plan = await steps.plan(order_of(job_id, waits=waits))
    assert plan[0].startswith(f"record the keys of {user}: {old}, last used never")
    assert "let both keys work for 12 hours, until the old one was not used for 24 hours; it was idle" in plan[4]
    assert "wait for 3 days" in plan[6]
    assert "as done: before its date" in plan[8]
    assert "OIDC federation" in plan[9]
    assert len(plan) == 10
    assert set(network.calls) == {"ListAccessKeys", "GetAccessKeyLastUsed", "GetCallerIdentity", "GetSecretValue"}
    assert await audit_details(engine, job_id) == before
    await used(aws, old, aws.secret_of(user, old))
    in_use = await steps.plan(order_of(job_id, waits=waits))
    assert "let both keys work for 12 hours, until the new one is seen in use, and the old one was not" in in_use[4]


async def test_a_refusal_of_aws_is_named_by_its_code_alone(aws: Aws, network: Network, engine: AsyncEngine) -> None:
    """Wrong credentials, no region, no server at the address: what to do is said, and nothing of what was sent."""
    wrong = AwsAccessKeys(**aws.settings(network.address) | {"aws_secret_access_key": "hunter2"})
    with pytest.raises(CloudRefused) as refused:
        await wrong.list_keys("svc")
    assert str(refused.value) == "ListAccessKeys: SignatureDoesNotMatch: is this machine's clock right?"
    nobody = AwsAccessKeys(**aws.settings("http://127.0.0.1:9"))
    with pytest.raises(CloudUnavailable) as silent:
        await nobody.list_keys("svc")
    assert str(silent.value) == "no answer of AWS: its address cannot be reached"
    with pytest.raises(CloudRefused, match="no AWS region is set"):
        SecretsManager(**aws.settings() | {"region_name": None})


@pytest.mark.parametrize("body", ["<html>sign in</html>", '{"Version', "<GetCaller", "{}"])
async def test_an_answer_that_is_not_whole_passes(body: str) -> None:
    """Half a body, or a proxy's page with 200: the call is tried again, and its text is in no error."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="text/xml")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with fake_server(application) as address:
        own = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x" * 40}
        settings = {"endpoint_url": address, "region_name": "eu-central-1"} | own
        keys, store = AwsAccessKeys(**settings), SecretsManager(**settings)
        for call in (keys.account, partial(keys.list_keys, "svc"), partial(keys.create, "svc", job_id="job_1")):
            with pytest.raises(CloudUnavailable, match=r"no answer|not whole"):
                await call()
        with pytest.raises(CloudUnavailable, match="the answer is not whole"):
            await store.current("keyturn/svc")


async def test_a_key_whose_secret_could_not_be_stored_is_an_orphan_and_its_secret_in_no_error(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine
) -> None:
    """The store fails just after the key was created: the error names the store, and the key is an orphan."""

    class Full(SecretsManager):
        async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
            raise SecretNotStored("the store is full")

    user, old = aws.user()
    steps = steps_on(aws, network, engine, Full(**aws.settings(network.address)))
    rotation = await begun(steps, await job_for(store, engine, user, old))
    for _ in range(3):
        with pytest.raises(SecretNotStored) as caught:
            await steps.create(rotation)
        lost = next(key for key in aws.keys(user) if key != old)
        secret = aws.secret_of(user, lost)
        assert secret not in str(caught.value) + repr(caught.value.__dict__)
        assert len(aws.keys(user)) == 2, "the orphan of the time before was deleted, and only it"


# -- secrets in files -----------------------------------------------------------------------------------------------


async def test_a_secret_in_a_file_is_readable_by_its_owner_alone_and_replaced_as_a_whole(tmp_path: Path) -> None:
    files, name = SecretFiles(), str(tmp_path / "secrets" / "svc")
    await files.put(name, SecretStr("one"), version="AKIA1")
    await files.put(name, SecretStr("two"), version="AKIA2")
    await files.put(name, SecretStr("two"), version="AKIA2")  # again: the one before stays that of AKIA1
    for file in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert await text_in(files, name) == "two"
    await files.restore(name)
    await files.restore(name)
    assert await text_in(files, name) == "one"
    await files.put(name + "-first", SecretStr("one"), version="AKIA1")
    await files.restore(name + "-first")
    assert await files.current(name + "-first") is None


async def text_in(files: SecretFiles, name: str) -> str:
    current = await files.current(name)
    assert current is not None
    return current.get_secret_value()


async def test_a_folder_that_is_open_to_others_takes_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(SecretNotStored, match="chmod 700"):
        await SecretFiles().put(str(folder / "svc"), SecretStr("one"), version="AKIA1")
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    (folder / "svc").mkdir()
    with pytest.raises(SecretNotStored, match="cannot be read"):
        await SecretFiles().current(str(folder / "svc"))


async def test_a_secret_in_another_layout_is_the_same_version_of_it(aws: Aws) -> None:
    """A repeated attempt copies it from another target, which writes JSON its own way: AWS refuses that for ever."""
    manager, name = SecretsManager(**aws.settings()), "keyturn/in-another-layout"
    await manager.put(name, SecretStr('{"AccessKeyId": "AKIA1", "SecretAccessKey": "x"}'), version="AKIA1")
    await manager.put(name, SecretStr('{"SecretAccessKey":"x","AccessKeyId":"AKIA1"}'), version="AKIA1")
    assert await manager.current(name) == SecretStr('{"AccessKeyId": "AKIA1", "SecretAccessKey": "x"}')
    await manager.put(name, SecretStr('{"AccessKeyId": "AKIA2", "SecretAccessKey": "y"}'), version="AKIA2")
    await manager.restore(name)
    assert await manager.current(name) == SecretStr('{"AccessKeyId": "AKIA1", "SecretAccessKey": "x"}')


def mapped(*tables: dict[str, Any]) -> KeyMap:
    return KeyMap([KeyMapping.model_validate(table) for table in tables])


async def test_a_mapped_key_goes_to_its_own_targets_and_each_is_filled(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine, tmp_path: Path
) -> None:
    """In order; and a rollback brings each back."""
    user, old = aws.user()
    secret = {"AccessKeyId": old, "SecretAccessKey": aws.secret_of(user, old)}
    copy = tmp_path / "secrets" / "copy"
    await SecretFiles().put(str(copy), SecretStr(json.dumps(secret)), version=old)
    paths = [f"secretsmanager:prod/{user}", f"file:{copy}"]
    await SecretsManager(**aws.settings()).put(f"prod/{user}", SecretStr(json.dumps(secret)), version=old)
    key_map = mapped({"account": user, "targets": paths, "consumers": ["pay-api"], "overlap_hours": 1})
    steps = steps_on(aws, network, engine, key_map=lambda: key_map)
    rotation = await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    assert (rotation.targets, rotation.consumers) == (tuple(paths), ("pay-api",))
    assert rotation.waits.overlap == timedelta(hours=1)
    assert aws.stored(f"prod/{user}") == rotation.new_key_id == json.loads(copy.read_text())["AccessKeyId"]
    await steps.roll_back(rotation, "a test")
    assert aws.stored(f"prod/{user}") == old == json.loads(copy.read_text())["AccessKeyId"]
    assert aws.keys(user) == {old: "Active"}


async def test_of_two_tables_for_an_account_the_one_counts_whose_target_holds_the_key(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine, tmp_path: Path
) -> None:
    """None or both: nothing is created, and both tables are named."""
    user, old = aws.user()
    one, two = (tmp_path / "secrets" / name for name in ("one", "two"))
    key_map = mapped({"account": user, "targets": [f"file:{one}"]}, {"account": user, "targets": [f"file:{two}"]})
    steps = steps_on(aws, network, engine, key_map=lambda: key_map)
    job_id = await job_for(store, engine, user, old)
    with pytest.raises(MappedTwice, match="tables 1 and 2 name the job's key, and neither holds it now"):
        await begun(steps, job_id)
    secret = SecretStr(json.dumps({"AccessKeyId": old, "SecretAccessKey": "x"}))
    await SecretFiles().put(str(two), secret, version=old)
    rotation = await begun(steps, job_id)
    assert rotation.targets == (f"file:{two}",)
    await SecretFiles().put(str(one), secret, version=old)
    with pytest.raises(MappedTwice, match="both hold it"):  # no key was created yet: the map is read anew
        await begun(steps, job_id)
    one.unlink()
    rotation = await created(steps, await begun(steps, job_id))
    again = await begun(steps, job_id)  # by now, no target holds the old key
    assert (again.targets, again.keys_before) == (rotation.targets, (old,))


async def test_a_key_that_no_table_names_is_refused_where_there_is_no_target_for_others(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    job_id = await job_for(store, engine, user, old)
    steps = steps_on(aws, network, engine, default_targets=[], key_map=lambda: mapped({"account": "another"}))
    with pytest.raises(TargetUnusable, match="the key has no target"):
        await begun(steps, job_id)
    assert aws.keys(user) == {old: "Active"}


async def test_a_target_that_holds_another_active_key_of_the_user_is_not_written_over(
    aws: Aws, network: Network, store: JobStore, engine: AsyncEngine
) -> None:
    """A user with two keys, both rotated into one place, would cut one of its programs off."""
    user, old = aws.user()
    other = aws.client("iam").create_access_key(UserName=user)["AccessKey"]
    secret = {"AccessKeyId": other["AccessKeyId"], "SecretAccessKey": other["SecretAccessKey"]}
    await SecretsManager(**aws.settings()).put(f"keyturn/{user}", SecretStr(json.dumps(secret)), version="1")
    keys, _ = clients_on(aws, network.address)
    keys.most_keys = 3
    try:
        with pytest.raises(TargetUnusable, match="holds another active key of the user"):
            await begun(steps_on(aws, network, engine), await job_for(store, engine, user, old))
    finally:
        keys.most_keys = 2
    assert set(aws.keys(user)) == {old, other["AccessKeyId"]}


def test_no_two_users_share_a_name_in_a_target() -> None:
    names = ["svc", "a@b.example", "a_40b.example", "a/b", "a_2Fb", "..", ".hidden", "_2Ehidden", "ä", "a\\b"]
    made = [_in_a_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(not {"/", "\\"} & set(name) and not name.startswith(".") for name in made)
    assert made[:2] == ["svc", "a@b.example"]


async def test_a_secret_that_was_there_without_a_value_is_not_deleted_by_a_rollback(
    aws: Aws, network: Network, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    """As Terraform makes it, with tags and a policy: those are its owner's."""
    user, old = aws.user()
    manager, name = aws.client("secretsmanager"), f"keyturn/{user}"
    manager.create_secret(Name=name, Tags=[{"Key": "owner", "Value": "pay"}])
    network.forms.pop("DeleteSecret", None)
    rotation = await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    made = manager.describe_secret(SecretId=name)["CreatedDate"]
    described = {"CreatedDate": made - timedelta(days=30), "VersionIdsToStages": {"one": ["AWSCURRENT"]}}
    await _with_described(steps, described, rotation)
    assert manager.describe_secret(SecretId=name)["Name"] == name
    assert rotation.new_key_id in aws.keys(user)


async def _with_described(steps: KeyRotation, described: dict[str, Any], rotation: KeyState) -> None:
    """A rollback where the secret is a month older than its first version."""
    store = next(iter(steps._targets._open.values())).store
    assert isinstance(store, SecretsManager)
    real = store._client.describe_secret
    store._client.describe_secret = lambda **_: described
    try:
        with pytest.raises(SecretNotStored, match="was empty before"):
            await patiently(lambda: steps.roll_back(rotation, "rolled back"))
    finally:
        store._client.describe_secret = real


async def test_a_binary_secret_is_not_replaced_by_an_empty_one_in_a_rollback(
    aws: Aws, steps: KeyRotation, store: JobStore, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    aws.client("secretsmanager").create_secret(Name=f"keyturn/{user}", SecretBinary=b"\x00\x01old")
    rotation = await created(steps, await begun(steps, await job_for(store, engine, user, old)))
    with pytest.raises(SecretNotStored, match="the version before holds no text"):
        await patiently(lambda: steps.roll_back(rotation, "rolled back"))


def test_no_two_long_versions_have_one_token() -> None:
    role = "r" * 51
    tokens = {
        _token(f"instead-of-{_token(f'{role}.{tail}')}") for tail in ("5f0c6a3e91d2", "5a1111111111", "5f0c6a3e91d3")
    }
    assert len(tokens) == 3
    assert all(32 <= len(token) <= 64 for token in tokens)
    assert _token("AKIA").startswith("AKIA-")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ClientError({"Error": {"Code": "SlowDown"}}, "PutSecretValue"), True),
        (ClientError({"Error": {"Code": "PriorRequestNotComplete"}}, "ListAccessKeys"), True),
        (ClientError({"Error": {"Code": "IDPCommunicationError"}}, "AssumeRoleWithWebIdentity"), True),
        (ClientError({"Error": {"Code": "ResourceExistsException"}}, "CreateSecret"), True),
        (ClientError({"Error": {"Code": "ResourceExistsException"}}, "PutSecretValue"), False),
        (ClientError({"Error": {"Code": "RequestExpired"}}, "ListAccessKeys"), False),
        (CredentialRetrievalError(provider="container-role", error_msg="timed out"), True),
        (MetadataRetrievalError(error_msg="timed out"), True),
    ],
)
def test_what_passes_at_aws_is_tried_again(error: Exception, passes: bool) -> None:
    """By botocore's own lists of what passes; credentials of an agent that starts, too."""
    assert isinstance(_failure_of(error, set(), None), CloudUnavailable if passes else CloudRefused)
