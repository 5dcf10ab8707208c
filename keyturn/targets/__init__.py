"""A module a secret target, which defines its TARGET; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.jobs.executor import SecretTarget

GROUP = "keyturn.targets"


@cache
def load_targets() -> Mapping[str, SecretTarget]:
    """Return every secret target by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "TARGET", SecretTarget, GROUP)
