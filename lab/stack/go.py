"""Programs that Go builds once, in a folder outside the checkout, where no clean-up of it reaches."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keyturn.lab.stack.processes import StackNotStarted

# On two cores a first build takes 3 to 20 minutes; a later one finds the programs and takes none.
BUILD_SECONDS = 3_600


def go_is_installed() -> bool:
    """Whether programs can be built here."""
    return shutil.which("go") is not None


def built_folder(name: str) -> Path:
    """Return where the programs of `name` are, or will be."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyturn" / name


def build_once(name: str, programs: Sequence[str], build: Callable[[Path], None]) -> Path:
    """Return the folder of `name`, with its programs; raises StackNotStarted.

    Args:
        name: of the folder; it has the version.
        programs: the files that must be in it.
        build: puts them into a folder, where one is missing.
    """
    folder = built_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that build at once would take twice as long
        if not all((folder / one).exists() for one in programs):
            build(folder)
    return folder


def run_go(arguments: Sequence[str], *, folder: Path, variables: Mapping[str, str] = {}) -> str:
    """Return what `go` printed; raises StackNotStarted.

    Args:
        arguments: of `go`.
        folder: where it runs.
        variables: of its environment, beside ours.
    """
    go = shutil.which("go")
    if go is None:
        raise StackNotStarted("Go is not installed here, by which this is built (https://go.dev/doc/install)")
    # GOTOOLCHAIN: another version of Go than the one that is here is not fetched.
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", **variables}
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [go, *arguments],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StackNotStarted(f"`go {arguments[0]}` did not end in {BUILD_SECONDS // 60} minutes") from None
    if done.returncode:
        raise StackNotStarted(f"`go {' '.join(arguments)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout
