"""Answers that come in pieces: each provider's event stream, folded into the body that it would have sent whole.

So there is one reader of each provider's answers; what comes here is only what is shown while it comes.

Formats: the providers' API references on streaming, and the types of openai-python, anthropic-sdk-python and
google-genai (2026-11). The framing is WHATWG's, "Server-sent events", read by httpx-sse.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import httpx
from httpx_sse import EventSource, SSEError

from keyturn.errors import UnreadableResponse


class Fold(Protocol):
    """Takes one stream's events in their order."""

    ended: bool  # whether the stream came to its own end: what breaks off before it is half an answer

    def add(self, event: Any) -> str:
        """Take an event; returns the text that it adds, perhaps none. Raises what an unforeseen shape raises."""
        ...

    def answer(self) -> Any:
        """Return the body that the whole answer would have had."""
        ...


class Bounded(httpx.AsyncByteStream):
    """A response's bytes, cut off with an UnreadableResponse after `most` of them."""

    def __init__(self, stream: httpx.AsyncByteStream, most: int) -> None:
        self._stream = stream
        self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield them as they come."""
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise UnreadableResponse("the answer is larger than 1 MiB")
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, wherever it was."""
        await self._stream.aclose()


async def events_of(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """Yield a stream's events as JSON; OpenAI's `[DONE]` is None. Raises UnreadableResponse."""
    try:
        async for event in EventSource(response).aiter_sse():
            if event.data:
                yield None if event.data == "[DONE]" else json.loads(event.data)
    except (SSEError, ValueError, RecursionError):
        raise UnreadableResponse("the answer is no stream of events") from None


class OpenAiFold:
    """Chunks of a chat completion; the usage comes in the last one, which has no choice."""

    def __init__(self) -> None:
        self.ended = False
        self._told: dict[str, Any] = {}
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._finish: Any = None

    def add(self, event: Any) -> str:
        """Take a chunk."""
        if event is None:
            self.ended = True
            return ""
        self._told |= {name: event[name] for name in ("id", "model", "usage") if event.get(name) is not None}
        text = ""
        for choice in event["choices"]:
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            self._refusals.append(delta.get("refusal") or "")
            self._finish = choice.get("finish_reason") or self._finish
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the chat completion."""
        message = {"content": "".join(self._texts), "refusal": "".join(self._refusals) or None}
        return self._told | {"choices": [{"message": message, "finish_reason": self._finish}]}


class AnthropicFold:
    """A message's events; its blocks of thinking are no part of the text."""

    def __init__(self) -> None:
        self.ended = False
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._texts: list[str] = []

    def add(self, event: Any) -> str:
        """Take an event; those of kinds that we do not know are passed over, as the reference asks."""
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
                self._usage |= event["message"].get("usage") or {}
            case "content_block_delta" if event["delta"].get("type") == "text_delta":
                self._texts.append(event["delta"]["text"])
                return str(self._texts[-1])
            case "message_delta":
                self._message |= {"stop_reason": event["delta"].get("stop_reason")}
                # The counts are of all so far, not of this event.
                self._usage |= {
                    name: number for name, number in (event.get("usage") or {}).items() if number is not None
                }
            case "message_stop":
                self.ended = True
        return ""

    def answer(self) -> Any:
        """Return the message."""
        content = [{"type": "text", "text": "".join(self._texts)}]
        return self._message | {"content": content, "usage": self._usage}


class GeminiFold:
    """Pieces of generated content, each whole in itself; the last has the reason why it ended."""

    def __init__(self) -> None:
        self.ended = False
        self._told: dict[str, Any] = {}
        self._texts: list[str] = []

    def add(self, event: Any) -> str:
        """Take a piece."""
        told = ("usageMetadata", "modelVersion", "responseId", "promptFeedback")
        self._told |= {name: event[name] for name in told if event.get(name) is not None}
        if (self._told.get("promptFeedback") or {}).get("blockReason"):
            self.ended = True
        text = ""
        for candidate in event.get("candidates") or []:
            parts = (candidate.get("content") or {}).get("parts") or []
            text += "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
            if candidate.get("finishReason"):
                self._told["finishReason"] = candidate["finishReason"]
                self.ended = True
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the generated content."""
        told = dict(self._told)
        finish = told.pop("finishReason", None)
        if finish is None:
            return told
        return told | {"candidates": [{"finishReason": finish, "content": {"parts": [{"text": "".join(self._texts)}]}}]}
