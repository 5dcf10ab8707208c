"""Snapshots of Kubernetes: tokens of service accounts by their metadata, and never a token."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.lab.simulator.kubernetes import Cluster
from keyturn.snapshots import attempts
from keyturn.snapshots.errors import CloudAnswerInvalid, SnapshotIncomplete
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetchers import kubernetes, load_fetchers
from keyturn.snapshots.publish import Manifest
from tests.support.servers import fake_server

TOKEN = "a-token-of-a-reader"  # pragma: allowlist secret
CREATED = "2026-02-01T10:00:00Z"


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Three namespaces with tokens and other secrets, a page of two objects, and no wait between attempts."""
    made = Cluster(TOKEN, namespaces={"prod", "test", "empty"})
    for number in range(5):
        made.add_token("prod", f"deployer-{number}", "deployer", labels={}, created_at=CREATED)
    made.add_token("test", "runner", "runner", labels={}, created_at=CREATED)
    made.write("prod", "pay", {"password": "very-secret"}, manager="helm")  # pragma: allowlist secret
    file = tmp_path / "token"
    file.write_text(TOKEN)
    monkeypatch.setattr(kubernetes, "OBJECTS_A_PAGE", 2)
    async with fake_server(made.application()) as address:
        monkeypatch.setenv("KEYTURN_KUBERNETES_URL", address)
        monkeypatch.setenv("KEYTURN_KUBERNETES_TOKEN_FILE", str(file))
        yield made


async def fetched(folder: Path, **flags: Any) -> tuple[Manifest, dict[str, InventoryKey]]:
    made = await fetch_snapshot(load_fetchers()["kubernetes"], folder / "keys.jsonl", **flags)
    rows = list(read(Inventory(folder / "keys.jsonl")))
    assert len(rows) == made.keys
    return made, {row.facts.key_id: row for row in rows if isinstance(row, InventoryKey)}


async def test_tokens_are_fetched_by_namespace_and_none_of_them_is_sent(cluster: Cluster, tmp_path: Path) -> None:
    """With the account as the server calls it, its owner, last day of use, and whether it still works."""
    used = {"kubernetes.io/legacy-token-last-used": "2026-10-05", "owner": "payments"}
    cluster.add_token("test", "used", "runner", labels=used, created_at=CREATED)
    invalid = {"kubernetes.io/legacy-token-invalid-since": "2026-10-05"}
    cluster.add_token("test", "invalid", "runner", labels=invalid, created_at=CREATED)
    cluster.labels["prod"] = {"annotations": {"Team": "platform"}}
    made, found = await fetched(tmp_path)
    assert (made.keys, made.parts) == (8, 3)
    assert found["deployer-0"].account_id == "system:serviceaccount:prod:deployer"
    assert found["deployer-0"].facts.last_rotated_at == datetime(2026, 2, 1, 10, tzinfo=UTC)
    assert [found[name].owner for name in ("deployer-0", "used", "runner")] == ["platform", "payments", None]
    assert found["used"].facts.last_used_at == datetime(2026, 10, 5, 23, 59, 59, tzinfo=UTC)
    assert (found["runner"].facts.last_used_at, found["runner"].facts.never_used) == (None, False)
    assert {name: row.idle for name, row in found.items() if row.idle} == {"invalid": "inactive"}
    assert cluster.calls.count("GET secrets prod") == 3
    text = (tmp_path / "keys.jsonl").read_text()
    assert "token-of" not in text
    assert "pay" not in found


async def test_a_server_that_would_send_the_tokens_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    cluster.lists_whole_objects = True
    with pytest.raises(SnapshotIncomplete, match="could not be listed: GET namespaces: the server lists whole objects"):
        await fetched(tmp_path)


async def test_a_namespace_that_may_not_be_listed_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """The others are read; once it may be, it alone is."""
    cluster.forbidden.add(("list", "secrets", "test"))
    with pytest.raises(SnapshotIncomplete, match=r"1 of 3 namespaces .*\n  test: GET secrets in test: 403 Forbidden"):
        await fetched(tmp_path)
    cluster.forbidden.clear()
    cluster.calls.clear()
    made, _ = await fetched(tmp_path)
    assert made.keys == 6
    assert cluster.calls == ["GET secrets test"]


async def test_a_listing_that_has_expired_is_read_from_its_beginning(cluster: Cluster, tmp_path: Path) -> None:
    """The server forgets a version after some minutes: no key is there twice, and none is missing.

    One that expires each time is given up.
    """

    def expire(call: str) -> None:
        cluster.oldest_version = 10_000 if call == "GET secrets prod" else 0

    cluster.on_call = expire
    cluster.forbidden.add(("list", "secrets", "test"))
    with pytest.raises(SnapshotIncomplete, match=r"prod: .*: the listing has expired"):
        await fetched(tmp_path)

    def expire_once(call: str) -> None:
        cluster.oldest_version = 10_000 if cluster.calls.count("GET secrets prod") == 2 else 0

    cluster.on_call = expire_once
    cluster.calls.clear()
    cluster.forbidden.clear()
    made, found = await fetched(tmp_path)
    assert made.keys == len(found) == 6
    assert cluster.calls.count("GET secrets prod") == 5  # the second page, the third in vain, and three


async def test_throttling_is_waited_for_as_the_server_asks(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what passes by itself is tried again."""
    waits = []

    def no_delay(_: int, *, retry_after: Any, remaining: None) -> Any:
        waits.append(retry_after)
        return datetime.now(UTC) - datetime.now(UTC)

    monkeypatch.setattr(attempts, "retry_delay", no_delay)
    faults = ("throttled", "unavailable", "page", "half_body", "answer_lost", "etcd_timeout")
    cluster.faults += [(fault, "GET secrets prod") for fault in faults]
    cluster.faults.append(("throttled", "GET namespaces"))
    made, _ = await fetched(tmp_path)
    assert made.keys == 6
    assert len(waits) == 7
    assert [wait.total_seconds() for wait in waits if wait is not None] == [1, 1]


async def test_a_token_without_an_account_is_left_out_and_said_to_be(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_token("test", "orphan", "", labels={}, created_at=CREATED)
    made, found = await fetched(tmp_path)
    assert "orphan" not in found
    assert dict(made.notes) == {"a secret of the type of tokens is of no service account, and is left out": 1}


async def test_a_fetch_that_is_killed_is_resumed_at_the_time_at_which_it_was_started(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with SIGKILL as the second namespace is asked for; the same bytes as of one that ran through then."""
    out, pids = tmp_path / "keys.jsonl", list[int]()
    cluster.namespaces |= {f"team-{number}" for number in range(20)}
    for number in range(20):
        cluster.add_token(f"team-{number}", "runner", "runner", labels={}, created_at=CREATED)

    def kill(call: str) -> None:
        if call == "GET secrets team-7" and pids:
            os.kill(pids.pop(), signal.SIGKILL)

    cluster.on_call = kill
    command = [sys.executable, "-m", "keyturn.starter", "inventory", "fetch", "--from", "kubernetes", "--out", str(out)]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path)
    pids.append(process.pid)
    assert await process.wait() == -signal.SIGKILL
    read_before = cluster.calls.count("GET secrets prod")
    await asyncio.sleep(1.1)  # another second than that of the start
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path)
    assert await process.wait() == 0
    assert cluster.calls.count("GET secrets prod") == read_before > 0
    resumed = out.read_bytes()
    manifest = json.loads((tmp_path / "keys.jsonl.json").read_text())
    monkeypatch.setattr("keyturn.snapshots.fetch.now", lambda: datetime.fromisoformat(manifest["observed_at"]))
    made, _ = await fetched(tmp_path)
    assert (made.keys, out.read_bytes()) == (26, resumed)


async def test_a_name_that_would_write_on_a_terminal_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    cluster.namespaces.add("\x1b[2J")
    with pytest.raises(CloudAnswerInvalid, match="a namespace has a name that no terminal may show"):
        await fetched(tmp_path)
