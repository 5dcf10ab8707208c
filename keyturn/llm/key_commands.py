"""A command that prints a provider's key, run within bounds."""

import asyncio
import os
import signal
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

from keyturn.llm.errors import ProviderKeyUnavailable

# A token of Entra ID has some 2 kB, one with many groups 10.
MAX_KEY_CHARACTERS = 32_000
LOOK_SECONDS = 0.02  # a hundredth of what the quickest of them takes
REST_SECONDS = 0.2  # for the rest in a pipe when the command has ended


async def output_of(command: Sequence[str], seconds: float, hidden: AbstractSet[str]) -> str:
    """Return what a command prints; its standard error is discarded, for it may repeat the key."""
    # It gets the environment without our own secrets: it needs its own, HOME and PATH.
    environment = {name: value for name, value in os.environ.items() if not _is_ours(name) and name not in hidden}
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
    printed = bytearray()
    reading = asyncio.ensure_future(_read_into(printed, process))
    try:
        async with asyncio.timeout(seconds):
            # Not `process.wait()`, which waits for the other end of the pipe as well.
            while (status := process.returncode) is None:  # noqa: ASYNC110 - nothing else reports the end alone
                await asyncio.sleep(LOOK_SECONDS)
        # A process that it left running may hold the pipe open: what the command printed itself is there now.
        await asyncio.wait({reading}, timeout=REST_SECONDS)
    except TimeoutError:
        raise ProviderKeyUnavailable(
            f"the command for the key did not finish within {seconds:g} s: {command[0]}"
        ) from None
    finally:
        reading.cancel()
        with suppress(ProcessLookupError, PermissionError):  # what runs as another user, by sudo, ends by itself
            os.killpg(process.pid, signal.SIGKILL)
    if len(printed) > MAX_KEY_CHARACTERS:
        raise ProviderKeyUnavailable("the command for the key prints more than a key")
    if status != 0:
        raise ProviderKeyUnavailable(f"the command for the key exited with status {status}: {command[0]}")
    return printed.decode(errors="replace")


async def _read_into(printed: bytearray, process: asyncio.subprocess.Process) -> None:
    """Read what a command prints; one that prints more than a key is ended."""
    while process.stdout is not None and (piece := await process.stdout.read(MAX_KEY_CHARACTERS)):
        printed += piece
        if len(printed) > MAX_KEY_CHARACTERS:
            process.kill()
            return


def _is_ours(name: str) -> bool:
    return name.startswith(("KEYTURN_", "TEMPORAL_")) or name == "DATABASE_URL"
