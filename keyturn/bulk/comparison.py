"""Two runs compared: which keys are due now and were not, which were and are not any more."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyturn.bulk.findings import DUE

Key = tuple[str, str]  # account and key


@dataclass(frozen=True)
class Comparison:
    """What has changed since an earlier run."""

    run_id: str
    new: tuple[Key, ...]
    gone: tuple[Key, ...]
    still_open: int


async def due_keys(items: AsyncIterator[Mapping[str, Any]]) -> set[Key]:
    """Return the keys of a run's items that are due."""
    return {(item["account_id"], item["key_id"]) async for item in items if item["outcome"] in DUE}


def compare(earlier_run: str, earlier: set[Key], now: set[Key]) -> Comparison:
    """Return what has changed between the keys that were due in `earlier_run` and those that are now."""
    return Comparison(earlier_run, tuple(sorted(now - earlier)), tuple(sorted(earlier - now)), len(now & earlier))
