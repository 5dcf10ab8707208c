"""Answers in pieces: each provider's event stream over real HTTP, and whatever else may come in its place."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import (
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    UnreadableResponse,
)
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.wire import Completion
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.tasks.definition import Prompt
from keyturn.tasks.draft_reply import TASK, DraftRequest
from tests.support.boundaries import WIRES, endpoint, guarded, on_simulator
from tests.support.cases import P7
from tests.support.simulated import SimulatorControl

SOON = Timeouts(connect=5, first_byte=5, total=5)
wires = pytest.mark.parametrize("wire", sorted(WIRES))


def asked(**changed: Any) -> DraftRequest:
    fields = {"account_id": "acct_1", "policy_lines": (P7,), "question": "May it?", "decision": "eligible"}
    return DraftRequest(**fields | {"rotation_window_days": 30, "trace_id": "trace_1"} | changed)


def prompt(**changed: Any) -> Prompt:
    request = asked(**changed)
    return TASK.prompt(request, load_catalogue().resolve(request.policy_lines))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(8) as client:
        yield client


async def streamed(
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: str, timeouts: Timeouts = SOON
) -> tuple[Completion, list[str]]:
    heard: list[str] = []
    provider = on_simulator(http, simulator, wire)
    completion = await provider.complete(prompt(), timeouts=timeouts, trace_id="trace_1", on_text=heard.append)
    return completion, heard


@wires
async def test_a_stream_ends_in_the_same_answer_as_a_whole_one(
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: str
) -> None:
    """Text, end, usage and model; and on the way there is only ever more of it."""
    await simulator.pace(0)
    whole = await on_simulator(http, simulator, wire).complete(prompt(), timeouts=SOON, trace_id="trace_1")
    completion, heard = await streamed(http, simulator, wire)
    assert (completion.text, completion.finish, completion.finish_reason, completion.model) == (
        (whole.text, whole.finish, whole.finish_reason, whole.model)
    )  # fmt: skip
    assert completion.usage.output_tokens == whole.usage.output_tokens
    assert completion.usage.input_tokens == whole.usage.input_tokens
    assert completion.request_id is not None
    assert len(heard) > 20
    assert all(later.startswith(earlier) for earlier, later in pairwise(heard))
    assert heard[-1] == completion.text
    assert "Let me look" not in completion.text, "what a model thinks is no part of its answer"


@wires
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"name": "broken_stream"}, ProviderUnavailable),
        ({"name": "half_body"}, ProviderUnavailable),
        ({"name": "hang"}, ProviderTimeout),
        ({"name": "drop"}, ProviderUnavailable),
        ({"name": "slow"}, ProviderTimeout),
        ({"name": "rate_limit"}, RateLimited),
        ({"name": "quota"}, QuotaExhausted),
        ({"name": "not_a_completion"}, UnreadableResponse),
        ({"name": "compressed"}, UnreadableResponse),
    ],
)
async def test_a_stream_that_fails_is_named_as_any_failure_is(
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: str, fault: dict[str, Any], error: type[ProviderError]
) -> None:
    """Before its first text or in its middle: a stream that breaks off is never taken for an answer."""
    await simulator.pace(0)
    await simulator.fail(**fault)
    limit = 1 if error is ProviderTimeout else 20
    with pytest.raises(error) as caught:
        await streamed(http, simulator, wire, Timeouts(connect=limit, first_byte=limit, total=limit))
    if fault["name"] == "broken_stream" and wire == "anthropic":
        assert caught.type is ProviderOverloaded


@wires
@pytest.mark.parametrize(("fault", "finish"), [("refusal", "refused"), ("content_filter", "filtered"),
                                               ("truncated_json", "truncated")])  # fmt: skip
async def test_a_stream_that_ends_otherwise_says_so(
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: str, fault: str, finish: str
) -> None:
    await simulator.fail(fault)
    completion, _ = await streamed(http, simulator, wire)
    # Anthropic calls both a refusal, and Gemini's safety filter is what refuses.
    assert completion.finish in {finish} | ({"refused", "filtered"} if finish != "truncated" else set())


@wires
async def test_whoever_stops_listening_closes_the_connection(
    http: httpx.AsyncClient, simulator: SimulatorControl, wire: str
) -> None:
    """The provider's side sees it within a second: nothing more is written and paid for."""
    first, loop = asyncio.Event(), asyncio.get_running_loop()
    provider = on_simulator(http, simulator, wire)
    listening = asyncio.create_task(
        provider.complete(prompt(), timeouts=SOON, trace_id="trace_1", on_text=lambda _text: first.set())
    )
    await first.wait()
    listening.cancel()
    stopped = loop.time()
    async with asyncio.timeout(5):
        while "closed_at" not in (await simulator.requests())[0]:
            await asyncio.sleep(0.01)
    assert loop.time() - stopped < 1


async def test_a_fallback_begins_the_text_anew(
    http: httpx.AsyncClient, simulator: SimulatorControl, catalogue: Catalogue
) -> None:
    """What the first provider had written is no part of what the second one writes, and both are recorded."""
    await simulator.pace(0)
    await simulator.fail("half_body", provider="openai")
    route = [on_simulator(http, simulator, wire) for wire in ("openai", "anthropic")]
    heard: list[str] = []
    boundary = ModelBoundary({"*": route}, catalogue, guard=guarded(), record=lambda _call: None)
    judged = await boundary.answer(asked(), on_text=heard.append)
    assert judged.verdict.text == heard[-1]
    assert [(one.provider, one.failure) for one in judged.call.passed_over] == [("openai", "provider_unavailable")]
    assert any(len(later) < len(earlier) for earlier, later in pairwise(heard))
    assert judged.call.first_byte_ms is not None


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
NAMES = st.sampled_from(
    ["type", "choices", "delta", "content", "candidates", "parts", "text", "message", "error", "code"]
)
EVENTS = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        LEAVES | st.sampled_from(["message_start", "message_stop", "content_block_delta", "text_delta"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=8,
    ).map(lambda data: f"data: {json.dumps(data)}\n\n".encode()),
    st.sampled_from([b"data: [DONE]\n\n", b"event: error\n", b"\r", b"\n\n", b": ping\n", b"data: " + b"[" * 9_000]),
)


@wires
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(EVENTS, max_size=8))
@example([b"data: {}\n\n"])
async def test_whatever_comes_as_a_stream_is_an_answer_or_a_named_failure(wire: str, chunks: list[bytes]) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream())

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        provider = HttpModelClient(http, endpoint(wire, "http://p", key=SecretStr("key")), "m")
        with suppress(ProviderError):
            completion = await provider.complete(prompt(), timeouts=SOON, trace_id="t", on_text=lambda _text: None)
            assert isinstance(completion.text, str)


async def test_an_endless_stream_is_left(http: httpx.AsyncClient) -> None:
    """After a mebibyte, whatever it says."""

    async def stream() -> AsyncIterator[bytes]:
        while True:
            yield b": " + b"x" * 65_536 + b"\n"

    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream())

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as endless:
        provider = HttpModelClient(endless, endpoint("openai", "http://p", key=SecretStr("key")), "m")
        with pytest.raises(UnreadableResponse, match="1 MiB"):
            await provider.complete(prompt(), timeouts=SOON, trace_id="trace_1", on_text=lambda _text: None)
