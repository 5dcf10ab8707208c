"""JSON that others wrote, read with bounds: the standard parser answers depth by exhausting the stack."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 100  # a provider's answer has eight levels, an asset export twelve
# Texts, which may contain brackets, and brackets. A text without an end runs to the end: one pass, whatever comes.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Args:
        text: UTF-8 where it is bytes; a byte order mark is skipped.

    Raises:
        ValueError: it is not JSON (RFC 8259), is nested deeper than `MAX_DEPTH`, has a number of more digits than
            Python reads, or names a member twice.
    """
    whole = (text.decode() if isinstance(text, bytes) else text).removeprefix("\ufeff")
    expect_shallow(whole)
    return DECODER.decode(whole)


def read_envelope(text: str | bytes) -> Any:
    """Return the value of a JSON text around an answer, as `read_json` does.

    A member that is named twice is one if both say the same, or if it is a model's reasoning, which is not read: some
    servers write it as null, and again. Raises ValueError.
    """
    whole = (text.decode() if isinstance(text, bytes) else text).removeprefix("\ufeff")
    expect_shallow(whole)
    return _ENVELOPE.decode(whole)


def expect_shallow(text: str) -> None:
    """Raise ValueError if brackets are nested deeper than `MAX_DEPTH`."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for mark in _STRUCTURE.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON leaves it open which of two equal keys counts; what says two things says nothing.
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _no_contradictions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, value in pairs:
            if value != found[name] and not name.startswith(("reasoning", "thinking")):
                raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_ENVELOPE = json.JSONDecoder(object_pairs_hook=_no_contradictions, parse_constant=_no_constant)
DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
