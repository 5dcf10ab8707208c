"""Patterns of names in which `*` stands for any characters: compared in one pass, however many stars they have.

A regular expression of many stars takes exponential time where it does not match, and patterns are written by people.
"""

from collections.abc import Sequence
from functools import lru_cache


class Pattern:
    """A pattern such as `svc-pay-*`.

    Attributes:
        text: as it was written.
        prefix: what a name must begin with.
        is_exact: whether it has no star, and names one name.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.prefix, *rest = text.split("*")
        self.is_exact = not rest
        self._middle: Sequence[str] = [part for part in rest[:-1] if part]
        self._suffix = rest[-1] if rest else ""

    def matches(self, name: str) -> bool:
        """Whether a whole name is of this pattern; capital letters count."""
        if self.is_exact:
            return name == self.text
        if not name.startswith(self.prefix):
            return False
        end = len(name) - len(self._suffix)
        if end < len(self.prefix) or not name.endswith(self._suffix):
            return False
        at = len(self.prefix)
        for part in self._middle:  # the leftmost place of each leaves the most room for the others
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


@lru_cache(maxsize=16_384)
def pattern_of(text: str) -> Pattern:
    """Return a pattern that was read before as it is: waivers are compared with every key of a run."""
    return Pattern(text)
