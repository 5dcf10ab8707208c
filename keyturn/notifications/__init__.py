"""A module a notification channel, which defines its CHANNEL; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.jobs.channel import AnyChannel, Channel

GROUP = "keyturn.channels"


@cache
def load_channels() -> Mapping[str, AnyChannel]:
    """Return every notification channel by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "CHANNEL", Channel, GROUP)
