"""Child processes that are ready when they are yielded and gone when we leave."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from keyturn.errors import KeyturnError

STOP_SECONDS = 10.0  # what a child gets to end by itself before it is killed


class StackNotStarted(KeyturnError):
    """A part of the embedded stack did not come up."""

    kind = "stack_not_started"
    hint = "See its output above; `make` installs everything that the stack needs."


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> Path:
    """Return the path of a program that was installed beside our Python; raises StackNotStarted if it is not."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise StackNotStarted(f"{name} is not installed beside {sys.executable}: run `make install`")
    return path


@asynccontextmanager
async def child(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: Path | None = None,
    stdout: int | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `command` in a new session, so that a Ctrl-C reaches it through us and in our order.

    Args:
        command: the program and its arguments.
        environment: all of its variables; None for ours.
        folder: where it runs.
        log: the file that takes its output; None for ours.
        stdout: where its standard output goes instead.
    """
    file: IO[bytes] | None = log.open("ab") if log is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=dict(os.environ if environment is None else environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout if stdout is not None else file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            await _stop(process)
    finally:
        if file is not None:
            file.close()


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
