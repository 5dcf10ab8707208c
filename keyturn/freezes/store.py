"""Freezes that people start and end, at once for every executor of a tenant."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.freezes.tables import freezes


class FreezeStore:
    """The freezes in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def start(
        self, *, tenant_id: str, by: str, reason: str, cloud_account: str | None, until: datetime | None
    ) -> str:
        """Freeze a tenant's rotations, or those of one cloud account; returns the freeze's ID.

        Args:
            tenant_id: whose rotations.
            by: who freezes them.
            reason: one line, for the operators of delayed rotations.
            cloud_account: the account; None for all.
            until: when it ends by itself; None if it does not.
        """
        freeze_id = f"freeze_{uuid.uuid4().hex[:12]}"
        row = {"freeze_id": freeze_id, "tenant_id": tenant_id, "started_by": by, "reason": reason, "until": until}
        row |= {"cloud_account": cloud_account, "started_at": datetime.now(UTC)}
        async with transaction(self._engine) as connection:
            await connection.execute(insert(freezes), row)
        return freeze_id

    async def end(self, *, tenant_id: str, by: str, freeze_id: str | None = None) -> int:
        """End one of a tenant's freezes, or all of them; returns how many were ended."""
        which = [freezes.c.tenant_id == tenant_id, freezes.c.ended_at.is_(None)]
        if freeze_id is not None:
            which.append(freezes.c.freeze_id == freeze_id)
        async with transaction(self._engine) as connection:
            done = await connection.execute(
                update(freezes).where(*which).values(ended_at=datetime.now(UTC), ended_by=by)
            )
            return int(done.rowcount)

    async def active(self, *, tenant_id: str, cloud_account: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the freezes that hold now, oldest first: all, or those that hold a cloud account."""
        now = datetime.now(UTC)
        query = select(freezes).where(
            freezes.c.tenant_id == tenant_id,
            freezes.c.ended_at.is_(None),
            or_(freezes.c.until.is_(None), freezes.c.until > now),
        )
        if cloud_account is not None:
            query = query.where(or_(freezes.c.cloud_account.is_(None), freezes.c.cloud_account == cloud_account))
        async with transaction(self._engine) as connection:
            rows = await connection.execute(query.order_by(freezes.c.started_at))
            return [dict(row) for row in rows.mappings()]
