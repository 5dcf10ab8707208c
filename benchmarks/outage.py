"""A route whose first endpoint is silent, against its second one alone: what a known outage costs a call."""

import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack

from pydantic import SecretStr

from benchmarks.contenders import CATALOGUE, MODEL
from benchmarks.results import Result, compared
from keyturn.lab.stack.processes import child
from keyturn.ledger.prices import RateCard
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.guard import Guard
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.keys import FixedKey
from keyturn.llm.outages import FAILURES_TO_OPEN
from keyturn.llm.providers import load_providers, price_lists_of_providers
from tests.support.cases import request

SECONDS = 3.0  # of a call: the first five wait 60 % of it for nothing
ANSWER_MS = 20  # of the second endpoint: shorter than any model, so that the difference shows


async def measure(*, rounds: int, calls: int) -> list[Result]:
    """Return the p50 of the calls after the first five, against that of the second endpoint alone."""
    async with AsyncExitStack() as parts:
        silent, answering = [await _mock(parts, delay) for delay in (600_000, ANSWER_MS)]
        http = await parts.enter_async_context(http_client(64))

        def boundary(*providers: HttpModelClient) -> ModelBoundary:
            return ModelBoundary(
                {"*": providers},
                CATALOGUE,
                guard=Guard(RateCard({}, lists=price_lists_of_providers())),
                record=lambda _call: None,
            )

        key = FixedKey(SecretStr("k"))
        first = HttpModelClient(http, Endpoint("first", load_providers()["openai"], silent, key), MODEL)
        second = HttpModelClient(http, Endpoint("second", load_providers()["compatible"], answering, key), MODEL)
        alone = boundary(second)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            route = boundary(first, second)  # one that knows nothing yet
            for _ in range(FAILURES_TO_OPEN):
                await route.answer(request(timeout_seconds=SECONDS))
            ours.append(await _p50(route, calls))
            theirs.append(await _p50(alone, calls))
    name = "call p50 with a silent first endpoint / the second alone"
    return [compared(name, ours, theirs, unit="ms", target=1.1)]


async def _mock(parts: AsyncExitStack, delay: int) -> str:
    command = [sys.executable, "-m", "benchmarks.mock", str(delay)]
    process = await parts.enter_async_context(child(command, stdout=asyncio.subprocess.PIPE))
    assert process.stdout is not None
    return f"{(await process.stdout.readline()).decode().strip()}/v1"


async def _p50(boundary: ModelBoundary, calls: int) -> float:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await boundary.answer(request(timeout_seconds=SECONDS))
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000
