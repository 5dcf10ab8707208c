"""What people decide about real rotations becomes labelled cases, once, whatever happens to the collector."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.answers import answer
from keyturn.application.connection import connect
from keyturn.application.rotation_status import outcome_of
from keyturn.database import open_database
from keyturn.execution.contracts import ROLLED_BACK
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import rotation_events
from keyturn.keyring import Keyring
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.processes import child
from keyturn.labels.contracts import LabelledCase
from keyturn.labels.sources import LabelSources
from keyturn.labels.store import LabelStore
from keyturn.labels.tables import labelled_cases
from keyturn.rotations.contracts import Approval, Denial
from keyturn.rotations.decisions import Disagreement
from keyturn.rotations.outcomes import JobCreated
from keyturn.workers.labels import LabelCollector
from tests.support.keys import KEYRING, OLDER, ring
from tests.support.labels import NO
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval
from tests.workflows.test_disagreements import lost
from tests.workflows.test_people import Desk, desk


def collector(
    client: Client, engine: AsyncEngine, keyring: Keyring = KEYRING, *, days: int | None = 400
) -> LabelCollector:
    return LabelCollector(client, LabelSources(engine), LabelStore(engine, keyring), days=days)


async def cases_of(engine: AsyncEngine) -> list[LabelledCase]:
    return list(await LabelStore(engine, KEYRING).cases(tenant_id="default"))


async def rows_of(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(labelled_cases))).scalar_one())


@asynccontextmanager
async def answered(client: Client, store: JobStore, said: str) -> AsyncIterator[Desk]:
    """A rotation that asks for an approval, and was answered."""
    async with desk(client, Script(ELIGIBLE), store, catalogue=with_approval()) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        if said == "approve":
            await answer(here.handle, "approve", Approval(approver="omar", digest=status.decision.digest))
        else:
            denial = Denial(approver="priya", digest=status.decision.digest, reason="It is used by the importer.")
            await answer(here.handle, "deny", denial)
        await outcome_of(here.handle)
        yield here


async def test_an_approval_and_a_denial_become_cases(temporal: Client, engine: AsyncEngine, store: JobStore) -> None:
    """Each with the question word for word, the evidence, what rule and model said, who labelled it and why."""
    async with answered(temporal, store, "approve") as one, answered(temporal, store, "deny") as other:
        found = await collector(temporal, engine).collect()
    assert (found.cases, found.gone, found.unreadable) == ({"eligible": 1, "not_eligible": 1}, [], [])
    cases = {case.label: case for case in await cases_of(engine)}
    yes, no = cases["eligible"], cases["not_eligible"]
    assert (yes.request, no.request) == (one.asked, other.asked)
    assert (yes.source, yes.labelled_by, no.source, no.labelled_by) == ("approval", "omar", "denial", "priya")
    assert (no.reason, yes.answer, yes.model) == ("It is used by the importer.", ELIGIBLE, "scripted:m-1")
    assert (yes.supported.decision, yes.supported.rotation_window_days) == ("eligible", 30)


@pytest.mark.parametrize("said", ["approve", "deny"])
async def test_a_settled_disagreement_becomes_a_case_with_both_sides(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine, said: str
) -> None:
    async with desk(temporal, Script(NO), sqlite_store, credential=lost()) as here:
        status = await here.at("disagreement")
        assert status.decision is not None
        digest = status.decision.digest
        approval, denial = (
            Approval(approver="omar", digest=digest),
            Denial(approver="omar", digest=digest, reason="No."),
        )
        await answer(here.handle, said, approval if said == "approve" else denial)
        await outcome_of(here.handle)
        await collector(temporal, sqlite_engine).collect()
    [case] = await cases_of(sqlite_engine)
    assert (case.source, case.is_due) == ("disagreement", said == "approve")
    assert isinstance(case.verdict, Disagreement)
    assert [one.decision for one in case.verdict.readings] == ["not_eligible", "not_eligible"]
    assert case.request == here.asked


@pytest.mark.parametrize("how", ["rolled back", "used again", "failed"])
async def test_a_rotation_that_was_rolled_back_was_not_right(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine, how: str
) -> None:
    """By an operator, or because a consumer still used the old key; a job that failed otherwise says nothing of it."""
    async with desk(temporal, Script(ELIGIBLE), sqlite_store) as here:
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
        leases, span = JobLeases(sqlite_engine), timedelta(minutes=1)
        claim = await leases.claim(outcome.job_id, tenant_id="default", owner="execute:x", lease=span)
        words = {"tenant_id": "default", "token": claim.token}
        if how == "used again":
            evidence = {"activated": here.asked.credential.key_id}
            await leases.heartbeat(outcome.job_id, **words, lease=span, state="grace", evidence=evidence)  # type: ignore[arg-type]
        reason = f"{ROLLED_BACK}luna: the importer broke" if how == "rolled back" else "the key is gone"
        await leases.fail(outcome.job_id, **words, reason=reason)  # type: ignore[arg-type]
        await collector(temporal, sqlite_engine).collect()
        await collector(temporal, sqlite_engine).collect()
    cases = await cases_of(sqlite_engine)
    if how == "failed":
        assert cases == []
        return
    [case] = cases
    by = "luna" if how == "rolled back" else "execute:x"
    assert (case.label, case.source, case.labelled_by, case.is_due) == ("rolled_back", "roll_back", by, False)
    assert case.request == here.asked


class Dies(LabelStore):
    """A store whose process is killed before, or right after, its second case."""

    def __init__(self, engine: AsyncEngine, *, after: bool) -> None:
        super().__init__(engine, KEYRING)
        self._after, self._added = after, 0

    async def add(self, case: LabelledCase) -> None:
        self._added += 1
        if self._added < 2 or self._after:
            await super().add(case)
        if self._added == 2:
            raise asyncio.CancelledError


@pytest.mark.parametrize("after", [True, False])
async def test_a_collector_that_is_killed_and_several_at_once_collect_each_case_once(
    temporal: Client, engine: AsyncEngine, store: JobStore, after: bool
) -> None:
    for said in ("approve", "deny", "approve"):
        async with answered(temporal, store, said):
            pass
    with pytest.raises(asyncio.CancelledError):
        await LabelCollector(temporal, LabelSources(engine), Dies(engine, after=after), days=None).collect()
    assert await rows_of(engine) == (2 if after else 1)
    await asyncio.gather(*(collector(temporal, engine).collect() for _ in range(3)))
    assert await rows_of(engine) == len(await cases_of(engine)) == 3
    assert (await collector(temporal, engine).collect()).cases == {}


async def test_a_history_that_is_gone_is_named_counted_and_looked_at_again_when_asked(
    temporal: Client, engine: AsyncEngine, store: JobStore
) -> None:
    """Such as where a collector was sent to the wrong namespace: it is no case until its history is there."""
    async with answered(temporal, store, "approve") as here:
        pass
    with_id = here.handle.id
    await _move(engine, with_id, "rotate:default:a:expired:P-7@1")
    found = await collector(temporal, engine).collect()
    assert found.gone == ["rotate:default:a:expired:P-7@1"]
    held = LabelStore(engine, KEYRING)
    [row] = await held.counts(tenant_id="default")
    assert (row["policy_lines"], row["label"], row["cases"]) == (None, "eligible", 1)
    assert await held.gone(tenant_id="default", limit=10) == found.gone
    assert (await collector(temporal, engine).collect()).gone == [], "it is not looked at again and again"
    assert await cases_of(engine) == []
    await _move(engine, "rotate:default:a:expired:P-7@1", with_id)
    again = await collector(temporal, engine).collect(gone_too=True)
    assert again.cases == {"eligible": 1}
    assert [case.request for case in await cases_of(engine)] == [here.asked]


@pytest.mark.parametrize("forged", [{"event": "approved"}, {"actor": "luna"}, {"detail": {"digest": f"v1:{'0' * 64}"}}])
async def test_who_can_only_write_to_the_database_gives_no_label(
    temporal: Client, sqlite_engine: AsyncEngine, sqlite_store: JobStore, forged: dict[str, object]
) -> None:
    """Not by a row of another answer, of another person, or about another decision than the encrypted history has."""
    async with answered(temporal, sqlite_store, "deny") as here:
        pass
    async with sqlite_engine.begin() as connection:
        await connection.execute(update(rotation_events).where(rotation_events.c.event == "denied").values(forged))
    assert (await collector(temporal, sqlite_engine).collect()).gone == [here.handle.id]
    assert await cases_of(sqlite_engine) == []


async def test_what_the_keys_here_do_not_open_waits_for_those_that_do(
    temporal: Client, sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    async with answered(temporal, sqlite_store, "deny") as here:
        pass
    other = ring(OLDER)
    stranger = await connect(temporal.service_client.config.target_host, keyring=other)
    assert (await collector(stranger, sqlite_engine, other).collect()).unreadable == [here.handle.id]
    assert await rows_of(sqlite_engine) == 0
    assert (await collector(temporal, sqlite_engine).collect()).cases == {"not_eligible": 1}


async def test_what_is_past_its_retention_or_another_tenants_is_left_alone(
    temporal: Client, sqlite_engine: AsyncEngine, sqlite_store: JobStore
) -> None:
    """A case that was deleted does not come back."""
    async with answered(temporal, sqlite_store, "approve"):
        pass
    async with sqlite_engine.begin() as connection:
        earlier = (await connection.execute(select(rotation_events.c.at))).scalars().all()[0] - timedelta(days=31)
        await connection.execute(update(rotation_events).values(at=earlier))
    assert (await collector(temporal, sqlite_engine, days=30).collect()).cases == {}
    assert (await collector(temporal, sqlite_engine).collect(back=timedelta(days=2))).cases == {}
    assert (await collector(temporal, sqlite_engine).collect(tenant_id="other")).cases == {}
    assert (await collector(temporal, sqlite_engine).collect(tenant_id="default")).cases == {"eligible": 1}


async def test_a_silent_server_is_a_reason_to_look_again(
    temporal: Client, sqlite_engine: AsyncEngine, sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is called gone because Temporal did not answer, and the loop goes on."""
    async with answered(temporal, sqlite_store, "approve"):
        pass
    calls = 0

    async def silent(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")

    with monkeypatch.context() as patched:
        patched.setattr("keyturn.workers.labels.case_of", silent)
        looking = asyncio.create_task(collector(temporal, sqlite_engine).run(every=0.01))
        async with asyncio.timeout(10):
            while calls < 3:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while not await cases_of(sqlite_engine):
            await asyncio.sleep(0.01)
    looking.cancel()
    assert await rows_of(sqlite_engine) == 1


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_a_worker_collects_when_it_starts_unless_that_is_switched_off(
    temporal: Client, simulator: SimulatorControl, sqlite: URL, tmp_path: Path, keys: Path, setting: str
) -> None:
    """What was decided while no worker ran is not lost, as long as its history is there."""
    engine, log = open_database(sqlite), tmp_path / "worker.log"
    try:
        async with answered(temporal, JobStore(engine), "deny"):
            pass
        address, url = temporal.service_client.config.target_host, sqlite.render_as_string(hide_password=False)
        environment = worker_environment(address, url, simulator.address, keys=keys)
        environment |= {"KEYTURN_TASK_QUEUE": f"test-{uuid.uuid4().hex}", "KEYTURN_LABELS": setting}
        environment |= {"KEYTURN_ACCOUNT_NAMES": "plain", "KEYTURN_LOG_FORMAT": "json"}
        async with child([sys.executable, "-m", "keyturn.workers"], environment=environment, log=log):
            async with asyncio.timeout(30):
                while "worker_started" not in log.read_text() or (setting == "on" and not await rows_of(engine)):
                    await asyncio.sleep(0.1)
        assert [case.label for case in await cases_of(engine)] == (["not_eligible"] if setting == "on" else [])
    finally:
        await engine.dispose()


async def _move(engine: AsyncEngine, before: str, after: str) -> None:
    async with engine.begin() as connection:
        for table in (rotation_events, labelled_cases):
            await connection.execute(update(table).where(table.c.workflow_id == before).values(workflow_id=after))
