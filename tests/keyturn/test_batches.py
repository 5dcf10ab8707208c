"""Batch endpoints of both providers, as the simulator speaks them: unordered, missing, twice, expired, lost."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from keyturn.lab.stack.loopback import loopback_client
from keyturn.llm.batches import BatchClient
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.errors import AuthenticationFailed, ProviderUnavailable, UnexpectedStatus
from keyturn.llm.providers.anthropic.batches import AnthropicBatches
from keyturn.llm.providers.openai.batches import OpenAiBatches
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.definition import Prompt
from tests.support.boundaries import endpoint, guarded
from tests.support.cases import facts, request
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import Script

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with loopback_client(timeout=20) as client:
        yield client


@pytest.fixture(params=["openai", "anthropic"])
def batches(request: pytest.FixtureRequest, http: httpx.AsyncClient, simulator: SimulatorControl) -> BatchClient:
    key = SecretStr("any")
    if request.param == "openai":
        return OpenAiBatches(http, endpoint("openai", f"{simulator.address}/v1", key=key), "simulator-1")
    return AnthropicBatches(http, endpoint("anthropic", simulator.address, key=key), "simulator-1")


def prompts(count: int) -> list[tuple[str, Prompt]]:
    boundary = ModelBoundary({"*": [Script("")]}, load_catalogue(), guard=guarded(), record=lambda _: None)
    asked = [request(account_id=f"acct_{number}", credential=facts(key_id=f"key_{number}")) for number in range(count)]
    return [(f"k{number}-abc", boundary.prompt_of(one)) for number, one in enumerate(asked)]


async def answered(batches: BatchClient, batch_id: str) -> list[tuple[str, bool]]:
    return [(answer.custom_id, answer.completion is not None) async for answer in batches.answers(batch_id)]


async def test_a_batch_is_submitted_polled_and_answered_in_no_order(
    batches: BatchClient, simulator: SimulatorControl
) -> None:
    """Some of it missing, some twice, some failed or expired: each is known by its custom id."""
    await simulator.plan_batches(polls=2, missing=1, errored=1, expired=1, duplicate=1)
    batch_id = await batches.submit("run-1/0", prompts(7))
    assert [await batches.state(batch_id) for _ in range(2)] == ["running", "ended"]
    found = await answered(batches, batch_id)
    assert ("k0-abc", True) not in found
    assert ("k0-abc", False) not in found
    assert sorted(found) == [
        ("k1-abc", False), ("k2-abc", False), ("k3-abc", True), ("k3-abc", True), ("k4-abc", True), ("k5-abc", True),
        ("k6-abc", True),
    ]  # fmt: skip
    answer = [one async for one in batches.answers(batch_id) if one.custom_id == "k4-abc"][0].completion  # noqa: RUF015
    assert answer is not None
    assert '"decision": "eligible"' in answer.text
    assert (answer.finish, answer.usage.input_tokens is not None) == ("complete", True)


async def test_a_submit_whose_answer_was_lost_is_found_again(batches: BatchClient, simulator: SimulatorControl) -> None:
    """By its marker or, where there is none, by its size and time among those that no run accounts for."""
    since = datetime.now(UTC) - timedelta(minutes=5)
    known = {await batches.submit("run-1/0", prompts(3))}
    assert await batches.find("run-1/1", count=3, since=since, known=known) is None
    await simulator.plan_batches(lose=True)
    with pytest.raises(ProviderUnavailable):
        await batches.submit("run-1/1", prompts(3))
    found = await batches.find("run-1/1", count=3, since=since, known=known)
    assert found is not None
    assert found not in known
    assert await batches.state(found) == "ended"
    assert await batches.find("run-1/1", count=4, since=since, known=known) in {None, found}
    future = datetime.now(UTC) + timedelta(hours=1)
    assert await batches.find("run-9/1", count=3, since=future, known=known) is None


async def test_two_that_might_be_the_lost_one_are_a_matter_for_a_person(
    http: httpx.AsyncClient, simulator: SimulatorControl
) -> None:
    """Anthropic's have no marker: a wrong one would be another run's, another submit would be paid twice."""
    batches = AnthropicBatches(http, endpoint("anthropic", simulator.address, key=SecretStr("any")), "simulator-1")
    for _ in range(2):
        await batches.submit("run-1/0", prompts(2))
    with pytest.raises(UnexpectedStatus, match="2 batches of 2 requests"):
        await batches.find("run-1/0", count=2, since=LONG_AGO, known=set())


async def test_a_batch_that_expired_has_ended_with_what_was_answered(
    http: httpx.AsyncClient, simulator: SimulatorControl
) -> None:
    """And one that failed has no answers at all."""
    batches = OpenAiBatches(http, endpoint("openai", f"{simulator.address}/v1", key=SecretStr("any")), "simulator-1")
    await simulator.plan_batches(end="expired", expired=2)
    batch_id = await batches.submit("run-1/0", prompts(4))
    assert await batches.state(batch_id) == "ended"
    assert sorted(good for _, good in await answered(batches, batch_id)) == [False, False, True, True]
    await simulator.plan_batches(end="failed")
    failed = await batches.submit("run-1/1", prompts(2))
    assert await batches.state(failed) == "failed"


async def test_a_refusal_is_named_by_the_one_table(batches: BatchClient, simulator: SimulatorControl) -> None:
    """A batch that is not there, and a key that is not taken."""
    with pytest.raises(Exception, match=r".") as caught:
        await batches.state("batch_that_is_not_there")
    assert caught.value.__class__.__module__ == "keyturn.llm.errors"
    assert not isinstance(caught.value, AuthenticationFailed)
