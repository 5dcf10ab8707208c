"""Runs by the providers' batch endpoints: answered later, at half the price, and what is left out is asked at once."""

from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.lab.stack.loopback import loopback_client
from keyturn.llm.http import HttpModelClient
from keyturn.llm.providers.anthropic.batches import AnthropicBatches
from keyturn.llm.providers.openai.batches import OpenAiBatches
from tests.support.boundaries import endpoint
from tests.support.estates import BulkPlace, bulk_place, due, estate, jobs_of, started
from tests.support.simulated import SimulatorControl


@pytest.fixture(params=["openai", "anthropic"])
def offline_place(
    request: pytest.FixtureRequest, temporal: Client, queue: str, engine: AsyncEngine, simulator: SimulatorControl
) -> BulkPlace:
    """A place that asks the simulator, at once and by batches."""
    http, key = loopback_client(timeout=20), SecretStr("any")
    base = f"{simulator.address}/v1" if request.param == "openai" else simulator.address
    batches = OpenAiBatches if request.param == "openai" else AnthropicBatches
    provider = HttpModelClient(http, endpoint(request.param, base, key=key), "simulator-1")
    place = bulk_place(temporal, queue, engine, provider)
    taken = batches(http, endpoint(request.param, base, key=key), "simulator-1")
    place.batches = {"decide_rotation": taken, "summarize_scan": taken}
    return place


async def test_offline_a_run_is_answered_by_a_batch_and_what_that_leaves_out_is_asked_at_once(
    offline_place: BulkPlace, engine: AsyncEngine, simulator: SimulatorControl, run_id: str, tmp_path: Path
) -> None:
    """The answer to the submit is lost: the batch is found again. Some answers are missing, failed, or come twice."""
    place = offline_place
    await simulator.plan_batches(polls=2, missing=3, errored=2, expired=1, duplicate=2, lose=True)
    await place.load(estate(tmp_path / "keys.jsonl", keys=40), run_id)
    async with place.working():
        outcome = await (await started(place, run_id, offline=True)).result()
    assert outcome.progress.outcomes["job_created"] == 4
    assert sum(outcome.progress.outcomes.values()) == 40
    assert await jobs_of(engine) == due(40)
    asked = await simulator.requests()
    by_batch = [entry["account"] for entry in asked if "batch" in entry]
    assert len({entry["batch"] for entry in asked if "batch" in entry}) == 1, "it was not submitted twice"
    at_once = [entry["account"] for entry in asked if "batch" not in entry]
    assert len(by_batch) == len(set(by_batch)) == 34
    # What was left out, and what the batch answered in a way that did not count, is asked at once.
    assert {f"acct_{number:06}" for number in range(6)} <= set(at_once)
    assert len(place.records) >= 40
    item = (await place.store.items(run_id, after=20, limit=1))[0]
    assert item["outcome"] == "job_created"


async def test_offline_answers_cost_half(
    offline_place: BulkPlace, simulator: SimulatorControl, run_id: str, tmp_path: Path
) -> None:
    """In the ledger: the same question, by a batch and at once."""
    place = offline_place
    place.price_of_simulator()
    await place.load(estate(tmp_path / "keys.jsonl", keys=10, due=lambda number: True), run_id)
    async with place.working():
        await (await started(place, run_id, offline=True)).result()
    offline = [record for record in place.records if not record.cache_hit]
    assert len(offline) == 10
    place.records.clear()
    place.tenant += "-b"
    other = estate(tmp_path / "other.jsonl", keys=10, due=lambda number: True)
    other.write_text(other.read_text().replace("acct_", "acct-"))
    await place.load(other, f"{run_id}-b")
    async with place.working():
        await (await started(place, f"{run_id}-b")).result()
    at_once = [record for record in place.records if not record.cache_hit]
    assert len(at_once) == 10
    costs = [sum((record.cost_usd or Decimal(0) for record in records), Decimal(0)) for records in (offline, at_once)]
    assert costs[1] > 0
    assert abs(costs[0] / costs[1] - Decimal("0.5")) < Decimal("0.01")
