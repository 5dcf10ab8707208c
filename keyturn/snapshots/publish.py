"""Put the parts of a fetch together: one file in a stable order, with its digest, and a manifest beside it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from keyturn.snapshots.disk import remove_unfinished, write_whole
from keyturn.snapshots.errors import AnotherSnapshot, SnapshotEmpty, SnapshotSmaller
from keyturn.snapshots.parts import Plan, StoredPage

# Of the last snapshot's keys; what rotates or closes in a day is far below, and an account that is missing above.
MAY_SHRINK_TO = 4, 5
# A part with so many keys does not lose all of them from one day to the next, unless a right was taken away.
MAY_EMPTY_BELOW = 5


class Manifest(BaseModel):
    """What stands beside a snapshot.

    Attributes:
        sha256: of the snapshot, in hexadecimal digits.
        keys: how many it has.
        parts: how many accounts, projects, namespaces or directories were read whole.
        keys_by_part: how many keys each of those has.
        missing: those that could not be read, and why; empty unless --allow-missing was given.
        observed_at: the snapshot's own time, which is the time at which the fetch was first started.
        younger: keys that were created since, and are left out.
        unusable_owners: keys whose owner rows cannot hold, and which have none here.
        notes: what else could not be read, and of how many parts or pages.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    source: str
    sha256: str
    keys: int
    parts: int
    keys_by_part: Mapping[str, int] = Field(default_factory=dict)
    missing: Mapping[str, str]
    observed_at: datetime
    finished_at: datetime
    younger: int
    unusable_owners: int
    notes: Mapping[str, int]
    keyturn: str


def publish(
    out: Path,
    plan: Plan,
    pages: Sequence[StoredPage],
    missing: Mapping[str, str],
    *,
    finished_at: datetime,
    expect_fewer: bool,
) -> Manifest:
    """Write the snapshot and its manifest.

    Raises:
        SnapshotEmpty: there is no key.
        SnapshotSmaller: there are over a fifth fewer keys than in the file that it would replace, or none any more in a
            part that had some and is still there.
    """
    keys, before = sum(page.rows for page in pages), _keys_in(out)
    if keys == 0:
        raise SnapshotEmpty(f"no key was found in {len(plan.parts) - len(missing):,} of {len(plan.parts):,} parts")
    kept, of = MAY_SHRINK_TO
    if keys * of < before * kept and not expect_fewer:
        raise SnapshotSmaller(f"{keys:,} keys were found, and the last snapshot {out} has {before:,}: it is unchanged")
    by_part = Counter[str]()
    for page in pages:
        by_part[page.part] += page.rows
    had = _keys_by_part(out)
    # Of those that are still listed: an account that was closed is gone with its keys.
    emptied = [one.name for one in plan.parts if had.get(one.name, 0) >= MAY_EMPTY_BELOW and not by_part[one.name]]
    if emptied and not expect_fewer:
        named = ", ".join(emptied[:10]) + (f" and {len(emptied) - 10:,} more" if len(emptied) > 10 else "")
        raise SnapshotSmaller(f"no key is left in {named}, which the last snapshot {out} has keys of: it is unchanged")
    digest = hashlib.sha256()
    remove_unfinished(out.parent, out.name, manifest_of(out).name)
    write_whole(out, _digested(pages, digest))
    made = Manifest(
        source=plan.source,
        sha256=digest.hexdigest(),
        keys=keys,
        parts=len(plan.parts) - len(missing),
        keys_by_part=dict(sorted(by_part.items())),
        missing=missing,
        observed_at=plan.started_at,
        finished_at=finished_at,
        younger=sum(page.younger for page in pages),
        unusable_owners=sum(page.unusable_owners for page in pages),
        notes=Counter(note for page in pages for note in page.notes),
        keyturn=version("keyturn"),
    )
    text = json.dumps(made.model_dump(mode="json"), indent=2)
    write_whole(manifest_of(out), [f"{text}\n".encode()])
    return made


def expect_same_source(out: Path, source: str) -> None:
    """Raise AnotherSnapshot if the file that is there is one of another cloud, by its manifest."""
    before = _manifest_there(out).get("source")
    if out.exists() and before != source and isinstance(before, str):
        raise AnotherSnapshot(f"{out} is a snapshot of {before[:32]!a}, and not of {source}")


def manifest_of(out: Path) -> Path:
    """Return where a snapshot's manifest is."""
    return out.with_name(f"{out.name}.json")


def _manifest_there(out: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(manifest_of(out).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keys_by_part(out: Path) -> Mapping[str, int]:
    """Return how many keys each part of the last snapshot has; nothing if that is not known."""
    found = _manifest_there(out).get("keys_by_part") if out.exists() else None
    return found if isinstance(found, dict) and all(isinstance(count, int) for count in found.values()) else {}


def _digested(pages: Sequence[StoredPage], digest: Any) -> Iterator[bytes]:
    for page in pages:
        for line in page.lines():
            digest.update(line)
            yield line


def _keys_in(out: Path) -> int:
    if not out.exists():
        return 0
    with out.open("rb") as opened:
        return sum(1 for line in opened if line.strip())
