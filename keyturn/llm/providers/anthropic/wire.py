"""Anthropic messages.

Format: Anthropic API reference, "Messages", and the types of anthropic-sdk-python (2026-11).
"""

from typing import Any

from pydantic import JsonValue

from keyturn.llm.bodies import count, recordable
from keyturn.llm.errors import UnreadableResponse
from keyturn.llm.provider import WireFormat
from keyturn.llm.providers.anthropic.errors import ERRORS, codes_of
from keyturn.llm.providers.anthropic.stream import AnthropicFold
from keyturn.llm.wire import Completion, Finish, Usage
from keyturn.tasks.definition import Prompt

# The version of the wire format that gateways and clouds understand as well; newer ones change headers, not the answer.
VERSION = "2023-06-01"
_FINISH: dict[str, Finish] = {
    "end_turn": "complete",
    "stop_sequence": "complete",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "pause_turn": "truncated",
    "refusal": "refused",
    # Gateways to other clouds' models.
    **dict.fromkeys(("guardrail_intervened", "content_filter", "content_filtered"), "filtered"),
}


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for `prompt`. No sampling settings: the newest models refuse them.

    The cache is marked where the shared beginning ends; it lives 5 minutes, which the next question renews for nothing.
    """
    marked: dict[str, JsonValue] = {"cache_control": {"type": "ephemeral"}}
    stable: dict[str, JsonValue] = {"type": "text", "text": prompt.stable, **marked}
    body: dict[str, JsonValue] = {
        "model": model,
        "max_tokens": prompt.max_output_tokens,
        "system": [{"type": "text", "text": prompt.system, **marked}],
        "messages": [{"role": "user", "content": [stable, {"type": "text", "text": prompt.varying}]}],
    }
    if prompt.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": prompt.schema}}
    return body


def completion(answer: Any, asked_model: str) -> Completion:
    """Return a message in our terms; raises UnreadableResponse."""
    try:
        blocks, reason = answer["content"], answer["stop_reason"]
        # Thinking comes in separate blocks, and is no part of the answer.
        texts = [block["text"] for block in blocks if block.get("type") == "text"]
        usage = answer.get("usage")
    except (TypeError, KeyError, AttributeError):
        raise UnreadableResponse("the answer is not a message") from None
    if not isinstance(blocks, list) or not isinstance(reason, str) or not all(isinstance(text, str) for text in texts):
        raise UnreadableResponse("the answer is not a message")
    cached, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
    fresh = count(usage, "input_tokens")
    return Completion(
        text="".join(texts),
        finish=_FINISH.get(reason, "truncated"),
        finish_reason=recordable(reason),
        model=recordable(answer.get("model"), 128) or asked_model,
        usage=Usage(
            # The three are disjoint here; elsewhere the cached part is within the whole.
            None if fresh is None else fresh + (cached or 0) + (written or 0),
            count(usage, "output_tokens"),
            cached,
            written,
        ),
        request_id=recordable(answer.get("id")) or None,
    )


WIRE = WireFormat(
    path=lambda _model: "/v1/messages",
    key_header=("x-api-key", ""),
    headers={"anthropic-version": VERSION},
    payload=payload,
    completion=completion,
    errors=ERRORS,
    codes_of=codes_of,
    request_id="request-id",
    stream_path=lambda _model: "/v1/messages",
    stream_fields={"stream": True},
    fold=AnthropicFold,
)
