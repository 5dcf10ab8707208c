"""The text of a foreign file of JSON, looked at before its parser sees it.

It may be built to crash its reader: its depth, its digits and its texts have limits. ijson 3.6 ends the process at an
integer of 4,301 digits, and takes 3.9 GB for 80,000 opening brackets.
"""

import itertools
import re
from typing import TextIO

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.text import PEEK

MAX_LINE = 1_000_000  # characters of a row, which has some hundreds: what is longer is none
MAX_DEPTH = 64  # a Cloud Asset export has eight
MAX_DIGITS = 400  # of a number: a double has 309 before its point at most
_DIGITS = re.compile(rb"[0-9]{%d}" % MAX_DIGITS)
# RFC 8259 allows four blanks between tokens, and none of the rest anywhere.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_TEXTS = re.compile(rb'"[^"]*"')
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'"\\[]{}'))
_NO_STEP = itertools.repeat(0)
_STEPS = {ord(b"["): 1, ord(b"{"): 1, ord(b"]"): -1, ord(b"}"): -1}


class BoundedText:
    """A text as ijson reads it, in bytes of UTF-8, looked at before it does."""

    def __init__(self, text: TextIO, name: str) -> None:
        self._text = text
        self._name = name
        self._depth = self._text_so_far = 0
        # Of the piece before: its end, a backslash at it, and the quotation mark of a text that it does not end.
        self._rest = self._carried = self._within_text = b""

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, of any size; raises InventoryInvalid if it is over a limit."""
        if size == 0:
            return b""
        while text := self._text.read(PEEK):
            piece = text.replace("\ufeff", "").encode()  # concatenated files may each start with a byte order mark
            if piece:
                self._look(piece)
                return piece
        return b""

    def _look(self, piece: bytes) -> None:
        around = self._rest + piece
        if _DIGITS.search(around):
            raise InventoryInvalid(f"{self._name} holds a number of {MAX_DIGITS} digits or more")
        if _CONTROLS.search(piece):
            raise InventoryInvalid(f"{self._name} is not JSON: it holds a control character")
        self._rest = around[-MAX_DIGITS:]
        self._look_at_structure(piece)
        if self._within_text:
            quote = piece.rfind(b'"')
            self._text_so_far = self._text_so_far + len(piece) if quote < 0 else len(piece) - quote
            if self._text_so_far > MAX_LINE:
                raise InventoryInvalid(f"{self._name} holds a text of over {MAX_LINE:,} characters")

    def _look_at_structure(self, piece: bytes) -> None:
        piece = self._carried + piece
        ends = len(piece) - len(piece.rstrip(b"\\"))
        self._carried = b"\\" if ends % 2 else b""  # what it escapes comes with the next piece
        piece = _ESCAPED.sub(b"", piece.removesuffix(self._carried)) if b"\\" in piece else piece
        bare = _TEXTS.sub(b"", self._within_text + piece.translate(None, _ALL_BUT_STRUCTURE))
        self._within_text = b'"' if b'"' in bare else b""
        depths = list(itertools.accumulate(map(_STEPS.get, bare.partition(b'"')[0], _NO_STEP), initial=self._depth))
        self._depth = depths[-1]
        if max(depths) > MAX_DEPTH:
            raise InventoryInvalid(f"{self._name} is nested deeper than {MAX_DEPTH} levels")
