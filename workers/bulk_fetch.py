"""A run that reads the cloud itself: one snapshot a run, below the worker's folder of inventories, and kept there."""

import asyncio
import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from keyturn.errors import SettingsInvalid
from keyturn.inventory.errors import InventoryRefused
from keyturn.inventory.places import file_below
from keyturn.snapshots.disk import written
from keyturn.snapshots.errors import SnapshotUnwritable
from keyturn.snapshots.fetch import fetch_snapshot
from keyturn.snapshots.fetchers import load_fetchers
from keyturn.snapshots.publish import manifest_of

KEPT = "runs"  # the folder of the snapshots of runs, beside the newest one


async def fetch_for_run(
    cloud: str, folder: str, run_id: str, root: Path | None, *, kept_for: timedelta | None = None
) -> Path:
    """Return the snapshot of a run: fetched now, or by an earlier attempt of the same run.

    The newest snapshot is FOLDER/CLOUD.jsonl, with which the next one is compared; that of a run is
    FOLDER/runs/RUN_ID.jsonl, and is never replaced. Each has its manifest beside it.

    Args:
        cloud: the fetcher's name, such as `aws`.
        folder: a folder below `root`.
        run_id: the run's ID.
        root: the folder below which this worker reads; None if it reads none.
        kept_for: how long snapshots of runs are kept, which are deleted when another one comes; None for ever.

    Raises:
        InventoryRefused: the folder is not below the root.
        SnapshotUnwritable: it is not there, or cannot be written.
        SettingsInvalid: this worker has no such fetcher, or lacks its extra.
        KeyturnError: the cloud was not read as a whole, or has far fewer keys than the last time.
    """
    place = await asyncio.to_thread(_folder_below, folder, root)
    kept = place / KEPT / f"{run_id}.jsonl"
    if await asyncio.to_thread(kept.is_file):
        return await asyncio.to_thread(file_below, str(kept), root)  # a link leads nowhere else
    fetcher = load_fetchers().get(cloud)
    if fetcher is None:
        raise SettingsInvalid(f"there is no fetcher {cloud}: {', '.join(sorted(load_fetchers()))} are there")
    newest = place / f"{cloud}.jsonl"
    try:
        await fetch_snapshot(fetcher, newest)
    except ModuleNotFoundError as error:
        if not fetcher.extra or (error.name or "").startswith("keyturn"):
            raise
        raise SettingsInvalid(f"{cloud} needs the extra: pip install 'keyturn[{fetcher.extra}]'") from None
    await asyncio.to_thread(_keep, newest, kept)
    if kept_for is not None:
        await asyncio.to_thread(_forget_older, kept.parent, time.time() - kept_for.total_seconds())
    return await asyncio.to_thread(file_below, str(kept), root)


def _folder_below(folder: str, root: Path | None) -> Path:
    if root is None:
        raise InventoryRefused("KEYTURN_INVENTORY_ROOT is not set: a worker writes snapshots below it only")
    real, above = Path(os.path.realpath(folder)), Path(os.path.realpath(root))
    if real != above and above not in real.parents:
        raise InventoryRefused(f"the folder of snapshots is not below KEYTURN_INVENTORY_ROOT ({root})")
    if not real.is_dir():
        raise SnapshotUnwritable("the schedule's folder of snapshots is not there on the workers' machine")
    return real


def _keep(newest: Path, kept: Path) -> None:
    """Let the run have the snapshot under a name of its own: the next fetch replaces the newest one by a rename."""
    unfinished = kept.with_suffix(".link")
    with written(kept):
        kept.parent.mkdir(exist_ok=True)
        for there, wanted in (
            (manifest_of(newest), manifest_of(kept)),
            (newest, kept),
        ):  # the snapshot last: it is looked for
            unfinished.unlink(missing_ok=True)
            os.link(there, unfinished)
            unfinished.replace(wanted)


def _forget_older(folder: Path, moment: float) -> None:
    """Delete the snapshots of runs, and their manifests, that were written before a moment."""
    for file in folder.glob("*.jsonl*"):
        with suppress(FileNotFoundError):  # another worker deletes them, too
            if file.stat().st_mtime < moment:
                file.unlink()
