"""How a program of ours begins and ends: with `.env` read, and with the status it meant."""

import getpass
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dotenv import load_dotenv

from keyturn.errors import KeyturnError


def run_and_leave(program: Callable[[], object]) -> NoReturn:
    """Read `.env`, run `program`, and leave the process with its status, without finalizing the interpreter.

    What the environment says comes before what the file `.env` of the current folder says; so every command and a
    worker beside it read the same settings.

    The Temporal SDK's threads may still be at work when Python finalizes, and then the process aborts with status 134
    after its work is done (temporalio/sdk-python issue 300; seen here in about one of ten short commands). All that we
    opened is closed when `program` returns, so there is nothing left for finalization to do.
    """
    status: int | None = 0
    try:
        load_dotenv(Path(".env"))
        program()
    except SystemExit as leaving:
        status = leaving.code if leaving.code is None or isinstance(leaving.code, int) else 1
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
    except KeyturnError as error:
        status = 1
        sys.stderr.write(f"{error.told}\n")
    except BaseException:  # what we did not foresee is told whole
        status = 1
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the reader has gone, as in `keyturn jobs | head -1`
            status = status or 1
    os._exit(status or 0)


def signed_in_user() -> str:
    """Return the name of this machine's user, as an identifier."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = f"uid{os.getuid()}"
    return re.sub(r"[^A-Za-z0-9._@+=-]", "_", name).lstrip("._@+=-") or "unknown"
