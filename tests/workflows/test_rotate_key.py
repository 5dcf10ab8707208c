"""The workflow that carries a job out at AWS: days skipped by the test server, kills by the real one."""

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import boto3
import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from keyturn.application.answers import AnswerRefused, answer
from keyturn.application.parked import blocked_jobs, waiting_rotations
from keyturn.database import open_database
from keyturn.errors import SettingsInvalid
from keyturn.execution.contracts import KeyRotationOrder, KeyRotationOutcome, KeyRotationStatus, KeyWaits
from keyturn.execution.errors import CloudUnavailable
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.execution.protocols import CloudKey
from keyturn.execution.steps import KeyRotation
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.executors.aws.iam import AwsAccessKeys
from keyturn.jobs.consumers import report_moved
from keyturn.jobs.errors import AnotherNewKey, JobClosed, UnknownConsumer
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import URGENT, outbox, rotation_jobs
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import child
from keyturn.rotations.contracts import Abandonment, Resumption
from keyturn.targets.secretsmanager.store import SecretsManager
from keyturn.web.ports import free_loopback_port
from keyturn.workers.executor import executor
from keyturn.workers.executor_looks import Executions, look_for_jobs
from keyturn.workers.executor_settings import ExecutorSettings, load_executor_settings
from keyturn.workers.metrics import ExecutorMetrics
from keyturn.workflows.rotate_key import RotateKeyWorkflow, execution_id
from tests.support.aws import ACCOUNT, Aws, Network, job_for
from tests.support.key_rotations import create_job
from tests.support.keys import KEYS_TEXT

ADVANCE = Abandonment(operator="luna", reason="its last consumer was switched off")
ROLL_BACK = Abandonment(operator="luna", reason="the importer broke")
Handle = WorkflowHandle[RotateKeyWorkflow, KeyRotationOutcome]


@pytest.fixture
async def engine(sqlite: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_database(sqlite)
    yield engine
    await engine.dispose()


def steps_on(
    aws: Aws, network: Network, engine: AsyncEngine, keys: type[AwsAccessKeys] = AwsAccessKeys, **more: Any
) -> KeyRotation:
    arguments = aws.settings(network.address)
    targets = SecretTargets({"secretsmanager": lambda: OpenTarget(SecretsManager(**arguments), reads_back=True)})
    defaults: dict[str, Any] = {
        "default_targets": ["secretsmanager:keyturn/{user}"],
        "own_use_within": timedelta(0),
        "known_every": timedelta(0),
    }
    more = defaults | more
    made = keys(**arguments)
    made.state_shown_within = timedelta(0)  # moto is consistent
    return KeyRotation(made, targets, JobLeases(engine), Outbox(engine), **more)


@asynccontextmanager
async def executing(
    client: Client, aws: Aws, network: Network, engine: AsyncEngine, **more: Any
) -> AsyncIterator[Executions]:
    """The executor as it is wired, on a separate queue."""
    settings = ExecutorSettings().model_copy(update={"task_queue": f"test-{uuid.uuid4().hex}"})
    async with executor(client, steps_on(aws, network, engine, **more), settings, ACCOUNT):
        yield Executions(client, settings, ACCOUNT)


async def until(handle: Handle, state: Callable[[KeyRotationStatus], bool]) -> KeyRotationStatus:
    async with asyncio.timeout(60):
        while True:
            status = await handle.query(RotateKeyWorkflow.status)
            if state(status):
                return status
            await asyncio.sleep(0.05)


async def state_of(engine: AsyncEngine, job_id: str) -> str:
    job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
    return str(job["status"])


async def test_a_job_is_carried_out_over_days_and_no_secret_is_told_to_temporal(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """A day with both keys, a week with the old one inactive; its claim is prolonged all the while."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        outcome = await handle.result()
        last = (await handle.fetch_history()).events[-1].event_time.ToDatetime(UTC)
        took = last - (await handle.describe()).start_time
    assert (outcome.status, outcome.user, outcome.old_key_id) == ("done", user, old)
    assert outcome.new_key_id is not None
    assert aws.keys(user) == {outcome.new_key_id: "Active"}
    assert timedelta(days=8) <= took < timedelta(days=8, hours=1)
    assert await state_of(engine, job_id) == "done"
    history = json.dumps((await handle.fetch_history()).to_json_dict())
    assert aws.secret_of(user, outcome.new_key_id) not in history
    # Not under the encrypt either: the steps return ids and times.
    opened = str([event async for event in handle.fetch_history_events()])
    assert aws.secret_of(user, outcome.new_key_id) not in opened


async def test_at_the_limit_of_two_keys_the_job_is_closed_and_says_so(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    aws.client("iam").create_access_key(UserName=user)
    before = aws.keys(user)
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(skipping.client, aws, network, engine) as executions:
        outcome = await (await executions.start(job_id)).result()
    assert (outcome.status, aws.keys(user)) == ("failed", before)
    assert "the user has 2 keys" in str(outcome.reason)
    assert await state_of(engine, job_id) == "failed"


async def test_what_blocks_a_step_is_reported_and_it_goes_on_when_that_is_removed(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """A key that was created by hand: the rotation waits, is listed as parked, and an operator lets it retry."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    iam = aws.client("iam")
    made: list[str] = []

    def by_hand() -> None:
        if network.calls.count("ListAccessKeys") == 2 and not made:  # the job was claimed, and the keys written down
            made.append(iam.create_access_key(UserName=user)["AccessKey"]["AccessKeyId"])

    network.after_each = by_hand
    async with executing(temporal, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        status = await until(handle, lambda now: now.blocked is not None)
        assert (status.step, status.blocked) == ("create_key", "foreign_key")
        assert status.hint is not None
        parked = [row async for row in waiting_rotations(temporal, tenant=None, kind="foreign_key", limit=100)]
        assert execution_id(job_id) in [row.workflow_id for row in parked]
        assert (await blocked_jobs(temporal))[job_id].kind == "foreign_key", "people are notified of it"
        said = await shown_by_command(job_id, temporal.service_client.config.target_host, engine)
        assert "\n  next: Blocked: foreign key" in said, said
        assert str(status.hint) in said
        said = await shown_by_command(job_id, "127.0.0.1:9", engine)
        assert "what the executor is at is not known: no Temporal server" in said
        assert "\n  next: Its executor creates the new key" in said
        await answer(handle, "resume", Resumption(operator="luna"))  # too early: it is blocked again
        await until(handle, lambda now: now.blocked is not None)
        address = temporal.service_client.config.target_host
        async with command("watch", job_id, address=address, engine=engine) as watching:
            assert watching.stdout is not None
            while b"next: Blocked: foreign key" not in (line := await watching.stdout.readline()):
                assert line, "it ended"
            iam.delete_access_key(UserName=user, AccessKeyId=made[0])
            await answer(handle, "resume", Resumption(operator="luna"))
            await until(handle, lambda now: now.step == "overlap")
            with pytest.raises(AnswerRefused, match="not_waiting"):
                await answer(handle, "resume", Resumption(operator="luna"))
            await answer(handle, "roll_back", ROLL_BACK)
            assert (await handle.result()).status == "rolled_back"
            rest = (await watching.communicate())[0].decode()
            assert rest.endswith("job failed\n"), rest
    assert aws.keys(user) == {old: "Active"}


async def shown_by_command(job_id: str, address: str, engine: AsyncEngine) -> str:
    """What `keyturn jobs show` prints of a job, all of it."""
    async with command("jobs", "show", job_id, address=address, engine=engine) as process:
        printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@asynccontextmanager
async def command(*arguments: str, address: str, engine: AsyncEngine) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of an operator, while it runs; what it prints is read from its standard output."""
    database = engine.url.set(drivername=engine.url.get_backend_name()).render_as_string(hide_password=False)
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "keyturn"), *arguments),
        env={
            "PATH": os.defpath,
            "DATABASE_URL": database,
            "TEMPORAL_ADDRESS": address,
            "KEYTURN_PAYLOAD_KEYS": KEYS_TEXT,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("at", ["overlap", "grace"])
async def test_a_person_rolls_back_while_the_old_key_is_there(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine, at: str
) -> None:
    """Before or after it was deactivated: it works again, the new one is gone, the job is closed as failed."""
    user, old = aws.user()
    network.after_each = partial(_expect_one_that_works, aws, user, old)
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        with skipping.auto_time_skipping_disabled():
            await until(handle, lambda now: now.step == "overlap")
            if at == "grace":
                await skipping.sleep(timedelta(days=1, hours=1))
                await until(handle, lambda now: now.step == "grace")
                assert aws.keys(user)[old] == "Inactive"
            await answer(handle, "roll_back", ROLL_BACK)
        outcome = await handle.result()
    assert outcome.status == "rolled_back"
    assert outcome.reason == "rolled back by luna: the importer broke"
    assert aws.keys(user) == {old: "Active"}
    assert await state_of(engine, job_id) == "failed"


def _expect_one_that_works(aws: Aws, user: str, old: str) -> None:
    keys, stored = aws.keys(user), aws.stored(f"keyturn/{user}")
    assert keys.get(old) == "Active" or keys.get(stored or "") == "Active"


@pytest.mark.parametrize("rolled_back", [False, True], ids=["it goes on", "it is rolled back"])
async def test_a_job_that_is_cancelled_is_touched_no_more(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine, rolled_back: bool
) -> None:
    """The next word on it is refused: it ends as superseded, and AWS is asked only whose credentials these are."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        with skipping.auto_time_skipping_disabled():
            await until(handle, lambda now: now.step == "overlap")
            await JobLeases(engine).cancel(job_id, tenant_id="default", actor="luna", reason="not this one")
            network.calls.clear()
            if rolled_back:
                await answer(handle, "roll_back", ROLL_BACK)
        async with asyncio.timeout(60):
            outcome = await handle.result()
    assert (outcome.status, outcome.reason) == ("superseded", "job_closed")
    assert set(network.calls) <= {"GetCallerIdentity"}
    assert aws.keys(user)[old] == "Active"


async def test_jobs_are_found_and_each_is_begun_once(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """Looked for again and again: one workflow a job."""
    users = [aws.user() for _ in range(3)]
    made = [await job_for(JobStore(engine), engine, user, old) for user, old in users]
    async with executing(temporal, aws, network, engine) as executions:
        looking = look_for_jobs(
            JobLeases(engine), executions, steps_on(aws, network, engine), tenant_id="default", every=0.01
        )
        task = asyncio.create_task(looking)
        for job_id in made:
            handle: Handle = temporal.get_workflow_handle_for(RotateKeyWorkflow.run, execution_id(job_id))
            async with asyncio.timeout(30):
                while await state_of(engine, job_id) == "open":
                    await asyncio.sleep(0.02)
            await until(handle, lambda now: now.step == "overlap")
            await answer(handle, "roll_back", ROLL_BACK)
            assert (await handle.result()).status == "rolled_back"
        task.cancel()
    assert network.calls.count("CreateAccessKey") == 3


class OfAnotherAccount(AwsAccessKeys):
    """The same users' names, in another account: its keys are others."""

    async def account(self) -> str:
        return "999999999999"

    async def list_keys(self, user: str) -> list[CloudKey]:
        return [CloudKey("AKIAELSEWHERE0000000", True, datetime.now(UTC))]


async def test_of_two_executors_each_carries_out_its_own_accounts_jobs_and_leaves_the_others(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """One tenant, one Temporal, two AWS accounts: by ARN and by bare name."""
    (first, old), (second, other) = aws.user(), aws.user()
    own = await job_for(JobStore(engine), engine, first, old, due_in=timedelta(days=9))
    own_arn = await job_for(
        JobStore(engine), engine, f"arn:aws:iam::{ACCOUNT}:user/{second}", other, due_in=timedelta(days=8)
    )
    theirs = [
        await job_for(JobStore(engine), engine, first, "AKIAELSEWHERE0000000"),
        await job_for(JobStore(engine), engine, f"arn:aws:iam::999999999999:user/{second}", "AKIAELSEWHERE0000000"),
    ]
    settings = ExecutorSettings().model_copy(update={"task_queue": f"test-{uuid.uuid4().hex}"})
    leases, steps = JobLeases(engine), steps_on(aws, network, engine)
    elsewhere = steps_on(aws, network, engine, OfAnotherAccount)
    async with (
        executor(temporal, steps, settings, ACCOUNT),
        executor(temporal, elsewhere, settings, "999999999999"),
    ):
        here = Executions(temporal, settings, ACCOUNT)
        task = asyncio.create_task(look_for_jobs(leases, here, steps, tenant_id="default", every=0.01))
        for job_id in (own, own_arn):
            handle: Handle = temporal.get_workflow_handle_for(RotateKeyWorkflow.run, execution_id(job_id))
            async with asyncio.timeout(30):
                while await state_of(engine, job_id) == "open":
                    await asyncio.sleep(0.02)
            await until(handle, lambda now: now.step == "overlap")
        assert [await state_of(engine, job_id) for job_id in theirs] == ["open", "open"]
        task.cancel()
        there = Executions(temporal, settings, "999999999999")
        for job_id in (own, own_arn):  # even if it is started by mistake
            wrong: Handle = await temporal.start_workflow(
                RotateKeyWorkflow.run,
                there.order(job_id),
                id=f"mistake:{job_id}",
                task_queue=settings.queue("999999999999"),
            )
            outcome = await wrong.result()
            assert (outcome.status, outcome.reason) == ("superseded", "another_account")
            assert await state_of(engine, job_id) in {"rotating", "verifying"}
    assert network.calls.count("CreateAccessKey") == 2


async def test_what_runs_already_takes_no_place_of_another_job(
    temporal: Client, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred rotations that are blocked before their claim, none hides the job behind them."""
    monkeypatch.setattr("keyturn.workers.executor_looks.LOOK_AT_ONCE", 1)
    blocked, behind = [await job_for(JobStore(engine), engine, f"u-{n}", f"AKIA{n:016}") for n in (1, 2)]
    settings = ExecutorSettings().model_copy(update={"task_queue": f"test-{uuid.uuid4().hex}"})
    executions, registry = Executions(temporal, settings, ACCOUNT), CollectorRegistry()
    await executions.start(blocked)  # no worker is there: it stays before its claim
    looks = 0

    class Steps:
        async def expect_own(self, order: KeyRotationOrder) -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("a fault that nobody foresaw")

    looking = look_for_jobs(
        JobLeases(engine),
        executions,
        cast(KeyRotation, Steps()),
        tenant_id="default",
        every=0.01,
        metrics=ExecutorMetrics(registry),
    )
    task = asyncio.create_task(looking)
    try:
        async with asyncio.timeout(20):
            while registry.get_sample_value("keyturn_executor_jobs_total", {"what": "started"}) != 1:
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
    assert await temporal.get_workflow_handle(execution_id(behind)).describe()
    assert registry.get_sample_value("keyturn_executor_looks_total", {"result": "failed"}) == 1
    for job_id in (blocked, behind):
        await temporal.get_workflow_handle(execution_id(job_id)).terminate()


async def test_a_blocked_step_keeps_its_claim_for_as_long_as_that_takes(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """A lease is a day, and a block may last for weeks: another would start on a key that is half changed."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        await skipping.sleep(timedelta(hours=2))
        await until(handle, lambda now: now.step == "overlap")
        [new] = [key for key in aws.keys(user) if key != old]
        aws.client("iam").update_access_key(UserName=user, AccessKeyId=new, Status="Inactive")
        await skipping.sleep(timedelta(days=1))
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert blocked.blocked == "new_key_missing"
        await skipping.sleep(timedelta(days=3))
        history = (await handle.fetch_history()).events
        steps = [
            event.activity_task_scheduled_event_attributes.activity_type.name
            for event in history
            if event.HasField("activity_task_scheduled_event_attributes")
        ]
        assert steps.count("hold_claim") >= 3
        job, _ = await JobLeases(engine).show(job_id, tenant_id="default")
        assert job["lease_until"] > datetime.now(UTC) + timedelta(hours=20), "prolonged while it was blocked"
        aws.client("iam").update_access_key(UserName=user, AccessKeyId=new, Status="Active")
        assert (await handle.result()).status == "done"


# -- waits that protect, and what must be seen before the old key goes -----------------------------------------------


async def use(aws: Aws, key_id: str, user: str) -> None:
    """What a consumer does: it signs a call with the key."""
    own = {"aws_access_key_id": key_id, "aws_secret_access_key": aws.secret_of(user, key_id)}
    await asyncio.to_thread(boto3.client("sts", **aws.settings() | own).get_caller_identity)


def quick(executions: Executions, job_id: str, **more: Any) -> KeyRotationOrder:
    """Waits of a second, on the real server: those of days are tried on the one that skips time."""
    none, second = timedelta(0), timedelta(seconds=1)
    waits = KeyWaits(**{"overlap": none, "grace": none, "quiet": none, "check_every": second} | more)
    return executions.order(job_id).model_copy(update={"waits": waits})


async def start(client: Client, executions: Executions, order: KeyRotationOrder) -> Handle:
    settings = executions.settings
    return await client.start_workflow(
        RotateKeyWorkflow.run, order, id=execution_id(order.job_id), task_queue=settings.queue(ACCOUNT)
    )


async def messages_of(engine: AsyncEngine, job_id: str) -> list[tuple[str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(outbox).where(outbox.c.job_id == job_id).order_by(outbox.c.outbox_id))
        return [(row["topic"], row["payload"].get("blocked")) for row in rows.mappings()]


async def trail_of(engine: AsyncEngine, job_id: str) -> list[dict[str, Any]]:
    _, trail = await JobLeases(engine).show(job_id, tenant_id="default")
    return [dict(row["detail"]) for row in trail]


async def test_a_job_past_its_date_waits_as_long_as_any_other_and_says_that_it_is_late(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """A key over a limit of age is overdue when its job is created: haste would cut its consumers off."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old, due_in=-timedelta(days=100))
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        status = await until(handle, lambda now: now.step == "overlap")
        assert status.late_until is not None
        assert status.late_until > datetime.now(UTC) + timedelta(days=7, hours=23)
        await handle.result()
        events = (await handle.fetch_history()).events
    scheduled = [
        (event.activity_task_scheduled_event_attributes.activity_type.name, event.event_time.ToDatetime(UTC))
        for event in events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    moments = dict(scheduled)
    assert moments["deactivate_key"] - moments["verify_key"] >= timedelta(days=1)
    assert moments["delete_key"] - moments["deactivate_key"] >= timedelta(days=7)
    assert [row for row in await trail_of(engine, job_id) if "late_until" in row] != []
    # Eight days of waiting, and an hourly look at the old key's use for seven of them: each wait is one activity.
    # (The number of workflow tasks also depends on how busy the machine is.)
    assert len(scheduled) == len(moments)


@pytest.mark.parametrize("ends", ["thaw", "thaw after a use", "roll_back"])
async def test_a_freeze_holds_every_change_up_and_no_rollback(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine, ends: str
) -> None:
    """Before a key is created, and before the old one is deactivated, which waits again if it was used meanwhile."""
    frozen = {"before": True, "after": False}

    async def freezes(tenant_id: str, cloud_account: str, urgent: bool) -> str | None:
        assert (tenant_id, cloud_account, urgent) == ("default", ACCOUNT, False)
        created = len(aws.keys(user)) > 1
        return "incident 4711" if frozen["after" if created else "before"] else None

    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(temporal, aws, network, engine, freezes=freezes) as executions:
        handle = await start(temporal, executions, quick(executions, job_id, quiet=timedelta(seconds=6)))
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert (blocked.step, blocked.blocked) == ("create_key", "frozen")
        assert "incident 4711" in str(blocked.hint)
        assert list(aws.keys(user)) == [old]
        frozen |= {"before": False, "after": True}
        with suppress(AnswerRefused):  # it has looked again by itself
            await answer(handle, "resume", Resumption(operator="luna"))
        blocked = await until(handle, lambda now: now.step == "deactivate_key" and now.blocked is not None)
        assert (len(aws.keys(user)), aws.keys(user)[old]) == (2, "Active")
        if ends == "roll_back":
            await answer(handle, "roll_back", ROLL_BACK)
            assert (await handle.result()).status == "rolled_back"
            assert aws.keys(user) == {old: "Active"}
            return
        if ends == "thaw after a use":
            await use(aws, old, user)
        frozen["after"] = False
        with suppress(AnswerRefused):
            await answer(handle, "resume", Resumption(operator="luna"))
        if ends == "thaw after a use":
            blocked = await until(handle, lambda now: now.blocked == "old_key_in_use")
            assert (blocked.step, aws.keys(user)[old]) == ("overlap", "Active")
            await use(aws, str(blocked.new_key_id), user)
        assert (await handle.result()).status == "done"
        assert old not in aws.keys(user)


async def test_an_old_key_in_use_stays_and_its_users_are_named_until_it_is_quiet(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """The receivers of jobs hear of it once; then the rotation continues by itself."""
    user, old = aws.user()
    await use(aws, old, user)
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(temporal, aws, network, engine) as executions:
        handle = await start(temporal, executions, quick(executions, job_id, quiet=timedelta(seconds=6)))
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert (blocked.step, blocked.blocked) == ("overlap", "old_key_in_use")
        assert blocked.blocked_by == ("sts in eu-central-1",)
        with pytest.raises(AnswerRefused, match="old_key_in_use"):
            await answer(handle, "advance", ADVANCE)
        assert aws.keys(user)[old] == "Active"
        [new] = [key for key in aws.keys(user) if key != old]
        await use(aws, new, user)
        assert (await handle.result()).status == "done"
    assert aws.keys(user) == {new: "Active"}
    about = {"kind": "old_key_in_use", "by": ["sts in eu-central-1"]}
    assert await messages_of(engine, job_id) == [("rotation_job.created", None), ("rotation_job.blocked", about)]


async def test_a_new_key_that_no_one_uses_holds_the_old_one_until_an_operator_says_why_it_may_go(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """The old one was in use last month: somewhere its consumer is."""
    user, old = aws.user()
    await use(aws, old, user)
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(temporal, aws, network, engine) as executions:
        handle = await start(temporal, executions, quick(executions, job_id))
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert (blocked.blocked, aws.keys(user)[old]) == ("new_key_not_seen", "Active")
        assert "keyturn advance" in str(blocked.hint)
        await answer(handle, "advance", ADVANCE)
        assert (await handle.result()).status == "done"
    assert {"wait_ended_by": "luna", "reason": "its last consumer was switched off"} in await trail_of(engine, job_id)


async def test_our_own_signature_after_a_refused_deactivation_is_no_consumers(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """An operator said that nothing uses the old key, and was wrong: the new one has still to be seen in use."""
    user, old = aws.user()
    await use(aws, old, user)
    job_id = await job_for(JobStore(engine), engine, user, old)
    sts = boto3.client(
        "sts", **aws.settings() | {"aws_access_key_id": old, "aws_secret_access_key": aws.secret_of(user, old)}
    )
    async with executing(temporal, aws, network, engine) as executions:
        handle = await start(temporal, executions, quick(executions, job_id, quiet=timedelta(seconds=6)))
        await until(handle, lambda now: now.blocked == "new_key_not_seen")

        def used_meanwhile() -> None:
            if network.calls[-1] == "GetCallerIdentity":  # the deactivation tries the new key first
                network.after_each = lambda: None
                sts.get_caller_identity()

        network.after_each = used_meanwhile
        await answer(handle, "advance", ADVANCE)
        await until(handle, lambda now: now.blocked == "old_key_in_use")
        await until(handle, lambda now: now.blocked == "new_key_not_seen")
        assert aws.keys(user)[old] == "Active"
        await answer(handle, "advance", ADVANCE)
        assert (await handle.result()).status == "done"


async def test_declared_consumers_report_the_new_key_before_the_old_one_goes(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    """Each by name; a report of another key counts for nothing."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    key_map = KeyMap([KeyMapping(account=user, consumers=("pay-api", "pay-batch"))])
    reported: dict[str, Any] = {"tenant_id": "default", "by": "default/pay"}
    async with executing(temporal, aws, network, engine, key_map=lambda: key_map) as executions:
        handle = await start(temporal, executions, quick(executions, job_id))
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert (blocked.blocked, blocked.blocked_by) == ("consumers_not_moved", ("pay-api", "pay-batch"))
        [new] = [key for key in aws.keys(user) if key != old]
        with pytest.raises(AnotherNewKey):
            await report_moved(engine, job_id, consumer="pay-api", key_id=old, **reported)
        with pytest.raises(UnknownConsumer, match="waits for pay-api, pay-batch, and not for pay-bath"):
            await report_moved(engine, job_id, consumer="pay-bath", key_id=new, **reported)
        await report_moved(engine, job_id, consumer="pay-api", key_id=new, **reported)
        await report_moved(engine, job_id, consumer="pay-api", key_id=new, **reported)
        await asyncio.sleep(1.5)  # more than a look: one of the two is not enough
        assert aws.keys(user)[old] == "Active"
        await report_moved(engine, job_id, consumer="pay-batch", key_id=new, **reported)
        assert (await handle.result()).status == "done"
        with pytest.raises(JobClosed):
            await report_moved(engine, job_id, consumer="pay-batch", key_id=new, **reported)


@pytest.mark.parametrize("how", ["used", "activated by hand"])
async def test_a_use_after_the_deactivation_brings_the_old_key_back_and_waits_for_an_operator(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine, how: str
) -> None:
    """Within one look; resumed, the key is deactivated anew and goes."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(temporal, aws, network, engine, used_since=timedelta(0)) as executions:
        handle = await start(temporal, executions, quick(executions, job_id, grace=timedelta(seconds=4)))
        await until(handle, lambda now: now.step == "grace")
        await asyncio.sleep(1.1)  # AWS dates a use by the second
        if how == "used":
            await use(aws, old, user)  # moto lets an inactive key sign; for AWS it is the time that counts
        else:
            aws.client("iam").update_access_key(UserName=user, AccessKeyId=old, Status="Active")
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert (blocked.step, blocked.blocked, aws.keys(user)[old]) == ("grace", "old_key_used_again", "Active")
        assert set(await blocked_jobs(temporal, task_queue=executions.settings.queue(ACCOUNT))) == {job_id}
        assert [topic for topic, _ in await messages_of(engine, job_id)][1:] == ["rotation_job.blocked"]
        if how == "used":  # what used it moves to the new key
            await use(aws, str(blocked.new_key_id), user)
        await answer(handle, "resume", Resumption(operator="luna"))
        assert (await handle.result()).status == "done"
        assert old not in aws.keys(user)


@pytest.mark.parametrize("compromised", [True, False])
async def test_only_the_waits_of_a_compromised_key_are_cut_short_by_a_person(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine, compromised: bool
) -> None:
    """And the audit trail says by whom, and why."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    if compromised:
        async with engine.begin() as connection:
            await connection.execute(update(rotation_jobs).values(priority=URGENT))
    async with executing(temporal, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        await until(handle, lambda now: now.step == "overlap")
        if not compromised:
            with pytest.raises(AnswerRefused, match="wait_protects"):
                await answer(handle, "advance", ADVANCE)
            await handle.terminate()
            return
        await answer(handle, "advance", ADVANCE)
        await until(handle, lambda now: now.step == "grace")
        await answer(handle, "advance", ADVANCE)
        assert (await handle.result()).status == "done"
    assert aws.keys(user).keys() != {old}
    ended = [row for row in await trail_of(engine, job_id) if "wait_ended_by" in row]
    assert len(ended) == 2


def _delete_user(aws: Aws, user: str) -> None:
    iam = aws.client("iam")
    for key in aws.keys(user):
        iam.delete_access_key(UserName=user, AccessKeyId=key)
    iam.delete_user(UserName=user)


@pytest.mark.parametrize("when", ["before", "in the overlap", "in a rollback"])
async def test_where_the_user_is_gone_the_job_ends_by_that_name(
    skipping: WorkflowEnvironment, aws: Aws, network: Network, engine: AsyncEngine, when: str
) -> None:
    """At any step: it was blocked for ever as a right that the executor lacked."""
    user, old = aws.user()
    arn = f"arn:aws:iam::{ACCOUNT}:user/{user}"
    job_id = await job_for(JobStore(engine), engine, arn, old)
    if when == "before":
        _delete_user(aws, user)
    async with executing(skipping.client, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        if when != "before":
            await until(handle, lambda now: now.step == "overlap")
            _delete_user(aws, user)
        if when == "in a rollback":
            await answer(handle, "roll_back", ROLL_BACK)
        outcome = await handle.result()
    assert outcome.status == "failed"
    assert str(outcome.reason).startswith("user_gone: ")
    assert await state_of(engine, job_id) == "failed"


async def test_a_key_that_vanishes_between_a_look_and_a_call_is_looked_for_again(aws: Aws) -> None:
    """Its user is still there: the job must not end as if nothing were left to rotate."""
    user, old = aws.user()
    keys = AwsAccessKeys(**aws.settings())
    aws.client("iam").delete_access_key(UserName=user, AccessKeyId=old)
    with pytest.raises(CloudUnavailable, match="deleted since it was listed"):
        await keys.set_active(user, old, is_active=False)
    assert await keys.list_keys(user) == []


async def test_a_secret_that_is_scheduled_for_deletion_is_named(
    temporal: Client, aws: Aws, network: Network, engine: AsyncEngine
) -> None:
    user, old = aws.user()
    manager = aws.client("secretsmanager")
    manager.create_secret(Name=f"keyturn/{user}", SecretString="{}")
    manager.delete_secret(SecretId=f"keyturn/{user}", RecoveryWindowInDays=7)
    job_id = await job_for(JobStore(engine), engine, user, old)
    async with executing(temporal, aws, network, engine) as executions:
        handle = await executions.start(job_id)
        blocked = await until(handle, lambda now: now.blocked is not None)
        assert blocked.blocked == "secret_scheduled_for_deletion"
        assert "restore-secret" in str(blocked.hint)
        manager.restore_secret(SecretId=f"keyturn/{user}")
        await answer(handle, "resume", Resumption(operator="luna"))
        await until(handle, lambda now: now.step == "overlap")
        await handle.terminate()


async def test_an_executor_serves_its_figures_and_the_sdks(
    temporal: Client, aws: Aws, network: Network, sqlite: URL, keys: Path, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_loopback_port()}"
    environment = {
        **aws.environment(network.address),
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
        "DATABASE_URL": sqlite.set(drivername="sqlite").render_as_string(),
        "KEYTURN_PAYLOAD_KEYS_FILE": str(keys),
        "KEYTURN_TASK_QUEUE": f"test-{uuid.uuid4().hex}",
        "KEYTURN_MONITORING_ADDRESS": address,
        "PATH": str(Path(sys.executable).parent),
    }
    command: list[str | Path] = [Path(sys.executable).parent / "keyturn", "executor"]
    async with (
        child(command, environment=environment, log=tmp_path / "executor.log"),
        loopback_client(f"http://{address}") as http,
        asyncio.timeout(60),
    ):
        printed = ""
        while 'keyturn_executor_looks_total{result="ok"} 1.0' not in printed or "\ntemporal_" not in printed:
            await asyncio.sleep(0.2)
            with suppress(httpx.TransportError):
                printed = (await http.get("/metrics")).text
        assert (await http.get("/readyz")).json()["status"] == "ready"


# Each kill takes as long as it takes to be noticed, half a minute: `make prove-executor` has them all.
KILLS = [("CreateAccessKey", "answer_lost")]
if os.environ.get("PROOF_KILLS"):
    calls = ("ListAccessKeys", "CreateAccessKey", "CreateSecret", "UpdateAccessKey", "DeleteAccessKey")
    KILLS = [(call, when) for call in calls for when in ("answer_lost", "request_lost")]


@pytest.mark.parametrize(("call", "when"), KILLS)
async def test_an_executor_that_is_killed_beside_a_call_to_aws_leaves_one_new_key_and_no_orphan(
    temporal: Client,
    aws: Aws,
    network: Network,
    engine: AsyncEngine,
    sqlite: URL,
    keys: Path,
    tmp_path: Path,
    call: str,
    when: Any,
) -> None:
    """`keyturn executor` as a process, killed -9 just before AWS has the call, or just after; another continues."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    environment = {
        **aws.environment(network.address),
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
        "DATABASE_URL": sqlite.set(drivername="sqlite").render_as_string(),
        "KEYTURN_PAYLOAD_KEYS_FILE": str(keys),
        "KEYTURN_TASK_QUEUE": f"test-{uuid.uuid4().hex}",
        "KEYTURN_EXECUTOR_OVERLAP_HOURS": "0.0005",
        "KEYTURN_EXECUTOR_GRACE_HOURS": "0.0005",
        "PATH": str(Path(sys.executable).parent),
    }
    command: list[str | Path] = [Path(sys.executable).parent / "keyturn", "executor"]
    handle: Handle = temporal.get_workflow_handle_for(RotateKeyWorkflow.run, execution_id(job_id))
    network.after_each = partial(_expect_one_that_works, aws, user, old)
    reached = asyncio.Event()

    async def kill(process: asyncio.subprocess.Process) -> None:
        await reached.wait()
        process.send_signal(signal.SIGKILL)

    log = tmp_path / "executor.log"
    async with child(command, environment=environment, log=log) as first:
        network.freeze, network.how, network.reached = call, when, reached
        async with asyncio.timeout(60):
            await kill(first)
            await first.wait()
        network.freeze = None
        network.thaw.set()
    async with child(command, environment=environment, log=log), asyncio.timeout(120):
        while await state_of(engine, job_id) != "done":
            await asyncio.sleep(0.2)
        outcome = await handle.result()
    assert (outcome.status, aws.keys(user)) == ("done", {outcome.new_key_id: "Active"})
    assert aws.stored(f"keyturn/{user}") == outcome.new_key_id
    printed = log.read_text()
    assert outcome.new_key_id is not None
    assert aws.secret_of(user, outcome.new_key_id) not in printed
    assert not re.search("Traceback", printed)


async def test_a_dry_run_by_command_shows_the_steps_of_each_job_and_why_another_would_not_be_begun(
    aws: Aws, network: Network, engine: AsyncEngine, sqlite: URL
) -> None:
    """Without a worker and without Temporal; nothing is claimed, and AWS is only read."""
    user, old = aws.user()
    sound = await job_for(JobStore(engine), engine, user, old)
    gone = await job_for(JobStore(engine), engine, user, "AKIAGONE00000000000")
    await create_job(JobStore(engine), "svc-db", "svc_db_a", kind="system_account_password")
    environment = {
        **aws.environment(network.address),
        "DATABASE_URL": sqlite.set(drivername="sqlite").render_as_string(),
        "PATH": str(Path(sys.executable).parent),
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "keyturn",
        "executor",
        "--dry-run",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, beside = (text.decode() for text in await process.communicate())
    assert process.returncode == 0
    assert beside == "left for another executor: 1 of system_account_password; this one rotates access_key\n"
    assert f"{sound}\n  1. record the keys of {user}: {old}" in printed
    assert f"9. close {sound} as done" in printed
    assert f"{gone}  would not start: the job's key is not among the user's keys" in printed
    assert [await state_of(engine, job_id) for job_id in (sound, gone)] == ["open", "open"]
    assert set(network.calls) <= {"ListAccessKeys", "GetAccessKeyLastUsed", "GetCallerIdentity", "GetSecretValue"}


async def test_a_key_map_is_compared_with_the_open_jobs_as_the_executor_would_take_them(
    aws: Aws, network: Network, engine: AsyncEngine, sqlite: URL, tmp_path: Path
) -> None:
    """A map that reads well, and with which the executor would refuse the job: two tables for its key."""
    user, old = aws.user()
    job_id = await job_for(JobStore(engine), engine, user, old)
    tables = f'[[key]]\naccount = "{user}"\ntargets = ["secretsmanager:{user}/a"]\n'
    file = tmp_path / "keys.toml"
    file.write_text(tables)
    environment = {
        **aws.environment(network.address),
        "DATABASE_URL": sqlite.set(drivername="sqlite").render_as_string(),
        "PATH": str(Path(sys.executable).parent),
        "KEYTURN_KEY_MAP": str(file),
    }

    async def check(**more: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "keyturn",
            "targets",
            "check",
            env=environment | more,
            stdout=asyncio.subprocess.PIPE,
        )
        printed = (await process.communicate())[0].decode()
        return process.returncode, printed

    status, printed = await check()
    assert (status, "open jobs  1 compared, 0 would not start" in printed) == (0, True), printed
    file.write_text(tables + tables.replace("/a", "/b") + '[[key]]\naccount = "x"\ncloud_account = "999999999999"\n')
    status, printed = await check(KEYTURN_EXECUTOR_TARGETS="secretsmanager:{user}")
    assert (status, f"{job_id}  would not start: the key map's tables 1 and 2" in printed) == (1, True), printed
    assert f"[[key]] 3  x: is of 999999999999; this is {ACCOUNT}" in printed
    assert await state_of(engine, job_id) == "open"


def test_a_setting_by_its_former_name_is_refused_and_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_EXECUTOR_SECRETS", "vault")
    with pytest.raises(SettingsInvalid, match="KEYTURN_EXECUTOR_SECRETS is now KEYTURN_EXECUTOR_TARGETS: rename it"):
        load_executor_settings()


def test_an_executor_of_production_keeps_no_secret_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each wrong setting is named, without its value."""
    monkeypatch.setenv("KEYTURN_EXECUTOR_TARGETS", "file:/tmp/secrets/{user}")
    assert load_executor_settings().targets == "file:/tmp/secrets/{user}"
    monkeypatch.setenv("KEYTURN_ENVIRONMENT", "production")
    with pytest.raises(SettingsInvalid, match="KEYTURN_EXECUTOR_TARGETS: production refuses file:FOLDER/NAME"):
        load_executor_settings()
    monkeypatch.setenv("KEYTURN_EXECUTOR_TARGETS", "nowhere:hunter2/{user}")
    monkeypatch.setenv("KEYTURN_EXECUTOR_QUIET_HOURS", "soon")
    monkeypatch.setenv("KEYTURN_EXECUTOR_GRACE_HOURS", "-1")
    with pytest.raises(SettingsInvalid) as caught:
        load_executor_settings()
    printed = str(caught.value)
    for name in ("KEYTURN_EXECUTOR_TARGETS", "KEYTURN_EXECUTOR_QUIET_HOURS", "KEYTURN_EXECUTOR_GRACE_HOURS"):
        assert f"{name}: " in printed
    assert "hunter2" not in printed
