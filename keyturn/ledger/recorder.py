"""From the end of a call to its row: at once for the caller, in batches for the database."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from keyturn.background import is_cancelled
from keyturn.calls import CallRecord
from keyturn.ledger.store import LedgerStore

_log = structlog.get_logger("keyturn.ledger")

# A row each would cost a call as much as all else that the boundary does. After 100 ms a batch is worth its one commit,
# and a worker that is killed has lost at most that many milliseconds of rows; their log events were written at once.
BATCH_SECONDS = 0.1
BATCH_ROWS = 200
# While the database is away: about an hour of a busy worker, and 20 MiB.
MOST_WAITING = 20_000
RETRY_SECONDS = 2.0
# What a stopping worker waits for the last rows: a disk may stall for five seconds, and of the 40 s that a container is
# given, 30 are the activities'.
CLOSE_SECONDS = 9.0
DRAIN_EVERY_SECONDS = 0.2  # another user of SQLite's one connection is done in a moment


# The database did not answer, or not in time: it may take the same rows later.
AWAY = (OperationalError, InterfaceError, PoolTimeout, OSError, TimeoutError)


class Recorder:
    """Takes records without waiting, and writes them to `store` in the background."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._waiting: list[tuple[str, CallRecord]] = []
        self._some = asyncio.Event()

    def record(self, call: CallRecord) -> None:
        """Take one record; never raises, never waits."""
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[:BATCH_ROWS]
            _log.error("ledger_rows_lost", rows=BATCH_ROWS, hint="Bring the database back; the log has these calls.")
        self._waiting.append((uuid.uuid4().hex, call))
        self._some.set()

    async def flush(self) -> None:
        """Write everything that was taken so far; raises one of AWAY if the database is away.

        What is taken while it writes waits for the next time: a busy worker would else write row by row.
        """
        taken = list(self._waiting)
        for start in range(0, len(taken), BATCH_ROWS):
            batch = taken[start : start + BATCH_ROWS]
            try:
                await self._store.write(batch)
            except AWAY:
                raise
            except Exception:
                await self._write_each(batch)
            # Rows may have been dropped from the front meanwhile: remove these, not that many.
            written = {call_id for call_id, _ in batch}
            self._waiting = [entry for entry in self._waiting if entry[0] not in written]

    async def drain(self) -> None:
        """Write everything that was taken, however often that fails while the database is away."""
        while True:
            try:
                return await self.flush()
            except AWAY:
                await asyncio.sleep(DRAIN_EVERY_SECONDS)

    async def _write_each(self, batch: list[tuple[str, CallRecord]]) -> None:
        for entry in batch:
            try:
                await self._store.write([entry])
            except AWAY:
                raise
            except Exception as error:
                _log.error("ledger_rows_lost", rows=1, cause=type(error).__name__, trace_id=entry[1].trace_id)

    async def run(self) -> None:
        """Write batches until cancelled."""
        while not is_cancelled():
            await self._some.wait()
            await asyncio.sleep(BATCH_SECONDS)
            self._some.clear()
            try:
                await self.flush()
            except AWAY as error:
                _log.warning("ledger_unavailable", cause=type(error).__name__, waiting=len(self._waiting))
                await asyncio.sleep(RETRY_SECONDS)
                self._some.set()


@asynccontextmanager
async def recorder(store: LedgerStore) -> AsyncIterator[Recorder]:
    """Yield a recorder that writes in the background; write what is left when done."""
    kept = Recorder(store)
    writing = asyncio.create_task(kept.run())
    try:
        yield kept
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await kept.drain()
        except TimeoutError as error:
            _log.exception("ledger_rows_lost", rows=len(kept._waiting), cause=type(error).__name__, exc_info=False)
