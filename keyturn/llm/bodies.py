"""What came back from a provider: read within bounds, as JSON, and what of it may be recorded."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import JsonValue

from keyturn.foreign_json import read_envelope
from keyturn.llm.classify import error_in, text_of
from keyturn.llm.errors import (
    UnreadableResponse,
)

# 1 MiB is 30 times what the longest answer of any task makes: what is larger is no answer, and is not read to its end.
MAX_BODY_BYTES = 1 << 20


# A thousand times the largest context window: what is larger is no count, and would make a price of it that is none.
MOST_TOKENS = 1_000_000_000


# https://www.iana.org/assignments/http-parameters, content codings.
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_NAME = re.compile(r"[A-Za-z0-9._:/@+=-]*")


def expect_uncompressed(response: httpx.Response) -> None:
    """Raise UnreadableResponse if a body was compressed: a bomb of some kB would be gigabytes.

    A gateway that writes `utf-8` or nothing there compresses nothing.
    """
    if not _COMPRESSIONS.isdisjoint(re.split(r"[\s,]+", response.headers.get("content-encoding", "").lower())):
        raise UnreadableResponse("the answer is compressed, which the request did not accept")


def decode_json(body: bytes) -> Any:
    """Return what a body says; raises UnreadableResponse if it is no JSON."""
    try:
        return read_envelope(body)
    except ValueError:
        return None


def words_of(body: bytes, response: httpx.Response) -> dict[str, str] | None:
    """Return what a failure says in plain text, as an error; None if it is a page, or nothing."""
    text = body[:2_000].decode(errors="replace").strip()
    is_page = text.startswith("<") or response.headers.get("content-type", "").lower().startswith("text/html")
    return {"detail": text} if text and not is_page else None


async def read_body(response: httpx.Response) -> bytes:
    """Return the body, of at most MAX_BODY_BYTES; raises UnreadableResponse."""
    expect_uncompressed(response)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise UnreadableResponse("the answer is larger than 1 MiB")
    return bytes(body)


# Fields that some servers refuse: Mistral `stream_options`, older ones `response_format` with a schema, those before
# OpenAI's reasoning models `max_completion_tokens`, and those models `max_tokens`.
OPTIONAL_FIELDS = (
    "stream_options",
    "prompt_cache_key",
    "store",
    "max_completion_tokens",
    "max_tokens",
    "strict",
    "json_schema",
    "json_object",
    "response_format",
)


# What a refusal says of a field that the server does not know. One that is too large, or does not fit into the window,
# says something else, and the field must stay: without its limit an answer would cost what it likes.
_NOT_TAKEN = re.compile(
    r"unsupported|not supported|does(?: not|n't) support|unknown|unrecognized|unexpected|not permitted|not allowed"
    r"|forbidden|extra[_ ](?:inputs|fields|forbidden)|not (?:available|implemented)"
    r"|invalid (?:parameter|argument|field)",
    re.IGNORECASE,
)
# Of a form of answers, also that only others are taken. Of a limit that would mean another limit.
_FORM_NOT_TAKEN = re.compile(
    r"\bunavailable\b|enabled only for|literal_error|must be one of|supported values are|failed to deserialize"
    r"|unknown variant",
    re.IGNORECASE,
)
# DashScope names no field; vLLM and others write of the JSON schema.
_JSON_MODE = re.compile(r"\bjson mode\b", re.IGNORECASE)
_JSON_SCHEMA = re.compile(r"\bjson schema\b", re.IGNORECASE)
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})


def refused_fields(body: Any, payload: Mapping[str, JsonValue]) -> set[str]:
    """Return the field of `payload` that a refusal says the server does not take; none, if it says something else.

    OpenAI and Azure name it in `param`, FastAPI's servers in `loc`, others in their message. Nothing else of the body
    is looked at: it may repeat what was asked.
    """
    error = error_in(body, is_failure=True) or {}
    details = body.get("detail") if isinstance(body, dict) else None
    details = details if isinstance(details, list) else error.get("details")  # Azure's models
    details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    message = _JSON_SCHEMA.sub("json_schema", _JSON_MODE.sub("response_format", text_of(error)[:500]))
    param = error.get("param")
    param = None if param in {"None", "null", ""} else param  # LiteLLM writes its own nothing
    # Each thing that is said, with where it says what it is about.
    said = [(f"{message} {error.get('code')}", param if isinstance(param, str) else message)]
    for one in details:
        where = " ".join(map(str, one["loc"])) if isinstance(one.get("loc"), list) else ""
        text = f"{one.get('type')} {one.get('msg')}"[:200]
        said.append((text, where or text))
    # `max_tokens is not supported, use max_completion_tokens`: the one that was sent is meant.
    sent = json.dumps({name: value for name, value in payload.items() if name != "messages"})
    for name in OPTIONAL_FIELDS:
        for text, mentioned in said:
            not_taken = _NOT_TAKEN.search(text) or (name not in _LIMITS and _FORM_NOT_TAKEN.search(text))
            if not_taken and re.search(rf"\b{name}\b", mentioned) and f'"{name}"' in sent:
                return {name}
    return set()


def recordable(text: Any, longest: int = 64) -> str:
    """Return a name as it may be recorded; empty if `text` is none.

    Model, finish reason and request id are the provider's to choose, and they reach logs, ledger and history: what has
    a blank or another letter than names have could be a sentence of the prompt, and is not taken.
    """
    return text if isinstance(text, str) and len(text) <= longest and _NAME.fullmatch(text) else ""


def count(usage: Any, name: str) -> int | None:
    """Return a token count as a provider wrote it, in digits or as 10.0 too; None for anything but a whole number.

    And for one of over a billion.
    """
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
