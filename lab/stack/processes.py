"""Child processes that are ready when they are yielded and gone when we leave."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

from keyturn.errors import KeyturnError

STOP_SECONDS = 10.0  # what a child gets to end by itself before it is killed
# Runs a program that ends with us even if we are killed: else a server would stay, and the next start would put a
# second one on its files. PR_SET_PDEATHSIG (1) of prctl(2) outlasts exec; who died before it was set shows by getppid.
_TIED = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Reads until the pipe closes, which it does when the process that holds its other end exits. Then it stops PostgreSQL
# (SIGQUIT: an immediate shutdown) and removes its files, if they are still there.
_LAST = """import os, shutil, signal, sys, time
sys.stdin.read()
data, folder = sys.argv[1:]
try:
    pid = int(open(os.path.join(data, "postmaster.pid")).readline())
    if b"postgres" not in open(f"/proc/{pid}/cmdline", "rb").read():  # another has the number of one that was killed
        raise ValueError
    os.kill(pid, signal.SIGQUIT)
    for _ in range(100):
        os.kill(pid, 0)
        time.sleep(0.05)
except (OSError, ValueError):
    pass
shutil.rmtree(folder, ignore_errors=True)
"""


class StackNotStarted(KeyturnError):
    """A part of the embedded stack did not come up."""

    kind = "stack_not_started"
    hint = "See its output above; `make` installs everything that the stack needs."


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
    stop_signal: signal.Signals = signal.SIGTERM,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `command` in a new session, so that a Ctrl-C reaches it through us and in our order.

    Args:
        command: the program and its arguments.
        environment: all of its variables; None for ours.
        folder: where it runs.
        log: the file that takes its output; None for ours.
        stdout: where its standard output goes instead.
        stop_signal: what asks it to end.
    """
    file: IO[bytes] | None = log.open("ab") if log is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            *_tied(command),
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
            await _stop(process, stop_signal)
    finally:
        if file is not None:
            file.close()


def _tied(command: Sequence[str | Path]) -> list[str]:
    """Return the command that runs `command` for as long as this process lives; only Linux can do so."""
    plain = [str(part) for part in command]
    if sys.platform != "linux":
        return plain
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *plain]


async def _stop(process: asyncio.subprocess.Process, stop_signal: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(stop_signal)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextmanager
def ends_with_us(data: Path, folder: Path) -> Iterator[None]:
    """End the PostgreSQL on `data` and remove `folder` when this process goes, even if it is killed.

    It runs as a daemon, and does not end with the process that started it.
    """
    command = [sys.executable, "-I", "-S", "-c", _LAST, str(data), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):  # noqa: S603 - our own program
        yield  # leaving closes the pipe, and waits
