"""Answers that come in pieces: each provider's event stream, folded into the body that it would have sent whole.

So there is one reader of each provider's answers; what comes here is only what is shown while it comes.

Formats: the providers' API references on streaming, and the types of openai-python, anthropic-sdk-python and
google-genai (2026-11), and what gateways and local servers send beside. The framing is WHATWG's, "Server-sent events".
No library reads it: httpx-sse refuses a stream that names no content type, and ends lines where none end.
"""

import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, NamedTuple, Protocol

import httpx

from keyturn.foreign_json import DECODER, expect_shallow, read_envelope
from keyturn.llm.errors import UnreadableResponse


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
        if first and (not line.strip() or line.startswith(":")):  # a comment keeps the connection open
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
        elif field == "error":  # llama.cpp's own
            yield Event("error", _error_in(value))
            events += 1
        elif not line:
            for event in _events(name, data):
                yield event
                events += 1
            data, name = [], ""
    for event in _events(name, data):  # the blank line behind the last event did not come
        yield event
        events += 1
    if not first and not events:
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


def _events(name: str, lines: list[str]) -> Iterator[Event]:
    """Yield the event of these lines of data; or several, which a server did not part: each line, or each value."""
    # What keeps the connection open, and a prefix that was written twice.
    lines = [line.removeprefix("data:").strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith(":")]
    if not lines:
        return
    whole = "\n".join(lines)
    try:
        yield _event(name, whole)
    except UnreadableResponse:
        parts = lines if len(lines) > 1 else _values_in(whole)
        if len(parts) < 2:
            raise
        for part in parts:
            yield _event(name, part)


_BLANK = re.compile(r"\s*")
_MOST_VALUES = 256  # of a line: servers that forget to part events write a few


def _values_in(text: str) -> list[str]:
    """Return the values of JSON that stand behind each other; empty if that is not what the text is."""
    try:
        expect_shallow(text)
    except ValueError:
        return []
    found: list[str] = []
    place = 0
    while place < len(text):
        try:
            _, end = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        if len(found) == _MOST_VALUES:
            return []
        found.append(text[place:end])
        behind = _BLANK.match(text, end)
        place = end if behind is None else behind.end()
    return found


_DONE = frozenset({"[DONE]", "DONE", "[END]"})


def _event(name: str, data: str) -> Event:
    if data in _DONE:
        return Event(name, None, done=True)
    try:
        return Event(name or "message", _json(data))
    except UnreadableResponse:
        if name and name not in {"message", "error"}:  # a server's own, between those that are meant for us
            return Event(name, None)
        if name == "error":
            return Event(name, _error_in(data))
        raise


def _error_in(text: str) -> Any:
    try:
        said = read_envelope(text.strip())
    except ValueError:
        return {"error": "an error in words"}
    return said if isinstance(said, dict) and "error" in said else {"error": said}


def _json(text: str) -> Any:
    try:
        return read_envelope(text)
    except ValueError:
        raise UnreadableResponse("the answer is no stream of events") from None


def texts_in(content: Any) -> str:
    """Return the text of a content: as it is, or of its parts that are text, and not thoughts or tools."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part.get("type", "text") in {"text", "output_text"})
