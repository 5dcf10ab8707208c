"""Runs `keyturn` in processes that have what others wrote imported already; ours is imported anew in each.

`python -m tests.support.warm SOCKET` listens there. Of a command's second of processor time, nine tenths are spent on
importing Temporal's client, SQLAlchemy and the like: a suite with hundreds of commands would wait minutes for that.
"""

import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

THEIRS = (
    *("aiohttp.web", "aiosqlite", "alembic.command", "click", "cryptography.hazmat.primitives.ciphers.aead", "httpx"),
    *("ijson", "limits.aio.storage", "prometheus_client"),
    *("pydantic_settings", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite"),
    *("sqlalchemy.ext.asyncio", "structlog", "temporalio.client", "temporalio.contrib.pydantic", "temporalio.worker"),
)
SECONDS = 90.0  # a command that takes longer hangs


def run_warm(
    address: Path, arguments: list[str], *, environment: dict[str, str], folder: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `keyturn` with `arguments`; blocks until it has ended."""
    with socket.socket(socket.AF_UNIX) as command:
        command.settimeout(SECONDS)
        command.connect(str(address))
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        try:
            os.pwrite(files[0], stdin.encode(), 0)
            asked = json.dumps([arguments, environment, str(folder)]).encode()
            frame = struct.pack("!I", len(asked)) + asked
            socket.send_fds(command, [frame[:1]], files)
            command.sendall(frame[1:])
            status = os.waitstatus_to_exitcode(struct.unpack("!i", command.recv(4))[0])
            out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in files[1:])
        finally:
            for file in files:
                os.close(file)
    return subprocess.CompletedProcess(arguments, status, out, err)


def _answer(connection: socket.socket) -> None:
    """Take one command, run it in a separate process, and report how that ended."""
    first, files, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as stream:
        (length,) = struct.unpack("!I", first + stream.read(3))
        arguments, environment, folder = json.loads(stream.read(length))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for at, file in enumerate(files):
            os.dup2(file, at)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["keyturn", *arguments]
        from keyturn.starter.cli import main

        main()
    connection.sendall(struct.pack("!i", os.waitpid(pid, 0)[1]))


def serve(address: str) -> None:
    """Serve until killed."""
    for name in THEIRS:
        importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] == "keyturn"]
    assert not ours, ours
    gc.collect()
    gc.freeze()  # or each command would go through all of it, and copy what it only shares
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children that take a command need no reaping
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    _answer(connection)
                finally:
                    os._exit(0)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
