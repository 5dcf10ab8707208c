"""Rotating client secrets of Entra, and storing them in Key Vault, over HTTP against a simulator that loses answers."""

import asyncio
import json
import subprocess
import sys
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.azure.calls import default_tokens
from keyturn.azure.settings import AzureSettings, azure_settings
from keyturn.errors import SettingsInvalid
from keyturn.execution import http
from keyturn.execution.contracts import KeyRotationOrder, KeyState, KeyWaits
from keyturn.execution.errors import (
    AccountMismatch,
    AnotherAccount,
    CloudRefused,
    CloudUnavailable,
    ForeignKey,
    KeyLimit,
    KeyNotFound,
    NewKeyMissing,
    RollbackImpossible,
    SecretLeaving,
    SecretNotStored,
    TargetUnusable,
    UserGone,
)
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.entra import EXECUTOR
from keyturn.executors.entra.secrets import EntraSecrets
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.lab.simulator import entra_directory
from keyturn.lab.simulator.entra import Entra, How
from keyturn.lab.simulator.entra_directory import Application
from keyturn.targets.keyvault import TARGET, KeyVault
from tests.support import key_rotations
from tests.support.key_rotations import create_job
from tests.support.servers import fake_server

T = TypeVar("T")
patiently = partial(key_rotations.patiently, tries=9)  # replicas take their time
job_for = partial(create_job, kind="service_account_key")
NO_WAITS = KeyWaits(overlap=timedelta(0), grace=timedelta(0), quiet=timedelta(0))
ONE = SecretStr('{"clientSecret": "eins \\u00fc\\n"}')
TWO = SecretStr('{"clientSecret": "zwei"}')


class Cloud:
    """A simulated tenant, with an executor and a Key Vault target that call it over HTTP."""

    def __init__(self, entra: Entra, address: str) -> None:
        self.entra = entra
        self.directory = entra.directory
        self.vaults = entra.vaults
        self.address = address
        self.keys = EntraSecrets(self.settings(), self.token)
        self.vault = KeyVault(self.settings(), self.token)

    def settings(self, **changed: Any) -> AzureSettings:
        named = {
            "KEYTURN_GRAPH_URL": self.address,
            "AZURE_AUTHORITY_HOST": self.address,
            "KEYTURN_KEYVAULT_URL": f"{self.address}/{{vault}}",
        }
        return AzureSettings(**named | changed)

    async def token(self, scope: str) -> SecretStr:
        return SecretStr(self.entra.token_for(scope))

    def steps(self, engine: AsyncEngine) -> KeyRotation:
        """The steps of a process that remembers nothing of any other."""
        targets = SecretTargets({"keyvault": lambda: OpenTarget(self.vault, reads_back=True)})
        return KeyRotation(
            self.keys,
            targets,
            JobLeases(engine),
            Outbox(engine),
            default_targets=("keyvault:pay/{user}",),
            known_every=timedelta(0),
        )

    def stored(self, application: Application) -> str | None:
        """The ID of the secret that consumers read; None if there is none."""
        versions = self.vaults.secrets.get(f"pay/{application.app_id}", [])
        if not versions or not versions[-1].enabled:
            return None
        return str(json.loads(versions[-1].value)["keyId"])


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    entra = Entra()
    async with fake_server(entra.serve()) as address:
        cloud = Cloud(entra, address)
        cloud.keys.visible_within = timedelta(0)  # two minutes are too long for a test; one test has them
        yield cloud
        await cloud.keys.close()
        await cloud.vault.close()


async def recorded(cloud: Cloud, steps: KeyRotation, job_id: str) -> KeyState:
    ordered = KeyRotationOrder(job_id=job_id, cloud_account=cloud.directory.tenant, waits=NO_WAITS)
    job = await patiently(lambda: steps.claim(ordered))
    return await patiently(lambda: steps.record(ordered, job))


async def created(steps: KeyRotation, rotation: KeyState) -> KeyState:
    rotation = rotation.model_copy(update={"new_key_id": await patiently(lambda: steps.create(rotation))})
    verified = await patiently(lambda: steps.verify(rotation))
    return rotation.model_copy(update={"verified_at": verified})


async def finished(steps: KeyRotation, rotation: KeyState) -> KeyState:
    moment = await patiently(lambda: steps.deactivate(rotation))
    rotation = rotation.model_copy(update={"deactivated_at": moment})
    await patiently(lambda: steps.delete(rotation))
    await patiently(lambda: steps.close(rotation))
    return rotation


async def rotated(cloud: Cloud, steps: KeyRotation, job_id: str) -> KeyState:
    return await finished(steps, await created(steps, await recorded(cloud, steps, job_id)))


def only_key_of(application: Application) -> str:
    (key_id,) = application.passwords
    return key_id


def expect_nothing_of(secret: str, error: BaseException) -> None:
    """Neither in the error's texts, nor in those of the errors before it, nor in what they refer to."""
    seen: BaseException | None = error
    while seen is not None:
        assert secret not in str(seen) + repr(seen) + repr(seen.__dict__)
        assert not hasattr(seen, "request")
        seen = seen.__cause__ or seen.__context__
    assert secret not in "".join(traceback.format_exception(error))


# -- a whole rotation ------------------------------------------------------------------------------------------------


async def test_a_client_secret_is_rotated_and_the_old_one_works_until_it_is_removed(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """One new working secret in the vault, the old one gone; the job records each step, and never the secret."""
    application = cloud.directory.application()
    old = only_key_of(application)
    old_secret = stored_form(cloud, application, old)
    job_id = await job_for(sqlite_store, application.app_id, old)
    steps = cloud.steps(sqlite_engine)
    rotation = await created(steps, await recorded(cloud, steps, job_id))
    new = rotation.new_key_id
    assert new is not None
    assert list(application.passwords) == [old, new]
    assert application.passwords[new].display_name == f"keyturn {job_id}"
    assert cloud.stored(application) == new
    cloud.directory.sign_ins[old] = datetime.now(UTC) - timedelta(days=2)
    cloud.directory.sign_ins[new] = datetime.now(UTC) + timedelta(minutes=6)
    assert await steps.needs(rotation, now=datetime.now(UTC)) is None
    rotation = rotation.model_copy(update={"deactivated_at": await steps.deactivate(rotation)})
    assert await cloud.keys.verify(application.app_id, old_secret), "there is no inactive state"
    assert await steps.uses_since(rotation) is None
    await steps.delete(rotation)
    await steps.close(rotation)
    with pytest.raises(CloudUnavailable, match="AADSTS7000215"):
        await cloud.keys.verify(application.app_id, old_secret)
    assert list(application.passwords) == [new]
    job, trail = await JobLeases(sqlite_engine).show(job_id, tenant_id="default")
    assert job["status"] == "done"
    details = [dict(row["detail"]) for row in trail]
    assert any(detail.get("cloud_account") == cloud.directory.tenant for detail in details)
    assert {"old_key_id": old, "new_key_id": new} in details
    async with sqlite_engine.connect() as connection:
        for table in ("rotation_jobs", "job_audit", "outbox"):
            rows = str((await connection.execute(text(f"SELECT * FROM {table}"))).all())
            assert application.passwords[new].secret not in rows


def stored_form(cloud: Cloud, application: Application, key_id: str, **changed: str) -> SecretStr:
    """A secret as the executor stores it."""
    form = {
        "tenantId": cloud.directory.tenant,
        "clientId": application.app_id,
        "keyId": key_id,
        "clientSecret": application.passwords[key_id].secret,
    }
    return SecretStr(json.dumps(form | changed))


async def test_a_use_of_the_old_secret_in_the_grace_is_reported(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """Nothing was switched off, so nothing is switched on; the secret is not removed."""
    application = cloud.directory.application()
    old = only_key_of(application)
    steps = cloud.steps(sqlite_engine)
    job_id = await job_for(sqlite_store, application.app_id, old)
    rotation = await created(steps, await recorded(cloud, steps, job_id))
    rotation = rotation.model_copy(update={"deactivated_at": await steps.deactivate(rotation)})
    cloud.directory.sign_ins[old] = datetime.now(UTC) + timedelta(minutes=10)
    need = await steps.uses_since(rotation)
    assert need is not None
    assert need.kind == "old_key_in_use"
    assert need.by[0].startswith("a sign-in for the resource ")
    assert old in application.passwords


@pytest.mark.parametrize("how", ["answer_lost", "request_lost", "half_body"])
async def test_a_lost_answer_of_addpassword_leaves_no_orphan_and_one_new_working_secret(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine, how: How
) -> None:
    application = cloud.directory.application()
    job_id = await job_for(sqlite_store, application.app_id, only_key_of(application))
    cloud.entra.fail("addPassword", how, times=2)
    rotation = await rotated(cloud, cloud.steps(sqlite_engine), job_id)
    assert cloud.entra.calls.count("addPassword") == 3
    assert list(application.passwords) == [rotation.new_key_id]
    assert cloud.stored(application) == rotation.new_key_id


# Of a call that only looks, a lost request leaves what a lost answer leaves.
CHANGES = {"addPassword", "removePassword", "set secret", "update secret"}


def losses_of(calls: list[str], how: How) -> list[tuple[int, str]]:
    """The numbers of the calls to lose, from 1, with what they are."""
    return [(at, call) for at, call in enumerate(calls, start=1) if how == "answer_lost" or call in CHANGES]


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
async def test_whichever_call_is_lost_there_is_one_new_working_secret_and_no_orphan(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine, how: How
) -> None:
    """Each call in turn; and never a moment without a working secret."""
    application = cloud.directory.application()
    job_id = await job_for(sqlite_store, application.app_id, only_key_of(application))
    await rotated(cloud, cloud.steps(sqlite_engine), job_id)
    assert {"application", "addPassword", "token", "set secret", "report", "removePassword"} <= set(cloud.entra.calls)
    for lost, call in losses_of(list(cloud.entra.calls), how):
        application = cloud.directory.application()
        old = only_key_of(application)
        job_id = await job_for(sqlite_store, application.app_id, old)
        gaps: list[str] = []  # what is raised within the server's handler would only be one more failed call
        cloud.entra.after_each = partial(note_a_gap, cloud, application, old, gaps)
        cloud.entra.lose(lost, how)
        rotation = await rotated(cloud, cloud.steps(sqlite_engine), job_id)
        assert cloud.entra.calls[lost - 1] == call, "the loss was reached"
        assert list(application.passwords) == [rotation.new_key_id], call
        assert cloud.stored(application) == rotation.new_key_id, call
        assert gaps == [], call


def note_a_gap(cloud: Cloud, application: Application, old: str, gaps: list[str]) -> None:
    """At every moment the old secret works, or the new one does and is where consumers look for it."""
    if old not in application.passwords and cloud.stored(application) not in application.passwords:
        gaps.append(cloud.entra.calls[-1])


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
async def test_whichever_call_of_a_rollback_is_lost_the_new_secret_is_gone_and_the_vault_as_before(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine, how: How
) -> None:
    """The name in the vault can be used again by the next rotation, which a deleted one could not."""
    steps = cloud.steps(sqlite_engine)

    async def created_for(application: Application) -> KeyState:
        job_id = await job_for(sqlite_store, application.app_id, only_key_of(application))
        return await created(steps, await recorded(cloud, steps, job_id))

    rotation = await created_for(cloud.directory.application())
    cloud.entra.calls.clear()
    await steps.roll_back(rotation, "not now")
    assert {"removePassword", "update secret"} <= set(cloud.entra.calls)
    for lost, call in losses_of(list(cloud.entra.calls), how):
        application = cloud.directory.application()
        old = only_key_of(application)
        rotation = await created_for(application)
        cloud.entra.lose(lost, how)
        await patiently(partial(steps.roll_back, rotation, "the importer broke"))
        assert cloud.entra.calls[lost - 1] == call, "the loss was reached"
        assert list(application.passwords) == [old], call
        assert cloud.stored(application) is None, call
    again = await finished(steps, await created_for(application))
    assert list(application.passwords) == [again.new_key_id] == [cloud.stored(application)]


async def test_a_second_rotation_that_is_rolled_back_brings_the_first_ones_secret_back(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    application = cloud.directory.application()
    steps = cloud.steps(sqlite_engine)
    first = await rotated(cloud, steps, await job_for(sqlite_store, application.app_id, only_key_of(application)))
    assert first.new_key_id is not None
    job_id = await job_for(sqlite_store, application.app_id, first.new_key_id)
    second = await created(steps, await recorded(cloud, steps, job_id))
    assert cloud.stored(application) == second.new_key_id
    await steps.roll_back(second, "too early")
    assert list(application.passwords) == [first.new_key_id] == [cloud.stored(application)]


async def test_a_secret_that_replicas_do_not_list_yet_is_waited_for_and_not_created_twice(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """Its answer was lost, and the next two reads come from a host that does not know it."""
    application = cloud.directory.application()
    cloud.keys.visible_within = timedelta(minutes=2)
    steps = cloud.steps(sqlite_engine)
    rotation = await recorded(cloud, steps, await job_for(sqlite_store, application.app_id, only_key_of(application)))
    cloud.directory.next_hidden_for = 2
    cloud.entra.fail("addPassword", "answer_lost")
    for _ in range(2):
        with pytest.raises(CloudUnavailable):
            await steps.create(rotation)
        assert cloud.entra.calls.count("addPassword") == 1
    rotation = await created(steps, rotation)
    assert cloud.entra.calls.count("addPassword") == 2
    await finished(steps, rotation)
    assert list(application.passwords) == [rotation.new_key_id]


async def test_a_removed_secret_that_replicas_still_list_is_not_taken_for_one_that_is_there(
    cloud: Cloud,
) -> None:
    """A second removal is answered 400: while the list has the secret it is tried again, and then it is done."""
    application = cloud.directory.application()
    key_id = only_key_of(application)
    cloud.directory.next_lingers_for = 1
    await cloud.keys.delete(application.app_id, key_id)
    with pytest.raises(CloudUnavailable, match="not consistent yet"):
        await cloud.keys.delete(application.app_id, key_id)
    await cloud.keys.delete(application.app_id, key_id)
    await cloud.keys.delete(application.app_id, key_id)
    await cloud.keys.delete(str(uuid.uuid4()), key_id)  # the application itself is gone
    assert application.passwords == {}


async def test_a_secret_that_someone_else_created_meanwhile_is_not_touched(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    application = cloud.directory.application()
    steps = cloud.steps(sqlite_engine)
    rotation = await recorded(cloud, steps, await job_for(sqlite_store, application.app_id, only_key_of(application)))
    foreign = cloud.directory.password(application, "a person's")
    with pytest.raises(ForeignKey):
        await steps.create(rotation)
    assert foreign.key_id in application.passwords


@pytest.mark.parametrize("case", ["thirteen others", "expired", "another's", "no application", "another tenant"])
async def test_what_cannot_be_rotated_is_refused_before_anything_is_changed(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine, case: str
) -> None:
    application = cloud.directory.application()
    key_id, account_id = only_key_of(application), f"tenants/{cloud.directory.tenant}/applications/{application.app_id}"
    expected: type[Exception] = KeyNotFound
    if case == "thirteen others":
        for number in range(13):
            cloud.directory.password(application, f"number {number}")
        expected = KeyLimit
    elif case == "expired":
        application.passwords[key_id].end = datetime.now(UTC) - timedelta(minutes=1)
    elif case == "another's":
        key_id = only_key_of(cloud.directory.application())
    elif case == "no application":
        account_id, expected = f"tenants/{cloud.directory.tenant}/applications/{uuid.uuid4()}", UserGone
    else:
        account_id, expected = f"tenants/{uuid.uuid4()}/applications/{application.app_id}", AnotherAccount
    job_id = await job_for(sqlite_store, account_id, key_id)
    with pytest.raises(expected):
        await recorded(cloud, cloud.steps(sqlite_engine), job_id)
    assert set(cloud.entra.calls) <= {"application"}


# -- the secrets of an application -----------------------------------------------------------------------------------


async def test_an_application_is_named_by_either_id_with_or_without_its_tenant(cloud: Cloud) -> None:
    """As inventories, Graph's paths and people write it; anything else is refused."""
    application, own = cloud.directory.application(), await cloud.keys.account()
    assert own == cloud.directory.tenant
    for account_id in (
        application.app_id,
        application.app_id.upper(),
        f"applications/{application.object_id}",
        f"/applications(appId='{application.app_id}')",
        f"tenants/{own}/applications/{application.object_id}",
    ):
        user = cloud.keys.user_of(account_id, own)
        assert [key.key_id for key in await cloud.keys.list_keys(user)] == list(application.passwords)
        key_id, secret = await cloud.keys.create(user, job_id="job_1")
        assert json.loads(secret.get_secret_value())["clientId"] == application.app_id
        assert await cloud.keys.verify(user, secret) == f"application {application.app_id} of the tenant {own}"
        await cloud.keys.delete(user, key_id)
    assert cloud.keys.account_named_in(f"tenants/{own}/applications/{application.app_id}") == own
    assert cloud.keys.account_named_in(application.app_id) is None
    for account_id in ("svc-pay", f"users/{application.app_id}", f"tenants/elsewhere/{application.app_id}"):
        with pytest.raises(AccountMismatch):
            cloud.keys.user_of(account_id, own)


async def test_a_new_secret_expires_after_the_days_of_the_setting(cloud: Cloud) -> None:
    application = cloud.directory.application()
    for changed, days in ({}, 180), ({"KEYTURN_ENTRA_SECRET_DAYS": "30"}, 30):
        keys = EntraSecrets(cloud.settings(**changed), cloud.token)
        key_id, _ = await keys.create(application.app_id, job_id="job_1")
        assert application.passwords[key_id].end - datetime.now(UTC) == pytest.approx(
            timedelta(days=days), abs=timedelta(minutes=1)
        )
        await keys.close()


async def test_keys_are_listed_oldest_first_with_the_job_that_their_name_holds(cloud: Cloud) -> None:
    """A name of another form, an expired secret, and one without a start, which counts as old."""
    application = cloud.directory.application()
    (by_hand,) = application.passwords
    expired = cloud.directory.password(application, None, days_ago=400, days=399)
    ours = cloud.directory.password(application, "keyturn job_1-2")
    keys = await cloud.keys.list_keys(application.app_id)
    assert [(key.key_id, key.is_active, key.job_id) for key in keys] == [
        (expired.key_id, False, None),
        (by_hand, True, None),
        (ours.key_id, True, "job_1-2"),
    ]
    assert all(key.created_at.tzinfo is not None for key in keys)


@pytest.mark.parametrize("works", [[False], [True, False], [True, True, False]])
async def test_a_new_secret_is_verified_by_three_sign_ins_in_a_row(cloud: Cloud, works: list[bool]) -> None:
    """It flips between working and failing at first: whatever comes before the third success is not enough."""
    application = cloud.directory.application()
    cloud.directory.next_works = list(works)
    _, secret = await cloud.keys.create(application.app_id, job_id="job_1")
    with pytest.raises(CloudUnavailable, match=f"sign-in {len(works)} of 3: 401 AADSTS7000215"):
        await cloud.keys.verify(application.app_id, secret)
    cloud.entra.calls.clear()
    await cloud.keys.verify(application.app_id, secret)
    assert cloud.entra.calls.count("token") == 3


@pytest.mark.parametrize("case", ["no JSON", "another form", "another application", "another tenant"])
async def test_a_stored_secret_that_is_not_the_applications_own_is_no_new_key(cloud: Cloud, case: str) -> None:
    """A foreign value in the target does not crash anything, and is never sent to the sign-in service."""
    application, other = cloud.directory.application(), cloud.directory.application()
    stored = {
        "no JSON": SecretStr("hunter2"),
        "another form": SecretStr('{"keyId": 7, "tenantId": "", "clientId": "", "clientSecret": ""}'),
        "another application": stored_form(cloud, other, only_key_of(other)),
        "another tenant": stored_form(cloud, application, only_key_of(application), tenantId=str(uuid.uuid4())),
    }[case]
    with pytest.raises(NewKeyMissing) as caught:
        await cloud.keys.verify(application.app_id, stored)
    expect_nothing_of(stored.get_secret_value(), caught.value)
    assert "token" not in cloud.entra.calls
    assert (cloud.keys.key_in(stored) is None) == (case in {"no JSON", "another form"})


async def test_the_use_of_a_secret_is_what_the_report_has_and_else_unknown(cloud: Cloud) -> None:
    """Without a row, without the right, without the report, switched off: that is no proof that nothing uses it."""
    application = cloud.directory.application()
    user, key_id = application.app_id, only_key_of(application)
    moment = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
    assert not (await cloud.keys.use_of(user, key_id)).is_known
    cloud.directory.sign_ins[key_id] = moment
    use = await cloud.keys.use_of(user, key_id)
    assert (use.is_known, use.last_used_at) == (True, moment)
    cloud.entra.fail("report", "forbidden")
    assert not (await cloud.keys.use_of(user, key_id)).is_known
    cloud.entra.fail("report", "throttled")
    with pytest.raises(CloudUnavailable, match="429"):
        await cloud.keys.use_of(user, key_id)
    cloud.entra.calls.clear()
    off = EntraSecrets(cloud.settings(KEYTURN_ENTRA_SIGN_IN_REPORT="off"), cloud.token)
    assert not (await off.use_of(user, key_id)).is_known
    assert not (await cloud.keys.use_of(user, "not' or keyId ne '")).is_known
    assert cloud.entra.calls == []


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        '{"value": null}',
        '{"value": [7]}',
        '{"value": [{"keyId": "KEY", "signInActivity": {"lastSignInDateTime": "2021-03-18T00:00:00-8:00"}}]}',
        '{"value": [{"keyId": "KEY", "signInActivity": null}]}',
        '{"value": [{"keyId": "KEY", "signInActivity": {"lastSignInDateTime": "2026-01-01T00:00:00Z"}}], '
        '"@odata.nextLink": "x"}',
    ],
)
async def test_a_report_that_cannot_be_read_is_no_proof_of_anything(answer: str) -> None:
    """The documents' own example has a time that is none; a report with more pages may have a later one there."""
    key_id = str(uuid.uuid4())
    async with answering(answer.replace("KEY", key_id)) as keys:
        assert not (await keys.use_of(key_id, key_id)).is_known


async def test_a_lone_row_is_read_as_the_documents_show_it() -> None:
    key_id = str(uuid.uuid4())
    row = {"keyId": key_id, "resourceId": "x", "signInActivity": {"lastSignInDateTime": "2026-01-01T00:00:00Z"}}
    application = {"id": key_id, "appId": key_id, "passwordCredentials": []}
    async with answering(json.dumps(row | application)) as keys:
        use = await keys.use_of(key_id, key_id)
    assert (use.last_used_at, use.by, use.is_known) == (datetime(2026, 1, 1, tzinfo=UTC), (), True)


@pytest.mark.parametrize("audience", ["AzureADMultipleOrgs", "AzureADandPersonalMicrosoftAccount"])
async def test_of_an_application_of_many_tenants_its_own_ones_report_proves_no_quiet(audience: str) -> None:
    """Its customers' sign-ins are in their tenants: a row shows a use, and an old one shows nothing."""
    key_id = str(uuid.uuid4())
    row = {"keyId": key_id, "resourceId": "x", "signInActivity": {"lastSignInDateTime": "2026-01-01T00:00:00Z"}}
    application = {"id": key_id, "appId": key_id, "passwordCredentials": [], "signInAudience": audience}
    async with answering(json.dumps(row | application)) as keys:
        use = await keys.use_of(key_id, key_id)
    assert (use.last_used_at, use.is_known) == (datetime(2026, 1, 1, tzinfo=UTC), False)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["throttled", "unavailable", "conflict", "answer_lost", "request_lost", "half_body"])
@pytest.mark.parametrize("operation", ["application", "addPassword", "removePassword", "token"])
async def test_what_passes_by_itself_is_one_request_and_unavailable(cloud: Cloud, operation: str, how: How) -> None:
    application = cloud.directory.application()
    key_id, secret = await cloud.keys.create(application.app_id, job_id="job_1")
    text_of_secret = application.passwords[key_id].secret
    cloud.entra.fail(operation, how)
    cloud.entra.calls.clear()
    call: Callable[[], Awaitable[Any]] = {
        "application": lambda: cloud.keys.list_keys(application.app_id),
        "addPassword": lambda: cloud.keys.create(application.app_id, job_id="job_2"),
        "removePassword": lambda: cloud.keys.delete(application.app_id, key_id),
        "token": lambda: cloud.keys.verify(application.app_id, secret),
    }[operation]
    with pytest.raises(CloudUnavailable) as caught:
        await call()
    assert cloud.entra.calls.count(operation) == 1
    expect_nothing_of(text_of_secret, caught.value)
    expect_nothing_of(cloud.entra.token_for("graph"), caught.value)


async def test_a_missing_right_and_a_refused_request_are_named_by_their_code_alone(cloud: Cloud) -> None:
    application = cloud.directory.application()
    cloud.entra.fail("addPassword", "forbidden")
    with pytest.raises(CloudRefused) as caught:
        await cloud.keys.create(application.app_id, job_id="job_1")
    assert str(caught.value) == "addPassword: 403 Authorization_RequestDenied"

    async def wrong(scope: str) -> SecretStr:
        return SecretStr("wrong")

    keys = EntraSecrets(cloud.settings(), wrong)
    with pytest.raises(CloudRefused) as caught:
        await keys.list_keys(application.app_id)
    assert str(caught.value) == "application: 401 InvalidAuthenticationToken"
    with pytest.raises(CloudRefused, match="AZURE_TENANT_ID"):
        await keys.account()
    named = EntraSecrets(cloud.settings(AZURE_TENANT_ID="contoso.onmicrosoft.com"), wrong)
    assert await named.account() == "contoso.onmicrosoft.com"
    await keys.close()


@pytest.mark.parametrize(
    "answer", ["", "<html>", '{"id": 7}', "null", '{"id": "x", "appId": "y", "passwordCredentials": []}', "[" * 5_000]
)
async def test_an_answer_that_cannot_be_read_is_unavailable(answer: str) -> None:
    async with answering(answer) as keys:
        with pytest.raises(CloudUnavailable):
            await keys.list_keys(str(uuid.uuid4()))


@pytest.mark.parametrize("code", ["x" * 65, "a text with blanks", 7, None, {"code": "deep"}])
async def test_a_code_that_is_none_is_not_repeated(code: Any) -> None:
    async with answering(json.dumps({"error": {"code": code, "message": "hunter2"}}), status=400) as keys:
        with pytest.raises(CloudRefused) as caught:
            await keys.list_keys(str(uuid.uuid4()))
    assert str(caught.value) == "application: 400 unknown"


async def test_a_redirect_is_refused_and_not_followed(cloud: Cloud) -> None:
    async with answering("", status=307, headers={"Location": f"{cloud.address}/v1.0/applications"}) as keys:
        with pytest.raises(CloudRefused, match="307"):
            await keys.list_keys(str(uuid.uuid4()))
    assert cloud.entra.calls == []


class answering:  # noqa: N801 - it reads as a sentence where it is used
    """An executor whose Graph answers everything alike."""

    def __init__(self, text: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text, status=status, headers=headers, content_type="application/json")

        self._application = web.Application()
        self._application.router.add_route("*", "/{path:.*}", answer)

    async def __aenter__(self) -> EntraSecrets:
        self._server = fake_server(self._application)
        address = await self._server.__aenter__()

        async def token(scope: str) -> SecretStr:
            return SecretStr("a token")

        self._keys = EntraSecrets(AzureSettings(KEYTURN_GRAPH_URL=address), token)
        return self._keys

    async def __aexit__(self, *raised: Any) -> None:
        await self._keys.close()
        await self._server.__aexit__(*raised)


async def test_nothing_at_the_address_is_unavailable(cloud: Cloud) -> None:
    keys = EntraSecrets(cloud.settings(KEYTURN_GRAPH_URL="http://127.0.0.1:9"), cloud.token)
    with pytest.raises(CloudUnavailable, match=r"no answer \(ConnectError\)") as caught:
        await keys.list_keys(str(uuid.uuid4()))
    expect_nothing_of(cloud.entra.token_for("graph"), caught.value)
    await keys.close()


async def test_an_answer_that_never_ends_is_unavailable_after_the_time_of_a_call(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of it comes in time: only the whole call is too long."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        sent = web.StreamResponse()
        await sent.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await sent.write(b" ")
            await asyncio.sleep(0.02)
        return sent

    monkeypatch.setattr(http, "CALL_SECONDS", 0.3)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", trickle)
    async with fake_server(application) as address:
        keys = EntraSecrets(cloud.settings(KEYTURN_GRAPH_URL=address), cloud.token)
        with pytest.raises(CloudUnavailable, match=r"no answer \(TimeoutError\)") as caught:
            await keys.list_keys(str(uuid.uuid4()))
        await keys.close()
    expect_nothing_of(cloud.entra.token_for("graph"), caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYTURN_GRAPH_URL", "http://graph.example"),
        ("AZURE_AUTHORITY_HOST", "ftp://login.example"),
        ("KEYTURN_KEYVAULT_URL", "https://vault.azure.net"),
        ("KEYTURN_KEYVAULT_URL", "http://{vault}.example"),
        ("KEYTURN_ENTRA_SECRET_DAYS", "0"),
        ("KEYTURN_ENTRA_SIGN_IN_REPORT", "maybe"),
        ("AZURE_TENANT_ID", "a/../b"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match=name) as caught:
        azure_settings()
    assert value not in str(caught.value)


def test_the_authority_may_be_a_host_as_azures_own_tools_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.microsoftonline.us")
    assert azure_settings().authority == "https://login.microsoftonline.us"
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://login.partner.microsoftonline.cn/")
    assert azure_settings().authority == "https://login.partner.microsoftonline.cn"


async def test_the_executors_own_sign_in_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials a person is asked; without an answer it is tried again. No test asks a real cloud."""
    import azure.identity
    from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

    said: list[Exception] = [
        ClientAuthenticationError("EnvironmentCredential: authentication unavailable. hunter2"),
        ClientAuthenticationError("EnvironmentCredential: Authentication failed: AADSTS7000215: hunter2"),
        ClientAuthenticationError("EnvironmentCredential: Authentication failed: AADSTS90033: hunter2"),
        ClientAuthenticationError("EnvironmentCredential: Authentication failed: Failed to resolve hunter2"),
        ServiceRequestError("hunter2"),
    ]
    expected = [CloudRefused, CloudRefused, CloudUnavailable, CloudUnavailable, CloudUnavailable]

    class Fails:
        def __init__(self, **times: Any) -> None:
            assert times["retry_total"] == 0

        def get_token(self, scope: str) -> None:
            raise said.pop(0)

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Fails)
    default_tokens.cache_clear()
    try:
        token = default_tokens()
        for kind in expected:
            with pytest.raises(kind) as caught:
                await token("https://graph.microsoft.com/.default")
            expect_nothing_of("hunter2", caught.value)
    finally:
        default_tokens.cache_clear()


def test_executor_and_target_open_by_the_environment() -> None:
    assert (EXECUTOR.name, EXECUTOR.kind, EXECUTOR.extra) == ("entra", "service_account_key", "azure")
    assert (TARGET.usage, TARGET.reads_back, TARGET.extra) == ("keyvault:VAULT/NAME", True, "azure")
    assert [type(one) for one in EXECUTOR.open()] == [EntraSecrets]
    assert isinstance(TARGET.open(), KeyVault)


def test_a_start_imports_nothing_heavy_for_either() -> None:
    """Their modules are loaded by every command, whichever cloud it is for."""
    code = (
        "import sys, keyturn.executors.entra, keyturn.targets.keyvault; "
        "print(sorted({'httpx', 'azure', 'msal', 'requests'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# -- secrets in Key Vault --------------------------------------------------------------------------------------------


async def test_a_stored_secret_is_read_back_exactly_and_a_repeated_put_changes_nothing(cloud: Cloud) -> None:
    await cloud.vault.put("pay/svc", ONE, version="key-1")
    for _ in range(2):
        await cloud.vault.put("pay/svc", TWO, version="key-2")
    assert await cloud.vault.current("pay/svc") == TWO
    one, two = cloud.vaults.secrets["pay/svc"]
    assert (one.value, two.value) == (ONE.get_secret_value(), TWO.get_secret_value())
    assert (two.content_type, two.tags) == (
        "application/json",
        {"keyturn-version": "key-2", "keyturn-before": one.version_id},
    )
    await cloud.vault.put("pay/svc", ONE, version="key-2")  # another value is never taken for the same
    await cloud.vault.put("pay/svc", ONE, version="key-3")  # nor another version
    assert cloud.vaults.secrets["pay/svc"][-1].tags["keyturn-version"] == "key-3"
    assert await cloud.vault.current("pay/svc") == ONE
    assert await cloud.vault.current("pay/other") is None


@pytest.mark.parametrize("how", ["answer_lost", "request_lost", "half_body", "throttled", "unavailable"])
async def test_a_put_whose_answer_was_lost_is_repeated_with_one_effect(cloud: Cloud, how: How) -> None:
    await cloud.vault.put("pay/svc", ONE, version="key-1")
    cloud.entra.fail("set secret", how)
    with pytest.raises(CloudUnavailable) as caught:
        await cloud.vault.put("pay/svc", TWO, version="key-2")
    expect_nothing_of("zwei", caught.value)
    await cloud.vault.put("pay/svc", TWO, version="key-2")
    assert [one.value for one in cloud.vaults.secrets["pay/svc"]] == [ONE.get_secret_value(), TWO.get_secret_value()]


async def test_a_new_version_has_the_tags_that_others_gave_the_secret(cloud: Cloud) -> None:
    await cloud.vault.put("pay/svc", ONE, version="key-1")
    cloud.vaults.secrets["pay/svc"][0].tags["owner"] = "team pay"
    await cloud.vault.put("pay/svc", TWO, version="key-2")
    assert cloud.vaults.secrets["pay/svc"][-1].tags["owner"] == "team pay"


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
async def test_restore_brings_the_version_before_back_as_it_was(cloud: Cloud, how: How) -> None:
    """Also of versions of one second, which have no order; and whoever looks first repeats it with one effect."""
    cloud.vaults.clock = lambda: 1_800_000_000.0
    for number, secret in enumerate((ONE, TWO, ONE), start=1):
        await cloud.vault.put("pay/svc", secret, version=f"key-{number}")
    cloud.entra.fail("set secret", how)
    with pytest.raises(CloudUnavailable):
        await cloud.vault.restore("pay/svc")
    if await cloud.vault.current("pay/svc") == ONE:
        await cloud.vault.restore("pay/svc")
    assert await cloud.vault.current("pay/svc") == TWO
    assert cloud.vaults.secrets["pay/svc"][-1].tags == cloud.vaults.secrets["pay/svc"][1].tags
    await cloud.vault.restore("pay/svc")
    assert await cloud.vault.current("pay/svc") == ONE, "the one before that"
    await cloud.vault.restore("pay/svc")
    assert await cloud.vault.current("pay/svc") is None


async def test_restoring_a_first_version_disables_it_and_the_name_can_be_used_again(cloud: Cloud) -> None:
    """A deleted one would block the name for as long as its soft delete lasts."""
    await cloud.vault.put("pay/svc", ONE, version="key-1")
    for _ in range(2):
        await cloud.vault.restore("pay/svc")
        assert await cloud.vault.current("pay/svc") is None
    await cloud.vault.put("pay/svc", TWO, version="key-2")
    assert await cloud.vault.current("pay/svc") == TWO
    await cloud.vault.restore("pay/svc")
    assert await cloud.vault.current("pay/svc") is None, "not the disabled one"


async def test_a_value_that_a_person_stored_is_restored_and_one_of_theirs_in_between_is_found_by_its_date(
    cloud: Cloud,
) -> None:
    """Versions without our tags are followed by their time of creation, over all pages of the list."""
    seconds = iter(range(1_800_000_000, 1_900_000_000))
    cloud.vaults.clock, cloud.vaults.page_size = lambda: next(seconds), 2
    headers = {"Authorization": f"Bearer {cloud.entra.token_for('vault')}"}
    async with httpx.AsyncClient(base_url=cloud.address, headers=headers) as person:
        for value in ("by hand", "by hand again"):
            await person.put("/pay/secrets/svc", json={"value": value, "contentType": "text/plain"})
        await cloud.vault.put("pay/svc", ONE, version="key-1")
        await cloud.vault.restore("pay/svc")
        restored = cloud.vaults.secrets["pay/svc"][-1]
        assert (restored.value, restored.content_type, restored.tags) == ("by hand again", "text/plain", {})
        for value in ("a", "b", "c"):
            await person.put("/pay/secrets/svc", json={"value": value})
    await cloud.vault.restore("pay/svc")
    assert await cloud.vault.current("pay/svc") == SecretStr("b")
    assert cloud.entra.calls.count("versions secret") == 4


async def test_a_list_that_leads_to_another_server_is_not_followed() -> None:
    """The vault's token is for that vault alone."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("versions"):
            return web.json_response({"value": [], "nextLink": "http://127.0.0.1:9/steal"})
        return web.json_response({"id": "x/secrets/svc/v1", "value": "hunter2"})

    async def token(scope: str) -> SecretStr:
        return SecretStr("a token")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with fake_server(application) as address:
        vault = KeyVault(AzureSettings(KEYTURN_KEYVAULT_URL=f"{address}/{{vault}}"), token)
        with pytest.raises(CloudUnavailable, match="cannot be read"):
            await vault.restore("pay/svc")
        await vault.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ObjectIsDeletedButRecoverable", SecretLeaving),
        ("ObjectIsBeingDeleted", CloudUnavailable),
        ("ObjectIsBeingRecovered", CloudUnavailable),
    ],
)
async def test_the_name_of_a_deleted_secret_is_reported(cloud: Cloud, code: str, expected: type[Exception]) -> None:
    cloud.vaults.deleted["pay/svc"] = code
    assert await cloud.vault.current("pay/svc") is None
    with pytest.raises(expected) as caught:
        await cloud.vault.put("pay/svc", ONE, version="key-1")
    expect_nothing_of("eins", caught.value)
    if isinstance(caught.value, SecretLeaving):
        assert "az keyvault secret recover" in caught.value.hint


async def test_a_missing_right_on_a_vault_is_refused_and_not_taken_for_a_disabled_secret(cloud: Cloud) -> None:
    cloud.entra.fail("get secret", "forbidden")
    with pytest.raises(CloudRefused, match="get secret: 403"):
        await cloud.vault.current("pay/svc")
    cloud.entra.fail("set secret", "forbidden")
    with pytest.raises(CloudRefused) as caught:
        await cloud.vault.put("pay/svc", ONE, version="key-1")
    expect_nothing_of("eins", caught.value)


@pytest.mark.parametrize("path", ["pay", "pay/", "pay/a_b", "pay.evil.example/svc", "pay/a/b", "../x/svc", "p/svc"])
async def test_a_path_that_names_no_secret_of_a_vault_is_unusable(cloud: Cloud, path: str) -> None:
    """No token is sent to a host that is none of Microsoft's vaults."""
    with pytest.raises(TargetUnusable):
        await cloud.vault.current(path)
    assert cloud.entra.calls == []


@pytest.mark.parametrize(
    ("template", "path", "url", "scope"),
    [
        (None, "pay/svc", "https://pay.vault.azure.net", "https://vault.azure.net/.default"),
        (None, "pay.vault.azure.cn/svc", "https://pay.vault.azure.cn", "https://vault.azure.cn/.default"),
        (
            "https://{vault}.vault.usgovcloudapi.net",
            "pay/svc",
            "https://pay.vault.usgovcloudapi.net",
            "https://vault.usgovcloudapi.net/.default",
        ),
    ],
)
def test_a_vault_is_a_name_or_a_host_of_any_of_microsofts_clouds(
    template: str | None, path: str, url: str, scope: str
) -> None:
    async def token(scope: str) -> SecretStr:
        return SecretStr("a token")

    settings = AzureSettings() if template is None else AzureSettings(KEYTURN_KEYVAULT_URL=template)
    place = KeyVault(settings, token)._place(path)
    assert (place.url, place.scope) == (f"{url}/secrets/svc", scope)


async def test_a_rollback_does_not_disable_the_new_secret_where_the_one_before_is_disabled(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """By whoever tidies old versions: then no version could be read."""
    app = cloud.directory.application()
    name = f"pay/{app.app_id}"
    steps = cloud.steps(sqlite_engine)
    await cloud.vault.put(name, SecretStr("the-old-one-by-hand"), version="v0")
    job = await job_for(sqlite_store, app.app_id, only_key_of(app))
    rotation = await created(steps, await recorded(cloud, steps, job))
    versions = cloud.vaults.secrets[name]
    versions[0].enabled = False
    with pytest.raises(SecretNotStored, match="is disabled or gone: enable it"):
        await patiently(lambda: steps.roll_back(rotation, "rolled back"))
    assert [version.enabled for version in versions] == [False, True]
    versions[0].enabled = True
    await patiently(lambda: steps.roll_back(rotation, "rolled back"))
    now = await cloud.vault.current(name)
    assert now is not None
    assert now.get_secret_value() == "the-old-one-by-hand"


async def test_a_rollback_to_a_secret_that_has_expired_is_refused(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    app = cloud.directory.application()
    old, steps = only_key_of(app), cloud.steps(sqlite_engine)
    rotation = await created(steps, await recorded(cloud, steps, await job_for(sqlite_store, app.app_id, old)))
    app.passwords[old].end = datetime.now(UTC) - timedelta(minutes=1)
    with pytest.raises(RollbackImpossible, match="has expired"):
        await patiently(lambda: steps.roll_back(rotation, "rolled back"))
    assert set(app.passwords) == {old, str(rotation.new_key_id)}


@pytest.mark.parametrize("number", [7000112, 53003])
async def test_a_sign_in_that_no_wait_mends_is_refused_before_another_secret_is_made(
    cloud: Cloud, sqlite_store: JobStore, sqlite_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disabled application, and one that Conditional Access keeps out."""
    app = cloud.directory.application()
    steps = cloud.steps(sqlite_engine)
    rotation = await recorded(cloud, steps, await job_for(sqlite_store, app.app_id, only_key_of(app)))
    before = set(app.passwords)
    monkeypatch.setattr(type(cloud.directory), "sign_in", lambda *_: entra_directory._sign_in_error(number))
    with pytest.raises(CloudRefused, match=f"AADSTS{number}"):
        await steps.create(rotation)
    assert len(set(app.passwords) - before) == 1
