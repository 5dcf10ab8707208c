"""PostgreSQL over TCP, as a server on another host is reached, with the roles and databases of `deploy/postgresql`.

It is the machine's own: Temporal's visibility needs the extension `btree_gin`, which the wheel of other tests lacks.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from keyturn.lab.stack.processes import StackNotStarted, child

PORT = 5432
_PROGRAMS = ("initdb", "pg_isready", "postgres", "psql")
_USER = "postgres"  # of the machine; Debian's package makes it
ADMINISTRATOR = "postgres"
START_SECONDS = 30.0  # it starts in a second; a loaded machine may take some
# Every local user reaches loopback: each role has a password, above all the one that may run programs.
_ACCESS = f"host replication {ADMINISTRATOR} 127.0.0.0/8 scram-sha-256\nhost all all 127.0.0.0/8 scram-sha-256\n"
# Two databases of Temporal with some hundred connections of seven servers, and Keyturn's workers.
_SETTINGS = {"max_connections": 400, "shared_buffers": "256MB", "password_encryption": "scram-sha-256"}


@asynccontextmanager
async def postgresql_on(ip: str, data: Path, log: Path, *, password: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run PostgreSQL at `ip`; raises StackNotStarted.

    Args:
        ip: where it listens.
        data: the folder of its files, which are created where there are none.
        log: the file that takes its output.
        password: of the administrator.
    """
    folder = programs_of_postgresql()
    if await asyncio.to_thread(_make_folder, data):
        await _initialize(folder, data, password)
    command: list[str | Path] = [*_as_its_user(), folder / "postgres", "-D", data, "-h", ip, "-k", "", "-p", str(PORT)]
    for name, value in _SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    # SIGTERM would wait for its clients to leave.
    async with child(command, log=log, stop_signal=signal.SIGINT) as process:
        await _ready(process, folder / "pg_isready", ip)
        yield process


async def copy_postgresql(ip: str, data: Path, *, password: str) -> None:
    """Make in `data` the files of a standby of the server at `ip`, whose log it then follows."""
    await asyncio.to_thread(_make_folder, data)
    command = [*_as_its_user(), str(programs_of_postgresql() / "pg_basebackup"), "--pgdata", str(data), "--host", ip]
    command += ["--port", str(PORT), "--username", ADMINISTRATOR, "--write-recovery-conf", "--checkpoint=fast"]
    await run_script([*command, "--wal-method=stream", "--no-sync"], {**os.environ, "PGPASSWORD": password})


async def promote_postgresql(data: Path) -> None:
    """Make the standby with its files in `data` the primary, and wait until it takes writes."""
    command = [*_as_its_user(), str(programs_of_postgresql() / "pg_ctl"), "promote", "--pgdata", str(data)]
    await run_script(command, os.environ)


async def ask_postgresql(ip: str, *statements: str, password: str) -> None:
    """Run statements as the administrator of the server at `ip`."""
    command = [str(programs_of_postgresql() / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
    command += ["--host", ip, "--port", str(PORT), "--username", ADMINISTRATOR, "--dbname", "postgres"]
    for statement in statements:
        command += ["--command", statement]
    await run_script(command, {**os.environ, "PGPASSWORD": password})


def programs_of_postgresql() -> Path:
    """Return the folder of PostgreSQL's programs; raises StackNotStarted."""
    # Debian keeps them out of PATH; the newest version last.
    folders = [*map(Path, os.get_exec_path()), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    whole = [one for one in folders if all((one / name).exists() for name in _PROGRAMS)]
    if not whole:
        raise StackNotStarted("PostgreSQL with its contrib modules is not installed here (apt install postgresql)")
    return whole[-1]


def _make_folder(data: Path) -> bool:
    """Make the folder of the files, its user's own; False if it is there."""
    if data.exists():
        return False
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, _USER, _USER)
    return True


async def _initialize(folder: Path, data: Path, password: str) -> None:
    file = data.with_name("password")
    command = [*_as_its_user(), str(folder / "initdb"), "--pgdata", str(data), "--username", ADMINISTRATOR]
    command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--pwfile", str(file), "--no-sync"]
    try:
        await asyncio.to_thread(_write_for_its_user, file, password)
        await run_script(command, os.environ)
    finally:
        file.unlink(missing_ok=True)
    await asyncio.to_thread((data / "pg_hba.conf").write_text, _ACCESS)


def _write_for_its_user(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
    if os.geteuid() == 0:
        shutil.chown(file, _USER, _USER)


def _as_its_user() -> list[str]:
    """Return what runs a program as PostgreSQL's user where we are root, which it refuses."""
    if os.geteuid() != 0:
        return []
    # A change of the user ends what ties a process to us (prctl(2)), so it is tied again.
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--pdeathsig=INT"]


async def _ready(process: asyncio.subprocess.Process, probe: Path, ip: str) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        asked = await asyncio.create_subprocess_exec(
            str(probe), "-q", "-h", ip, "-p", str(PORT), "-U", ADMINISTRATOR, "-d", "postgres"
        )
        if await asked.wait() == 0:
            return
        if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
            raise StackNotStarted(f"PostgreSQL did not start at {ip}:{PORT}")
        await asyncio.sleep(0.1)


async def create_roles(ip: str, script: Path, passwords: Mapping[str, str]) -> None:
    """Run `deploy/postgresql/roles.sh`, as the container does, with `passwords` by role; raises StackNotStarted."""
    environment = {
        "PATH": f"{programs_of_postgresql()}:{os.environ.get('PATH', os.defpath)}",
        "PGHOST": ip,
        "PGPORT": str(PORT),
        "POSTGRES_USER": ADMINISTRATOR,
        "PGPASSWORD": passwords[ADMINISTRATOR],
        **{f"{role.upper()}_DB_PASSWORD": passwords[role] for role in ("keyturn", "temporal")},
    }
    await run_script([shutil.which("bash") or "bash", str(script)], environment)


async def run_script(command: list[str], environment: Mapping[str, str]) -> None:
    """Run a script of `deploy/` to its end; raises StackNotStarted with what it said if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise StackNotStarted(f"{' '.join(command[-2:])} failed: {said.decode(errors='replace').strip()[-500:]}")
