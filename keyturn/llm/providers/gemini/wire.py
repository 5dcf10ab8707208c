"""Google's Gemini, generateContent.

Format: Gemini API reference, "Generating content", and the types of google-genai (2026-11).
"""

from typing import Any
from urllib.parse import quote

from pydantic import JsonValue

from keyturn.llm.bodies import count, recordable
from keyturn.llm.errors import GenerationFailed, UnreadableResponse
from keyturn.llm.provider import WireFormat
from keyturn.llm.providers.gemini.errors import ERRORS, codes_of
from keyturn.llm.providers.gemini.stream import GeminiFold
from keyturn.llm.wire import Completion, Finish, Usage
from keyturn.tasks.definition import Prompt

_FINISH: dict[str, Finish] = {
    "STOP": "complete",
    "MAX_TOKENS": "truncated",
    "CONTINUATION": "truncated",
    "SAFETY": "filtered",
    "RECITATION": "filtered",
    "BLOCKLIST": "filtered",
    "PROHIBITED_CONTENT": "filtered",
    "SPII": "filtered",
    "MODEL_ARMOR": "filtered",
    "LANGUAGE": "refused",
    "ESCALATION": "refused",
}


# The model's own fault, which another attempt may not have.
_NOT_GENERATED = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for `prompt`; the path names the model. The prompt cache works by itself."""
    settings: dict[str, JsonValue] = {"maxOutputTokens": prompt.max_output_tokens}
    if prompt.schema is not None:
        settings |= {"responseMimeType": "application/json", "responseJsonSchema": prompt.schema}
    return {
        "systemInstruction": {"parts": [{"text": prompt.system}]},
        "contents": [{"role": "user", "parts": [{"text": prompt.stable}, {"text": prompt.varying}]}],
        "generationConfig": settings,
    }


def completion(answer: Any, asked_model: str) -> Completion:
    """Return generated content in our terms; raises UnreadableResponse. A blocked prompt is an answer: filtered."""
    try:
        usage = answer.get("usageMetadata")
        blocked = (answer.get("promptFeedback") or {}).get("blockReason")
        if blocked and not answer.get("candidates"):
            reason, texts = blocked, []
        else:
            candidate = answer["candidates"][0]
            reason = candidate["finishReason"]
            parts = (candidate.get("content") or {}).get("parts") or []
            texts = [part["text"] for part in parts if "text" in part and not part.get("thought")]
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnreadableResponse("the answer is not generated content") from None
    if reason in _NOT_GENERATED:
        raise GenerationFailed("the model called a function that does not exist")
    if not isinstance(reason, str) or not all(isinstance(text, str) for text in texts):
        raise UnreadableResponse("the answer is not generated content")
    finish: Finish = "filtered" if blocked else _FINISH.get(reason, "truncated")
    return Completion(
        text="".join(texts),
        finish=finish,
        finish_reason=recordable(reason),
        model=recordable(answer.get("modelVersion"), 128) or asked_model,
        usage=Usage(
            _sum(usage, "promptTokenCount", "toolUsePromptTokenCount"),
            # What the model thought is counted apart from what it said, and both are paid as output.
            _output_tokens(usage),
            count(usage, "cachedContentTokenCount"),
        ),
        request_id=recordable(answer.get("responseId")) or None,
    )


def _output_tokens(usage: Any) -> int | None:
    said = _sum(usage, "candidatesTokenCount", "thoughtsTokenCount")
    total, read = count(usage, "totalTokenCount"), _sum(usage, "promptTokenCount", "toolUsePromptTokenCount")
    # Where nothing was said, neither is stated, and the total says that it is none.
    return max(total - read, 0) if said is None and total is not None and read is not None else said


def _sum(usage: Any, *names: str) -> int | None:
    counts = [number for name in names if (number := count(usage, name)) is not None]
    return sum(counts) if counts else None


def _path(model: str) -> str:
    return f"/v1beta/models/{quote(model.removeprefix('models/'), safe='')}"


WIRE = WireFormat(
    path=lambda model: f"{_path(model)}:generateContent",
    key_header=("x-goog-api-key", ""),
    headers={},
    payload=payload,
    completion=completion,
    errors=ERRORS,
    codes_of=codes_of,
    request_id="",
    stream_path=lambda model: f"{_path(model)}:streamGenerateContent?alt=sse",
    stream_fields={},
    fold=GeminiFold,
)
