"""Where a provider's key comes from: a text that never changes, or a file or a command that gives a short-lived one.

Cloud platforms give tokens of an hour: Entra ID (`az account get-access-token`), Google (`gcloud auth
print-access-token`), Bedrock's token generator, a projected Kubernetes token in a file. They are read again before they
end, and at once when a provider refuses one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import structlog
from pydantic import SecretStr

from keyturn.errors import ProviderKeyUnavailable
from keyturn.foreign_json import read_json

_log = structlog.get_logger("keyturn.llm")
# A token of Entra ID has some 2 kB, one with many groups 10.
MAX_KEY_CHARACTERS = 32_000
# A request is let in by the token that it began with; two minutes outlast a renewal that fails once.
RENEW_BEFORE_SECONDS = 120.0
# Of a token that does not say when it ends: command lines keep theirs, and give a new one some minutes before the end.
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

    def refused(self, key: SecretStr) -> bool:
        """Note that the provider refused `key`; returns whether `current` may give another one."""
        ...


class FixedKey:
    """A key that is the same as long as the process lives."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    async def current(self) -> SecretStr:
        """Return the key."""
        return self._key

    def refused(self, key: SecretStr) -> bool:
        """Return False: there is no other."""
        return False


class RenewedKey:
    """A short-lived key, read again before it ends.

    Args:
        read: returns what gives the key wrote; raises ProviderKeyUnavailable.
        wall: the time by which a key says when it ends.
        clock: in seconds, by which this process waits.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[str]],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._wall = wall
        self._clock = clock
        self._key: SecretStr | None = None
        self._ends: float | None = None
        self._renew_at = self._read_at = 0.0
        self._failure: ProviderKeyUnavailable | None = None
        self._reading: asyncio.Task[None] | None = None

    async def current(self) -> SecretStr:
        """Return the key, reading it first if there is none that is still good."""
        if self._clock() >= self._renew_at and self._reading is None:
            self._reading = asyncio.create_task(self._renew())
        if self._key is not None and (self._ends is None or self._wall() < self._ends):
            return self._key  # a new one is being read beside this call
        if self._reading is not None:
            # The reading is everybody's: it goes on where one call has no time left.
            await asyncio.shield(self._reading)
        if self._key is None or (self._ends is not None and self._wall() >= self._ends):
            raise self._failure or ProviderKeyUnavailable("no key was given")
        return self._key

    def refused(self, key: SecretStr) -> bool:
        """Read the key again with the next call, unless it was read just now."""
        if self._key is not None and self._key.get_secret_value() != key.get_secret_value():
            return True  # it was renewed while the call was under way
        if self._clock() - self._read_at < PAUSE_SECONDS:
            return False
        self._key, self._renew_at = None, 0.0
        return True

    async def _renew(self) -> None:
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
    """Return the key that stands in a file, which somebody else renews."""

    async def read() -> str:
        try:
            return await asyncio.to_thread(_read_text, file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ProviderKeyUnavailable(f"the file with the key cannot be read: {file}: {reason}") from None

    return RenewedKey(read)


def command_key(command: Sequence[str], *, seconds: float = COMMAND_SECONDS) -> RenewedKey:
    """Return the key that a command prints; it is run without a shell, and ended after so many seconds."""

    async def read() -> str:
        return await _printed(command, seconds)

    return RenewedKey(read)


def parse_key(text: str, *, now: float) -> tuple[SecretStr, float | None]:
    """Return the key in what a file or a command gives, and when it ends, in seconds since 1970 if it is told.

    The text is the key alone, or a JSON object as `az account get-access-token` (accessToken, expires_on), OAuth 2.0
    (access_token, expires_in: RFC 6749, 5.1) or Kubernetes' client authentication (status.token,
    status.expirationTimestamp) write it.

    Raises:
        ProviderKeyUnavailable: there is no key in it. The message repeats nothing of it.
    """
    text, ends = text.strip(), None
    if text.startswith("{"):
        try:
            parsed: Any = read_json(text)
        except ValueError:
            raise ProviderKeyUnavailable("what gives the key wrote neither a key nor JSON") from None
        parsed = parsed["status"] if isinstance(parsed.get("status"), dict) else parsed
        text = next((parsed[name] for name in _TOKEN if isinstance(parsed.get(name), str)), "")
        ends = _ends(parsed, now)
    if not text or len(text) > MAX_KEY_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ProviderKeyUnavailable("what gives the key wrote no key: one word, or JSON with access_token")
    return SecretStr(text), ends


_TOKEN = ("accessToken", "access_token", "token")


def _ends(parsed: dict[str, Any], now: float) -> float | None:
    for name in ("expires_on", "expires_at", "exp"):
        if isinstance(parsed.get(name), int | float) or str(parsed.get(name)).isdecimal():
            return float(parsed[name])
    if isinstance(parsed.get("expires_in"), int | float) or str(parsed.get("expires_in")).isdecimal():
        return now + float(parsed["expires_in"])
    for name in ("expirationTimestamp", "expiresOn", "expires_at", "expiry", "expiration", "expireTime"):
        try:
            return datetime.fromisoformat(str(parsed[name])).timestamp()  # without a zone it is this machine's, as az's
        except (KeyError, ValueError, OverflowError):
            continue
    return None


def _read_text(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(MAX_KEY_CHARACTERS + 1).decode()


async def _printed(command: Sequence[str], seconds: float) -> str:
    """Return what a command prints; what it writes of errors is not kept, for it may repeat the key."""
    # It gets the environment without our own secrets: it needs its own, HOME and PATH.
    environment = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # so that its children end with it
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is none"
        raise ProviderKeyUnavailable(f"the command for the key cannot be run: {command[0]}: {reason}") from None
    try:
        async with asyncio.timeout(seconds):
            printed = await _bounded(process)
            status = await process.wait()
    except TimeoutError:
        raise ProviderKeyUnavailable(
            f"the command for the key did not end within {seconds:g} s: {command[0]}"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if status != 0:
        raise ProviderKeyUnavailable(f"the command for the key ended with status {status}: {command[0]}")
    return printed


async def _bounded(process: asyncio.subprocess.Process) -> str:
    printed = b""
    while process.stdout is not None and len(printed) <= MAX_KEY_CHARACTERS:
        if not (piece := await process.stdout.read(MAX_KEY_CHARACTERS)):
            break
        printed += piece
    if len(printed) > MAX_KEY_CHARACTERS:
        raise ProviderKeyUnavailable("the command for the key prints more than a key")
    return printed.decode(errors="replace")


def _is_ours(name: str) -> bool:
    return name.startswith(("KEYTURN_", "TEMPORAL_")) or name in {
        "DATABASE_URL",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
    }
