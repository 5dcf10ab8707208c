"""Bulk runs against one rotation workflow a key; inventories against the bare CSV reader; people beside a run."""

import asyncio
import csv
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import URL
from temporalio.client import Client

from benchmarks.results import Result, compared
from benchmarks.workflows import rate_of
from keyturn.application.requests import id_of
from keyturn.application.runs import start_run
from keyturn.bulk.contracts import BulkOrder
from keyturn.database import open_database
from keyturn.inventory.read import read
from keyturn.inventory.source import Inventory
from keyturn.lab.stack.embedded import simulator_process
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.keys import FixedKey
from keyturn.llm.providers import load_providers
from keyturn.rotations.contracts import RotationRequest
from keyturn.workers.people_first import LINGERS_SECONDS
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.cases import facts, request
from tests.support.estates import LINE, NOW, BulkPlace, Judge, bulk_place, estate
from tests.support.keys import KEYRING
from tests.support.simulated import SimulatorControl

REPORT = (
    "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,password_next_rotation,"
    "mfa_active,access_key_1_active,access_key_1_last_rotated,access_key_1_last_used_date,access_key_1_last_used_region,"
    "access_key_1_last_used_service,access_key_2_active,access_key_2_last_rotated,access_key_2_last_used_date,"
    "access_key_2_last_used_region,access_key_2_last_used_service,cert_1_active,cert_1_last_rotated,cert_2_active,"
    "cert_2_last_rotated"
)


async def measure(postgresql: URL, *, rounds: int, keys: int, more: int) -> list[Result]:
    """Return keys/s, cost a key at `keys` and at `more` keys, people's latency beside a run, and rows/s of a report."""
    with tempfile.TemporaryDirectory() as folder:
        async with dev_server(keyring=KEYRING) as client:
            results = await _runs(client, postgresql, Path(folder), rounds=rounds, keys=keys, more=more)
            results += await _due(client, postgresql, Path(folder), rounds=rounds, keys=320)
        return results + await asyncio.to_thread(_inventories, Path(folder), rounds)


async def _runs(client: Client, url: URL, folder: Path, *, rounds: int, keys: int, more: int) -> list[Result]:
    engine = open_database(url)
    place = bulk_place(client, f"bench-{uuid.uuid4().hex}", engine, Judge())
    ours, theirs, larger, events = [], [], [], 0.0
    async with place.working(pages_at_once=8):
        await _judged(place, folder, 100)
        for _ in range(rounds):
            rate, events = await _judged(place, folder, keys)
            ours.append(rate)
            theirs.append(await _one_by_one(place, min(keys, 500)))
        for _ in range(min(rounds, 2)):
            rate, _ = await _judged(place, folder, more)
            larger.append(rate)
        idle, beside = await _people(place, folder, keys)
    await engine.dispose()
    flat = statistics.median(larger) / statistics.median(ours)
    slower = statistics.median(beside) / statistics.median(idle)
    return [
        compared(f"bulk keys/s, {keys:,} keys, a tenth due", ours, theirs, unit="/s", at="least", target=2),
        Result(
            f"bulk keys/s at {more:,} keys against {keys:,}",
            round(flat, 3),
            ">= 0.8",
            flat >= 0.8,
            f"{statistics.median(larger):.4g} against {statistics.median(ours):.4g} /s",
        ),
        Result("bulk history events a key", round(events, 3), "-", True, "of the run and its rotations, a tenth due"),
        Result(
            "a person's rotation beside a run against idle, p50",
            round(slower, 3),
            "<= 1.5",
            slower <= 1.5,
            f"{statistics.median(beside) * 1000:.4g} against {statistics.median(idle) * 1000:.4g} ms",
        ),
    ]


async def _due(client: Client, url: URL, folder: Path, *, rounds: int, keys: int) -> list[Result]:
    """Return how fast due keys become jobs, by a provider over HTTP that answers at once or in a second."""
    alone, instant, slow = [], [], []
    engine = open_database(url)
    async with simulator_process() as address, http_client(300) as http, loopback_client(address) as control:
        simulator = SimulatorControl(control, address)
        endpoint = Endpoint("openai", load_providers()["openai"], f"{address}/v1", FixedKey(SecretStr("k")))
        place = bulk_place(client, f"bench-{uuid.uuid4().hex}", engine, HttpModelClient(http, endpoint, "simulator-1"))
        async with place.working(pages_at_once=8):
            await _seconds_due(place, folder, 60)
            for _ in range(rounds):
                alone.append(await _one_by_one(place, keys, every=1))
                await asyncio.sleep(2 * LINGERS_SECONDS)  # what people asked for counts as theirs a moment longer
                instant.append(keys / await _seconds_due(place, folder, keys))
                await simulator.fail("slow", times=None, seconds=1.0)
                slow.append(keys / await _seconds_due(place, folder, keys))
                await simulator.reset()
    await engine.dispose()
    longest = keys / min(instant + slow)
    return [
        compared("due keys/s of a run against rotations 50 at once", instant, alone, unit="/s", at="least", target=0.8),
        compared("due keys/s, a provider of 1 s against instant", slow, instant, unit="/s", at="least", target=0.8),
        Result(f"a run of {keys} due keys, seconds", round(longest, 2), "<= 15", longest <= 15, "the longest of all"),
    ]


async def _seconds_due(place: BulkPlace, folder: Path, keys: int) -> float:
    place.tenant = f"t-{uuid.uuid4().hex[:12]}"
    run_id = f"run-{uuid.uuid4().hex[:12]}"
    await place.load(estate(folder / "due.jsonl", keys=keys, due=lambda _number: True), run_id)
    began = time.perf_counter()
    handle = await start_run(place.client, BulkOrder(run_id=run_id, tenant_id=place.tenant), task_queue=place.queue)
    outcome = await handle.result()
    if outcome.progress.outcomes != {"job_created": keys}:
        raise AssertionError(f"the run ended otherwise: {outcome.progress.outcomes}")
    return time.perf_counter() - began


async def _judged(place: BulkPlace, folder: Path, keys: int) -> tuple[float, float]:
    """Return keys a second of a run, from its start to its end, and the history events it took a key."""
    place.tenant = f"t-{uuid.uuid4().hex[:12]}"
    run_id = f"run-{uuid.uuid4().hex[:12]}"
    await place.load(estate(folder / "keys.jsonl", keys=keys), run_id)
    began = time.perf_counter()
    order = BulkOrder(run_id=run_id, tenant_id=place.tenant)
    handle = await start_run(place.client, order, task_queue=place.queue)
    outcome = await handle.result()
    took = time.perf_counter() - began
    if outcome.progress.outcomes != {"job_created": keys // 10, "not_specified": keys - keys // 10}:
        raise AssertionError(f"the run ended otherwise: {outcome.progress.outcomes}")
    of_run = (await handle.describe()).history_length
    return keys / took, of_run / keys + 17 / 10


async def seconds_of_run(place: BulkPlace, folder: Path, keys: int) -> float:
    """Return how long a run of so many keys takes, a tenth of them due."""
    rate, _ = await _judged(place, folder, keys)
    return keys / rate


async def _one_by_one(place: BulkPlace, keys: int, *, every: int = 10) -> float:
    """Return keys a second if each is a rotation workflow that a client starts, 50 at once; one in `every` is due."""
    numbers = iter(range(10**9))

    async def one() -> None:
        asked = _asked(next(numbers) % every == 0)
        await place.client.execute_workflow(RotationWorkflow.run, asked, id=id_of(asked), task_queue=place.queue)

    return await rate_of(one, keys, 50)


def _asked(due: bool) -> RotationRequest:
    rotated = {"last_rotated_at": NOW - timedelta(days=120)} if due else {}
    unknown = {"stale": None, "age_days": None, "kind": "access_key", "observed_at": NOW}
    credential = facts(**unknown | rotated)
    line = request().policy_lines[0].model_copy(update={"id": LINE})
    return request(credential=credential, policy_lines=(line,), account_id=f"acct_{uuid.uuid4().hex[:12]}")


async def _people(place: BulkPlace, folder: Path, keys: int) -> tuple[list[float], list[float]]:
    """Return how long a person's rotation takes while nothing else runs, and while a run does."""

    async def one() -> float:
        asked = _asked(True)
        began = time.perf_counter()
        await place.client.execute_workflow(RotationWorkflow.run, asked, id=id_of(asked), task_queue=place.queue)
        return time.perf_counter() - began

    idle = [await one() for _ in range(30)]
    running = asyncio.create_task(_judged(place, folder, max(keys, 2_000)))
    beside = []
    while not running.done():
        beside.append(await one())
    await running
    return idle, beside


def _inventories(folder: Path, rounds: int) -> list[Result]:
    file = folder / "report.csv"
    rate = rows_a_second(file, 50_000, rounds=rounds)
    with file.open() as opened:
        bare = 50_000 / _timed(lambda: sum(1 for _ in csv.DictReader(opened)))
    detail = f"{rate:,.0f} rows/s; {rate / bare:.2f} of csv.DictReader, which checks nothing"
    return [Result("credential report, rows/s against 50,000", round(rate / 50_000, 3), ">= 1", rate >= 50_000, detail)]


def rows_a_second(file: Path, rows: int, *, rounds: int) -> float:
    """Write a credential report of so many rows, and return how many a second are read of it, in the middle round."""
    made = datetime(2026, 11, 20, tzinfo=UTC)
    with file.open("w") as opened:
        opened.write(REPORT + "\n")
        for number in range(rows):
            moment = (made - timedelta(days=number % 400, seconds=number)).isoformat()
            opened.write(
                f"svc{number},arn:aws:iam::123456789012:user/svc{number},{moment},false,N/A,N/A,N/A,false,true,{moment},"
                f"{moment if number % 3 else 'N/A'},eu-west-1,s3,false,N/A,N/A,N/A,N/A,false,N/A,false,N/A\n"
            )
    took = [_timed(lambda: sum(1 for _ in read(Inventory(file, observed_at=NOW)))) for _ in range(rounds)]
    return rows / statistics.median(took)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
