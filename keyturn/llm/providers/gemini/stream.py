"""Generated content that comes in pieces, folded into the whole.

Format: Gemini API reference, "streamGenerateContent", and the types of google-genai (2026-11).
"""

from typing import Any

from keyturn.llm.streams import Event

_MAY_CHANGE = ("STOP", "FINISH_REASON_UNSPECIFIED")


class GeminiFold:
    """Pieces of generated content, each whole in itself. Some give each its reason to end: the stream's end counts.

    Of several candidates, the first is the answer. What was cut or filtered stays so, whatever reason comes after it.
    """

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._fields: dict[str, Any] = {}
        self._texts: list[str] = []

    def add(self, event: Event) -> str:
        """Take a piece."""
        if event.done:
            self.ended = True
        piece = event.data
        if not isinstance(piece, dict):
            return ""
        names = ("usageMetadata", "modelVersion", "responseId", "promptFeedback")
        self._fields |= {name: piece[name] for name in names if piece.get(name) is not None}
        if (self._fields.get("promptFeedback") or {}).get("blockReason"):
            self.ended = True
        text = ""
        for candidate in piece.get("candidates") or []:
            if candidate.get("index"):
                continue
            parts = (candidate.get("content") or {}).get("parts") or []
            text += "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
            if candidate.get("finishReason") and self._fields.get("finishReason") in (None, *_MAY_CHANGE):
                self._fields["finishReason"] = candidate["finishReason"]
        self.finished = "finishReason" in self._fields or self.ended
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the generated content."""
        whole = dict(self._fields)
        finish = whole.pop("finishReason", None)
        if finish is None:
            return whole
        return whole | {
            "candidates": [{"finishReason": finish, "content": {"parts": [{"text": "".join(self._texts)}]}}]
        }
