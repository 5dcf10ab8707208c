"""Which build a worker is of."""

import os
import subprocess
from pathlib import Path

from keyturn.application.versioning import BUILD_VARIABLE
from keyturn.workers.settings import Settings


def build_id_of(settings: Settings) -> str | None:
    """Return the build that a worker's rotations are pinned to: the controller's, the set one, in production git's."""
    given = os.environ.get(BUILD_VARIABLE) or settings.build_id
    return given or (_git_commit() if settings.environment == "production" else None)


def _git_commit() -> str | None:
    """The commit of the checkout that this program runs from; None if it is installed elsewhere, or edited."""
    folder = Path(__file__).resolve().parents[1]  # through the link keyturn/workers
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return None if described.endswith("-dirty") else described
