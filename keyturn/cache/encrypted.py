"""Cached responses, encrypted by the keys that encrypt Temporal's payloads: database and Redis store ciphertext."""

import base64
import binascii
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from keyturn.cache.key import CacheKey
from keyturn.keyring import Keyring
from keyturn.payload_errors import PayloadError


class _Cache(Protocol):
    async def find(self, keys: Sequence[CacheKey]) -> tuple[int, str] | None: ...

    async def store(self, key: CacheKey, answer: str, cache_for: timedelta) -> bool: ...

    async def drop(self, key: CacheKey) -> None: ...


class EncryptedCache:
    """Encrypts what `cache` stores. What cannot be decrypted, its key being gone or itself changed, is a miss."""

    def __init__(self, cache: _Cache, keyring: Keyring) -> None:
        self._cache = cache
        self._keyring = keyring

    async def find(self, keys: Sequence[CacheKey]) -> tuple[int, str] | None:
        """Return the place in `keys` of the first that is cached, and its answer."""
        found = await self._cache.find(keys)
        if found is None:
            return None
        place, kept = found
        key_id, _, encrypted = kept.partition(":")
        try:
            plain = self._keyring.decrypt(key_id, base64.b64decode(encrypted, validate=True), _bound_to(keys[place]))
        except (PayloadError, binascii.Error, ValueError):
            return None
        return place, plain.decode()

    async def store(self, key: CacheKey, answer: str, cache_for: timedelta) -> bool:
        """Cache `answer` for this time, unless the key has one. False if it could not be cached."""
        key_id, encrypted = self._keyring.encrypt(answer.encode(), _bound_to(key))
        return await self._cache.store(key, f"{key_id}:{base64.b64encode(encrypted).decode()}", cache_for)

    async def drop(self, key: CacheKey) -> None:
        """Forget the answer of a key."""
        await self._cache.drop(key)


def _bound_to(key: CacheKey) -> bytes:
    """An answer opens only under the question that it was given to."""
    return f"keyturn-answer-v1\0{key.digest}".encode()
