"""A key whose job failed: who asks again, on purpose, gets another job; and no one is left to think that it rotates."""

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.application.outcomes import EXIT_DONE, EXIT_FAILED, as_lines, exit_status
from keyturn.application.rotations import rotate
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.progress import summary_of
from keyturn.rotations.outcomes import JobCreated
from tests.support.cases import request
from tests.support.estates import BulkPlace, estate, started
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on


async def fail(engine: AsyncEngine, job_id: str, *, tenant_id: str = "default") -> None:
    """An executor's end of a job, such as a rotation that was rolled back."""
    leases = JobLeases(engine)
    claimed = await leases.claim(job_id, tenant_id=tenant_id, owner="executor", lease=timedelta(minutes=1))
    await leases.fail(job_id, tenant_id=tenant_id, token=claimed.token, reason="rolled back")


async def test_asked_again_a_key_whose_job_failed_gets_one_other_job(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """However often and at once it is asked for; and the same question without `again` finds the new one."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        _, first = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        assert isinstance(first, JobCreated)
        await fail(sqlite_engine, first.job_id)
        attached, same = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        assert (attached, same) == (True, first)
        outcomes = await asyncio.gather(
            *(rotate(temporal, asked, task_queue=queue, wait_seconds=30, again=True) for _ in range(8))
        )
        others = {outcome.job_id for _, outcome in outcomes if isinstance(outcome, JobCreated)}
        _, plain = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        assert isinstance(plain, JobCreated)
    assert len(others) == 1
    assert {plain.job_id} == others != {first.job_id}
    jobs = await sqlite_store.jobs(tenant_id="default", limit=10)
    assert sorted(job["status"] for job in jobs) == ["failed", "open"]


async def test_asked_again_a_key_whose_job_is_open_keeps_it(temporal: Client, sqlite_store: JobStore) -> None:
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        _, first = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        _, again = await rotate(temporal, asked, task_queue=queue, wait_seconds=30, again=True)
    assert isinstance(first, JobCreated)
    assert isinstance(again, JobCreated)
    assert (again.job_id, again.created, again.job_state) == (first.job_id, False, "open")


async def test_a_rotation_that_finds_a_failed_job_says_so_by_words_and_exit_status(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    """Such as one that is started anew, because its evidence has changed or its history has expired."""
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store):
        _, first = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
        assert isinstance(first, JobCreated)
        await fail(sqlite_engine, first.job_id)
        found = await temporal.execute_workflow(
            "RotationWorkflow", asked, id=f"{await _id_of(sqlite_engine)}", task_queue=queue, result_type=JobCreated
        )
    assert (found.job_id, found.created, found.job_state) == (first.job_id, False, "failed")
    assert (exit_status(first), exit_status(found)) == (EXIT_DONE, EXIT_FAILED)
    lines = "\n".join(as_lines("w", found))
    assert f"job {first.job_id} failed: nothing rotates the key any more" in lines
    assert "--again" in lines


async def _id_of(engine: AsyncEngine) -> str:
    [job] = await JobStore(engine).jobs(tenant_id="default", limit=2)
    return str(job["idempotency_key"])


@pytest.mark.parametrize("again", [False, True])
async def test_a_run_names_the_keys_whose_job_failed_and_gives_them_another_if_it_is_asked_to(
    sqlite_place: BulkPlace, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path, again: bool
) -> None:
    """Ten keys, one of them due: its job of the night before has failed."""
    place = sqlite_place
    file = estate(tmp_path / "keys.jsonl", keys=10)
    await place.load(file, f"{run_id}-before")
    await place.load(file, run_id, again=again)
    async with place.working():
        before = await (await started(place, f"{run_id}-before")).result()
        assert before.progress.outcomes == {"job_created": 1, "not_specified": 9}
        [first] = await JobStore(sqlite_engine).jobs(tenant_id=place.tenant, limit=10)
        await fail(sqlite_engine, first["job_id"], tenant_id=place.tenant)
        outcome = await (await started(place, run_id)).result()
    (item, *_) = await place.store.items(run_id, after=0, limit=1)
    jobs = await JobStore(sqlite_engine).jobs(tenant_id=place.tenant, limit=10)
    if again:
        assert outcome.progress.outcomes == {"job_created": 1, "not_specified": 9}
        [new] = [job for job in jobs if job["job_id"] != first["job_id"]]
        assert (item["outcome"], item["job_id"], new["status"]) == ("job_created", new["job_id"], "open")
    else:
        assert outcome.progress.outcomes == {"job_failed": 1, "not_specified": 9}
        assert "1 has a failed job" in summary_of(outcome.progress)
        assert (item["job_id"], len(jobs)) == (first["job_id"], 1)
