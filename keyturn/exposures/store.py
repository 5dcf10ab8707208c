"""Exposed keys in the database, and where a key is known from."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.database import insert_of, transaction
from keyturn.exposures.contracts import Exposure, KnownKey
from keyturn.exposures.tables import exposures
from keyturn.jobs.tables import rotation_jobs

# The newest run of an inventory knows the keys that there are; a key of an older one is gone, or was rotated. Where an
# inventory has a new name each night, these are the last hundred nights.
SOURCES_LOOKED_AT = 100
UNKNOWN = ""  # in the place of an account


class ExposureStore:
    """The exposed keys in the database behind `engine`. Everything raises JobStoreUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_of(engine)

    async def add(self, exposure: Exposure) -> bool:
        """Write that a key was exposed; returns False if that was known: of the first report all but its time stays.

        It was known, too, if the key was reported before anyone knew its account. The time is the last report's: a
        password that was rotated keeps its ID, and may leak again.
        """
        row = exposure.model_dump() | {"account_id": exposure.account_id or UNKNOWN}
        statement = self._insert(exposures).values(**row).on_conflict_do_nothing()
        same = [exposures.c[name] == row[name] for name in ("tenant_id", "account_id", "key_id")]
        again = update(exposures).where(*same, exposures.c.reported_at < row["reported_at"])
        async with transaction(self._engine) as connection:
            is_added = (await connection.execute(statement.returning(exposures.c.key_id))).first() is not None
            if not is_added:
                await connection.execute(again.values(reported_at=row["reported_at"]))
            if not is_added or exposure.account_id is None:
                return is_added
            earlier = select(exposures.c.key_id).where(
                exposures.c.tenant_id == exposure.tenant_id,
                exposures.c.key_id == exposure.key_id,
                exposures.c.account_id == UNKNOWN,
            )
            return (await connection.execute(earlier)).first() is None

    async def exposed(self, *, tenant_id: str) -> Mapping[tuple[str, str], datetime]:
        """Return the exposed keys of a tenant as account and key ID, each with when it was reported.

        The account is UNKNOWN of a key that no inventory and no job knew when it was reported.
        """
        query = select(exposures.c.account_id, exposures.c.key_id, exposures.c.reported_at)
        async with transaction(self._engine) as connection:
            rows = await connection.execute(query.where(exposures.c.tenant_id == tenant_id))
            return {(account, key): reported for account, key, reported in rows}

    async def listed(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the keys that were reported last, newest first."""
        query = select(exposures).where(exposures.c.tenant_id == tenant_id)
        query = query.order_by(exposures.c.reported_at.desc(), exposures.c.key_id).limit(limit)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).mappings()
            return [{**row, "account_id": row["account_id"] or None} for row in rows]

    async def find_key(self, key_id: str, *, tenant_id: str) -> Sequence[KnownKey]:
        """Return the keys of that ID that the newest inventories or the jobs know: several accounts may have one."""
        runs, later = bulk_runs.c, bulk_runs.alias().c
        # Until an inventory is read, what the run before it knew still holds.
        is_followed = select(later.run_id).where(
            later.tenant_id == runs.tenant_id,
            later.source == runs.source,
            later.created_at > runs.created_at,
            later.loaded_at.is_not(None),
        )
        newest = select(runs.run_id).where(runs.tenant_id == tenant_id, ~is_followed.correlate(bulk_runs).exists())
        newest = newest.order_by(runs.created_at.desc()).limit(SOURCES_LOOKED_AT)
        items = select(bulk_items.c.account_id, bulk_items.c.facts, bulk_items.c.owner).where(
            bulk_items.c.run_id.in_(newest), bulk_items.c.key_id == key_id
        )
        jobs = rotation_jobs.c
        of_jobs = select(jobs.account_id, jobs.credential_kind, jobs.owner).where(
            jobs.tenant_id == tenant_id, jobs.key_id == key_id, jobs.account_id.is_not(None)
        )
        async with transaction(self._engine) as connection:
            found = [
                KnownKey(row[0], key_id, (row[1] or {}).get("kind", "service_account_key"), row[2])
                for row in await connection.execute(items)
            ]
            found += [KnownKey(row[0], key_id, row[1], row[2]) for row in await connection.execute(of_jobs)]
        return list({one.account_id: one for one in reversed(found)}.values())
