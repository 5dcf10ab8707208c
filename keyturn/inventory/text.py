"""The text of a file as exporters, shells and spreadsheets write it: UTF-8, with a mark or without, and UTF-16."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from keyturn.inventory.errors import InventoryInvalid

PEEK = 65_536  # characters: whatever identifies a format stands in its first line or its first members
# PowerShell's `>` writes UTF-16 with a mark, and `Out-File -Encoding utf8` a mark of UTF-8.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, with whose mark it starts
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """Open a file as text, its line ends as they are; raises InventoryInvalid where it cannot be read or is no text."""
    try:
        with file.open("rb") as raw:
            head = raw.read(64)
        with file.open(encoding=_encoding(head), newline="") as text:
            yield text
    except OSError as error:
        raise InventoryInvalid(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeError as error:
        cut = isinstance(error, UnicodeDecodeError) and error.reason in {"unexpected end of data", "truncated data"}
        what = "it ends within a character: the export was cut off" if cut else _not_text(head)
        raise InventoryInvalid(f"{file} cannot be read: {what}") from None


def _not_text(head: bytes) -> str:
    packed = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a ZIP file or a workbook of Excel", b"\xd0\xcf\x11\xe0": "Excel's"}
    for mark, what in packed.items():
        if head.startswith(mark):
            return f"it is {what}: unpack it, or save it as CSV"
    return "it is neither UTF-8 nor marked as UTF-16"


def first_characters(file: Path) -> str:
    """Return the first characters, without what is blank before them; raises InventoryInvalid."""
    with open_text(file) as text:
        head = ""
        while not head and (piece := text.read(PEEK)):
            head = piece.lstrip()
        return head if len(head) > PEEK // 2 else head + text.read(PEEK)


def _encoding(head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    # Without a mark: text of Latin letters has a NUL in each second place.
    if len(head) >= 4 and not head[1::2].strip(b"\0") and head[::2].strip(b"\0"):
        return "utf-16-le"
    if len(head) >= 4 and not head[::2].strip(b"\0") and head[1::2].strip(b"\0"):
        return "utf-16-be"
    return "utf-8"
