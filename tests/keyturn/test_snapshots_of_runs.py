"""A scheduled run that reads the cloud itself: one snapshot a run, kept with it."""

import hashlib
import json
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.bulk.contracts import BulkOrder, BulkSource
from keyturn.errors import SettingsInvalid
from keyturn.inventory.errors import InventoryRefused
from keyturn.lab.simulator.aws_iam import AwsEstate
from keyturn.snapshots.errors import SnapshotSmaller, SnapshotUnwritable
from keyturn.snapshots.publish import manifest_of
from keyturn.workers.bulk_fetch import fetch_for_run
from tests.keyturn.test_snapshots import estate
from tests.support.estates import LINE, Judge, bulk_place

__all__ = ["estate"]  # a fixture


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_each_run_keeps_its_snapshot_and_a_second_attempt_takes_the_first_ones(
    estate: AwsEstate, tmp_path: Path
) -> None:
    """A night later the newest one is another file, and the earlier run's is what it was."""
    first = await fetch_for_run("aws", str(tmp_path), "nightly-1", tmp_path)
    before = digest_of(first)
    estate.fill(accounts=5, users=60)
    assert digest_of(await fetch_for_run("aws", str(tmp_path), "nightly-1", tmp_path)) == before
    second = await fetch_for_run("aws", str(tmp_path), "nightly-2", tmp_path)
    assert (first.name, second.name) == ("nightly-1.jsonl", "nightly-2.jsonl")
    assert digest_of(first) == before != digest_of(second) == digest_of(tmp_path / "aws.jsonl")
    digests = [json.loads(manifest_of(one).read_bytes())["sha256"] for one in (first, second)]
    assert digests == [before, digest_of(second)], "each has its own manifest"


async def test_the_snapshots_of_runs_are_kept_as_long_as_the_runs(estate: AwsEstate, tmp_path: Path) -> None:
    """Those that are older go, with their manifests, when another one comes; what else lies there stays."""
    first = await fetch_for_run("aws", str(tmp_path), "nightly-1", tmp_path)
    long_ago = time.time() - 500 * 86_400
    for file in (first, manifest_of(first)):
        os.utime(file, (long_ago, long_ago))
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    os.utime(tmp_path / "runs" / "notes.txt", (long_ago, long_ago))
    estate.fill(accounts=5, users=60)
    second = await fetch_for_run("aws", str(tmp_path), "nightly-2", tmp_path, kept_for=timedelta(days=400))
    left = {file.name for file in (tmp_path / "runs").iterdir()}
    assert left == {second.name, manifest_of(second).name, "notes.txt"}


async def test_an_estate_that_shrank_stops_the_run(estate: AwsEstate, tmp_path: Path) -> None:
    """Rather than being reported as clean."""
    await fetch_for_run("aws", str(tmp_path), "nightly-1", tmp_path)
    estate.fill(accounts=5, users=5)
    with pytest.raises(SnapshotSmaller):
        await fetch_for_run("aws", str(tmp_path), "nightly-2", tmp_path)
    assert not (tmp_path / "runs" / "nightly-2.jsonl").exists()


async def test_a_schedules_maker_chooses_no_place_of_the_workers_machine(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root" / "in", tmp_path / "out"
    inside.mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "root" / "link").symlink_to(outside)
    root = tmp_path / "root"
    for folder, where in ((str(outside), root), (str(root / "link"), root), (str(inside), None)):
        with pytest.raises(InventoryRefused):
            await fetch_for_run("aws", folder, "r", where)
    with pytest.raises(SnapshotUnwritable, match="is not there on the workers' machine"):
        await fetch_for_run("aws", str(root / "absent"), "r", root)
    with pytest.raises(SettingsInvalid, match="there is no fetcher mars: aws, entra"):
        await fetch_for_run("mars", str(inside), "r", root)


async def test_a_link_among_the_snapshots_of_runs_leads_no_run_elsewhere(estate: AwsEstate, tmp_path: Path) -> None:
    """Whoever may write there puts a file of the machine in the place of a run's snapshot, or the folder elsewhere."""
    root, secret = tmp_path / "root", tmp_path / "outside.jsonl"
    (root / "runs").mkdir(parents=True)
    secret.write_text('{"key_id": "x"}\n')
    (root / "runs" / "nightly-1.jsonl").symlink_to(secret)
    with pytest.raises(InventoryRefused):
        await fetch_for_run("aws", str(root), "nightly-1", root)


async def test_a_run_is_loaded_from_its_own_snapshot_with_its_digest(
    estate: AwsEstate, temporal: Client, sqlite_engine: AsyncEngine, tmp_path: Path
) -> None:
    place = bulk_place(temporal, "none", sqlite_engine, Judge())
    source = BulkSource(path=str(tmp_path), fetch="aws", policies=(LINE,), question="May it be rotated?")
    run_id = f"nightly-{uuid.uuid4().hex[:8]}"
    order = BulkOrder(run_id=run_id, tenant_id=place.tenant, source=source)
    runs = place.runs(inventory_root=tmp_path)
    first = await runs.load(order, workflow_id="w", at=datetime.now(UTC))
    again = await runs.load(order, workflow_id="w", at=datetime.now(UTC))
    run = await place.store.run(run_id, tenant_id=place.tenant)
    assert first == again
    assert first.total > 0
    assert run.source == str(tmp_path / "runs" / f"{run_id}.jsonl")
    assert (run.loaded, run.source_digest.startswith("sha256:")) == (True, True)
