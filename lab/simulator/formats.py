"""The three wire formats: how each provider's requests are read, and its answers and errors written.

Sources: the providers' API references, and the types of their SDKs (2026-11).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Ending = Literal["complete", "truncated", "refused", "filtered", "context_window"]


class NotARequest(ValueError):
    """The body is not a request of this format."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request, whatever its format."""

    model: str
    prefix: str  # what a prompt cache may keep of it
    user: str
    fields: frozenset[str]
    key: str
    size: int
    streamed: bool = False


@dataclass(frozen=True)
class PlainAnswer:
    """An answer, before it has a format."""

    text: str
    ending: Ending
    input_tokens: int
    cached_tokens: int
    output_tokens: int


# An event of a stream: its name, if the provider gives it one, and its data.
Event = tuple[str | None, Any]


@dataclass(frozen=True)
class Format:
    """One provider's wire format. A stream is what comes before the pieces of the text, with them, and behind them."""

    name: str
    read: Callable[[Mapping[str, str], str, Any], ParsedRequest]  # headers, model in the path, decoded body
    write: Callable[[str, str, PlainAnswer], dict[str, Any]]  # request id, model, answer
    stream: Callable[[str, str, PlainAnswer, Sequence[str]], tuple[list[Event], list[Event], list[Event]]]
    error: Callable[[str, float | None], tuple[int, dict[str, Any]] | None]  # fault, seconds to wait
    request_id_header: str


def _fields(schema: Any) -> frozenset[str]:
    return frozenset((schema or {}).get("properties", {}))


def _read_openai(headers: Mapping[str, str], _path_model: str, body: Any) -> ParsedRequest:
    texts = {message["role"]: message["content"] for message in body["messages"]}
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    whole = texts["system"] + texts["user"]
    key = headers.get("authorization", "").removeprefix("Bearer ")
    return ParsedRequest(
        str(body["model"]), whole, texts["user"], _fields(schema), key, len(whole), body.get("stream", False)
    )


def _write_openai(request_id: str, model: str, said: PlainAnswer) -> dict[str, Any]:
    refused = said.ending == "refused"
    ends = {"truncated": "length", "context_window": "length", "filtered": "content_filter"}
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": ends.get(said.ending, "stop"),
                "message": {
                    "role": "assistant",
                    "content": None if refused else said.text,
                    "refusal": "I cannot help with that." if refused else None,
                },
            }
        ],
        "usage": {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
            "prompt_tokens_details": {"cached_tokens": said.cached_tokens},
        },
    }


def _stream_openai(
    request_id: str, model: str, said: PlainAnswer, pieces: Sequence[str]
) -> tuple[list[Event], list[Event], list[Event]]:
    whole = _write_openai(request_id, model, said)
    [choice] = whole["choices"]
    common = {"id": whole["id"], "object": "chat.completion.chunk", "created": whole["created"], "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return None, common | {"choices": choices, "usage": None}

    refusal = choice["message"]["refusal"]
    first = [chunk({"role": "assistant", "content": ""})] + ([chunk({"refusal": refusal})] if refusal else [])
    usage: Event = (None, common | {"choices": [], "usage": whole["usage"]})
    last: list[Event] = [chunk({}, choice["finish_reason"]), usage, (None, "[DONE]")]
    return first, [chunk({"content": piece}) for piece in pieces], last


_OPENAI_ERRORS = {
    "rate_limit": (429, "rate_limit_exceeded", "requests"),
    "quota": (429, "insufficient_quota", "insufficient_quota"),
    "spend_limit": (429, "project_spend_limit_exceeded", "insufficient_quota"),
    "server_error": (500, None, "server_error"),
    "unavailable": (503, None, "server_error"),
    "overloaded": (503, "slow_down", "server_error"),
    "unauthorized": (401, "invalid_api_key", "invalid_request_error"),
    "bad_request": (400, "invalid_value", "invalid_request_error"),
    "not_found": (404, "model_not_found", "invalid_request_error"),
    "too_large": (413, None, "invalid_request_error"),
}


def _openai_error(fault: str, _seconds: float | None) -> tuple[int, dict[str, Any]] | None:
    if fault not in _OPENAI_ERRORS:
        return None
    status, code, kind = _OPENAI_ERRORS[fault]
    return status, {"error": {"message": f"simulated {fault}", "type": kind, "param": None, "code": code}}


def _read_anthropic(headers: Mapping[str, str], _path_model: str, body: Any) -> ParsedRequest:
    if "anthropic-version" not in headers or not isinstance(body["max_tokens"], int):
        raise NotARequest("anthropic-version and max_tokens are required")
    [message] = body["messages"]
    blocks = [*body["system"], *message["content"]]
    marked = [place for place, block in enumerate(blocks) if "cache_control" in block]
    prefix = "".join(block["text"] for block in blocks[: marked[-1] + 1]) if marked else ""
    user = "".join(block["text"] for block in message["content"])
    schema = body.get("output_config", {}).get("format", {}).get("schema")
    size = sum(len(block["text"]) for block in blocks)
    return ParsedRequest(
        str(body["model"]), prefix, user, _fields(schema), headers.get("x-api-key", ""), size, body.get("stream", False)
    )


def _write_anthropic(request_id: str, model: str, said: PlainAnswer) -> dict[str, Any]:
    ends = {"truncated": "max_tokens", "refused": "refusal", "filtered": "refusal"}
    ends["context_window"] = "model_context_window_exceeded"
    thinking = {"type": "thinking", "thinking": "Let me look at the rules.", "signature": "simulated"}
    answered = said.ending not in {"refused", "filtered"}
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [thinking, {"type": "text", "text": said.text}] if answered else [],
        "stop_reason": ends.get(said.ending, "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": said.input_tokens - said.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": said.cached_tokens,
            "output_tokens": said.output_tokens,
        },
    }


def _stream_anthropic(
    request_id: str, model: str, said: PlainAnswer, pieces: Sequence[str]
) -> tuple[list[Event], list[Event], list[Event]]:
    whole = _write_anthropic(request_id, model, said)
    start = whole | {"content": [], "stop_reason": None, "usage": whole["usage"] | {"output_tokens": 1}}
    thought = {"type": "thinking_delta", "thinking": "Let me look at the rules."}
    blocks = {"thinking": {"type": "thinking", "thinking": "", "signature": ""}, "text": {"type": "text", "text": ""}}
    first: list[Event] = [
        ("message_start", {"type": "message_start", "message": start}),
        ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": blocks["thinking"]}),
        ("ping", {"type": "ping"}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": thought}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("content_block_start", {"type": "content_block_start", "index": 1, "content_block": blocks["text"]}),
    ]
    parts: list[Event] = [
        (
            "content_block_delta",
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": piece}},
        )
        for piece in pieces
    ]
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": said.output_tokens}
    last: list[Event] = [
        ("content_block_stop", {"type": "content_block_stop", "index": 1}),
        ("message_delta", {"type": "message_delta", "delta": ended, "usage": usage}),
        ("message_stop", {"type": "message_stop"}),
    ]
    return first, parts, last


_ANTHROPIC_ERRORS = {
    "rate_limit": (429, "rate_limit_error"),
    "quota": (402, "billing_error"),
    "spend_limit": (429, "rate_limit_error"),
    "server_error": (500, "api_error"),
    "unavailable": (503, "api_error"),
    "overloaded": (529, "overloaded_error"),
    "unauthorized": (401, "authentication_error"),
    "bad_request": (400, "invalid_request_error"),
    "not_found": (404, "not_found_error"),
    "too_large": (413, "request_too_large"),
}


def _anthropic_error(fault: str, _seconds: float | None) -> tuple[int, dict[str, Any]] | None:
    if fault not in _ANTHROPIC_ERRORS:
        return None
    status, kind = _ANTHROPIC_ERRORS[fault]
    error: dict[str, Any] = {"type": kind, "message": f"simulated {fault}"}
    if fault == "spend_limit":
        error["details"] = {"error_code": "enforced_spend_limit_reached"}
    return status, {"type": "error", "error": error, "request_id": "req_simulated"}


def _read_gemini(headers: Mapping[str, str], path_model: str, body: Any) -> ParsedRequest:
    [content] = body["contents"]
    system = "".join(part["text"] for part in body["systemInstruction"]["parts"])
    user = "".join(part["text"] for part in content["parts"])
    schema = body["generationConfig"].get("responseJsonSchema")
    if schema is not None and body["generationConfig"].get("responseMimeType") != "application/json":
        raise NotARequest("responseJsonSchema needs responseMimeType")
    key = headers.get("x-goog-api-key", "")
    return ParsedRequest(path_model, system + user, user, _fields(schema), key, len(system + user))


def _write_gemini(request_id: str, model: str, said: PlainAnswer) -> dict[str, Any]:
    usage = {
        "promptTokenCount": said.input_tokens,
        "cachedContentTokenCount": said.cached_tokens,
        "candidatesTokenCount": said.output_tokens,
        "thoughtsTokenCount": 0,
    }
    usage["totalTokenCount"] = said.input_tokens + said.output_tokens
    common = {"usageMetadata": usage, "modelVersion": model, "responseId": request_id}
    if said.ending == "filtered":
        return common | {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    ends = {"truncated": "MAX_TOKENS", "context_window": "MAX_TOKENS", "refused": "SAFETY"}
    parts = [{"text": "Let me look at the rules.", "thought": True}, {"text": said.text}]
    content = {"role": "model", "parts": [] if said.ending == "refused" else parts}
    finish = ends.get(said.ending, "STOP")
    return common | {"candidates": [{"index": 0, "content": content, "finishReason": finish}]}


def _stream_gemini(
    request_id: str, model: str, said: PlainAnswer, pieces: Sequence[str]
) -> tuple[list[Event], list[Event], list[Event]]:
    whole = _write_gemini(request_id, model, said)
    if "candidates" not in whole:
        return [(None, whole)], [], []
    common = {name: whole[name] for name in ("modelVersion", "responseId")}
    thought = {"text": "Let me look at the rules.", "thought": True}

    def piece(part: dict[str, Any]) -> Event:
        return None, common | {"candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}}]}

    end = whole | {"candidates": [{"index": 0, "finishReason": whole["candidates"][0]["finishReason"]}]}
    return [piece(thought)], [piece({"text": text}) for text in pieces], [(None, end)]


_GEMINI_ERRORS = {
    "rate_limit": (429, "RESOURCE_EXHAUSTED"),
    "quota": (429, "RESOURCE_EXHAUSTED"),
    "spend_limit": (429, "RESOURCE_EXHAUSTED"),
    "server_error": (500, "INTERNAL"),
    "unavailable": (503, "UNAVAILABLE"),
    "overloaded": (503, "UNAVAILABLE"),
    "unauthorized": (400, "INVALID_ARGUMENT"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "not_found": (404, "NOT_FOUND"),
    "too_large": (413, "INVALID_ARGUMENT"),
}


def _gemini_error(fault: str, seconds: float | None) -> tuple[int, dict[str, Any]] | None:
    if fault not in _GEMINI_ERRORS:
        return None
    status, name = _GEMINI_ERRORS[fault]
    details: list[dict[str, Any]] = []
    kinds = "type.googleapis.com/google.rpc."
    if fault == "unauthorized":
        details.append({"@type": f"{kinds}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
    if status == 429:
        period = "Minute" if fault == "rate_limit" else "Day"
        quota = f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier"
        details.append({"@type": f"{kinds}QuotaFailure", "violations": [{"quotaId": quota, "quotaValue": "5"}]})
    if seconds is not None:
        details.append({"@type": f"{kinds}RetryInfo", "retryDelay": f"{seconds:g}s"})
    return status, {"error": {"code": status, "message": f"simulated {fault}", "status": name, "details": details}}


OPENAI = Format("openai", _read_openai, _write_openai, _stream_openai, _openai_error, "x-request-id")
ANTHROPIC = Format("anthropic", _read_anthropic, _write_anthropic, _stream_anthropic, _anthropic_error, "request-id")
GEMINI = Format("gemini", _read_gemini, _write_gemini, _stream_gemini, _gemini_error, "x-gemini-request-id")
