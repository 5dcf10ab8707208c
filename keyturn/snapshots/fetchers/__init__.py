"""A module a cloud, which defines its FETCHER; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.snapshots.fetcher import Fetcher

GROUP = "keyturn.fetchers"


@cache
def load_fetchers() -> Mapping[str, Fetcher]:
    """Return every fetcher by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "FETCHER", Fetcher, GROUP)
