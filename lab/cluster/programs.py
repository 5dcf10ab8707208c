"""Temporal's production server and its schema tool, built by Go from the module of the version that compose names."""

from dataclasses import dataclass
from pathlib import Path

from keyturn.lab.stack.go import build_once, run_go

# The version of `docker-compose.yml`, and the next one, to which a rolling upgrade goes.
VERSION = "1.31.0"
NEXT_VERSION = "1.32.0"
_MODULE = "go.temporal.io/server"


@dataclass(frozen=True)
class Programs:
    """The programs of one version of the server."""

    version: str
    server: Path
    sql_tool: Path


def build_programs(version: str = VERSION) -> Programs:
    """Return the programs of `version`, built where they have not been yet; raises StackNotStarted."""

    def install(folder: Path) -> None:
        packages = [f"{_MODULE}/cmd/{name}@v{version}" for name in ("server", "tools/sql")]
        run_go(["install", *packages], folder=folder, variables={"GOBIN": str(folder)})

    folder = build_once(f"temporal-server-{version}", ["server", "sql"], install)
    return Programs(version, folder / "server", folder / "sql")
