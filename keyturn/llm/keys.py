"""Where a provider's key comes from: a text that never changes, or a file or a command that gives a short-lived one.

Cloud platforms give tokens of an hour: Entra ID (`az account get-access-token`), Google (`gcloud auth
print-access-token`), Bedrock's token generator, a projected Kubernetes token in a file. They are read again before they
end, and at once when a provider refuses one.
"""

from __future__ import annotations

import asyncio
import re
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import structlog
from pydantic import SecretStr

from keyturn.foreign_json import read_json
from keyturn.llm.errors import ProviderKeyUnavailable
from keyturn.llm.key_commands import MAX_KEY_CHARACTERS, output_of

_log = structlog.get_logger("keyturn.llm")
# A request is admitted by the token that it started with; two minutes outlast a renewal that fails once.
RENEW_BEFORE_SECONDS = 120.0
# Of a token that does not say when it ends: command lines cache theirs, and give a new one minutes before the end.
RENEW_EVERY_SECONDS = 300.0
# A command that has just failed is not started anew by each of 64 calls at once.
PAUSE_SECONDS = 10.0
# az and gcloud take one to five seconds; a metadata server that is not there takes them twenty.
COMMAND_SECONDS = 30.0


class KeySource(Protocol):
    """Gives the key of one endpoint."""

    async def current(self) -> SecretStr:
        """Return the key to ask with now; empty where none is needed. Raises ProviderKeyUnavailable."""
        ...

    def reject(self, key: SecretStr) -> bool:
        """Note that the provider refused `key`; returns whether `current` may give another one."""
        ...


class FixedKey:
    """A key that is the same as long as the process lives."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    async def current(self) -> SecretStr:
        """Return the key."""
        return self._key

    def reject(self, key: SecretStr) -> bool:
        """Return False: there is no other."""
        return False


class RenewedKey:
    """A short-lived key, read again before it ends.

    Args:
        read: returns what gives the key wrote; raises ProviderKeyUnavailable.
        reject_after: seconds in which a key that is refused is taken for a wrong one, and not for one that has ended.
        wall: the time by which a key says when it ends.
        clock: in seconds, by which this process waits.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[str]],
        *,
        reject_after: float = PAUSE_SECONDS,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._reject_after = reject_after
        self._wall = wall
        self._clock = clock
        self._key: SecretStr | None = None
        self._ends: float | None = None
        self._renew_at = self._read_at = 0.0
        self._tried_at = -PAUSE_SECONDS
        self._failure: ProviderKeyUnavailable | None = None
        self._reading: asyncio.Task[None] | None = None

    async def current(self) -> SecretStr:
        """Return the key, reading it first if there is none that is still good."""
        # Both clocks count: the process's own stands still while the machine sleeps, and the wall's may be set.
        has_ended = self._ends is not None and self._wall() >= self._ends
        is_due = self._clock() >= self._renew_at or (has_ended and self._clock() >= self._tried_at + PAUSE_SECONDS)
        if is_due and self._reading is None:
            self._reading = asyncio.create_task(self._renew())
        if self._key is not None and (self._ends is None or self._wall() < self._ends):
            return self._key  # a new one is being read beside this call
        if self._reading is not None:
            # All calls share the reading: it continues where one call has no time left.
            await asyncio.shield(self._reading)
        if self._key is None or (self._ends is not None and self._wall() >= self._ends):
            raise self._failure or ProviderKeyUnavailable("no key was given")
        return self._key

    def reject(self, key: SecretStr) -> bool:
        """Read the key again with the next call, unless it was read just now."""
        if self._key is not None and self._key.get_secret_value() != key.get_secret_value():
            return True  # it was renewed during the call
        if self._clock() - self._read_at < self._reject_after:
            return False
        self._key, self._renew_at = None, 0.0
        return True

    async def _renew(self) -> None:
        self._tried_at = self._clock()
        try:
            key, ends = parse_key(await self._read(), now=self._wall())
        except ProviderKeyUnavailable as error:
            self._failure, self._renew_at = error, self._clock() + PAUSE_SECONDS
            _log.warning("provider_key_not_renewed", because=str(error))
        else:
            left = RENEW_EVERY_SECONDS if ends is None else max(ends - self._wall() - RENEW_BEFORE_SECONDS, 0.0)
            # What has ended by our clock may be good by the provider's: it is the one to judge.
            self._key, self._ends, self._failure = key, ends if left else None, None
            self._read_at = self._clock()
            # A key that is given with little time left is not asked for without a pause.
            self._renew_at = self._read_at + max(left, PAUSE_SECONDS)
        finally:
            self._reading = None


def file_key(file: Path) -> RenewedKey:
    """Return the key in a file, which another program renews."""

    async def read() -> str:
        try:
            return await asyncio.to_thread(_read_text, file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no file of UTF-8 text"
            raise ProviderKeyUnavailable(f"the file with the key cannot be read: {file}: {reason}") from None

    return RenewedKey(read, reject_after=0.0)  # to read it again costs nothing


def command_key(
    command: Sequence[str], *, hidden: AbstractSet[str] = frozenset(), seconds: float = COMMAND_SECONDS
) -> RenewedKey:
    """Return the key that a command prints; it is run without a shell.

    Args:
        command: the program and its arguments.
        hidden: variables that it does not see, besides Keyturn's own.
        seconds: after which it is ended.
    """

    async def read() -> str:
        return await output_of(command, seconds, hidden)

    return RenewedKey(read)


def parse_key(text: str, *, now: float) -> tuple[SecretStr, float | None]:
    """Return the key in what a file or a command gives, and when it expires, in seconds since 1970 if it says so.

    The text is the key alone, or a JSON object as `az account get-access-token` (accessToken, expires_on), OAuth 2.0
    (access_token, expires_in: RFC 6749, 5.1) or Kubernetes' client authentication (status.token,
    status.expirationTimestamp) write it.

    Raises:
        ProviderKeyUnavailable: there is no key in it. The message repeats nothing of it.
    """
    text, ends = text.removeprefix("\ufeff").strip(), None
    if text.startswith(("{", '"')):
        try:
            parsed: Any = read_json(text)
        except ValueError:
            raise ProviderKeyUnavailable("the source of the key gave neither a key nor JSON") from None
        if isinstance(parsed, dict) and isinstance(parsed.get("status"), dict):
            parsed = parsed["status"]
        if isinstance(parsed, str):
            parsed = {"token": parsed}
        text = next((parsed[name] for name in _TOKEN if isinstance(parsed.get(name), str)), "")
        ends = _end_of(parsed, now)
    if not text or len(text) > MAX_KEY_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ProviderKeyUnavailable("the source of the key gave no key: one word, or JSON with access_token")
    return SecretStr(text), ends


_TOKEN = ("accessToken", "access_token", "token")


def _end_of(parsed: dict[str, Any], now: float) -> float | None:
    for name in ("expires_on", "expires_at", "exp"):
        if (moment := _number(parsed.get(name))) is not None:
            return moment
    if (seconds := _number(parsed.get("expires_in"))) is not None:
        return now + seconds
    for name in ("expirationTimestamp", "expiresOn", "expires_at", "expiry", "expiration", "expireTime"):
        try:
            return datetime.fromisoformat(str(parsed[name])).timestamp()  # without a zone it is this machine's, as az's
        except (KeyError, ValueError, OverflowError):
            continue
    return None


def _number(value: object) -> float | None:
    """Return seconds as they are written, as a number or in digits; None for what is none, or beyond any clock."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or re.fullmatch("[0-9]{1,15}", str(value))):
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return seconds if 0 <= seconds < 1e15 else None


def _read_text(file: Path) -> str:
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
        raise ValueError
    with file.open("rb") as opened:
        return opened.read(MAX_KEY_CHARACTERS + 1).decode()
