"""What a worker does beside its work: forgets what has expired, and counts."""

import asyncio
import contextlib
from datetime import UTC, datetime

import structlog

from keyturn.background import is_cancelled
from keyturn.cache.sql import SqlCache
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.leases import JobLeases
from keyturn.key_use import LIMIT, REPLACE, KeyUse, keys_to_replace
from keyturn.keyring import Keyring
from keyturn.retention import Retention, RetentionStore
from keyturn.workers.metrics import JobMetrics

_log = structlog.get_logger("keyturn.worker")

# A process that is killed loses a minute of a count that is compared with four thousand million.
KEY_USE_SECONDS = 60.0


async def forget_expired(cache: SqlCache) -> None:
    """Delete expired cached responses, now and once an hour: a table does not forget by itself."""
    while not is_cancelled():
        with contextlib.suppress(JobStoreUnavailable):  # again in an hour; a lookup ignores them anyway
            await cache.clear(expired_only=True)
        await asyncio.sleep(3_600)


async def count_encryptions(keyring: Keyring, use: KeyUse) -> None:
    """Write down how often each payload key has encrypted, once a minute, and say when one must be replaced."""
    while not is_cancelled():
        counted = keyring.take_encryptions()
        try:
            totals = await use.add(counted)
        except JobStoreUnavailable:
            keyring.give_back_encryptions(counted)
        else:
            for key_id in keys_to_replace(totals):
                _log.warning("payload_key_worn", key_id=key_id, encryptions=totals[key_id], limit=LIMIT, hint=REPLACE)
        await asyncio.sleep(KEY_USE_SECONDS)


async def delete_expired(store: RetentionStore, retention: Retention) -> None:
    """Delete what is older than its retention, now and once a day."""
    while not is_cancelled():
        with contextlib.suppress(JobStoreUnavailable):  # again tomorrow
            deleted = await store.delete(retention.limits(datetime.now(UTC)))
            if any(deleted.values()):
                _log.info("records_deleted", deleted=dict(deleted))
        await asyncio.sleep(86_400)


async def count_jobs(leases: JobLeases, metrics: JobMetrics) -> None:
    """Count open and overdue jobs, now and every half minute: what is due by the day need not be known sooner."""
    while not is_cancelled():
        with contextlib.suppress(JobStoreUnavailable):  # the figures stay as they are until the database answers again
            metrics.show(await leases.count())
        await asyncio.sleep(30)
