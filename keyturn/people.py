"""Names of users, compared in one form: a name in another spelling is still the same user. Pure."""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# What an address or a name may end with and still be the same one to a reader.
_TRAILING = " .,:;/@+=-_"


@lru_cache(maxsize=65_536)  # of a run's owners and a book's approvers, each compared for every key
def same_form(name: str) -> str:
    """Return the form in which names are compared: width, case and trailing marks make no difference."""
    return unicodedata.normalize("NFKC", name).casefold().rstrip(_TRAILING) or name


def is_among(name: str, others: Iterable[str]) -> bool:
    """Return True if `name` is one of `others`, however either is written."""
    return same_form(name) in {same_form(other) for other in others}


def doubles(names: Iterable[str]) -> list[str]:
    """Return the names that are the same as an earlier one in this form."""
    seen: set[str] = set()
    found = []
    for name in names:
        form = same_form(name)
        if form in seen:
            found.append(name)
        seen.add(form)
    return found
