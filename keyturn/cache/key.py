"""What makes two calls the same, so that one answer serves both."""

from typing import NamedTuple


class CacheKey(NamedTuple):
    """What an answer was given for. The first three can be cleared by name; `digest` covers everything."""

    task: str
    prompt_version: str
    catalogue_version: str
    digest: str
