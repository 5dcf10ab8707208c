"""A chat completion that comes in pieces, folded into the whole.

Format: OpenAI API reference, "Streaming", and the types of openai-python (2026-11); what gateways and local servers
send beside.
"""

from typing import Any

from keyturn.foreign_json import read_json
from keyturn.llm.streams import Event, texts_in

# A whole answer, in small letters: see the finish reasons beside this module.
COMPLETE = (
    "stop",
    "eos",
    "eos_token",
    "stop_sequence",
    "end_turn",
    "end",
    "complete",
    "completed",
    "finish_reason_stop",
)


# A cut answer and a filtered one, likewise.
TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded")
FILTERED = (
    *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "error_toxic", "sensitive"),
    *("guardrail_intervened", "prohibited_content", "spii", "model_armor"),
)
_STAYS = frozenset({*TRUNCATED, *FILTERED, "refusal", "error"})


class OpenAiFold:
    """Chunks of a chat completion; the usage comes in the last one, which has no choice.

    Of several choices, the first is the answer. What was cut or filtered stays so, whatever reason comes after it.
    """

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._fields: dict[str, Any] = {}
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._choice: dict[str, Any] = {}
        self._calls: dict[str, Any] = {}

    def add(self, event: Event) -> str:
        """Take a chunk; anything else, such as a server's own event between them, is skipped."""
        if event.done:
            self.ended = self.finished = True
            return ""
        chunk = event.data
        if not isinstance(chunk, dict):
            return ""
        self._fields |= {name: chunk[name] for name in ("id", "model", "usage") if chunk.get(name) is not None}
        text = ""
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue
            # A last chunk may repeat the whole as `message`; where nothing came before, it is the answer.
            said = any(self._texts)
            delta = choice.get("delta") or (None if said else choice.get("message")) or {}
            text += texts_in(delta.get("content"))
            self._refusals.append(delta.get("refusal") or "")
            self._calls |= {name: delta[name] for name in ("tool_calls", "function_call") if delta.get(name)}
            if choice.get("error"):  # the provider behind a gateway died, with or without a reason
                self._choice = {"finish_reason": "error", "error": choice["error"]}
            elif choice.get("finish_reason") and str(self._choice.get("finish_reason")).lower() not in _STAYS:
                self._choice = {name: choice[name] for name in ("finish_reason", "error") if choice.get(name)}
            self.finished = self.finished or bool(self._choice)
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the chat completion. `[DONE]` without a reason ends what is whole by itself; prose may be cut off."""
        text = "".join(self._texts)
        message = {"content": text, "refusal": "".join(self._refusals) or None} | self._calls
        unstated = "stop" if is_json(text) else "unstated"
        return self._fields | {"choices": [{"finish_reason": unstated, **self._choice, "message": message}]}


def is_json(text: str) -> bool:
    """Return True if a text is whole by itself."""
    try:
        read_json(text)
    except ValueError:
        return False
    return True
