"""A folder a provider, which defines its PROVIDER; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.llm.provider import Provider

GROUP = "keyturn.providers"


@cache
def load_providers() -> Mapping[str, Provider]:
    """Return every provider by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "PROVIDER", Provider, GROUP)


def price_lists_of_providers() -> dict[str, str]:
    """Return by provider the name of its prices in the bundled public list, where it has any there."""
    return {name: one.price_list for name, one in load_providers().items() if one.price_list is not None}
