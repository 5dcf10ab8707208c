"""PgBouncer, as Debian ships it, in front of a database: a connection may be another one in each transaction."""

import asyncio
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL

from keyturn.database import database_url
from keyturn.lab.stack.processes import StackNotStarted, child
from keyturn.web.ports import free_loopback_port

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
Mode = Literal["session", "transaction"]
START_SECONDS = 20.0  # it starts in a tenth of one
# In transactions, fewer than its clients have; in sessions each client's connection is one of the server's.
SERVER_CONNECTIONS = {"transaction": 3, "session": 64}


@asynccontextmanager
async def pooled(database: URL, mode: Mode) -> AsyncIterator[URL]:
    """Yield the URL of a database behind PgBouncer; raises StackNotStarted where that is not installed."""
    if PGBOUNCER is None:
        raise StackNotStarted("PgBouncer is not installed here (apt install pgbouncer)")
    port, given = free_loopback_port(), {"host": database.host or database.query.get("host"), "port": database.port}
    given |= {"user": database.username or "postgres", "password": database.password}
    with tempfile.TemporaryDirectory(prefix="keyturn-pgb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        settings, users, password = Path(folder) / "pgbouncer.ini", Path(folder) / "users", secrets.token_urlsafe(24)
        for file in (settings, users):
            file.touch(mode=0o600)
        # Its own: on loopback every local user would have the database otherwise.
        users.write_text(f'"{given["user"]}" "{password}"\n')
        settings.write_text(
            f"[databases]\n* = {' '.join(f'{name}={value}' for name, value in given.items() if value)}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = plain\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\n"
            f"default_pool_size = {SERVER_CONNECTIONS[mode]}\nmax_client_conn = 500\n"
        )
        command: list[str | Path] = [PGBOUNCER, settings]
        if os.getuid() == 0:  # it will not run as root, and a socket of PostgreSQL's is its own user's
            socket = str(given["host"])
            owner = os.stat(socket).st_uid if socket.startswith("/") else pwd.getpwnam("postgres").pw_uid
            command[1:1] = ["-u", pwd.getpwuid(owner).pw_name]
            for one in (folder, settings, users):
                os.chown(one, owner, -1)
        async with child(command, log=Path(folder) / "pgbouncer.log") as process:
            await _answers(process, port)
            yield database_url(f"postgresql://{given['user']}:{password}@127.0.0.1:{port}/{database.database}")


async def _answers(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise StackNotStarted(f"PgBouncer ended with status {process.returncode}")
