"""An access key is one key: by the id that AWS gives it, and by its creation where an export has no ids."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.inventory.read import read
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.jobs.errors import OpenJobExists
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import outbox, rotation_jobs
from keyturn.rotations.contracts import JobOrder
from keyturn.rotations.outcomes import RotationJob
from tests.support.cases import NOW, facts, order

ACCOUNT = "arn:aws:iam::123456789012:user/payments"
MADE = NOW - timedelta(days=100)
BY_CREATION = f"access_key.{MADE.astimezone(UTC):%Y%m%dT%H%M%SZ}"
AKIA, OTHER = "AKIA" + "Q" * 16, "AKIA" + "Z" * 16


def ordered(key_id: str, **changed: Any) -> JobOrder:
    given = {"kind": "access_key", "last_rotated_at": MADE, "age_days": None} | changed
    return order(account_id=ACCOUNT).model_copy(update={"credential": facts(key_id=key_id, **given)})


async def created(store: JobStore, key_id: str, **changed: Any) -> Any:
    return await store.create_once(ordered(key_id, **changed), idempotency_key=f"rotate:{key_id}", fence=1)


async def keys_of_jobs(store: JobStore) -> list[str]:
    return sorted(job["key_id"] for job in await store.jobs(tenant_id="default", limit=10))


async def test_a_run_with_ids_finds_the_jobs_of_a_run_without_them_and_names_their_keys(
    store: JobStore, engine: AsyncEngine
) -> None:
    """The same keys got twice as many jobs. The executor gets the id, and the trail has it."""
    first = await created(store, BY_CREATION)
    again = await created(store, AKIA)
    assert (again.job_id, again.created, again.tightened) == (first.job_id, False, True)
    assert await keys_of_jobs(store) == [AKIA]
    _, trail = await JobLeases(engine).show(first.job_id, tenant_id="default")
    assert (trail[-1]["event"], trail[-1]["detail"]["key_id"]) == ("tightened", AKIA)
    async with engine.connect() as connection:
        messages = [dict(one) for one in (await connection.execute(select(outbox))).mappings()]
    assert [one["payload"]["key_id"] for one in messages] == [BY_CREATION, AKIA]
    assert (await created(store, AKIA)) == again


async def test_a_run_without_ids_finds_the_jobs_of_a_run_with_them(store: JobStore, engine: AsyncEngine) -> None:
    """And again when its answer was lost and the job was closed meanwhile: the mark of its key leads there."""
    first = await created(store, AKIA)
    found = await created(store, BY_CREATION)
    assert found == RotationJob(job_id=first.job_id, created=False)
    assert await keys_of_jobs(store) == [AKIA]
    _, trail = await JobLeases(engine).show(first.job_id, tenant_id="default")
    assert [row["event"] for row in trail] == ["created", "found_by_other_name"]
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).where(rotation_jobs.c.status == "open").values(status="done"))
    assert await created(store, BY_CREATION) == found


async def test_a_job_that_was_asked_for_by_hand_is_found_by_either_name_once_both_are_known(store: JobStore) -> None:
    """Who asks by id alone says nothing of its creation; the next run that knows both adds to it."""
    first = await created(store, AKIA, last_rotated_at=None, age_days=100)
    with pytest.raises(OpenJobExists, match=first.job_id):
        await store.create_once(ordered(AKIA), idempotency_key="rotate:run", fence=1)
    assert (await created(store, BY_CREATION)).job_id == first.job_id
    assert await keys_of_jobs(store) == [AKIA]


async def test_other_policy_lines_under_the_other_name_are_another_order(store: JobStore) -> None:
    """As under the same name: what the job does not stand under yet, and is no stricter, is refused by name."""
    first = await created(store, AKIA)
    other = ordered(BY_CREATION)
    line = other.policy_lines[0].model_copy(update={"id": "P-8"})
    decision = other.decision.model_copy(update={"source_lines": (line,)})
    with pytest.raises(OpenJobExists, match=first.job_id):
        await store.create_once(other.model_copy(update={"decision": decision}), idempotency_key="rotate:p8", fence=1)


async def test_two_keys_of_one_second_get_a_job_each(store: JobStore) -> None:
    """Terraform creates both at once. Where only their ids distinguish them, their ids count."""
    jobs = [await created(store, key_id) for key_id in (AKIA, OTHER)]
    assert [job.created for job in jobs] == [True, True]
    assert await keys_of_jobs(store) == sorted([AKIA, OTHER])


async def test_a_job_that_gets_its_id_while_another_key_of_that_second_looks_at_it_stays_that_keys(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other key's order was merged into it, and that key, perhaps a compromised one, was never rotated."""
    first = await created(store, BY_CREATION)
    join = store.join_open_job

    async def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(store, "join_open_job", join)
        assert (await created(store, OTHER)).job_id == first.job_id
        return await join(*given)

    monkeypatch.setattr(store, "join_open_job", meanwhile)
    mine = await created(store, AKIA)
    assert (mine.created, mine.job_id != first.job_id) == (True, True)
    assert await keys_of_jobs(store) == sorted([AKIA, OTHER])


async def test_a_key_that_somebody_rotates_already_keeps_the_name_that_they_know(
    store: JobStore, engine: AsyncEngine
) -> None:
    first = await created(store, BY_CREATION)
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).values(status="claimed", lease_owner="tickets"))
    assert await created(store, AKIA) == RotationJob(job_id=first.job_id, created=False)
    assert await keys_of_jobs(store) == [BY_CREATION]


async def test_the_next_key_of_the_user_is_another_one(store: JobStore, engine: AsyncEngine) -> None:
    await created(store, AKIA)
    async with engine.begin() as connection:
        await connection.execute(update(rotation_jobs).values(status="done"))
    assert (await store.create_once(ordered(AKIA), idempotency_key="rotate:next", fence=1)).created
    assert (await created(store, OTHER, last_rotated_at=MADE + timedelta(seconds=1))).created


async def test_both_runs_at_once_make_one_job(store: JobStore) -> None:
    made = await asyncio.gather(created(store, BY_CREATION), created(store, AKIA), return_exceptions=True)
    assert len(await keys_of_jobs(store)) == 1, made


REPORT = (
    "user,arn,user_creation_time,access_key_1_active,access_key_1_last_rotated,access_key_2_active,"
    "access_key_2_last_rotated\n"
    f"payments,{ACCOUNT},2025-01-01T00:00:00+00:00,true,{{0}},true,{{1}}\n"
)


def _read(tmp_path: Path, first: datetime, second: datetime, **given: Any) -> list[InventoryKey | BadRow]:
    report = tmp_path / "report.csv"
    report.write_text(REPORT.format(first.isoformat(), second.isoformat()))
    return list(read(Inventory(report, observed_at=NOW, **given)))


def test_a_key_keeps_its_name_when_it_moves_to_the_other_slot(tmp_path: Path) -> None:
    later = MADE + timedelta(days=1)
    one, other = _read(tmp_path, MADE, later), _read(tmp_path, later, MADE)
    assert {row.facts.key_id for row in one if isinstance(row, InventoryKey)} == {
        row.facts.key_id for row in other if isinstance(row, InventoryKey)
    }
    assert {row.facts.name_by_creation == row.facts.key_id for row in one if isinstance(row, InventoryKey)} == {True}


def test_two_keys_of_one_second_need_their_ids(tmp_path: Path) -> None:
    rows = _read(tmp_path, MADE, MADE)
    assert any(isinstance(row, BadRow) and "--access-keys" in row.reason for row in rows)


def test_the_name_is_the_same_whatever_the_zone_and_the_form_of_the_moment(tmp_path: Path) -> None:
    listed = tmp_path / "keys.json"
    stamp = MADE.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = {"UserName": "payments", "AccessKeyId": AKIA, "CreateDate": stamp}
    later = entry | {"AccessKeyId": OTHER, "CreateDate": (MADE + timedelta(days=1)).isoformat()}
    listed.write_text(json.dumps({"AccessKeyMetadata": [entry, later]}))
    (key, *_) = _read(tmp_path, MADE, MADE + timedelta(days=1), access_keys=listed)
    assert isinstance(key, InventoryKey)
    assert (key.facts.key_id, key.facts.name_by_creation) == (AKIA, BY_CREATION)
