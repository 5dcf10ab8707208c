"""OpenAI chat completions, which the providers of the folder `compatible` answer in as well.

Format: OpenAI API reference, "Create chat completion", and the types of openai-python (2026-11).
"""

import json
from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import JsonValue

from keyturn.llm.bodies import count, recordable
from keyturn.llm.classify import COMMON, common_codes, error_for
from keyturn.llm.errors import GenerationFailed, UnreadableResponse
from keyturn.llm.provider import WireFormat
from keyturn.llm.providers.openai.stream import COMPLETE, FILTERED, TRUNCATED, OpenAiFold, is_json
from keyturn.llm.streams import texts_in
from keyturn.llm.wire import Completion, Finish, Usage
from keyturn.tasks.definition import Prompt

# OpenAI's own, and in small letters what others say: TGI (eos_token, stop_sequence), vLLM (eos), Cohere (complete,
# max_tokens, error_toxic), Mistral (model_length), Together (eos), Z.ai (sensitive), gateways to Anthropic and Gemini.
# An end that we do not know, such as a tool call, is no end of an answer to this prompt: it counts as cut.
_FINISH: dict[str, Finish] = {
    **dict.fromkeys(COMPLETE, "complete"),
    **dict.fromkeys(TRUNCATED, "truncated"),
    **dict.fromkeys(FILTERED, "filtered"),
    "refusal": "refused",
}
# The provider behind a gateway died (OpenRouter), or the server did.
_FAILED = ("error", "abort", "network_error", "insufficient_system_resource")

# The model's own fault, which another attempt may not have: gateways to Gemini.
_NOT_GENERATED = ("function_call_filter", "malformed_function_call")

# Without the option, a stream has no usage, and its cost would be unknown.
_STREAMED: dict[str, JsonValue] = {"stream": True, "stream_options": {"include_usage": True}}


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for `prompt`. No sampling settings: newer models refuse them.

    The prompt cache works by itself on an equal beginning; the key sends equal beginnings to the same machine.
    """
    return {
        **common_payload(model, prompt),
        "max_completion_tokens": prompt.max_output_tokens,
        "prompt_cache_key": prompt.prefix_key,
        "store": False,  # by default a project may store what was asked and answered
    }


def completion(answer: Any, asked_model: str) -> Completion:
    """Return a chat completion as a `Completion`; raises UnreadableResponse, or the error that its reason names."""
    try:
        choice = answer["choices"][0]
        message, reason = choice.get("message"), choice.get("finish_reason")
        failed = bool(choice.get("error")) or (isinstance(reason, str) and reason.lower() in _FAILED)
        if failed:  # whatever else it has: half of an answer
            raise error_for(200, choice, {})
        text = texts_in((message or {}).get("content"))
        refusal, usage = (message or {}).get("refusal"), answer.get("usage")
        # Gateways to Gemini say what was filtered: content_filter: PROHIBITED_CONTENT. A reason that was left out, or
        # that only says which tool is meant, ends an answer that is whole by itself.
        said, _, detail = (part.strip() for part in (reason or "").lower().partition(":"))
        said = detail if _FINISH.get(detail) in {"truncated", "filtered"} else said
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnreadableResponse("the answer is not a chat completion") from None
    if said in _NOT_GENERATED:
        raise GenerationFailed("the model called a function that does not exist")
    finish: Finish = _FINISH.get(said, "truncated")
    is_call = bool(message) and bool(message.get("tool_calls") or message.get("function_call"))
    if said in {"", "tool_calls"} and message and not is_call and is_json(text):
        finish = "complete"
    if not isinstance(text, str) or ((finish != "filtered" and not (message and said)) and finish != "complete"):
        raise UnreadableResponse("the answer is not a chat completion")
    if finish == "complete" and not message:
        raise UnreadableResponse("the answer is not a chat completion")
    return Completion(
        text=text,
        finish="refused" if refusal else finish,
        finish_reason=recordable(reason),
        model=recordable(answer.get("model"), 128) or asked_model,
        usage=_usage(usage),
        request_id=recordable(answer.get("id")) or None,
    )


def _usage(usage: Any) -> Usage:
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    read, written = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    total = count(usage, "total_tokens")
    if read is not None and written is not None and total is not None:
        written = max(written, total - read)  # xAI and gateways to Gemini count thoughts in the total alone
    cached = count(details, "cached_tokens")
    if cached is None:  # Moonshot; DeepSeek
        cached = next((n for name in ("cached_tokens", "prompt_cache_hit_tokens") if (n := count(usage, name))), None)
    return Usage(read, written, cached, count(details, "cache_write_tokens"))


def adapt_body(body: dict[str, JsonValue], not_taken: AbstractSet[str], prompt: Prompt) -> dict[str, JsonValue]:
    """Return a body that asks the same without the fields that a server does not take.

    Where it has no mode for a schema it is asked for JSON, and where it has none for that either, for nothing: the
    schema is then part of the prompt, and the answer is judged as always.
    """
    body = {name: value for name, value in body.items() if name not in not_taken}
    # Never without a limit: an answer without one has no upper price. A server that refuses both gets the usual one.
    if not {"max_tokens", "max_completion_tokens"} & body.keys():
        taken = [name for name in ("max_tokens", "max_completion_tokens") if name not in not_taken]
        body[(taken or ["max_tokens"])[0]] = prompt.max_output_tokens
    if prompt.schema is None:
        return body
    if "strict" in not_taken and "response_format" in body:
        schema: JsonValue = {"name": prompt.schema_name, "schema": prompt.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if not_taken & {"json_schema", "json_object", "response_format"}:
        instructions = f"{prompt.system}\n\nAnswer with one JSON object of this schema:\n{json.dumps(prompt.schema)}"
        body["messages"] = [{"role": "system", "content": instructions}, {"role": "user", "content": prompt.user}]
        if not_taken & {"json_object", "response_format"}:
            body.pop("response_format", None)
        else:
            body["response_format"] = {"type": "json_object"}
    return body


def common_payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return what every server of the format is sent: model, messages, and the schema of the answer."""
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


WIRE = WireFormat(
    path=lambda _model: "/chat/completions",
    key_header=("authorization", "Bearer "),
    headers={},
    payload=payload,
    completion=completion,
    errors=COMMON,
    codes_of=common_codes,
    request_id="x-request-id",
    stream_path=lambda _model: "/chat/completions",
    stream_fields=_STREAMED,
    fold=OpenAiFold,
    adapt=adapt_body,
)
