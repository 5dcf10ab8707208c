"""What gateways, local servers and the providers themselves answer: bodies and streams as their users reported them."""

import gzip
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    GenerationFailed,
    PromptFiltered,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnreadableResponse,
)
from keyturn.llm.http import HttpModelClient
from keyturn.llm.providers.openai.batches import OpenAiBatches
from keyturn.llm.wire import Completion
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.decide_rotation import TASK
from keyturn.tasks.definition import Prompt
from tests.support.boundaries import endpoint
from tests.support.cases import NOW, request

FIELD = Path(__file__).parents[1] / "corpora" / "providers"
SOON = Timeouts(connect=2, first_byte=5, total=5)
TEXT = "Stale service-account keys may be rotated under P-7. The policy gives 30 days for it."
DECISION = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'


def prompt() -> Prompt:
    asked = request()
    return TASK.prompt(asked, load_catalogue().resolve(asked.policy_lines), NOW)


async def answered(
    wire: str,
    body: bytes,
    *,
    status: int = 200,
    streamed: bool = False,
    content_type: str | None = "application/json",
    headers: dict[str, str] | None = None,
    pieces: list[int] | None = None,
) -> Completion:
    """What a provider makes of a body that a server sends, in these pieces."""

    async def sent() -> AsyncIterator[bytes]:
        place = 0
        for size in pieces or [len(body)]:
            yield body[place : place + size]
            place += size
        yield body[place:]

    def respond(_request: httpx.Request) -> httpx.Response:
        kind = {} if content_type is None else {"content-type": content_type}
        return httpx.Response(status, headers=kind | (headers or {}), content=sent())

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        provider = HttpModelClient(http, endpoint(wire, "http://p", key=SecretStr("key")), "m")
        on_text = (lambda _text: None) if streamed else None
        return await provider.complete(prompt(), timeouts=SOON, trace_id="t", on_text=on_text)


@pytest.mark.parametrize("name", ["eos.json", "content-list.json"])
async def test_an_answer_is_read_as_its_server_writes_it(name: str) -> None:
    completion = await answered("compatible", (FIELD / name).read_bytes())
    assert (completion.finish, completion.text) == ("complete", DECISION)


@pytest.mark.parametrize(
    ("wire", "name", "status", "error"),
    [
        ("compatible", "200-error-402.json", 200, QuotaExhausted),
        ("compatible", "200-error-429.json", 200, RateLimited),
        ("compatible", "finish-error.json", 200, ProviderUnavailable),
        ("anthropic", "anthropic-credit.json", 400, QuotaExhausted),
    ],
)
async def test_a_failure_is_what_it_says_wherever_it_is_said(
    wire: str, name: str, status: int, error: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as failed:
        await answered(wire, (FIELD / name).read_bytes(), status=status)
    assert type(failed.value) is error


async def test_a_prompt_that_azure_filters_is_an_answer_that_was_filtered() -> None:
    completion = await answered("compatible", (FIELD / "azure-filter.json").read_bytes(), status=400)
    assert (completion.finish, completion.text) == ("filtered", "")


# Each as its project documents it or its users report it.
SAID: dict[str, tuple[int, Any, type[ProviderError]]] = {
    "OpenRouter, no credits": (402, {"error": {"code": 402, "message": "Insufficient credits"}}, QuotaExhausted),
    "OpenRouter, its provider is down": (
        200,
        {"error": {"code": 502, "message": "x"}, "user_id": "u"},
        ProviderUnavailable,
    ),
    "OpenRouter, digits": (200, {"error": {"code": "429", "message": "x"}}, RateLimited),
    "LiteLLM, a limit": (200, {"error": {"type": "RateLimitError", "code": None, "message": "x"}}, RateLimited),
    "LiteLLM, the budget": (
        400,
        {"error": {"type": "budget_exceeded", "message": "Budget has been exceeded!"}},
        QuotaExhausted,
    ),
    "LiteLLM, the window": (400, {"error": {"type": "ContextWindowExceededError", "message": "x"}}, RequestRefused),
    "vLLM": (400, {"object": "error", "type": "BadRequestError", "code": 400, "message": "x"}, RequestRefused),
    "vLLM, no model": (404, {"object": "error", "type": "NotFoundError", "code": 404, "message": "x"}, RequestRefused),
    "TGI, overloaded": (429, {"error": "Model is overloaded", "error_type": "overloaded"}, ProviderOverloaded),
    "TGI, too long": (
        422,
        {"error": "`inputs` must have less than 1024 tokens", "error_type": "validation"},
        RequestRefused,
    ),
    "llama.cpp": (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "x"}}, RequestRefused),
    "llama.cpp, loading": (
        503,
        {"error": {"code": 503, "type": "unavailable_error", "message": "x"}},
        ProviderUnavailable,
    ),
    "Ollama": (404, {"error": "model 'x' not found"}, RequestRefused),
    "LM Studio, within a 200": (200, {"error": "Unexpected endpoint or method."}, ProviderUnavailable),
    "Mistral, capacity": (
        429,
        {"object": "error", "type": "service_tier_capacity_exceeded", "code": "3505", "message": "x"},
        ProviderOverloaded,
    ),
    "Mistral, a key": (401, {"detail": "Unauthorized"}, AuthenticationFailed),
    "DeepSeek, no balance": (
        402,
        {"error": {"message": "Insufficient Balance", "type": "unknown_error"}},
        QuotaExhausted,
    ),
    "Groq, a key": (
        401,
        {"error": {"message": "x", "type": "invalid_request_error", "code": "invalid_api_key"}},
        AuthenticationFailed,
    ),
    "a gateway's key": (400, {"error": {"message": "x", "code": "invalid_api_key"}}, AuthenticationFailed),
    "an error beside choices": (
        200,
        {"choices": [], "error": {"message": "x", "type": "server_error"}},
        ProviderUnavailable,
    ),
    "a timeout within a 200": (200, {"error": {"message": "x", "code": "request_timeout"}}, ProviderTimeout),
    "a member twice": (
        200,
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "choices": []}',
        UnreadableResponse,
    ),
}


@pytest.mark.parametrize("name", SAID)
async def test_what_stands_between_us_and_a_model_is_understood(name: str) -> None:
    status, said, error = SAID[name]
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    with pytest.raises(ProviderError) as failed:
        await answered("compatible", body, status=status)
    assert type(failed.value) is error


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/plain", None])
@pytest.mark.parametrize("name", ["no-done.sse", "plain.sse", "choices-null.sse", "named-event.sse"])
async def test_a_stream_is_read_as_its_server_sends_it(name: str, content_type: str | None) -> None:
    body = (FIELD / name).read_bytes()
    for sent in (body, body.rstrip(), body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r")):
        completion = await answered("compatible", sent, streamed=True, content_type=content_type)
        assert (completion.text, completion.finish, completion.usage.output_tokens) == (TEXT, "complete", 40)


async def test_each_provider_ends_where_its_stream_ends() -> None:
    """Gemini's reason may stand in every piece; Anthropic's text may start with its block."""
    for wire, name in (("gemini", "gemini-stop-each.sse"), ("anthropic", "block-text.sse")):
        completion = await answered(wire, (FIELD / name).read_bytes(), streamed=True)
        assert (completion.text, completion.finish) == (TEXT, "complete")


@pytest.mark.parametrize(
    ("wire", "name", "error"),
    [
        ("compatible", "error-string.sse", ProviderUnavailable),
        ("compatible", "context-mid.sse", RequestRefused),
        ("anthropic", "anthropic-authentication_error.sse", AuthenticationFailed),
    ],
)
async def test_a_failure_in_the_middle_is_the_one_that_it_would_be_at_the_start(
    wire: str, name: str, error: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as failed:
        await answered(wire, (FIELD / name).read_bytes(), streamed=True)
    assert type(failed.value) is error


async def test_a_server_that_answers_whole_what_was_asked_in_pieces_is_read() -> None:
    body = json.dumps(json.loads((FIELD / "eos.json").read_bytes()), indent=2).encode()
    completion = await answered("compatible", body, streamed=True)
    assert completion.text == DECISION


async def test_a_stream_that_breaks_off_before_any_end_is_no_answer() -> None:
    half = b"\n\n".join((FIELD / "no-done.sse").read_bytes().split(b"\n\n")[:2]) + b"\n\n"
    with pytest.raises(ProviderUnavailable, match="broke off"):
        await answered("compatible", half, streamed=True)


STREAMS = {
    "plain.sse": "compatible",
    "no-done.sse": "compatible",
    "named-event.sse": "compatible",
    "gemini-stop-each.sse": "gemini",
    "block-text.sse": "anthropic",
}


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(1, 200), max_size=40))
async def test_any_split_of_a_stream_into_chunks_is_the_same_answer(name: str, pieces: list[int]) -> None:
    body = (FIELD / name).read_bytes().replace(b"30 days", "30\u2028days, \u00e9".encode())
    whole = await answered(STREAMS[name], body, streamed=True)
    assert (await answered(STREAMS[name], body, streamed=True, pieces=pieces)).text == whole.text
    assert "\u2028" in whole.text


class Refuses:
    """A server that refuses a body with any of these fields, each in its own words."""

    def __init__(self, *fields: str, words: str = "{field} is not supported") -> None:
        self.fields = fields
        self.words = words
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        sent = json.dumps({name: value for name, value in body.items() if name != "messages"})
        for field in self.fields:
            if f'"{field}"' in sent:
                detail = [{"loc": ["body", field], "msg": self.words.format(field=field)}]
                return sent_in_pieces(json.dumps({"detail": detail}).encode(), status=422)
        if body.get("stream"):
            return sent_in_pieces((FIELD / "plain.sse").read_bytes())
        return sent_in_pieces((FIELD / "eos.json").read_bytes())


def sent_in_pieces(body: bytes, status: int = 200) -> httpx.Response:
    async def sent() -> AsyncIterator[bytes]:
        yield body

    return httpx.Response(status, content=sent())


@pytest.mark.parametrize(
    ("fields", "streamed"),
    [
        (("stream_options",), True),
        (("strict",), False),
        (("json_schema",), False),
        (("json_schema", "json_object"), False),
        (("response_format",), False),
        (("max_tokens",), False),
        (("stream_options", "max_tokens", "response_format"), True),
    ],
)
async def test_a_field_that_a_server_does_not_take_is_learned_once(fields: tuple[str, ...], streamed: bool) -> None:
    """Mistral refuses stream_options, older servers a schema: the schema then stands in the prompt."""
    server = Refuses(*fields)
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        on_text = (lambda _text: None) if streamed else None
        for _ in range(2):
            completion = await provider.complete(prompt(), timeouts=SOON, trace_id="t", on_text=on_text)
            assert completion.finish == "complete"
    assert len(server.bodies) == len(fields) + 2
    last = server.bodies[-1]
    assert last.get("max_tokens") or last.get("max_completion_tokens")
    if {"json_schema", "response_format"} & set(fields):
        assert "rotation_window_days" in last["messages"][0]["content"]


@pytest.mark.parametrize(
    "refusal",
    [
        # vLLM, OpenAI, and a server that repeats what was asked.
        {"object": "error", "message": "'max_tokens' is too large: 8192. This model's maximum context length is 4096."},
        {"error": {"message": "max_tokens is too large: 500000.", "param": "max_tokens", "code": "invalid_value"}},
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens, 9000 with max_tokens.",
                "code": None,
            }
        },
        {"detail": [{"loc": ["body", "messages"], "msg": "unexpected", "input": "response_format json_schema strict"}]},
        {"error": {"message": "max_tokens: must be one of [256, 512]"}},
        {"error": {"message": "`max_tokens` 5000 exceeds; the requested capacity is unavailable"}},
    ],
)
async def test_a_refusal_that_says_something_else_of_a_field_drops_none(refusal: dict[str, Any]) -> None:
    """A limit that is too large is a limit all the same: without it an answer would cost what it likes."""
    bodies = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return sent_in_pieces(json.dumps(refusal).encode(), status=400)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        for _ in range(2):
            with pytest.raises(RequestRefused):
                await provider.complete(prompt(), timeouts=SOON, trace_id="t")
    assert len(bodies) == 2
    assert all("max_tokens" in body and "response_format" in body for body in bodies)


async def test_who_refuses_both_limits_is_asked_with_one_all_the_same() -> None:
    server = Refuses("max_tokens", "max_completion_tokens")
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        with pytest.raises(RequestRefused):
            await provider.complete(prompt(), timeouts=SOON, trace_id="t")
    assert all(body.get("max_tokens") or body.get("max_completion_tokens") for body in server.bodies)


async def test_a_refusal_that_names_no_field_is_asked_once() -> None:
    server = Refuses("model")
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        with pytest.raises(RequestRefused):
            await provider.complete(prompt(), timeouts=SOON, trace_id="t")
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, {"error": {"message": "This response_format type is unavailable now", "type": "invalid_request_error"}}),
        (422, {"error": {"message": "response_format.type `json_schema` is unavailable now"}}),
        (
            400,
            {"error": {"message": "response_format value as json_schema is enabled only for api versions 2024-08-01"}},
        ),
        (
            422,
            {
                "detail": [
                    {
                        "loc": ["body", "response_format", "type"],
                        "msg": "Input should be 'text' or 'json_object'",
                        "type": "literal_error",
                    },
                    # Said beside it: a limit that is too large is a limit all the same.
                    {"loc": ["body", "max_tokens"], "msg": "Input should be less than 100", "type": "less_than_equal"},
                ]
            },
        ),
    ],
    ids=["DeepSeek", "DeepSeek before", "Azure", "FastAPI"],
)
async def test_a_server_without_schemas_says_so_in_many_ways(status: int, refusal: dict[str, Any]) -> None:
    """The schema then stands in the prompt, and the call is answered."""
    bodies = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        if "json_schema" in json.dumps(bodies[-1].get("response_format", "")):
            return sent_in_pieces(json.dumps(refusal).encode(), status=status)
        return sent_in_pieces((FIELD / "eos.json").read_bytes())

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        assert (await provider.complete(prompt(), timeouts=SOON, trace_id="t")).finish == "complete"
    assert len(bodies) == 2
    assert "rotation_window_days" in bodies[-1]["messages"][0]["content"]
    assert bodies[-1].get("max_tokens") or bodies[-1].get("max_completion_tokens")


@pytest.mark.parametrize("status", [201, 246])
async def test_an_answer_with_any_success_is_an_answer(status: int) -> None:
    """246 is Portkey's: a guardrail that only reports has something to say, and the answer is there."""
    completion = await answered("compatible", (FIELD / "eos.json").read_bytes(), status=status)
    assert completion.finish == "complete"
    streamed = await answered("compatible", (FIELD / "plain.sse").read_bytes(), status=status, streamed=True)
    assert streamed.finish == "complete"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-encoding": "gzip"}, gzip.compress(b'{"error": {}}')),
        ({"content-encoding": "br, identity"}, b"\x8b"),
        ({}, b"<html>" * 300_000),
    ],
    ids=["gzip", "two codings", "too long"],
)
@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, AuthenticationFailed), (429, RateLimited), (503, ProviderUnavailable), (529, ProviderOverloaded)],
)
async def test_of_a_failure_whose_body_may_not_be_read_the_status_counts(
    headers: dict[str, str], body: bytes, status: int, expected: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as caught:
        await answered("compatible", body, status=status, headers=headers | {"retry-after": "7"})
    assert type(caught.value) is expected
    assert caught.value.retry_after == (timedelta(seconds=7) if caught.value.retryable else None)


@pytest.mark.parametrize("coding", ["", "utf-8", "identity", "Identity, none"])
async def test_what_names_no_compression_is_not_compressed(coding: str) -> None:
    body = (FIELD / "eos.json").read_bytes()
    assert (await answered("compatible", body, headers={"content-encoding": coding})).finish == "complete"
    with pytest.raises(UnreadableResponse):
        await answered("compatible", gzip.compress(body), headers={"content-encoding": "GZIP"})


def sse(*chunks: dict[str, Any]) -> bytes:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


def piece(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}


def part(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    candidate = {"index": index, "content": {"parts": [{"text": text}]}}
    return {"candidates": [candidate | ({} if reason is None else {"finishReason": reason})]}


@pytest.mark.parametrize(
    ("wire", "stream", "finish", "text"),
    [
        ("compatible", sse(piece("cut", "length"), piece("", "stop")), "truncated", "cut"),
        ("compatible", sse(piece("a", "stop"), piece("b", "length")), "truncated", "ab"),
        ("compatible", sse(piece("a", "null"), piece("b", "stop")), "complete", "ab"),
        ("compatible", sse(piece("one "), piece("TWO ", index=1), piece("whole", "stop")), "complete", "one whole"),
        (
            "compatible",
            sse(piece("one "), piece("TWO", "stop", index=1), piece("cut", "length")),
            "truncated",
            "one cut",
        ),
        ("gemini", sse(part("no", "SAFETY"), part("", "STOP")), "filtered", "no"),
        ("gemini", sse(part("a", "STOP"), part("b", "MAX_TOKENS")), "truncated", "ab"),
        ("gemini", sse(part("a", "FINISH_REASON_UNSPECIFIED"), part("b", "STOP")), "complete", "ab"),
        ("gemini", sse(part("one "), part("TWO", index=1), part("whole", "STOP")), "complete", "one whole"),
    ],
)
async def test_a_stream_that_was_cut_stays_so_and_has_one_answer(
    wire: str, stream: bytes, finish: str, text: str
) -> None:
    completion = await answered(wire, stream, streamed=True, content_type="text/event-stream")
    assert (completion.finish, completion.text) == (finish, text)


async def test_a_line_of_a_batch_that_its_provider_failed_costs_no_other_line() -> None:
    good = json.loads((FIELD / "eos.json").read_bytes())
    failed = {"choices": [{"finish_reason": "error", "message": {"content": ""}}]}
    lines = [
        {"custom_id": name, "response": {"status_code": 200, "body": body}}
        for name, body in (("a", good), ("b", failed), ("c", good))
    ]

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/content"):
            return sent_in_pieces("\n".join(map(json.dumps, lines)).encode())
        return httpx.Response(200, json={"id": "b1", "status": "completed", "output_file_id": "f1"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        batches = OpenAiBatches(http, endpoint("openai", "http://p", key=SecretStr("key")), "m")
        found = {one.custom_id: one.why async for one in batches.answers("b1")}
    assert found == {"a": "", "b": "provider_unavailable", "c": ""}


async def test_a_batchs_lines_end_at_line_feeds_alone() -> None:
    """A separator of lines within a text, as U+2028 is, stopped a whole run."""
    results = (FIELD / "openai-results.jsonl").read_bytes()

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/content"):
            return sent_in_pieces(results)
        return sent_in_pieces(json.dumps({"id": "batch_1", "status": "completed", "output_file_id": "file-1"}).encode())

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        batches = OpenAiBatches(http, endpoint("openai", "http://p", key=SecretStr("key")), "m")
        found = [one async for one in batches.answers("batch_1")]
    assert len(found) == len(results.decode().strip("\n").split("\n"))
    assert all(one.completion is not None for one in found)


MINIMAX = {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}
# Errors that stand bare in the body, or whose words were taken for others; each as its users or its maker show it.
ALSO_SAID: dict[str, tuple[str, int, Any, type[ProviderError]]] = {
    "Novita": (
        "compatible",
        403,
        {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"},
        QuotaExhausted,
    ),
    "sub2api": (
        "compatible",
        403,
        {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"},
        QuotaExhausted,
    ),
    "SiliconFlow": (
        "compatible",
        403,
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
        QuotaExhausted,
    ),
    "Azure's API Management": (
        "compatible",
        403,
        {"statusCode": 403, "message": "Out of call volume quota."},
        QuotaExhausted,
    ),
    "in FastAPI's detail": ("compatible", 403, {"detail": {"error": {"code": "insufficient_balance"}}}, QuotaExhausted),
    "Cloudflare's list": (
        "compatible",
        424,
        {"errors": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]},
        PromptFiltered,
    ),
    "Alibaba": ("compatible", 400, {"code": "DataInspectionFailed", "message": "x"}, PromptFiltered),
    "Alibaba, unpaid": ("compatible", 400, {"error": {"code": "Arrearage", "message": "x"}}, QuotaExhausted),
    "Groq, the schema": (
        "compatible",
        400,
        {"error": {"code": "json_validate_failed", "message": "x"}},
        GenerationFailed,
    ),
    "OpenAI, flagged": (
        "openai",
        400,
        {
            "error": {
                "code": "invalid_prompt",
                "message": "Invalid prompt: your prompt was flagged as potentially violating",
            }
        },
        PromptFiltered,
    ),
    "xAI, spent": (
        "compatible",
        429,
        {"code": "x", "error": "Your team has either used all available credits or"},
        QuotaExhausted,
    ),
    "xAI, the key": (
        "compatible",
        400,
        {"code": "x", "error": "Incorrect API key provided: xa***"},
        AuthenticationFailed,
    ),
    "Gemini in OpenAI's form": (
        "compatible",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "x",
                    "status": "INVALID_ARGUMENT",
                    "details": [{"reason": "API_KEY_INVALID"}],
                }
            }
        ],
        AuthenticationFailed,
    ),
    "Google, a minute": (
        "gemini",
        429,
        {"error": {"code": 429, "message": "You exceeded your current quota", "details": [{"retryDelay": "23s"}]}},
        RateLimited,
    ),
    "TGI, the model failed": ("compatible", 424, {"error": "x", "error_type": "generation"}, ProviderUnavailable),
    "Groq's flex tier": ("compatible", 498, {"error": {"code": "capacity_exceeded"}}, ProviderOverloaded),
    "MiniMax": ("compatible", 200, MINIMAX, QuotaExhausted),
    "MiniMax, the key": (
        "compatible",
        200,
        {"base_resp": {"status_code": 1004, "status_msg": "x"}},
        AuthenticationFailed,
    ),
    "MiniMax in Anthropic's form": (
        "anthropic",
        500,
        {"type": "error", "error": {"type": "api_error", "message": "insufficient balance (1008)"}},
        QuotaExhausted,
    ),
    "LiteLLM's guardrail": (
        "compatible",
        400,
        {"error": {"message": {"error": "Violated guardrail policy"}, "code": "400"}},
        PromptFiltered,
    ),
    "LiteLLM's budget": ("compatible", 401, {"error": {"message": "ExceededTokenBudget: over"}}, QuotaExhausted),
    "Perplexity": ("compatible", 401, {"error": {"type": "insufficient_quota", "message": "x"}}, QuotaExhausted),
    "Anthropic, the workspace": (
        "anthropic",
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "You have reached your specified workspace API usage limits",
            }
        },
        QuotaExhausted,
    ),
    "Together, the window": (
        "compatible",
        403,
        {"error": {"message": "exceeds the maximum context length"}},
        RequestRefused,
    ),
    "a flat one within a 200": (
        "compatible",
        200,
        {"message": "Insufficient balance", "code": "insufficient_balance"},
        QuotaExhausted,
    ),
}


@pytest.mark.parametrize("name", sorted(ALSO_SAID))
async def test_bare_errors_and_other_words_for_the_same_are_understood(name: str) -> None:
    wire, status, body, error = ALSO_SAID[name]
    if error is PromptFiltered:  # which is an answer: the question was looked at
        completion = await answered(wire, json.dumps(body).encode(), status=status)
        assert (completion.finish, completion.text) == ("filtered", "")
        return
    with pytest.raises(ProviderError) as failed:
        await answered(wire, json.dumps(body).encode(), status=status)
    assert type(failed.value) is error, name


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit is exceeded. Try again in 30 seconds.", 30),
        ("Please retry after 58 seconds.", 58),
        ("Please wait 40553 seconds before retrying.", 40_553),
        ("Try again after 2 minutes", 120),
        ("wait a moment", None),
    ],
)
async def test_a_wait_in_words_is_kept(message: str, seconds: int | None) -> None:
    with pytest.raises(RateLimited) as failed:
        await answered("compatible", json.dumps({"statusCode": 429, "message": message}).encode(), status=429)
    assert failed.value.retry_after == (None if seconds is None else timedelta(seconds=seconds))


def in_pieces(*chunks: Any) -> bytes:
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def chunk_of(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason, **more}]}


@pytest.mark.parametrize(
    ("chunks", "finish"),
    [
        ((chunk_of("Stale service-account keys may be rotated under"),), "truncated"),
        ((chunk_of(DECISION),), "complete"),
        ((chunk_of("All of it.", "stop"),), "complete"),
        ((chunk_of("Half", "content_filtered"),), "filtered"),
        ((chunk_of("Half", "prohibited_content"), chunk_of("", "stop")), "filtered"),
        ((chunk_of("Half", "model_context_window_exceeded"), chunk_of("", "stop")), "truncated"),
    ],
)
async def test_prose_without_a_reason_to_end_is_not_whole(chunks: tuple[Any, ...], finish: str) -> None:
    """A decision is whole by its form; half a sentence shows nothing."""
    completion = await answered("compatible", in_pieces(*chunks), streamed=True, content_type="text/event-stream")
    assert completion.finish == finish


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        ({"message": "Insufficient balance", "code": "insufficient_balance"}, QuotaExhausted),
        (
            {"errors": [{"code": 3040, "message": "Capacity exceeded: too many requests"}], "success": False},
            RateLimited,
        ),
        (chunk_of("", None, error={"code": 402, "message": "x"}), QuotaExhausted),
    ],
)
async def test_an_error_within_a_stream_is_one_in_every_form(chunk: Any, error: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as failed:
        await answered("compatible", in_pieces(chunk_of("St"), chunk), streamed=True, content_type="text/event-stream")
    assert type(failed.value) is error


async def test_a_word_of_success_beside_an_answer_is_no_error() -> None:
    answer = {**chunk_of(DECISION, "stop"), "error": {"code": 0, "message": "success"}}
    answer["choices"][0]["message"] = {"content": DECISION}
    assert (await answered("compatible", json.dumps(answer).encode())).text == DECISION
