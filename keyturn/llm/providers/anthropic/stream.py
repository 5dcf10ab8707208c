"""A message that comes in pieces, folded into the whole.

Format: Anthropic API reference, "Streaming messages", and the types of anthropic-sdk-python (2026-11).
"""

from typing import Any

from keyturn.llm.streams import Event


class AnthropicFold:
    """A message's events; its blocks of thinking are no part of the text."""

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._texts: list[str] = []

    def add(self, event: Event) -> str:
        """Take an event; those of unknown kinds are skipped, as the reference asks."""
        data = event.data
        if not isinstance(data, dict):
            return ""
        match data.get("type"):
            case "message_start":
                self._message = dict(data["message"])
                self._usage |= data["message"].get("usage") or {}
            case "content_block_start" if data["content_block"].get("type") == "text":
                return self._more(data["content_block"].get("text") or "")
            case "content_block_delta" if data["delta"].get("type") == "text_delta":
                return self._more(data["delta"]["text"])
            case "message_delta":
                self._message |= {"stop_reason": data["delta"].get("stop_reason") or self._message.get("stop_reason")}
                self.finished = bool(self._message["stop_reason"])
                # The counts are of all so far, not of this event; some gateways write 0 for what they said before.
                for name, number in (data.get("usage") or {}).items():
                    if number is not None and (number or not self._usage.get(name)):
                        self._usage[name] = number
            case "message_stop":
                self.ended = self.finished = True
        return ""

    def _more(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the message."""
        content = [{"type": "text", "text": "".join(self._texts)}]
        return self._message | {"content": content, "usage": self._usage}
