"""JSON that others wrote is read, or refused with a ValueError, whatever it holds."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.foreign_json import MAX_DEPTH, read_json


@pytest.mark.parametrize(
    "text",
    [
        "[" * 9_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * 9_000 + "1" + "}" * 9_000,
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        "NaN",
        "[Infinity]",
        "9" * 5_000,
        "[1,]",
        "",
        b"\xff\xfe[",
        b'{"a": "\xed\xa0\x80"}',
    ],
)
def test_what_is_no_json_of_ours_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own, too
        read_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ("\ufeff[]", []),
        ('["' + "[" * 500 + '"]', ["[" * 500]),  # brackets in a text are no depth
        ('["\\"' + "{" * 500 + '"]', ['"' + "{" * 500]),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ("[" + "[]," * 5_000 + "[]]", [[]] * 5_001),
    ],
)
def test_depth_is_counted_outside_of_texts(text: str | bytes, value: object) -> None:
    found = read_json(text)
    assert value is None or found == value


@given(st.text(alphabet='[]{}":,\\a1 ', max_size=400) | st.recursive(st.integers(), st.lists).map(json.dumps))
def test_any_text_is_read_as_the_standard_library_reads_it_or_refused(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own, too
            read_json(text)
    else:
        assert read_json(text) == value


@pytest.mark.parametrize("text", ['"\\' * 500_000, "[" * 1_000_000, '["' * 330_000, '"' * 1_000_001])
def test_a_mebibyte_of_anything_takes_no_time(text: str) -> None:
    """Linear: two of these took minutes with a pattern that looks for each text's end."""
    began = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own, too
        read_json("[" * (MAX_DEPTH + 1) + text)
    assert time.process_time() - began < 2
