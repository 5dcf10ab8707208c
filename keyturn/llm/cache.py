"""The response cache of repeatable tasks: the key that makes two calls the same, and what is stored under it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Protocol

from keyturn.cache.key import CacheKey
from keyturn.canonical import digest_of
from keyturn.llm.wire import Completion, Usage
from keyturn.tasks.definition import Prompt


class ResponseCache(Protocol):
    """A store of answers. It may forget at any time, and a failure of it is a miss."""

    async def find(self, keys: Sequence[CacheKey]) -> tuple[int, str] | None:
        """Return the place in `keys` of the first that is cached, and its answer."""
        ...

    async def store(self, key: CacheKey, answer: str, cache_for: timedelta) -> bool:
        """Cache `answer`, unless the key has one. False if it could not be cached."""
        ...

    async def drop(self, key: CacheKey) -> None:
        """Forget the answer of a key: it is not accepted any more."""
        ...


def cache_key(task: str, prompt: Prompt, catalogue_version: str, provider: str, model: str) -> CacheKey:
    """Return the key of asking `model` of `provider` this prompt under this catalogue.

    The instructions are covered by their text as well as by their version, so that an edited file is another question.
    """
    covered = [provider, model, prompt.version, prompt.system, catalogue_version, prompt.schema, prompt.user]
    return CacheKey(task, prompt.version, catalogue_version, digest_of([*covered, prompt.max_output_tokens]))


def pack(completion: Completion) -> str:
    """Return a completion as text for the cache."""
    return json.dumps(asdict(completion))


def unpack(text: str) -> Completion | None:
    """Return the completion that `pack` was given; None for anything else, such as another release's form."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return Completion(**raw | {"usage": Usage(**raw["usage"])})
    except (ValueError, TypeError, KeyError):
        return None
