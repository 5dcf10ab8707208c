"""Markdown, as the generated pages need it."""

import re
import textwrap
from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """Return `text` on one line, with what would end a table's cell escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def escape(text: str) -> str:
    """Return `text` with what Markdown would take as emphasis or a link left as it is; code stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<])", r"\\\1", part) for part in parts)


def code(text: object) -> str:
    """Return `text` as code within a line; empty for an empty text."""
    return f"`{cell(str(text))}`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(text: str, language: str = "text") -> str:
    """Return `text` as a block of code."""
    return f"```{language}\n{textwrap.dedent(text).strip()}\n```"


def page(title: str, *parts: str) -> str:
    """Return a page of a title and its parts, and say where it comes from."""
    note = "<!-- Written from the code by `make docs`: change the code, and not this page. -->"
    return "\n\n".join([note, f"# {title}", *filter(None, parts)]) + "\n"
