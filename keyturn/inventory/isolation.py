"""Foreign files read in a process of their own: what ends the parser, or fills its memory, is a refusal by name.

A worker reads files of other authors, for schedules. A parser in C that fails takes its process with it, and
Temporal gives the same file to the next worker. Here that process is a child with limits and without our keys.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.read import read
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.scans import Scan, read_scans
from keyturn.inventory.source import Inventory, Row

ROWS_AT_ONCE = 500  # a message of some 100 kB
SIZE_AT_ONCE = 1 << 20  # characters of bad rows and of scans, each of which may be a megabyte
MOST_BYTES = 64 << 20  # of a message: no sound child comes near
# The interpreter and what it imports take 0.4 GB of addresses, reading a report of any size 0.1 GB more.
MEMORY_BYTES = 1 << 30
# A batch takes ten milliseconds. A disk over a network may stand still for some seconds, a parser that loops for ever.
SILENT_SECONDS = 60.0
# Of processor time, for a child whose worker is gone: a file of the largest size that is taken needs a tenth of that.
CPU_SECONDS = 3_600
_ENDED = "the process that read it stopped"


class _Refusal(BaseModel):
    message: str
    without_quotes: str


class _Bad(NamedTuple):
    """A bad row; its content as JSON in ASCII, because it may contain half a surrogate pair."""

    line: int
    reason: str
    raw: str


class _Message(BaseModel):
    """What the child says, a line each: some rows, and behind the last ones that it is done, or why it is not."""

    keys: list[InventoryKey] = []
    scans: list[Scan] = []
    bad: list[_Bad] = []
    is_sound: list[bool] = []  # in the order of the file
    done: bool = False
    refusal: _Refusal | None = None


class _Order(NamedTuple):
    inventory: Inventory | None = None
    scans: Path | None = None


_ORDER = TypeAdapter(_Order)


def read_apart(
    inventory: Inventory, *, memory_bytes: int = MEMORY_BYTES, silent_seconds: float = SILENT_SECONDS
) -> Iterator[Row]:
    """Yield what `read` yields, read by a child.

    Args:
        inventory: what to read.
        memory_bytes: of addresses, which the child may have.
        silent_seconds: without a row, after which the child is stopped.

    Raises:
        InventoryInvalid: as `read` does; or the child ended, needed more memory, or was silent.
    """
    for message in _messages(_Order(inventory=inventory), inventory.file, memory_bytes, silent_seconds):
        yield from _in_order(message, message.keys)


def read_scans_apart(file: Path) -> Iterator[Scan | BadRow]:
    """Yield what `read_scans` yields, read by a child; raises InventoryInvalid as `read_apart` does."""
    for message in _messages(_Order(scans=file), file, MEMORY_BYTES, SILENT_SECONDS):
        yield from _in_order(message, message.scans)


def _in_order(message: _Message, sound: list[Any]) -> Iterator[Any]:
    good, bad = iter(sound), iter(message.bad)
    for is_sound in message.is_sound:
        if is_sound:
            yield next(good)
        else:
            line, reason, raw = next(bad)
            yield BadRow(line, reason, json.loads(raw))


def _messages(order: _Order, file: Path, memory_bytes: int, silent_seconds: float) -> Iterator[_Message]:
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "keyturn.inventory.isolation", str(memory_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a traceback may quote the file
        env={name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "LANG", "TZ"}},
        start_new_session=True,
    )
    try:
        if child.stdin is None or child.stdout is None:
            raise InventoryInvalid(f"{file}: {_ENDED}")
        _send(child.stdin, order)
        for line in _lines(child.stdout, silent_seconds):
            if line is None:
                raise InventoryInvalid(f"{file}: reading it was stopped after {silent_seconds:g} s without a row")
            try:
                message = _Message.model_validate_json(line)
            except ValidationError:
                raise InventoryInvalid(f"{file}: {_ENDED} (it wrote no rows)") from None
            yield message
            if message.refusal is not None:
                refusal = message.refusal
                raise InventoryInvalid(refusal.message, without_quotes=refusal.without_quotes)
            if message.done:
                return
        child.kill()  # where it has not ended by itself, it wrote more than any message has
        status = child.wait()
        raise InventoryInvalid(
            f"{file}: {_ENDED} ({signal.Signals(-status).name if status < 0 else f'status {status}'})"
        )
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _send(pipe: IO[bytes], order: _Order) -> None:
    try:
        content = _ORDER.dump_json(order)
    except ValueError:
        raise InventoryInvalid("the file cannot be read: its name is not UTF-8") from None
    try:
        pipe.write(content)
        pipe.close()
    except OSError:  # it has exited: its output, or the lack of it, says why
        return


def _lines(pipe: IO[bytes], silent_seconds: float) -> Iterator[bytes | None]:
    """Yield the lines that come, half a line being none; None where nothing came in time."""
    pieces: list[bytes] = []
    size = 0
    looking = select.poll()  # select() fails for a descriptor above 1,023, as a worker with many connections has
    looking.register(pipe, select.POLLIN | select.POLLHUP)
    while looking.poll(silent_seconds * 1000):
        piece = os.read(pipe.fileno(), 1 << 20)
        if not piece or size > MOST_BYTES:
            return
        *whole, rest = piece.split(b"\n")
        for line in whole:
            yield b"".join([*pieces, line])
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
    yield None


def _serve() -> None:
    """Read what standard input orders, and write messages to standard output: the child."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain the file
    order = _ORDER.validate_json(sys.stdin.buffer.read())
    file = order.scans if order.inventory is None else order.inventory.file
    try:
        rows: Iterator[Any] = read_scans(order.scans) if order.scans is not None else iter(())
        if order.inventory is not None:
            rows = read(order.inventory)
        for batch in _batches(rows):
            _write(
                _Message(
                    keys=[row for row in batch if isinstance(row, InventoryKey)],
                    scans=[row for row in batch if isinstance(row, Scan)],
                    bad=[row for row in batch if isinstance(row, _Bad)],
                    is_sound=[not isinstance(row, _Bad) for row in batch],
                )
            )
    except InventoryInvalid as error:
        _write(_Message(refusal=_Refusal(message=str(error), without_quotes=error.without_quotes)))
    except MemoryError:
        reason = f"{file}: reading it needs more than {memory / (1 << 30):.1f} GB of memory"
        _write(_Message(refusal=_Refusal(message=reason, without_quotes=reason)))
    else:
        _write(_Message(done=True))


def _batches(rows: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    size = 0
    for row in rows:
        if isinstance(row, BadRow):
            reason = row.reason.encode(errors="backslashreplace").decode()
            row = _Bad(row.line, reason, json.dumps(row.raw, default=str))  # noqa: PLW2901
            size += len(row.raw)
        elif isinstance(row, Scan):
            size += sum(len(record.text) for record in row.records)
        batch.append(row)
        if len(batch) == ROWS_AT_ONCE or size > SIZE_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(message: _Message) -> None:
    sys.stdout.buffer.write(message.model_dump_json().encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
