"""Answers that come in pieces: each provider's event stream, folded into the body that it would have sent whole.

So there is one reader of each provider's answers; what comes here is only what is shown while it comes.

Formats: the providers' API references on streaming, and the types of openai-python, anthropic-sdk-python and
google-genai (2026-11), and what gateways and local servers send beside. The framing is WHATWG's, "Server-sent events".
No library reads it: httpx-sse refuses a stream that names no content type, and ends lines where none end.
"""

import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple, Protocol

import httpx

from keyturn.errors import UnreadableResponse
from keyturn.foreign_json import read_json


class Event(NamedTuple):
    """An event of a stream: its name (`message`, if it has none) and its data as JSON.

    `data` is None for OpenAI's `[DONE]`. `whole` says that it is no event, but the whole body of a server that streams
    nothing.
    """

    name: str
    data: Any
    done: bool = False
    whole: bool = False


class Fold(Protocol):
    """Takes one stream's events in their order."""

    ended: bool  # nothing more comes: the stream said so itself
    finished: bool  # the answer is whole, if the stream ends here; what breaks off before it is half an answer

    def add(self, event: Event) -> str:
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


async def events_of(response: httpx.Response) -> AsyncGenerator[Event, None]:
    """Yield a stream's events, whatever its content type; raises UnreadableResponse."""
    lines = lines_in(response)
    data: list[str] = []
    name, first, events = "", True, 0
    async for line in lines:
        if first and not line.strip():
            continue
        if first and line.lstrip().startswith(("{", "[")):
            yield Event("", _json("\n".join([line, *[rest async for rest in lines]])), whole=True)
            return
        first = False
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
        elif not line:
            if data:
                yield _event(name, "\n".join(data))
                events += 1
            data, name = [], ""
    if data:  # the blank line behind the last event did not come
        yield _event(name, "\n".join(data))
    elif not first and not events:
        raise UnreadableResponse("the answer is no stream of events")


async def lines_in(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Yield lines, which end at CR, LF or both, and at nothing else: httpx ends them at U+2028, too, within a text."""
    decoder, rest = codecs.getincrementaldecoder("utf-8-sig")(), ""
    try:
        async for chunk in response.aiter_bytes():
            rest += decoder.decode(chunk)
            end = len(rest) - rest.endswith("\r")  # whether a line feed follows comes with the next piece
            *whole, begun = _LINE_END.split(rest[:end])
            rest = begun + rest[end:]
            for line in whole:
                yield line
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UnreadableResponse("the answer is no stream of events") from None
    for line in _LINE_END.split(rest.removesuffix("\r")) if rest else []:
        yield line


_LINE_END = re.compile("\r\n|\n|\r")


def _event(name: str, data: str) -> Event:
    if data.strip() == "[DONE]":
        return Event(name, None, done=True)
    try:
        return Event(name or "message", _json(data))
    except UnreadableResponse:
        if name and name not in {"message", "error"}:  # a server's own, between those that are meant for us
            return Event(name, None)
        if name == "error":
            return Event(name, {"error": "an error in words"})
        raise


def _json(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        raise UnreadableResponse("the answer is no stream of events") from None


def texts_in(content: Any) -> str:
    """Return the text of a content: as it is, or of its parts that are text, and not thoughts or tools."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part.get("type", "text") in {"text", "output_text"})


class OpenAiFold:
    """Chunks of a chat completion; the usage comes in the last one, which has no choice."""

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._fields: dict[str, Any] = {}
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._choice: dict[str, Any] = {}

    def add(self, event: Event) -> str:
        """Take a chunk; what is none, such as a server's own event between them, is passed over."""
        if event.done:
            self.ended = self.finished = True
            return ""
        chunk = event.data
        if not isinstance(chunk, dict):
            return ""
        self._fields |= {name: chunk[name] for name in ("id", "model", "usage") if chunk.get(name) is not None}
        text = ""
        for choice in chunk.get("choices") or []:
            # A last chunk may repeat the whole as `message`; where nothing came before, it is the answer.
            said = any(self._texts)
            delta = choice.get("delta") or (None if said else choice.get("message")) or {}
            text += texts_in(delta.get("content"))
            self._refusals.append(delta.get("refusal") or "")
            if choice.get("finish_reason"):
                self._choice = {name: choice[name] for name in ("finish_reason", "error") if choice.get(name)}
                self.finished = True
        self._texts.append(text)
        return text

    def answer(self) -> Any:
        """Return the chat completion. `[DONE]` without a reason is an end, too."""
        message = {"content": "".join(self._texts), "refusal": "".join(self._refusals) or None}
        return self._fields | {"choices": [{"finish_reason": "stop", **self._choice, "message": message}]}


class AnthropicFold:
    """A message's events; its blocks of thinking are no part of the text."""

    def __init__(self) -> None:
        self.ended = self.finished = False
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._texts: list[str] = []

    def add(self, event: Event) -> str:
        """Take an event; those of kinds that we do not know are passed over, as the reference asks."""
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
                # The counts are of all so far, not of this event.
                self._usage |= {
                    name: number for name, number in (data.get("usage") or {}).items() if number is not None
                }
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


class GeminiFold:
    """Pieces of generated content, each whole in itself. Some give each its reason to end: the stream's end counts."""

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
            parts = (candidate.get("content") or {}).get("parts") or []
            text += "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
            if candidate.get("finishReason"):
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
