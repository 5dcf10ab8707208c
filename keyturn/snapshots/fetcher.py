"""A fetcher: how the keys of one cloud are read, in parts that can be read again one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from pydantic_settings import BaseSettings

from keyturn.snapshots.rows import Rows


class Part(NamedTuple):
    """What is read as one, and is missing as one if it cannot be: an account, a project, a namespace, a directory.

    `owner` is who owns all of its keys, unless a key says otherwise; empty if no one is known to.
    """

    name: str
    owner: str = ""


class Page(NamedTuple):
    """Some rows of a part, and where the next ones start; `next_cursor` is empty behind the last."""

    rows: Rows
    next_cursor: str = ""


class Cloud(Protocol):
    """The keys that the environment's credentials reach."""

    async def parts(self) -> Sequence[Part]:
        """Return the parts, in an order that is the same each time; raises KeyturnError."""
        ...

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return a page of a part.

        Args:
            part: one of `parts`, of this process or an earlier one.
            cursor: where the page starts; empty for the first.
            observed_at: the snapshot's own time: no key that is younger, and no use later than that, is evidence.

        Raises:
            CursorInvalid: the cursor cannot be used any more.
            KeyturnError: the part cannot be read; what passes by itself was tried often enough.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True)
class Fetcher:
    """A fetcher, as `--from` names it.

    Attributes:
        name: unique.
        part: what one part is called, such as `account`.
        open: makes the cloud. It may import a library that is an extra's: a ModuleNotFoundError is reported as the
            extra that is missing. It raises a KeyturnError for what is missing.
        settings: returns the class of its settings, for the documentation, and to see that they are still the same.
        extra: the extra of Keyturn that brings its library; empty if it needs none.
    """

    name: str
    part: str
    open: Callable[[], Cloud]
    settings: Callable[[], type[BaseSettings]]
    extra: str = ""
