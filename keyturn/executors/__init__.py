"""A folder an executor, which defines its EXECUTOR; other distributions add theirs by entry points."""

import sys
from collections.abc import Mapping
from functools import cache

from keyturn.extensions import load_objects
from keyturn.jobs.executor import Executor

GROUP = "keyturn.executors"


@cache
def load_executors() -> Mapping[str, Executor]:
    """Return every executor by its name; raises ExtensionInvalid."""
    return load_objects(sys.modules[__name__], "EXECUTOR", Executor, GROUP)
