"""How a program starts and exits: with `.env` read, and with the status it meant."""

import gc
import getpass
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from dotenv import load_dotenv

from keyturn.errors import InvalidRequest, KeyturnError, SettingsInvalid
from keyturn.policy.errors import UnknownPolicyLine

T = TypeVar("T")
# Python looks for garbage after 700 new objects. What a worker imports are a million, none of them garbage, through
# which it looked some hundred times: a quarter of the processor time of its start.
GARBAGE_AFTER_OBJECTS = 50_000


def run_and_leave(program: Callable[[], object]) -> NoReturn:
    """Read `.env`, run `program`, and leave the process with its status, without finalizing the interpreter.

    What the environment says comes before what the file `.env` of the current folder says; so every command and a
    worker beside it read the same settings.

    The Temporal SDK's threads may still be at work when Python finalizes, and then the process aborts with status 134
    after its work is done (temporalio/sdk-python issue 300; seen here in about one of ten short commands). All that
    `program` opened is closed when it returns, so there is nothing left for finalization to do.
    """
    status: int | None = 0
    gc.set_threshold(GARBAGE_AFTER_OBJECTS)
    try:
        _read_settings()
        program()
    except SystemExit as leaving:
        status = leaving.code if leaving.code is None or isinstance(leaving.code, int) else 1
        if isinstance(leaving.code, str):
            _print_error(leaving.code)
    except KeyturnError as error:
        status = 2 if isinstance(error, InvalidRequest | UnknownPolicyLine) else 1
        _print_error(error.with_hint)
    except BaseException as error:
        status = 1
        if isinstance(error, OSError) and error.filename is not None:  # a path that the user gave
            _print_error(f"{error.strerror}: {error.filename}")
        elif isinstance(error, UnicodeDecodeError):
            _print_error("what was read is not UTF-8")
        else:  # an unforeseen error is printed whole
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed from the beginning, as by `>&-`
                stream.flush()
        except OSError:  # the reader has gone, as in `keyturn jobs | head -1`
            status = status or 1
    os._exit(status or 0)


def _read_settings() -> None:
    try:
        load_dotenv(Path(".env"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsInvalid(f".env cannot be read: {why}") from None


def _print_error(text: str) -> None:
    with suppress(OSError, AttributeError):  # standard error is closed: no one reads it
        sys.stderr.write(f"{text}\n")


def printable(text: str) -> str:
    """Return `text` as it may be sent to a terminal.

    What models, askers and other systems wrote may contain escape sequences (OSC 52 writes the clipboard), control
    characters, and marks that turn the direction of writing: each becomes a replacement character.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def signed_in_user() -> str:
    """Return the name of this machine's user, as an identifier."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = f"uid{os.getuid()}"
    return re.sub(r"[^A-Za-z0-9._@+=-]", "_", name).lstrip("._@+=-") or "unknown"


def counted(count: int, thing: str) -> str:
    """Return a count with its noun: `1 remark`, `2,000 remarks`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def cut(rows: Sequence[T], limit: int) -> Sequence[T]:
    """Return at most `limit` of `rows`, which are one more if there are more; and say so on standard error, then."""
    if len(rows) <= limit:
        return rows
    sys.stderr.write(f"{limit:,} shown, and there are more: --limit shows them\n")
    return rows[:limit]
