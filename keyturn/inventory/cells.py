"""Cells of a CSV that a person opens in a spreadsheet: shown, and not calculated (OWASP, CSV Injection). Pure."""

import re

# What a spreadsheet reads as a formula, in the usual width and in the wide one; behind apostrophes of any writer.
_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile("'+[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def escape_formula(cell: object) -> object:
    """Return a cell as it is written: what would be a formula gets an apostrophe in front. See `unescape_formula`."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unescape_formula(cell: str) -> str:
    """Undo `escape_formula`, also for other tools' escapes: no value of an inventory starts like that."""
    return cell[1:] if cell[:1] == "'" and _GUARDED.match(cell) else cell
