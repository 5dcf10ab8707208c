"""What `keyturn doctor` looks at in the environment: names that nothing reads, files that others can read."""

import difflib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings

from keyturn.workers.doctor_errors import FileOpen, FileUnreadable, NameMisspelt
from keyturn.workers.settings import settings_variables

# A misspelt name is close to a real one; those of other tools are not.
LIKENESS = 0.8


async def names_of_settings(desk: type[BaseSettings]) -> str:
    """Say whether each KEYTURN_ variable is read by something; raises NameMisspelt."""
    known = known_variables(desk)
    wrong = sorted(name for name in os.environ if name.startswith("KEYTURN_") and name not in known)
    misspelt = {name: near[0] for name in wrong if (near := difflib.get_close_matches(name, known, 1, LIKENESS))}
    if misspelt:
        raise NameMisspelt(", ".join(f"{name} is read by nothing; {near} is" for name, near in misspelt.items()))
    return f"nothing reads {', '.join(wrong)}" if wrong else "each KEYTURN_ variable is read by something"


def known_variables(desk: type[BaseSettings]) -> set[str]:
    """Return the names of all variables that some part of Keyturn reads."""
    from keyturn.owners import OwnerSettings
    from keyturn.snapshots.rows import OwnerTagSettings
    from keyturn.workers.codec_settings import CodecSettings
    from keyturn.workers.executor_settings import ExecutorSettings
    from keyturn.workers.jobs_settings import JobsSettings
    from keyturn.workers.leaks_settings import LeaksSettings
    from keyturn.workers.retention_settings import RetentionSettings

    classes: Sequence[type[BaseSettings]] = (
        RetentionSettings,
        OwnerSettings,
        OwnerTagSettings,
        desk,
        ExecutorSettings,
        JobsSettings,
        CodecSettings,
        LeaksSettings,
    )
    names = {str(field.alias) for one in classes for field in one.model_fields.values()}
    return names | settings_variables() | set(OF_COMMANDS)


# Variables that options of commands read.
OF_COMMANDS = ("KEYTURN_USER", "KEYTURN_TENANT", "KEYTURN_EXPORT_KEY")
# Files with secrets that others' libraries read; ours are named *_FILE, and authorities are no secret.
OF_OTHERS = {"GOOGLE_APPLICATION_CREDENTIALS", "TEMPORAL_TLS_CLIENT_KEY_PATH", "VAULT_TOKEN_FILE"}
_OURS = re.compile(r"KEYTURN_\w+(?<!_CA)_FILE")


async def files_of_secrets() -> str:
    """Say whether others can read what holds secrets: `.env`, and the files that variables name; raises FileOpen."""
    named = sorted(name for name in os.environ if name in OF_OTHERS or _OURS.fullmatch(name))
    files = {".env": Path(".env")} | {name: Path(os.environ[name]) for name in named}
    closed: list[str] = []
    open_to_others: list[str] = []
    unreadable: list[str] = []
    for name, file in files.items():  # named by its variable: its value may be a key that was pasted there
        try:
            if file.is_file():
                found = file.stat()
                # Kubernetes mounts a file as root's, readable by the pod's group: only ours is closed to that, too.
                others = 0o077 if found.st_uid == os.getuid() else 0o007
                is_open = stat.S_IMODE(found.st_mode) & others
                (open_to_others if is_open else closed).append(name)
        except (OSError, ValueError):
            unreadable.append(name)
    strange = f"{', '.join(unreadable)} does not name a file that can be looked at" if unreadable else ""
    if open_to_others:
        also = f"; {strange}" if strange else ""
        raise FileOpen(f"others can read the file of {', '.join(open_to_others)}{also}")
    if unreadable:
        raise FileUnreadable(strange)
    return f"none of yours that others can read: {', '.join(closed)}" if closed else "no file with secrets is used"
