"""The desk's pages on a large estate: how long a browser waits for the first byte of each."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import insert
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from benchmarks.results import Result
from keyturn.application.encryption import names_of
from keyturn.application.requests import id_of
from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.database import open_database
from keyturn.desk.app import desk_application
from keyturn.desk.desk import Desk
from keyturn.desk.settings import DeskSettings
from keyturn.jobs.tables import rotation_jobs
from keyturn.keyring_files import new_keyring_text, parse_keyring
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.temporal import dev_server
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.grounding import decide_by_rule
from keyturn.rotations.contracts import RotationRequest, RotationStatus
from keyturn.web.serving import served
from keyturn.workflows.rotation import RotationWorkflow
from keyturn.workflows.visibility import APPROVAL, PARKED, WAITING, attributes_at_start, memo_at_start

FIRST_BYTE_SECONDS = 0.3
PAGES = (
    *("/", "/approvals", "/rotations", "/rotations?owner=team-3", "/jobs", "/jobs?overdue=true&order_by=due"),
    *("/jobs?owner=team-3", f"/jobs/job_{1:032x}", "/runs", "/calls", "/waivers", "/exposed", "/ask"),
)
OWNERS = 40
AT_ONCE = 64
TENANT = "estate"


async def measure(postgresql: URL, *, rotations: int, waiting: int, keys: int, rounds: int) -> list[Result]:
    """Return how long each page takes until its first byte: the slowest page counts.

    Args:
        postgresql: a migrated database.
        rotations: that have completed.
        waiting: that wait for an approval.
        keys: of a run, each with a job.
        rounds: how often each page is asked for, after one that does not count.
    """
    keyring = parse_keyring(new_keyring_text(), source="the benchmark's own")
    catalogue = load_catalogue()
    engine = open_database(postgresql)
    async with dev_server(keyring=keyring) as client:
        await _fill_database(engine, keys)
        await _start(client, waiting, waits=True)
        await _start(client, rotations, waits=False)
        desk = Desk(client, engine, keyring, catalogue, tenant=TENANT, task_queue="nobody")
        settings = DeskSettings(
            KEYTURN_DESK_ADDRESS="127.0.0.1:0", KEYTURN_TENANT=TENANT, KEYTURN_DESK_REQUESTS_PER_MINUTE=100_000
        )
        application = desk_application(desk, engine, settings, keyring)
        at = served(application, settings.address, setting="KEYTURN_DESK_ADDRESS")
        async with at as url, loopback_client(url, timeout=60) as http:
            seconds = {path: [await _first_byte(http, path) for _ in range(rounds + 1)][1:] for path in PAGES}
    await engine.dispose()
    slowest = max(seconds, key=lambda path: statistics.median(seconds[path]))
    detail = "; ".join(f"{path} {_spread(series)}" for path, series in seconds.items())
    ratio = statistics.median(seconds[slowest]) / FIRST_BYTE_SECONDS
    holds = all(max(series) <= FIRST_BYTE_SECONDS for series in seconds.values())
    name = f"desk, first byte of the slowest page against {FIRST_BYTE_SECONDS:g} s"
    estate = f"{rotations:,} rotations, {keys:,} keys, {waiting:,} waiting; ms: "
    return [Result(name, round(ratio, 3), "<= 1", holds, estate + detail)]


async def _first_byte(http: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    async with http.stream("GET", path) as response:
        async for _ in response.aiter_raw():
            break
        taken = time.perf_counter() - began
        response.raise_for_status()
    return taken


def _spread(series: Sequence[float]) -> str:
    low, middle, high = (1000 * figure for figure in (min(series), statistics.median(series), max(series)))
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


async def _start(client: Client, count: int, *, waits: bool) -> None:
    """Start rotations that no worker takes: they wait for an approval, or are ended at once."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        request = RotationRequest.model_validate(
            {
                "tenant_id": TENANT,
                "user_id": "luna",
                "trace_id": f"trace_{uuid.uuid4().hex}",
                "account_id": f"acct_{'w' if waits else 'd'}{number:06d}",
                "policy_lines": [{"id": "P-7", "version": 1}],
                "question": "May it be rotated?",
                "owner": f"team-{number % OWNERS}",
                "credential": {"key_id": "key_01", "stale": True, "observed_at": datetime.now(UTC), "source": "bench"},
            }
        )
        names = names_of(client)
        attributes = attributes_at_start(request, names)
        memo: dict[str, Any] = {**memo_at_start(request)}
        if waits:
            pairs = [*attributes.search_attributes, SearchAttributePair(PARKED, APPROVAL)]
            attributes = TypedSearchAttributes(pairs)
            memo |= {WAITING: _status_of(request)}
        async with turns:
            handle = await client.start_workflow(
                RotationWorkflow.run,
                request,
                id=id_of(request, names),
                task_queue="nobody",
                search_attributes=attributes,
                memo=memo,
            )
            if not waits:
                await handle.terminate()

    await asyncio.gather(*map(one, range(count)))


def _status_of(request: RotationRequest) -> RotationStatus:
    now = datetime.now(UTC)
    return RotationStatus(
        phase="awaiting_approval",
        since=now,
        until=now + timedelta(days=7),
        kind=APPROVAL,
        requested_by=(request.user_id,),
        account_id=request.account_id,
        key_id=request.credential.key_id,
        decision=decide_by_rule(request, list(load_catalogue().resolve(request.policy_lines))),
        credential=request.credential,
    )


async def _fill_database(engine: AsyncEngine, keys: int) -> None:
    """Write a completed run whose keys have a job each, a third of them overdue."""
    now, run_id = datetime.now(UTC), f"run-{uuid.uuid4().hex[:16]}"
    run = {
        "run_id": run_id, "tenant_id": TENANT, "task": "decide_rotation", "source": "keys.csv", "source_digest": "x",
        "policy_lines": ["P-7@1"], "requested_by": "audit", "workflow_id": f"bulk:{TENANT}:{run_id}", "created_at": now,
        "loaded_at": now, "asks": keys,
    }  # fmt: skip
    async with engine.begin() as connection:
        await connection.execute(insert(bulk_runs), run)
        for first in range(0, keys, 5_000):
            numbers = range(first, min(first + 5_000, keys))
            jobs = [
                {
                    "job_id": f"job_{number:032x}", "tenant_id": TENANT, "idempotency_key": f"bench:{number}",
                    "fingerprint": "x", "status": "done" if number % 5 == 0 else "open",
                    "account_id": f"acct_{number:06d}", "key_id": "key_01", "credential_kind": "service_account_key",
                    "owner": f"team-{number % OWNERS}",
                    "policy_lines": ["P-7@1"] if number % 2 else ["CIS-AWS-4.0-1.14@1"], "requested_by": "audit",
                    "created_at": now - timedelta(seconds=number), "rotate_by": now + timedelta(days=number % 60 - 20),
                }
                for number in numbers
            ]  # fmt: skip
            items = [
                {
                    "run_id": run_id, "ordinal": number, "ask": number, "line": number, "outcome": "job_created",
                    "account_id": f"acct_{number:06d}", "key_id": "key_01", "job_id": f"job_{number:032x}",
                }
                for number in numbers
            ]  # fmt: skip
            await connection.execute(insert(rotation_jobs), jobs)
            await connection.execute(insert(bulk_items), items)
