"""A module an inventory source, which defines its SOURCE; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.inventory.source import Source

GROUP = "keyturn.sources"


@cache
def load_sources() -> Mapping[str, Source]:
    """Return every inventory source by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "SOURCE", Source, GROUP)
