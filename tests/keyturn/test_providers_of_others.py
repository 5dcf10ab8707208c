"""What servers and gateways send that their documentation and their users' reports show: whole, failed or in pieces."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from keyturn.llm import http as llm_http
from keyturn.llm.classify import error_for, retry_after
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.errors import (
    AuthenticationFailed,
    GenerationFailed,
    PromptFiltered,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnexpectedStatus,
    UnreadableResponse,
)
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.providers.openai.batches import OpenAiBatches
from tests.keyturn.test_providers_of_the_field import DECISION, SOON, TEXT, answered, prompt, sent_in_pieces
from tests.support.boundaries import endpoint
from tests.support.servers import fake_server

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def chat(message: Any, reason: Any = "stop", **more: Any) -> bytes:
    """A chat completion; `more` is of its choice."""
    choice = {"index": 0, "finish_reason": reason} | ({} if message is None else {"message": message}) | more
    return json.dumps({"choices": [choice], "usage": USAGE}).encode()


# -- whole answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00"])
async def test_half_a_pair_of_surrogates_is_replaced_and_can_be_stored(half: str) -> None:
    body = chat({"content": "<think>ok X</think>" + DECISION}).replace(b"X", half.encode())
    completion = await answered("compatible", body)
    completion.text.encode()
    assert completion.text.endswith(DECISION)


async def test_a_pair_that_a_server_splits_over_two_pieces_is_one_letter() -> None:
    pieces: list[Any] = [{"choices": [{"delta": {"content": "Hi X"}}]}, {"choices": [{"delta": {"content": "Y all."}}]}]
    pieces.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    stream = "".join(f"data: {json.dumps(one)}\n\n" for one in pieces).replace("X", "\\ud83d").replace("Y", "\\ude00")
    completion = await answered("compatible", stream.encode(), streamed=True)
    assert completion.text == "Hi \U0001f600 all."


async def test_half_an_answer_beside_an_error_is_none_whatever_its_reason() -> None:
    for reason in ("stop", None):
        failed = chat({"content": "Half an"}, reason, error={"code": 502, "message": "Upstream idle timeout"})
        with pytest.raises(ProviderUnavailable):
            await answered("compatible", failed)


async def test_reasoning_that_is_named_twice_costs_no_answer_and_an_answer_that_is_does() -> None:
    body = chat({"content": DECISION, "reasoning_content": None}).decode()
    twice = body.replace('"reasoning_content": null', '"reasoning_content": null, "reasoning_content": "hm"')
    assert (await answered("compatible", twice.encode())).text == DECISION
    with pytest.raises(UnreadableResponse):
        await answered("compatible", body.replace('"reasoning_content": null', '"content": "another"').encode())


@pytest.mark.parametrize(
    ("reason", "message", "finish"),
    [
        (None, {"content": DECISION}, "complete"),
        ("", {"content": DECISION}, "complete"),
        ("tool_calls", {"content": DECISION, "tool_calls": None}, "complete"),
        ("tool_calls", {"content": DECISION, "tool_calls": [{}]}, "truncated"),
        ("tool_calls", {"content": "I will call"}, "truncated"),
        ("content_filter: PROHIBITED_CONTENT", None, "filtered"),
        ("content_filter: SAFETY", {"content": ""}, "filtered"),
    ],
)
async def test_a_reason_to_end_is_read_as_gateways_write_it(reason: Any, message: Any, finish: str) -> None:
    assert (await answered("compatible", chat(message, reason))).finish == finish


@pytest.mark.parametrize("body", [chat({"content": TEXT}, None), chat(None, "stop")])
async def test_prose_without_a_reason_and_a_reason_without_an_answer_are_none(body: bytes) -> None:
    with pytest.raises(UnreadableResponse):
        await answered("compatible", body)


async def test_a_call_of_a_function_that_no_one_offered_is_generated_anew() -> None:
    with pytest.raises(GenerationFailed):
        await answered("compatible", chat({"content": ""}, "function_call_filter: MALFORMED_FUNCTION_CALL"))
    with pytest.raises(GenerationFailed):
        await answered("gemini", json.dumps({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}).encode())


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        # xAI's own figures: what was thought is in the total alone.
        ({"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens": 14428}, (10120, 4308, None)),
        ({"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 80}, (100, 5, 80)),  # Moonshot
        ({"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64}, (100, 5, 64)),  # DeepSeek
        ({"prompt_tokens": 10.0, "completion_tokens": "5"}, (10, 5, None)),
        ({"prompt_tokens": 10.5, "completion_tokens": "-5"}, (None, None, None)),
    ],
)
async def test_tokens_are_counted_as_they_are_paid(usage: dict[str, Any], tokens: tuple[Any, ...]) -> None:
    body = json.loads(chat({"content": DECISION})) | {"usage": usage}
    found = (await answered("compatible", json.dumps(body).encode())).usage
    assert (found.input_tokens, found.output_tokens, found.cached_tokens) == tokens


async def test_a_recitation_of_googles_has_no_output_and_a_cost() -> None:
    body = {"candidates": [{"finishReason": "RECITATION", "index": 0}]}
    body |= {"usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}  # type: ignore[dict-item]
    found = await answered("gemini", json.dumps(body).encode())
    assert (found.finish, found.usage.input_tokens, found.usage.output_tokens) == ("filtered", 4, 0)


async def test_a_gateways_zero_does_not_replace_what_anthropic_counted() -> None:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1000, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": DECISION}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"input_tokens": 0, "output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    stream = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)
    found = (await answered("anthropic", stream.encode(), streamed=True)).usage
    assert (found.input_tokens, found.output_tokens) == (1000, 5)


# -- failures ----------------------------------------------------------------------------------------------------------


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message} | more}


RAW = {"raw": json.dumps({"error": {"code": "content_filter", "message": "x"}})}
LITELLM = (
    'litellm.RateLimitError: VertexAIException - {"error":{"code":429,"message":"You exceeded your current quota",'
    '"details":[{"violations":[{"quotaId":"GenerateRequestsPerX-FreeTier"}]},{"retryDelay":"35s"}]}}'
)
FAILURES: dict[str, tuple[int, Any, type[ProviderError]]] = {
    "DeepSeek, filter": (400, said("Content Exists Risk", code="invalid_request_error"), PromptFiltered),
    "DeepSeek, filter before": (400, {"detail": "Content Exists Risk"}, PromptFiltered),
    "Volcengine, filter": (400, said("x", code="InputTextSensitiveContentDetected"), PromptFiltered),
    "StepFun, filter": (451, said("The content you provided is blocked.", type="censorship_blocked"), PromptFiltered),
    "Cohere, filter": (498, {"message": "a request contains a deny-listed token"}, PromptFiltered),
    "Z.ai, filter in a stream": (200, said("x", code="1301"), PromptFiltered),
    "LiteLLM, filter": (400, said("litellm.ContentPolicyViolationError: rejected", code="400"), PromptFiltered),
    "OpenRouter, its provider's filter": (400, said("Provider returned error", metadata=RAW), PromptFiltered),
    "OpenRouter, moderation": (
        403,
        said("x", code=403, metadata={"reasons": ["violence"], "flagged_input": "y"}),
        PromptFiltered,
    ),
    "Groq, a tool": (400, said("Tool choice is none", code="tool_use_failed"), GenerationFailed),
    "Groq, parse": (400, said("x", code="output_parse_failed"), GenerationFailed),
    "Groq behind LiteLLM": (400, said('GroqException - {"code":"json_validate_failed"}'), GenerationFailed),
    "Alibaba, a minute's": (
        429,
        said("Allocated quota exceeded, please increase your quota limit.", code="insufficient_quota"),
        RateLimited,
    ),
    "Google's minute behind LiteLLM": (429, said(LITELLM.replace("PerX", "PerMinute")), RateLimited),
    "Google's day behind LiteLLM": (429, said(LITELLM.replace("PerX", "PerDay")), QuotaExhausted),
    "NVIDIA": (
        400,
        {"status": 400, "detail": "DEGRADED function cannot be invoked"},
        ProviderUnavailable,
    ),
    "Google gave up": (499, said("The operation was cancelled.", status="CANCELLED"), ProviderUnavailable),
    "Azure, a file": (400, said("The input file 'file-1' is in 'pending' state."), ProviderUnavailable),
    "Google, credits": (
        429,
        said("Your prepayment credits are depleted."),
        QuotaExhausted,
    ),
    "Google, cap": (429, said("Your project has exceeded its monthly spending cap."), QuotaExhausted),
    "Google, billing": (
        403,
        said("x", status="PERMISSION_DENIED", details=[{"reason": "BILLING_DISABLED"}]),
        QuotaExhausted,
    ),
    "Z.ai, balance": (429, said("\u4f59\u989d\u4e0d\u8db3", code="1113"), QuotaExhausted),
    "Volcengine, paused": (429, said("x", code="SetLimitExceeded"), QuotaExhausted),
    "Bedrock, a day": (429, {"message": "Too many tokens per day, please wait."}, QuotaExhausted),
    "OpenRouter, a day": (429, said("Rate limit exceeded: free-models-per-day. Add credits"), QuotaExhausted),
    "watsonx": (403, {"errors": [{"code": "token_quota_reached", "message": "x"}]}, QuotaExhausted),
    "API Management": (403, {"statusCode": 403, "message": "Token quota is exceeded."}, QuotaExhausted),
    "Cohere's trial": (429, {"message": "limited to 1000 API calls / month"}, QuotaExhausted),
    "Mistral": (401, {"detail": "Inactive subscription or usage limit reached"}, QuotaExhausted),
    "LM Studio, window": (
        200,
        said("Trying to keep 5000 tokens when context the overflows."),
        RequestRefused,
    ),
    "MiniMax, request": (200, said("invalid params", type="bad_request_error", http_code="400"), RequestRefused),
    "MiniMax, bare request": (200, {"base_resp": {"status_code": 2013, "status_msg": "x"}}, RequestRefused),
    "MiniMax, usage": (200, {"base_resp": {"status_code": 2056, "status_msg": "x"}}, QuotaExhausted),
    "Z.ai, key": (200, {"code": 401, "msg": "x", "success": False}, AuthenticationFailed),
    "Baidu": (200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}, RateLimited),
    "OpenAI, country": (403, said("x", code="unsupported_country_region_territory"), UnexpectedStatus),
    "NVIDIA, end of life": (410, {"detail": "The model has reached its end of life"}, RequestRefused),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_what_its_server_means(name: str) -> None:
    status, body, expected = FAILURES[name]
    wire = endpoint("compatible", "http://p", key=SecretStr("k")).wire
    found = error_for(status, body, {}, table=wire.errors, codes_of=wire.codes_of)
    assert type(found) is expected


def test_gateways_write_codes_in_anthropics_form() -> None:
    wire = endpoint("anthropic", "http://p", key=SecretStr("k")).wire
    for code, expected in (("insufficient_quota", QuotaExhausted), ("invalid_api_key", AuthenticationFailed)):
        found = error_for(
            429 if expected is QuotaExhausted else 400,
            said("x", code=code),
            {},
            table=wire.errors,
            codes_of=wire.codes_of,
        )
        assert type(found) is expected


async def test_a_firewalls_page_is_no_refusal_of_the_key() -> None:
    with pytest.raises(UnexpectedStatus, match="a proxy or firewall"):
        await answered("openai", b"<html>Attention Required!</html>", status=403, content_type="text/html")
    with pytest.raises(AuthenticationFailed):
        await answered("openai", b"", status=403)


NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "59.96587538719177"}, 59.96587538719177),  # Cerebras
        ({"retry-after": "30s"}, 30),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "5, 5"}, 5),
        ({"retry-after": "2026-11-28T12:00:20Z"}, 20),
        ({"retry-after": str(int(NOW.timestamp()) + 7)}, 7),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((int(NOW.timestamp()) + 40) * 1000)}, 40),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "40"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-28T12:00:11Z",
                "anthropic-ratelimit-tokens-remaining": "100",
                "anthropic-ratelimit-tokens-reset": "2026-11-28T12:00:50Z",
            },
            11,
        ),
    ],
)
def test_a_wait_is_read_as_servers_write_it(headers: dict[str, str], seconds: float | None) -> None:
    found = retry_after(headers, now=NOW)
    assert found == (None if seconds is None else timedelta(seconds=seconds))


def test_googles_wait_is_read_where_a_gateway_quotes_it() -> None:
    assert retry_after({}, {"message": LITELLM}) == timedelta(seconds=35)


REFUSALS: dict[str, tuple[int, Any, str]] = {
    "in plain text": (
        422,
        "Failed to deserialize the JSON body: response_format: unknown variant `json_schema`",
        "json_schema",
    ),
    "DashScope": (400, said("Json mode response is not supported when enable_thinking is true"), "response_format"),
    "DeepSeek": (
        400,
        said(
            "Invalid value: 'json_schema'. Supported values are: 'json_object' and 'text'.",
            param="response_format.type",
            code="invalid_value",
        ),
        "response_format",
    ),
    "vLLM": (400, said("The provided JSON schema contains features not supported by xgrammar."), "json_schema"),
    "LiteLLM": (
        400,
        said("bedrock does not support parameters: ['response_format']", param="None"),
        "response_format",
    ),
    "Azure": (
        422,
        said(
            "invalid input error", details=[{"type": "extra_forbidden", "loc": ["body", "response_format"], "msg": "x"}]
        ),
        "response_format",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_field_that_is_refused_in_other_words_is_left_out_the_second_time(name: str) -> None:
    status, refusal, field = REFUSALS[name]
    sent: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        if len(sent) > 1:
            return sent_in_pieces(chat({"content": DECISION}))
        text = refusal if isinstance(refusal, str) else json.dumps(refusal)
        return sent_in_pieces(text.encode(), status)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        completion = await provider.complete(prompt(), timeouts=SOON, trace_id="t")
    assert completion.text == DECISION
    assert f'"{field}"' in json.dumps(sent[0])
    assert f'"{field}"' not in json.dumps({name: one for name, one in sent[1].items() if name != "messages"})


@pytest.mark.parametrize(("status", "expected"), [(401, AuthenticationFailed), (429, RateLimited)])
async def test_a_failure_whose_body_stalls_or_breaks_off_is_named_by_its_status(
    status: int, expected: type[ProviderError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its wait: a key that is wrong is not asked again in vain."""
    monkeypatch.setattr(llm_http, "FAILURE_BODY_SECONDS", 0.2)
    stop = asyncio.Event()

    async def fail(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-length": "500", "retry-after": "9"})
        await response.prepare(http)
        await response.write(b'{"error":')
        if http.query.get("stall"):
            await stop.wait()
        return response

    application = web.Application()
    application.router.add_post("/{path:.*}", fail)
    async with fake_server(application) as url, http_client(2) as http:
        for query in ("", "?stall=1"):
            provider = HttpModelClient(http, endpoint("compatible", f"{url}/{query}", key=SecretStr("key")), "m")
            with pytest.raises(expected) as failed:
                await provider.complete(prompt(), timeouts=SOON, trace_id="t")
            assert failed.value.retry_after == (timedelta(seconds=9) if failed.value.retryable else None)
        stop.set()


async def test_a_long_header_is_borne_and_a_cookie_is_not_sent_back() -> None:
    seen: list[str | None] = []

    async def answer(http: web.Request) -> web.Response:
        seen.append(http.headers.get("cookie"))
        headers = {"content-security-policy": "x" * 20_000, "set-cookie": "tenant=one; Path=/"}
        return web.Response(body=chat({"content": DECISION}), headers=headers, content_type="application/json")

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    async with fake_server(application) as url, http_client(2) as http:
        named = url.replace("127.0.0.1", "localhost")  # no jar takes a cookie from an address
        provider = HttpModelClient(http, endpoint("compatible", named, key=SecretStr("key")), "m")
        for _ in range(2):
            assert (await provider.complete(prompt(), timeouts=SOON, trace_id="t")).text == DECISION
    assert seen == [None, None]


async def test_a_text_in_pieces_is_one_that_can_be_stored_at_each() -> None:
    """A server splits a pair of surrogates over two pieces."""
    first = 'data: {"choices":[{"delta":{"content":"a \\ud83d"}}]}\n\n'
    last = 'data: {"choices":[{"delta":{"content":"\\ude00 b"},"finish_reason":"stop"}]}\n\n'
    body, texts = (first + last).encode(), list[str]()
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body))) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        await provider.complete(prompt(), timeouts=SOON, trace_id="t", on_text=texts.append)
    assert all(text.encode() for text in texts)
    assert texts[-1] == "a \U0001f600 b"


# -- streams -----------------------------------------------------------------------------------------------------------

FIRST = '{"choices":[{"delta":{"content":"{\\"decision\\":"}}]}'
REST = '{"choices":[{"delta":{"content":"\\"eligible\\"}"},"finish_reason":"stop"}]}'
STREAMS = {
    "empty data to keep it open": f"data:\n\ndata: {FIRST}\n\ndata: \n\ndata: {REST}\n\ndata: [DONE]\n\n",
    "a comment as data": f"data: : keep-alive\n\ndata: {FIRST}\n\ndata: {REST}\n\n",
    "one line feed between events": f"data: {FIRST}\ndata: {REST}\ndata: [DONE]\n\n",
    "two objects in a line": f"data: {FIRST}{REST}\n\n",
    "the field twice": f"data: data: {FIRST}\n\ndata: data: {REST}\n\n",
    "another end": f"data: {FIRST}\n\ndata: {REST}\n\ndata: [END]\n\n",
    "another end without brackets": f"data: {FIRST}\n\ndata: {REST}\n\ndata: DONE\n\n",
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_read_however_its_server_parts_it(name: str) -> None:
    completion = await answered("compatible", STREAMS[name].encode(), streamed=True, content_type="text/event-stream")
    assert (completion.finish, completion.text) == ("complete", '{"decision":"eligible"}')


async def test_a_stream_that_ends_and_stays_open_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the reason to end and the usage: waiting on would throw a paid answer away."""
    monkeypatch.setattr(llm_http, "BEHIND_THE_END_SECONDS", 0.2)

    async def stream() -> AsyncIterator[bytes]:
        yield f"data: {FIRST}\n\ndata: {REST}\n\n".encode()
        yield b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
        await asyncio.sleep(60)

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=stream()))
    async with httpx.AsyncClient(transport=transport) as http:
        provider = HttpModelClient(http, endpoint("compatible", "http://p", key=SecretStr("key")), "m")
        found = await provider.complete(
            prompt(), timeouts=Timeouts(connect=2, first_byte=5, total=10), trace_id="t", on_text=lambda _text: None
        )
    assert (found.text, found.usage.input_tokens, found.usage.output_tokens) == ('{"decision":"eligible"}', 7, 3)


@pytest.mark.parametrize("done", ["", "data: [DONE]\n\n"])
async def test_llama_cpps_own_field_for_errors_is_one(done: str) -> None:
    error = {"code": 400, "message": "the request exceeds the available context size.", "type": "invalid_request_error"}
    with pytest.raises(RequestRefused):
        await answered("compatible", f"error: {json.dumps(error)}\n\n{done}".encode(), streamed=True)


async def test_an_error_behind_comments_is_one() -> None:
    body = b': OPENROUTER PROCESSING\n\n{"error":{"message":"Insufficient credits","code":402}}'
    with pytest.raises(QuotaExhausted):
        await answered("compatible", body, streamed=True)


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_azures_batches_are_created_and_wait_for_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 201, and refuses a file that it has not looked through."""
    monkeypatch.setattr("keyturn.llm.providers.openai.batches.FILE_SECONDS", 0.01)
    looks = iter(["pending", "running", "processed"])
    paths: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        paths.append(f"{request.method} {request.url.path}")
        if request.url.path.endswith("/batches"):
            return httpx.Response(201, json={"id": "batch-1", "status": "validating"})
        made = request.method == "POST"
        return httpx.Response(201 if made else 200, json={"id": "file-1", "status": "pending" if made else next(looks)})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        batches = OpenAiBatches(http, endpoint("openai", "http://p", key=SecretStr("key")), "m")
        assert await batches.submit("marker", [("c1", prompt())]) == "batch-1"
    assert paths == ["POST /files", *["GET /files/file-1"] * 3, "POST /batches"]


@pytest.mark.parametrize(
    ("batch", "state"),
    [
        ({"status": "cancelled", "output_file_id": "f1"}, "ended"),
        ({"status": "cancelled", "output_file_id": ""}, "failed"),
        ({"status": "cancelled"}, "failed"),
        ({"status": "completed", "output_file_id": "f1", "error_file_id": ""}, "ended"),
    ],
)
async def test_what_a_batch_has_is_taken_whatever_became_of_it(batch: dict[str, Any], state: str) -> None:
    line = {"custom_id": "c1", "response": {"status_code": 200, "body": json.loads(chat({"content": DECISION}))}}

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/files/f1/content"):
            return httpx.Response(200, content=json.dumps(line))
        if request.url.path.endswith("/batches"):
            return httpx.Response(200, json={"data": None})
        assert request.url.path.endswith("/batches/b1"), "a file without a name is none"
        return httpx.Response(200, json=batch)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        batches = OpenAiBatches(http, endpoint("openai", "http://p", key=SecretStr("key")), "m")
        assert await batches.state("b1") == state
        found = [one.custom_id async for one in batches.answers("b1")]
        assert found == (["c1"] if batch.get("output_file_id") else [])
        assert await batches.find("m", count=1, since=NOW, known=()) is None
