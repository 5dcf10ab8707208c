"""From an inventory to a run's items: what needs no model is decided here, and says so."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from keyturn.bulk.contracts import BulkSource
from keyturn.bulk.store import BulkStore, Run
from keyturn.exposures.store import UNKNOWN
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.places import expect_regular
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.scans import Scan
from keyturn.inventory.source import Row
from keyturn.policy.grounding import observed_in_future
from keyturn.policy.line import PolicyLine
from keyturn.policy.rules import apply_rules

AT_ONCE = 500  # rows a statement: a transaction of some 10 ms, and memory that does not grow with the file


async def digest_of(source: BulkSource, file: Path) -> str:
    """Return what makes two runs the same: the bytes that are read, and what is asked of them. It can be cancelled.

    Args:
        source: what to ask; its path and who asks do not count.
        file: the inventory itself, where the source names a directory.

    Raises:
        InventoryInvalid: a file cannot be read.
        InventoryRefused: a file is no regular one, or too large.
    """
    asked = source.model_dump_json(exclude={"path", "access_keys", "user_id"})
    digest = hashlib.sha256(asked.encode())
    for one in (file, *([Path(source.access_keys)] if source.access_keys else [])):
        expect_regular(one)
        try:
            with one.open("rb") as opened:
                while chunk := await asyncio.to_thread(opened.read, 1 << 22):
                    await asyncio.to_thread(digest.update, chunk)
        except OSError as error:
            raise InventoryInvalid(f"{one} cannot be read: {error.strerror}") from None
        digest.update(b"\0")
    return f"sha256:{digest.hexdigest()}"


def items_of(
    rows: Iterator[Row],
    lines: Sequence[PolicyLine],
    *,
    always_ask: bool,
    reject: Callable[[BadRow], None],
    by_rule: bool = False,
    at: datetime | None = None,
    exposed: Mapping[tuple[str, str], datetime] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the columns of each item of an inventory; each bad row and each key that is listed twice is rejected.

    Args:
        rows: of the inventory.
        lines: the policy lines of the run.
        always_ask: ask the model about every key, even where rules alone decide.
        reject: is called with each row that was not used.
        by_rule: whether what code can read is decided without a model.
        at: when it is decided; None for now.
        exposed: when keys were reported as exposed, by account and ID, or by ID alone: they are, whatever the inventory
            says, unless it says that they were rotated since. A password keeps its ID.
    """
    at = at or datetime.now(UTC)
    seen: set[int] = set()  # hashes: some 80 bytes a key
    ordinal = ask = 0
    for row in rows:
        ordinal += 1
        if isinstance(row, InventoryKey):
            mark = hash((row.account_id, row.facts.key_id))
            if mark in seen:
                raw = {"account_id": row.account_id} | row.facts.model_dump(mode="json", exclude_none=True)
                row = BadRow(row.line, "an earlier row has the same key", raw)  # noqa: PLW2901
            seen.add(mark)
        if isinstance(row, InventoryKey) and observed_in_future(row.facts, at):
            raw = {"account_id": row.account_id} | row.facts.model_dump(mode="json", exclude_none=True)
            row = BadRow(row.line, "it was observed in the future", raw)  # noqa: PLW2901
        if isinstance(row, BadRow):
            reject(row)
            yield {"ordinal": ordinal, "line": row.line, "outcome": "bad_row", "explanation": row.reason[:1000]}
            continue
        if exposed and _is_exposed(row, exposed):
            row = row._replace(facts=row.facts.model_copy(update={"compromised": True}))  # noqa: PLW2901
        why = None if always_ask else apply_rules(row.facts, lines, idle=row.idle, at=at, by_rule=by_rule)
        if why is None:
            ask += 1
        yield {
            "ordinal": ordinal,
            "ask": ask if why is None else None,
            "line": row.line,
            "account_id": row.account_id,
            "key_id": row.facts.key_id,
            "owner": row.owner,
            "facts": row.facts.model_dump(mode="json", exclude_none=True),
            "decided_by": None if why is None else "rule",
            "outcome": None if why is None else why.outcome,
            "reason": None if why is None else why.reason,
        }


def _is_exposed(row: InventoryKey, exposed: Mapping[tuple[str, str], datetime]) -> bool:
    reports = [exposed.get((account, row.facts.key_id)) for account in (row.account_id, UNKNOWN)]
    rotated = row.facts.last_rotated_at
    return any(at is not None and (rotated is None or rotated <= at) for at in reports)


def scan_items(
    rows: Iterator[Scan | BadRow], *, encrypt: Callable[[str], str], reject: Callable[[BadRow], None]
) -> Iterator[dict[str, Any]]:
    """Yield the columns of each item of a scan; its records are stored encrypted."""
    ask = 0
    for ordinal, row in enumerate(rows, 1):
        if isinstance(row, BadRow):
            reject(row)
            yield {"ordinal": ordinal, "line": row.line, "outcome": "bad_row", "explanation": row.reason[:1000]}
            continue
        ask += 1
        content = encrypt(json.dumps([record.model_dump() for record in row.records]))
        yield {"ordinal": ordinal, "ask": ask, "line": row.line, "account_id": row.account_id, "content": content}


_COLUMNS = (
    "ask",
    "account_id",
    "key_id",
    "owner",
    "facts",
    "content",
    "decided_by",
    "outcome",
    "reason",
    "explanation",
)


async def load(
    store: BulkStore,
    run: Run,
    items: Iterator[dict[str, Any]],
    *,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> Run:
    """Write a run's items down, unless that was done; returns the run, loaded.

    Args:
        store: where.
        run: its id; a run of this id that was loaded whole is left as it is.
        items: of `items_of`, or of another task.
        on_progress: is called now and then with the number of rows that were written.
    """
    there = await store.open(run)
    if there.loaded:
        return there
    asks = count = 0
    async for batch in _batches(items):
        asks = max([asks, *(item.get("ask") or 0 for item in batch)])
        count += len(batch)
        now = datetime.now(UTC)
        await store.add(
            [
                dict.fromkeys(_COLUMNS)
                | item
                | {"run_id": run.run_id, "judged_at": now if item.get("outcome") is not None else None}
                for item in batch
            ]
        )
        on_progress(count)
    await store.mark_loaded(run.run_id, asks=asks)
    return await store.run(run.run_id, tenant_id=run.tenant_id)


async def _batches(items: Iterator[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    # In a thread: reading waits for a disk, or for the process that reads.
    while batch := await asyncio.to_thread(lambda: list(islice(items, AT_ONCE))):
        yield batch
