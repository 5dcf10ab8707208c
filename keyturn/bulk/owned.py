"""Who owns a key by the inventories that were judged, for questions that people ask by hand."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.database import transaction


async def recorded_owner(engine: AsyncEngine, *, tenant_id: str, account_id: str, key_id: str) -> str | None:
    """Return the owner of a key by the newest inventory that names one; raises JobStoreUnavailable."""
    query = (
        select(bulk_items.c.owner)
        .join(bulk_runs, bulk_runs.c.run_id == bulk_items.c.run_id)
        .where(bulk_items.c.account_id == account_id, bulk_items.c.key_id == key_id, bulk_items.c.owner.is_not(None))
        .where(bulk_runs.c.tenant_id == tenant_id)
        .order_by(bulk_runs.c.created_at.desc())
        .limit(1)
    )
    async with transaction(engine) as connection:
        owner: str | None = (await connection.execute(query)).scalar_one_or_none()
        return owner
