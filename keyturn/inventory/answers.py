"""Answers of `aws iam get-credential-report`: a report each, as Base64 in JSON, one or several in a file.

A report has some 300 bytes a user, so that its text is decoded piece by piece; the JSON around the reports is small.
"""

import base64
import binascii
import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from keyturn.inventory.documents import entries_in
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow
from keyturn.inventory.text import PEEK, open_text

# The members of an answer, in any order.
_ANSWER = re.compile(r'\{\s*"(?:Content|ReportFormat|GeneratedTime|ResponseMetadata)"\s*:')
_CONTENT = re.compile(r'"Content"\s*:\s*"')
_NO_BASE64 = re.compile(r"\\[nr/]|\s")
MOST_AROUND = 1 << 20  # characters beside the reports: an answer has some hundred
_LONGEST_NAME = 64  # characters of `"Content" : "`, which may stand across two pieces


def is_answer(head: str) -> bool:
    """Return True if a text that starts so is an answer of `aws iam get-credential-report`."""
    return _ANSWER.match(head) is not None


def reports_in(file: Path) -> Iterator[tuple[str | None, Iterator[str]]]:
    """Yield each report, by when it was made, as its answer says, and its text in pieces: read one after the other.

    Raises:
        InventoryInvalid: the file holds something else, which would be missed in silence, or an answer has no report.
    """
    pieces, fault = _pieces(file), InventoryInvalid(f"{file} is not the output of get-credential-report")
    for made in _generation_times(file):
        yield made, _decoded(pieces, fault)
    if any(is_report for is_report, _ in pieces):  # one within another answer's member
        raise fault


def _generation_times(file: Path) -> list[str | None]:
    """Return each answer's GeneratedTime, or None for one without it: it stands behind the report that it dates."""
    around = io.StringIO()
    for is_report, piece in _pieces(file):
        if not is_report and piece is not None:
            around.write(piece)
            if around.tell() > MOST_AROUND:
                raise InventoryInvalid(f"{file} holds more than answers of get-credential-report")
    around.seek(0)
    times = []
    for entry in entries_in(around, str(file)):
        if isinstance(entry, BadRow) or "Content" not in entry[1]:
            raise InventoryInvalid(f"{file} holds an answer that is no output of get-credential-report")
        made = entry[1].get("GeneratedTime")
        times.append(None if made is None else str(made))  # a number is refused as no moment
    return times


def _pieces(file: Path) -> Iterator[tuple[bool, str | None]]:
    """Yield the text in pieces, each with whether it is of a report; None behind each report."""
    with open_text(file) as text:
        rest, within = "", False
        while piece := text.read(PEEK):
            rest += piece
            while rest:
                if within:
                    part, quote, rest = rest.partition('"')
                    yield True, part
                    if quote:
                        within, rest = False, f'"{rest}'
                        yield True, None
                    continue
                begun = _CONTENT.search(rest)
                if begun is None:
                    yield False, rest[:-_LONGEST_NAME]
                    rest = rest[-_LONGEST_NAME:]
                    break
                yield False, rest[: begun.end()]
                rest, within = rest[begun.end() :], True
        yield within, rest


def _decoded(pieces: Iterator[tuple[bool, str | None]], fault: InventoryInvalid) -> Iterator[str]:
    """Yield the text of the next report; raises `fault` if it is empty, no Base64 of UTF-8, or does not end."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    rest, is_empty = "", True
    try:
        for is_report, piece in pieces:
            if not is_report:
                continue
            ended = piece is None
            whole = _NO_BASE64.sub(lambda found: "/" if found[0] == "\\/" else "", rest + (piece or ""))
            usable = len(whole) if ended else (len(whole) - (1 if whole.endswith("\\") else 0)) // 4 * 4
            yield decode(base64.b64decode(whole[:usable], validate=True), final=ended)
            rest, is_empty = whole[usable:], is_empty and not usable
            if ended and not is_empty:
                return
            if ended:
                break
    except (ValueError, binascii.Error):
        pass
    raise fault
