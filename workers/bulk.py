"""What the activities of a bulk run do on a worker: read the inventory, judge pages, end the run."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from keyturn.bulk.contracts import BulkOrder, BulkPage, BulkSource, PageResult, RunProgress, RunResult
from keyturn.bulk.load import digest_of, items_of, load, scan_items
from keyturn.bulk.offline import OfflineRuns
from keyturn.bulk.pages import BulkJudge
from keyturn.bulk.store import BulkStore, Run
from keyturn.exposures.store import ExposureStore
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.isolation import read_apart, read_scans_apart
from keyturn.inventory.places import file_below, newest
from keyturn.inventory.read import read
from keyturn.inventory.rows import BadRow
from keyturn.inventory.scans import Scan, read_scans
from keyturn.inventory.source import Inventory, Row
from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.line import digest_of_lines
from keyturn.tasks.registry import load_tasks
from keyturn.workers.bulk_fetch import fetch_for_run


def run_encryption(keyring: Keyring) -> EncryptedTexts:
    """Return what encrypts the texts of runs; each opens only in its own run."""
    return EncryptedTexts(keyring, "keyturn-run-v1")


class BulkRunActivities:
    """What the activities of a run do: the inventory of this machine, the judge, the store."""

    def __init__(
        self,
        store: BulkStore,
        judge: BulkJudge,
        offline: OfflineRuns,
        catalogue: Catalogue,
        encryption: EncryptedTexts,
        *,
        inventory_root: Path | None,
        snapshots_kept_for: timedelta | None = None,
    ) -> None:
        self._root, self._kept_for = inventory_root, snapshots_kept_for
        self._store = store
        self.submit = offline.submit
        self.collect = offline.collect
        self._judge = judge
        self._catalogue = catalogue
        self._encryption = encryption

    async def load(self, order: BulkOrder, *, workflow_id: str, at: datetime) -> RunProgress:
        """Read the run's inventory, if it has a source, and return what there is."""
        if order.source is not None and order.source.fetch is not None:
            kept = await fetch_for_run(
                order.source.fetch, order.source.path, order.run_id, self._root, kept_for=self._kept_for
            )
            fetched = order.source.model_copy(update={"path": str(kept), "format": "jsonl"})
            await self._load(order, fetched, workflow_id, at)
        elif order.source is not None:
            places = {
                name: str(await asyncio.to_thread(file_below, path, self._root))
                for name in ("path", "access_keys")
                if (path := getattr(order.source, name)) is not None
            }
            await self._load(order, order.source.model_copy(update=places), workflow_id, at)
        # What the pages from here on will count is theirs to count; what was counted before, and by rule, is there.
        whole = await self._store.progress(order.run_id)
        before = await self._store.progress(order.run_id, last=order.next_page * order.page_size)
        return before.model_copy(update={"total": whole.total, "asks": whole.asks})

    async def _load(self, order: BulkOrder, source: BulkSource, workflow_id: str, at: datetime) -> None:
        """Read a source; an unreadable one is never quoted: the failure is stored in history and in the log."""
        try:
            await load_source(
                source,
                order.run_id,
                order.tenant_id,
                workflow_id,
                self._store,
                self._catalogue,
                self._encryption,
                on_progress=lambda _: None,
                at=at,
                reading=READ_APART,
            )
        except InventoryInvalid as error:
            raise InventoryInvalid(error.without_quotes) from None

    async def judge(
        self, page: BulkPage, *, attempt: int, last_attempt: bool, at: datetime, stop: asyncio.Event
    ) -> PageResult:
        """Judge what is open of a page; once `stop` is set, nothing more of it is asked."""
        return await self._judge.judge(page, attempt=attempt, last_attempt=last_attempt, at=at, stop=stop)

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        """Look up the rotations' status."""
        return await self._judge.update_outcomes(run_id, tenant_id=tenant_id)

    async def end(self, run_id: str, status: str) -> None:
        """Write down that the run has ended."""
        await self._store.close_run(run_id, status)


@dataclass(frozen=True)
class Reading:
    """How files are read: in this process, which is the quickest, or in one of their own, for files of others."""

    inventory: Callable[[Inventory], Iterator[Row]]
    scans: Callable[[Path], Iterator[Scan | BadRow]]


READ_HERE, READ_APART = Reading(read, read_scans), Reading(read_apart, read_scans_apart)


async def load_source(
    source: BulkSource,
    run_id: str,
    tenant_id: str,
    workflow_id: str,
    store: BulkStore,
    catalogue: Catalogue,
    encryption: EncryptedTexts,
    *,
    on_progress: Callable[[int], None],
    reject: Callable[[BadRow], None] = lambda _row: None,
    digest: str | None = None,
    at: datetime | None = None,
    reading: Reading = READ_HERE,
) -> Run:
    """Read an inventory into a run, unless that was done; returns the run. `digest` is the source's, if it is known.

    `at` is when it is decided; None for now. `reading` is how files are read.

    Raises:
        InventoryInvalid, UnknownPolicyLine: nothing can be asked of it.
        UnknownRun: the id is another tenant's.
        JobStoreUnavailable: the database did not answer; call again.
    """
    file = await asyncio.to_thread(newest, Path(source.path))
    if digest is None:
        digest = await digest_of(source, file)
    lines = [catalogue.current(line_id) for line_id in dict.fromkeys(source.policies)]
    run = Run(
        run_id=run_id,
        tenant_id=tenant_id,
        task=source.task,
        source=str(file)[-512:],
        source_digest=digest,
        policy_lines=tuple(line.ref for line in lines),
        question=encryption.encrypt(run_id, source.question) if source.question else None,
        requested_by=source.user_id,
        decide_by="rule" if source.by_rule else "rule_and_model",
        policy_digest=digest_of_lines(lines) if lines else None,
        prompt_version=load_tasks()[source.task].default_prompt_version,
        code_version=version("keyturn"),
        workflow_id=workflow_id,
        again=source.again,
        loaded=False,
        asks=0,
    )
    if source.task == "summarize_scan":
        items = scan_items(reading.scans(file), encrypt=lambda text: encryption.encrypt(run_id, text), reject=reject)
    else:
        items = items_of(
            reading.inventory(_inventory(source, file)),
            lines,
            always_ask=source.always_ask,
            by_rule=source.by_rule,
            reject=reject,
            at=at,
            exposed=await ExposureStore(store.engine).exposed(tenant_id=tenant_id),
        )
    return await load(store, run, items, on_progress=on_progress)


def _inventory(source: BulkSource, file: Path) -> Inventory:
    return Inventory(
        file=file,
        format=source.format,
        observed_at=source.observed_at,
        account_id=source.account_id,
        access_keys=None if source.access_keys is None else Path(source.access_keys),
    )
