"""OpenAI chat completions, and the servers that are compatible with them: llama.cpp, Ollama, vLLM, gateways.

Format: OpenAI API reference, "Create chat completion", and the types of openai-python (2026-11).
"""

from typing import Any

from pydantic import JsonValue

from keyturn.errors import UnreadableResponse
from keyturn.llm.classify import OPENAI, openai_codes
from keyturn.llm.providers.http import WireFormat, count, recordable
from keyturn.llm.providers.streams import OpenAiFold
from keyturn.llm.wire import Completion, Finish, Usage
from keyturn.tasks.definition import Prompt

_FINISH: dict[str, Finish] = {"stop": "complete", "length": "truncated", "content_filter": "filtered"}

# Without the option, a stream tells no usage, and its cost would be unknown.
_STREAMED: dict[str, JsonValue] = {"stream": True, "stream_options": {"include_usage": True}}


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for `prompt`. No sampling settings: newer models refuse them.

    The prompt cache works by itself on an equal beginning; the key sends equal beginnings to the same machine.
    """
    return {
        **_common(model, prompt),
        "max_completion_tokens": prompt.max_output_tokens,
        "prompt_cache_key": prompt.prefix_key,
        "store": False,  # by default a project may keep what was asked and answered
    }


def compatible_payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for a compatible server: the fields that all of them know, and no others."""
    return {**_common(model, prompt), "max_tokens": prompt.max_output_tokens}


def completion(answer: Any, asked_model: str) -> Completion:
    """Return a chat completion in our terms; raises UnreadableResponse."""
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        text, refusal = message.get("content"), message.get("refusal")
        usage = answer.get("usage")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnreadableResponse("the answer is not a chat completion") from None
    if not isinstance(reason, str) or (text is not None and not isinstance(text, str)):
        raise UnreadableResponse("the answer is not a chat completion")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return Completion(
        text=text or "",
        # An end that we do not know, such as a tool call, is no end of an answer to this prompt.
        finish="refused" if refusal else _FINISH.get(reason, "truncated"),
        finish_reason=recordable(reason),
        model=recordable(answer.get("model"), 128) or asked_model,
        usage=Usage(
            count(usage, "prompt_tokens"),
            count(usage, "completion_tokens"),
            count(details, "cached_tokens"),
            count(details, "cache_write_tokens"),
        ),
        request_id=recordable(answer.get("id")) or None,
    )


def _common(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "model": model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ],
    }
    if prompt.schema is not None:
        schema: JsonValue = {"name": prompt.schema_name, "strict": True, "schema": prompt.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


OPENAI_WIRE = WireFormat(
    name="openai",
    path=lambda _model: "/chat/completions",
    headers=_bearer,
    payload=payload,
    completion=completion,
    errors=OPENAI,
    codes_of=openai_codes,
    request_id="x-request-id",
    stream_path=lambda _model: "/chat/completions",
    stream_fields=_STREAMED,
    fold=OpenAiFold,
)
COMPATIBLE_WIRE = WireFormat(
    name="compatible",
    path=lambda _model: "/chat/completions",
    headers=lambda key: _bearer(key) if key else {},
    payload=compatible_payload,
    completion=completion,
    errors=OPENAI,
    codes_of=openai_codes,
    request_id="x-request-id",
    stream_path=lambda _model: "/chat/completions",
    stream_fields=_STREAMED,
    fold=OpenAiFold,
)
