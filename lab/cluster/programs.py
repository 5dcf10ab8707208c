"""Temporal's production server and its schema tool, built by Go from the module of the version that compose names."""

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from keyturn.lab.stack.processes import StackNotStarted

# The version of `docker-compose.yml`, and the next one, to which a rolling upgrade goes.
VERSION = "1.31.0"
NEXT_VERSION = "1.32.0"
_MODULE = "go.temporal.io/server"
# On two cores the first build takes some minutes; a later one finds the programs and takes none.
BUILD_SECONDS = 1_800


@dataclass(frozen=True)
class Programs:
    """The programs of one version of the server."""

    version: str
    server: Path
    sql_tool: Path


def go_is_installed() -> bool:
    """Whether the server can be built here."""
    return shutil.which("go") is not None


def build_programs(version: str = VERSION) -> Programs:
    """Return the programs of `version`, built where they have not been yet; raises StackNotStarted."""
    folder = _cache() / f"temporal-server-{version}"
    programs = Programs(version, folder / "server", folder / "sql")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that build at once would take twice as long
        if not (programs.server.exists() and programs.sql_tool.exists()):
            _install(version, folder)
    return programs


def _cache() -> Path:
    """Return the folder of what is built once: outside the checkout, where no clean-up of it reaches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyturn"


def _install(version: str, folder: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise StackNotStarted(
            "Go is not installed here: the production Temporal server is built by it (https://go.dev/doc/install)"
        )
    packages = [f"{_MODULE}/cmd/{name}@v{version}" for name in ("server", "tools/sql")]
    # GOTOOLCHAIN: another version of Go than the one that is here is not fetched.
    environment = {**os.environ, "GOBIN": str(folder), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [go, "install", *packages],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StackNotStarted(
            f"Go did not build Temporal's server {version} in {BUILD_SECONDS // 60} minutes"
        ) from None
    if done.returncode:
        raise StackNotStarted(f"Go did not build Temporal's server {version}: {done.stderr.strip()[-500:]}")
