"""Snapshots: an inventory that is fetched in parts, by a process that is killed, throttled and refused."""

import asyncio
import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.places import newest
from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.lab.simulator.aws_iam import AwsEstate
from keyturn.snapshots import attempts
from keyturn.snapshots.errors import (
    AnotherSnapshot,
    CursorInvalid,
    FetchRunning,
    SnapshotEmpty,
    SnapshotIncomplete,
    SnapshotSmaller,
    SnapshotUnwritable,
)
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetcher import Page, Part
from keyturn.snapshots.fetchers import load_fetchers
from keyturn.snapshots.parts import PartsFolder, now
from keyturn.snapshots.publish import Manifest
from keyturn.snapshots.rows import Rows
from tests.support.servers import fake_server


@pytest.fixture
async def estate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsEstate]:
    """Accounts behind a loopback address, which the environment of this process and its children names."""
    made = AwsEstate()
    monkeypatch.setattr(attempts, "retry_delay", _at_once)
    async with fake_server(made.application()) as address:
        for name, value in _environment(address).items():
            monkeypatch.setenv(name, value)
        made.fill(accounts=5, users=40)
        yield made


def _environment(address: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",  # pragma: allowlist secret
        "AWS_SECRET_ACCESS_KEY": "no secret of anyone's",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "KEYTURN_AWS_ACCOUNTS": " ".join(f"{number:012d}" for number in range(1, 6)),
        "KEYTURN_AWS_EXTERNAL_ID": "external-1",
    }


def _at_once(*_: Any, **__: Any) -> timedelta:
    return timedelta(0)


async def fetched(out: Path, **flags: Any) -> Manifest:
    return await fetch_snapshot(load_fetchers()["aws"], out, **flags)


async def test_the_keys_of_many_accounts_become_one_file_that_inventories_are_read_from(
    estate: AwsEstate, tmp_path: Path
) -> None:
    """With IDs, dates, use, state and owner of each; its digest is in the manifest, and nothing is left beside it."""
    out = tmp_path / "keys.jsonl"
    made = await fetched(out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keys.jsonl", "keys.jsonl.json"]
    manifest = json.loads((tmp_path / "keys.jsonl.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() == made.sha256
    assert (manifest["keys"], manifest["parts"], manifest["missing"]) == (300, 5, {})
    assert newest(tmp_path) == out  # of a folder, the manifest is not taken for the newest inventory
    rows = list(read(Inventory(out)))
    assert len(rows) == 300
    assert all(isinstance(row, InventoryKey) for row in rows)
    found = {row.facts.key_id: row for row in rows if isinstance(row, InventoryKey)}
    assert set(found) == {key.key_id for one in estate.accounts.values() for keys in one.users.values() for key in keys}
    for number, account in estate.accounts.items():
        for user, keys in account.users.items():
            for key in keys:
                row = found[key.key_id]
                assert row.account_id == f"arn:aws:iam::{number}:user/{user}"
                assert (row.facts.last_rotated_at, row.facts.last_used_at) == (key.created_at, key.used_at)
                assert row.facts.never_used == (key.used_at is None)
                team = account.tags[user].get("Owner")
                assert row.owner == team
                assert row.idle == (None if key.is_active else "inactive")
                assert row.facts.observed_at == estate.made_at  # the evidence is as old as the report


async def test_a_fetch_that_is_killed_twice_yields_the_same_bytes_as_one_that_is_not(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with SIGKILL between any two calls; an account that was read whole is not read again."""
    out, again = tmp_path / "keys.jsonl", tmp_path / "again.jsonl"
    estate.throttled = 29
    for number in ("000000000001", "000000000002"):  # which are read whole before the others
        estate.accounts[number].users = dict(list(estate.accounts[number].users.items())[:3])
    for kill_at in (30, 90):
        estate.calls.clear()
        process = await _started(out)
        estate.on_call = partial(_kill_at, kill_at, process.pid)
        await process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    plan = PartsFolder(out)
    started = plan.plan()
    finished = len(list(plan.folder.glob("0*.jsonl")))
    plan.close()
    assert started is not None
    assert 0 < finished < 5
    estate.calls.clear()
    estate.on_call = lambda number: None
    process = await _started(out)
    _, printed = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert b"resuming" in printed
    assert estate.calls["AssumeRole"] == 5 - finished
    monkeypatch.setattr("keyturn.snapshots.fetch.now", lambda: started.started_at)
    await fetched(again)
    assert again.read_bytes() == out.read_bytes()
    assert b"AKIA" not in printed


def _kill_at(wanted: int, pid: int, number: int) -> None:
    if number == wanted:
        os.kill(pid, signal.SIGKILL)


async def _started(out: Path, *flags: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "keyturn.starter", "inventory", "fetch"]
    command += ["--from", "aws", "--out", str(out), *flags]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=out.parent, stdout=pipe, stderr=pipe)


async def test_throttling_and_pages_change_nothing_but_the_time(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fifth call is throttled, and users come by sevens."""
    moment = now()
    monkeypatch.setattr("keyturn.snapshots.fetch.now", lambda: moment)
    await fetched(tmp_path / "whole.jsonl")
    estate.throttled, estate.users_a_page = 5, 7
    await fetched(tmp_path / "throttled.jsonl")
    assert (tmp_path / "throttled.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("action", ["AssumeRole", "ListAccessKeys", "GetAccountAuthorizationDetails"])
async def test_an_account_that_may_not_be_read_is_named_and_nothing_is_written_without_it(
    estate: AwsEstate, tmp_path: Path, action: str
) -> None:
    """Once it may be read, it alone is; with --allow-missing, the manifest names it."""
    out = tmp_path / "keys.jsonl"
    estate.denied.add((action, "000000000004"))
    with pytest.raises(SnapshotIncomplete) as caught:
        await fetched(out)
    assert str(caught.value) == f"1 of 5 accounts could not be read:\n  000000000004: {action}: AccessDenied"
    assert not out.exists()
    estate.calls.clear()
    made = await fetched(out, allow_missing=True)
    assert (made.keys, dict(made.missing)) == (240, {"000000000004": f"{action}: AccessDenied"})
    assert estate.calls["AssumeRole"] == 1
    estate.denied.clear()
    assert (await fetched(out)).keys == 300


async def test_a_snapshot_that_lost_a_fifth_of_its_keys_stops_with_both_figures(
    estate: AwsEstate, tmp_path: Path
) -> None:
    """One that lost exactly a fifth does not; --expect-fewer accepts it without reading anything again."""
    out = tmp_path / "keys.jsonl"

    def lose(users: int) -> None:
        for account in estate.accounts.values():
            for name in list(account.users)[:users]:
                del account.users[name]

    await fetched(out)
    lose(8)  # a dozen keys of each account
    assert (await fetched(out)).keys == 240
    before = out.read_bytes()
    lose(8)  # a dozen keys of each account
    with pytest.raises(SnapshotSmaller, match=r"180 keys were found, and the last snapshot .* has 240"):
        await fetched(out)
    assert out.read_bytes() == before
    estate.calls.clear()
    assert (await fetched(out, expect_fewer=True)).keys == 180
    assert not estate.calls


async def test_an_account_that_has_no_key_any_more_stops_the_snapshot_by_its_name(
    estate: AwsEstate, tmp_path: Path
) -> None:
    """Of forty accounts, one whose rights were taken away is far less than a fifth of the keys."""
    out = tmp_path / "keys.jsonl"
    estate.fill(accounts=40, users=6)
    made = await fetched(out)
    assert (len(made.keys_by_part), sum(made.keys_by_part.values())) == (made.parts, made.keys)
    name = sorted(estate.accounts)[3]
    estate.accounts[name].users.clear()
    with pytest.raises(SnapshotSmaller, match=f"no key is left in {name}, which the last snapshot"):
        await fetched(out)
    left = await fetched(out, expect_fewer=True)
    assert (left.keys_by_part.get(name, 0), left.keys) == (0, made.keys - made.keys_by_part[name])
    assert (await fetched(out)).keys == left.keys, "it had none"


async def test_a_stored_page_counts_only_at_the_place_that_it_was_read_from(tmp_path: Path) -> None:
    """What follows on the disk may be of a listing that another attempt began."""
    parts, part, moment = PartsFolder(tmp_path / "keys.jsonl"), Part("account"), now()
    parts.store(1, 2, part, "x", Page(Rows(moment, "test", ""), ""))
    assert parts.stored(1, 2, part, "x") is not None
    assert parts.stored(1, 2, part, "y") is None
    assert parts.stored(1, 2, Part("another"), "x") is None
    parts.close()


async def test_a_listing_that_always_loses_its_place_is_given_up(tmp_path: Path) -> None:
    reads = 0

    class Lost:
        async def parts(self) -> list[Part]:
            return [Part("account")]

        async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
            nonlocal reads
            reads += 1
            raise CursorInvalid("the listing has expired")

        async def close(self) -> None: ...

    with pytest.raises(SnapshotIncomplete, match="the listing has expired"):
        await fetch_snapshot(replace(load_fetchers()["aws"], open=Lost), tmp_path / "keys.jsonl")
    assert reads == 4


async def test_a_part_whose_pages_lead_in_a_circle_is_named(tmp_path: Path) -> None:
    """It would be read until the disk is full."""

    class Circle:
        async def parts(self) -> list[Part]:
            return [Part("account")]

        async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
            return Page(Rows(observed_at, "test", ""), "b" if cursor == "a" else "a")

        async def close(self) -> None: ...

    fetcher = replace(load_fetchers()["aws"], open=Circle)
    with pytest.raises(SnapshotIncomplete, match="a page leads to itself, or to an earlier one"):
        await fetch_snapshot(fetcher, tmp_path / "keys.jsonl")


async def test_what_was_refused_for_its_few_keys_is_not_taken_over_by_the_next_fetch(
    estate: AwsEstate, tmp_path: Path
) -> None:
    """That of the next night: it reads what is there by then."""
    out = tmp_path / "keys.jsonl"
    await fetched(out)
    users = [dict(estate.accounts[number].users) for number in ("000000000001", "000000000002")]
    for number in ("000000000001", "000000000002"):
        estate.accounts[number].users.clear()
    for _ in range(2):
        with pytest.raises(SnapshotSmaller):
            await fetched(out)
    for number, before in zip(("000000000001", "000000000002"), users, strict=True):
        estate.accounts[number].users.update(before)
    assert (await fetched(out)).keys == 300


async def test_a_disk_that_is_full_ends_the_fetch_and_what_was_read_is_kept(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of an account, which --allow-missing would leave out."""
    out = tmp_path / "keys.jsonl"
    synced, room = os.fsync, [3]

    def full(file: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SnapshotUnwritable, match="No space left on device"):
            await fetched(out, allow_missing=True)
    assert not out.exists()
    estate.calls.clear()
    assert (await fetched(out)).keys == 300


@pytest.mark.usefixtures("estate")
async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnwritable, match=r"missing/keys\.jsonl\.parts cannot be written: No such file"):
        await fetched(tmp_path / "missing" / "keys.jsonl")


async def test_an_estate_without_a_key_is_an_error(estate: AwsEstate, tmp_path: Path) -> None:
    """Whatever flags are given; the next fetch reads everything again."""
    users = {number: dict(account.users) for number, account in estate.accounts.items()}
    for account in estate.accounts.values():
        account.users.clear()
    with pytest.raises(SnapshotEmpty):
        await fetched(tmp_path / "keys.jsonl", expect_fewer=True, allow_missing=True)
    for number, account in estate.accounts.items():
        account.users.update(users[number])
    assert (await fetched(tmp_path / "keys.jsonl")).keys == 300


@pytest.mark.usefixtures("estate")
async def test_two_processes_never_fetch_the_same_file(tmp_path: Path) -> None:
    first = PartsFolder(tmp_path / "keys.jsonl")
    with pytest.raises(FetchRunning):
        await fetched(tmp_path / "keys.jsonl")
    first.close()
    assert (await fetched(tmp_path / "keys.jsonl")).keys == 300


@pytest.mark.parametrize("change", ["settings", "a day"])
async def test_what_was_read_by_other_settings_or_a_day_ago_is_read_again(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """One snapshot is of one time and one list of accounts; the user is notified."""
    out, lines = tmp_path / "keys.jsonl", list[str]()
    estate.denied.add(("AssumeRole", "000000000005"))
    with pytest.raises(SnapshotIncomplete):
        await fetched(out)
    if change == "settings":
        monkeypatch.setenv("KEYTURN_AWS_ACCOUNTS", "000000000001 000000000002")
    else:
        plan = tmp_path / "keys.jsonl.parts" / "plan.json"
        stored = json.loads(plan.read_text())
        plan.write_text(json.dumps(stored | {"started_at": "2026-01-01T00:00:00Z"}))
        estate.denied.clear()
    made = await fetched(out, report=lines.append)
    assert (made.parts, made.keys) == ((2, 120) if change == "settings" else (5, 300))
    assert "everything is read again" in lines[0]


async def test_what_happens_during_a_fetch_is_no_evidence_of_its_time(estate: AwsEstate, tmp_path: Path) -> None:
    """A key that is younger than the snapshot is left out and counted; a use since then was one at that time."""
    user = estate.accounts["000000000001"].users["svc-00001"]
    user[0].created_at = now() + timedelta(minutes=5)
    user[1].used_at = now() + timedelta(minutes=5)
    made = await fetched(tmp_path / "keys.jsonl")
    assert (made.keys, made.younger) == (299, 1)
    rows = {row["key_id"]: row for row in map(json.loads, (tmp_path / "keys.jsonl").read_text().splitlines())}
    assert user[0].key_id not in rows
    row = rows[user[1].key_id]
    assert row["last_used_at"] == row["observed_at"] == made.observed_at.isoformat().replace("+00:00", "Z")


async def test_nothing_private_is_in_the_folder_of_a_fetch(estate: AwsEstate, tmp_path: Path) -> None:
    """The external ID and credentials are in no file, and the folder is for its user alone."""
    estate.denied.add(("AssumeRole", "000000000005"))
    with pytest.raises(SnapshotIncomplete):
        await fetched(tmp_path / "keys.jsonl")
    folder = tmp_path / "keys.jsonl.parts"
    assert folder.stat().st_mode & 0o077 == 0
    text = "".join(file.read_text() for file in folder.iterdir())
    assert "external-1" not in text
    assert "no secret of anyone's" not in text


@pytest.mark.usefixtures("estate")
async def test_a_key_of_root_is_in_the_snapshot_by_its_creation(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no list of keys; an account that has one must not look as if it had none."""
    root = {"access_key_1_active": "true", "access_key_1_last_rotated": "2026-02-01T00:00:00+00:00"}
    monkeypatch.setattr(estate, "root", root)
    made = await fetched(tmp_path / "keys.jsonl")
    assert made.keys == 305
    rows = [json.loads(line) for line in (tmp_path / "keys.jsonl").read_text().splitlines()]
    assert [row["key_id"] for row in rows if row["account_id"] == "arn:aws:iam::000000000003:root"] == [
        "access_key.20260201T000000Z"
    ]


@pytest.mark.usefixtures("estate")
async def test_the_snapshot_of_another_cloud_is_not_replaced(tmp_path: Path) -> None:
    """Two clouds that were given one file would each lose the other's keys."""
    out, manifest = tmp_path / "keys.jsonl", tmp_path / "keys.jsonl.json"
    await fetched(out)
    before = out.read_bytes()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source": "gcp"}))
    with pytest.raises(AnotherSnapshot, match="is a snapshot of 'gcp', and not of aws"):
        await fetched(out)
    assert out.read_bytes() == before
    manifest.write_text("no JSON")
    assert (await fetched(out)).keys == 300


@pytest.mark.usefixtures("estate")
async def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Another snapshot in the folder may be being written."""
    left, other = tmp_path / ".unfinished-0123abcd-keys.jsonl", tmp_path / ".unfinished-0123abcd-old-keys.jsonl"
    left.touch()
    other.touch()
    await fetched(tmp_path / "keys.jsonl")
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "keys.jsonl", "keys.jsonl.json"]


async def test_a_report_that_is_cut_off_is_no_report(
    estate: AwsEstate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose row is half there would look as if it had no key."""
    whole = estate.report
    monkeypatch.setattr(estate, "report", lambda account: whole(account)[:-150])
    with pytest.raises(SnapshotIncomplete, match="the report cannot be read"):
        await fetched(tmp_path / "keys.jsonl")
