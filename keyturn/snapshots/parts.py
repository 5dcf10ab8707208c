"""The folder of a fetch that is not complete: its plan, and a file for each page that was read, beside the snapshot.

Every file is written whole (`disk.py`), so that what is there can be used. Nothing in it is a secret: names and times.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from keyturn.snapshots.disk import remove_unfinished, write_whole, written
from keyturn.snapshots.errors import FetchRunning
from keyturn.snapshots.fetcher import Page, Part

VERSION = 1
# A snapshot has one time: what was read much later would be evidence of another. Below a day, so that a fetch of each
# night never takes over what the night before has read.
RESUMED_WITHIN = timedelta(hours=12)


class Plan(BaseModel):
    """What a fetch reads, fixed at its start; a resumed one reads the same.

    `settings` is a digest of the settings that chose the parts: with others, the plan is not resumed. `refused` says
    that all was read, and has far fewer keys than the snapshot before: only who expects that goes on with it.
    """

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    source: str
    settings: str
    started_at: AwareDatetime
    parts: tuple[Part, ...]
    refused: bool = False


class StoredPage(NamedTuple):
    """A page that was read: its file, the rows in it, and where the next one starts."""

    file: Path
    rows: int
    next_cursor: str
    younger: int
    unusable_owners: int
    notes: tuple[str, ...]
    part: str

    def lines(self) -> Iterator[bytes]:
        """Yield the rows, a line each."""
        with self.file.open("rb") as opened:
            next(opened)  # the head
            yield from opened


class _Head(BaseModel):
    part: str
    cursor: str
    next_cursor: str
    rows: int
    younger: int
    unusable_owners: int
    notes: tuple[str, ...]

    def page(self, file: Path) -> StoredPage:
        """Return the page in a file with this head."""
        return StoredPage(file, self.rows, self.next_cursor, self.younger, self.unusable_owners, self.notes, self.part)


class PartsFolder:
    """The folder beside `snapshot`, in this process's hands until it is closed; raises FetchRunning."""

    def __init__(self, snapshot: Path) -> None:
        self.folder = snapshot.with_name(f"{snapshot.name}.parts")
        with written(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back when the process dies
        except OSError:
            os.close(self._lock)
            raise FetchRunning(f"another process fetches into {self.folder}") from None
        remove_unfinished(self.folder)

    def close(self) -> None:
        """Leave the folder to another process."""
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder)

    def plan(self) -> Plan | None:
        """Return the plan of the fetch that was not completed; None if there is none of this version."""
        try:
            found = Plan.model_validate_json((self.folder / "plan.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return found if found.version == VERSION else None

    def start(self, plan: Plan) -> None:
        """Forget what was read, and start by a new plan."""
        (self.folder / "plan.json").unlink(missing_ok=True)  # first: pages without a plan are of none
        for page in self.folder.glob("*.jsonl"):
            page.unlink()
        self._write(plan)

    def refuse(self, plan: Plan) -> None:
        """Keep what was read for whoever expects fewer keys, and for no one else."""
        self._write(plan.model_copy(update={"refused": True}))

    def _write(self, plan: Plan) -> None:
        write_whole(self.folder / "plan.json", [plan.model_dump_json().encode()], mode=0o600)

    def stored(self, number: int, page: int, part: Part, cursor: str) -> StoredPage | None:
        """Return a page that was read before; None if it was not, or not from this place."""
        file = self._file(number, page)
        try:
            with file.open("rb") as opened:
                head = _Head.model_validate_json(next(opened))
        except (FileNotFoundError, StopIteration, ValidationError):
            return None
        if (head.part, head.cursor) != (part.name, cursor):
            return None
        return head.page(file)

    def store(self, number: int, page: int, part: Part, cursor: str, read: Page) -> StoredPage:
        """Store a page of the part with this number."""
        lines = read.rows.lines()
        head = _Head(
            part=part.name,
            cursor=cursor,
            next_cursor=read.next_cursor,
            rows=len(lines),
            younger=read.rows.younger,
            unusable_owners=read.rows.unusable_owners,
            notes=tuple(read.rows.notes),
        )
        file = self._file(number, page)
        write_whole(file, (f"{line}\n".encode() for line in (head.model_dump_json(), *lines)), mode=0o600)
        return head.page(file)

    def _file(self, number: int, page: int) -> Path:
        return self.folder / f"{number:05d}-{page:05d}.jsonl"


def plan_of(source: str, settings: str, parts: Sequence[Part], started_at: datetime) -> Plan:
    """Return a plan; its time is in whole seconds, as clouds write theirs."""
    digest = hashlib.sha256(settings.encode()).hexdigest()
    return Plan(source=source, settings=digest, started_at=started_at.replace(microsecond=0), parts=tuple(parts))


def is_resumable(plan: Plan, wanted: Plan) -> bool:
    """Return whether a plan is of the same source and settings, and young enough."""
    age = wanted.started_at - plan.started_at
    same = (plan.source, plan.settings) == (wanted.source, wanted.settings)
    return same and timedelta(0) <= age <= RESUMED_WITHIN


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def dumped(settings: BaseModel) -> str:
    """Return settings as text: what is a secret is in it as stars."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True)
