"""Anything that a provider can send ends in a named error or a valid answer: thousands of generated bodies."""

import asyncio
import json
import os
import tracemalloc
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from keyturn.calls import CallRecord
from keyturn.errors import KeyturnError
from keyturn.llm.bodies import MAX_BODY_BYTES
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.errors import ProviderError
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.decisions import GroundedDecision, Rejection
from tests.support.boundaries import WIRES, endpoint, guarded
from tests.support.cases import request

CATALOGUE = load_catalogue()
KEY = SecretStr("key_for_tests")
ANSWER = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'
# For each of four wire formats: 4,000 in all, and 20,000 with `make fuzz`.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(max_size=20),
    st.just(ANSWER),
    st.sampled_from(["stop", "length", "end_turn", "STOP", "refusal", "content_filter", "SAFETY", "text"]),
)
anything = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def bent(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of these fields, any of which may be missing."""
    return st.fixed_dictionaries({}, optional=fields)


def or_odd(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(strategy, strategy, anything)


counts = bent(
    prompt_tokens=odd, completion_tokens=odd, prompt_tokens_details=or_odd(bent(cached_tokens=odd)),
    input_tokens=odd, output_tokens=odd, cache_read_input_tokens=odd,
    promptTokenCount=odd, candidatesTokenCount=odd, thoughtsTokenCount=odd,
)  # fmt: skip
message = bent(role=odd, content=or_odd(st.just(ANSWER)), refusal=odd)
choice = bent(index=odd, message=or_odd(message), finish_reason=or_odd(st.just("stop")))
block = bent(type=or_odd(st.just("text")), text=or_odd(st.just(ANSWER)))
part = bent(text=or_odd(st.just(ANSWER)), thought=odd)
candidate = bent(
    content=or_odd(bent(parts=or_odd(st.lists(or_odd(part), max_size=3)))), finishReason=or_odd(st.just("STOP"))
)
detail = bent(retryDelay=odd, reason=odd, violations=or_odd(st.lists(or_odd(bent(quotaId=odd)), max_size=2)))
failure = bent(
    error=or_odd(bent(code=odd, type=odd, status=odd, details=or_odd(st.lists(or_odd(detail), max_size=2) | detail)))
)
shapes = {
    "openai": bent(id=odd, model=odd, usage=or_odd(counts), choices=or_odd(st.lists(or_odd(choice), max_size=2))),
    "anthropic": bent(
        id=odd, model=odd, usage=or_odd(counts), content=or_odd(st.lists(or_odd(block), max_size=3)),
        stop_reason=or_odd(st.just("end_turn")),
    ),
    "gemini": bent(
        responseId=odd, modelVersion=odd, usageMetadata=or_odd(counts), promptFeedback=or_odd(bent(blockReason=odd)),
        candidates=or_odd(st.lists(or_odd(candidate), max_size=2)),
    ),
}  # fmt: skip
shapes["compatible"] = shapes["openai"]


SOUND: dict[str, Any] = {
    "openai": {
        "id": "c-1", "model": "m-1", "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": ANSWER, "refusal": None}}],
    },
    "anthropic": {
        "id": "m-1", "model": "m-1", "usage": {"input_tokens": 5, "output_tokens": 2}, "stop_reason": "end_turn",
        "content": [{"type": "text", "text": ANSWER}],
    },
    "gemini": {
        "responseId": "r-1", "modelVersion": "m-1", "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2},
        "candidates": [{"content": {"parts": [{"text": ANSWER}]}, "finishReason": "STOP"}],
    },
}  # fmt: skip
SOUND["compatible"] = SOUND["openai"]


@st.composite
def mutated(draw: st.DrawFn, wire: str) -> Any:
    """A sound answer of which some values, at any depth, are replaced, doubled or gone."""
    body = json.loads(json.dumps(SOUND[wire]))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            if draw(st.booleans()):
                place[key] = draw(anything)
            elif isinstance(place, dict):
                del place[key]
            else:
                place.append(inner)
            break
    return body


def written(value: Any) -> bytes:
    return json.dumps(value).encode()  # NaN and Infinity are written as Python does, which is not JSON


spoiled = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-16")),
    anything.map(written),
    st.integers(1, 3_000).map(lambda depth: b"[" * depth),
    st.integers(1, 3_000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
    st.integers(4_000, 6_000).map(lambda digits: b'{"usage":' + b"9" * digits + b"}"),
    st.just(b'{"choices":[],"choices":{}}'),
    st.just(b"\xef\xbb\xbf{}"),
)
headers = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "x-request-id", "content-type", "content-encoding", "x-should-retry"]
    ),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20),
    max_size=2,
)


async def ended(wire: str, status: int, body: bytes, head: dict[str, str]) -> Any:
    """What becomes of such a response at the boundary: a verdict, or the error that it raised."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in head.items()]

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=raw, stream=httpx.ByteStream(body))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        provider = HttpModelClient(http, endpoint(wire, "http://provider", key=KEY), "m")
        boundary = ModelBoundary({"*": [provider]}, CATALOGUE, guard=guarded(), record=lambda _: None)
        try:
            return (await boundary.decide(request(), 1)).verdict
        except KeyturnError as error:
            return error


@pytest.mark.parametrize("wire", sorted(WIRES))
def test_whatever_arrives_is_an_answer_or_a_named_error(wire: str) -> None:
    """Wrong types, NaN, depth, duplicates, charsets, random bytes, strange headers and statuses."""
    loop = asyncio.new_event_loop()
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(mutated(wire).map(written), shapes[wire].map(written), failure.map(written), spoiled),
        st.one_of(st.just(200), st.just(200), st.sampled_from([400, 401, 402, 429, 500, 529]), st.integers(201, 599)),
        headers,
    )
    @example(written(SOUND[wire]), 200, {})
    @example(written(SOUND[wire]).replace(b"30", b"90"), 200, {})
    @example(b"<html>", 200, {})
    @example(b"<html>", 429, {})
    def check(body: bytes, status: int, head: dict[str, str]) -> None:
        end = loop.run_until_complete(ended(wire, status, body, head))
        assert isinstance(end, GroundedDecision | Rejection | ProviderError)
        seen.add(type(end).__name__)

    try:
        check()
    finally:
        loop.close()
    assert {"GroundedDecision", "Rejection", "UnreadableResponse", "RateLimited"} <= seen


@pytest.mark.parametrize("wire", sorted(WIRES))
async def test_an_endless_body_takes_bounded_memory(wire: str) -> None:
    """It is read to the limit and no further."""

    class Endless(httpx.AsyncByteStream):
        sent = 0

        async def __aiter__(self) -> Any:
            while True:
                self.sent += 65_536
                yield b" " * 65_536

    stream = Endless()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=stream))
    async with httpx.AsyncClient(transport=transport) as http:
        provider = HttpModelClient(http, endpoint(wire, "http://provider", key=KEY), "m")
        boundary = ModelBoundary({"*": [provider]}, CATALOGUE, guard=guarded(), record=lambda _: None)
        tracemalloc.start()
        with pytest.raises(ProviderError, match="larger than 1 MiB"):
            await boundary.decide(request(), 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert stream.sent <= MAX_BODY_BYTES + 2 * 65_536
    assert peak < 8 * MAX_BODY_BYTES


RAW = {
    "no status line": b"hello",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of five digits": b"HTTP/1.1 99999 OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}",
    "a length of letters": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a chunk of letters": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "an endless chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    "a header of 20,000 letters": b"HTTP/1.1 200 OK\r\nx-secret: " + b"s" * 20_000 + b"\r\n\r\n{}",
    "a header with a NUL": b"HTTP/1.1 200 OK\r\nx-secret: s\x00s\r\n\r\n{}",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: s\r\n\r\n{}",
    "an unknown encoding": b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\n{}",
    "nothing": b"",
    "less than it said": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{}",
}


@pytest.mark.parametrize("name", sorted(RAW))
async def test_bytes_that_are_no_http_end_in_a_named_error_that_quotes_none_of_them(name: str) -> None:
    """Over a real socket, through the transport that workers use."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(RAW[name])
        writer.close()

    records: list[CallRecord] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, http_client(4) as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        provider = HttpModelClient(http, endpoint("openai", url, key=KEY), "m")
        boundary = ModelBoundary({"*": [provider]}, CATALOGUE, guard=guarded(), record=records.append)
        with pytest.raises(ProviderError) as caught:
            await boundary.decide(request(timeout_seconds=5.0), 1)
    assert "sss" not in str(caught.value)
    assert [record.failure for record in records] == [caught.value.kind]
