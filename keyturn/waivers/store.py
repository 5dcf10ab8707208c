"""The waivers in the database, and what a process knows of them."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.owners import Owners
from keyturn.policy.line import PolicyLine
from keyturn.waivers.contracts import AppliedWaiver, Waiver
from keyturn.waivers.errors import UnknownWaiver
from keyturn.waivers.rules import find_waiver
from keyturn.waivers.tables import waivers

# A waiver counts within so many seconds: a run that starts hundreds of rotations a second asks the database once.
KNOWN_SECONDS = 5.0


class WaiverStore:
    """The waivers in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, waiver: Waiver) -> None:
        """Write a waiver that was checked (`keyturn.waivers.granting`)."""
        async with transaction(self._engine) as connection:
            await connection.execute(insert(waivers), waiver.model_dump())

    async def end(self, waiver_id: str, *, tenant_id: str, by: str) -> None:
        """End a waiver before its time; raises UnknownWaiver if none of this ID holds."""
        now = datetime.now(UTC)
        this = (waivers.c.waiver_id == waiver_id, waivers.c.tenant_id == tenant_id, waivers.c.ended_at.is_(None))
        async with transaction(self._engine) as connection:
            done = await connection.execute(
                update(waivers).where(*this, waivers.c.until > now).values(ended_at=now, ended_by=by)
            )
        if not done.rowcount:
            raise UnknownWaiver(f"there is no waiver {waiver_id[:64]} in force")

    async def active(self, *, tenant_id: str | None) -> Sequence[Waiver]:
        """Return the waivers in force, soonest to end first; of all tenants, if `tenant_id` is None."""
        whose = true() if tenant_id is None else waivers.c.tenant_id == tenant_id
        query = (
            select(waivers)
            .where(whose, waivers.c.ended_at.is_(None), waivers.c.until > datetime.now(UTC))
            .order_by(waivers.c.until, waivers.c.waiver_id)
        )
        async with transaction(self._engine) as connection:
            return [_waiver(dict(row)) for row in (await connection.execute(query)).mappings()]

    async def history(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the waivers that were granted last, those that ended included, newest first."""
        query = (
            select(waivers).where(waivers.c.tenant_id == tenant_id).order_by(waivers.c.granted_at.desc()).limit(limit)
        )
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]


class _Known(NamedTuple):
    waivers: Sequence[Waiver]
    at: float


class WaiverBook:
    """The waivers as a worker or executor looks them up: what the database said a moment ago.

    Args:
        store: of the waivers.
        owners: who owns which key.
    """

    def __init__(self, store: WaiverStore, owners: Owners) -> None:
        self._store = store
        self._owners = owners
        self._known: dict[str, _Known] = {}

    async def find(
        self,
        lines: Sequence[PolicyLine],
        *,
        tenant_id: str,
        account_id: str,
        key_id: str,
        recorded_owner: str | None,
        compromised: bool,
    ) -> AppliedWaiver | None:
        """Return what exempts a key that is due under `lines`; None if it must be rotated. See `find_waiver`."""
        known = await self.active(tenant_id)
        if not known:
            return None
        return find_waiver(
            known,
            lines,
            account_id=account_id,
            key_id=key_id,
            owner=self._owners.owner_of(account_id, key_id, recorded_owner),
            compromised=compromised,
            now=datetime.now(UTC),
        )

    async def active(self, tenant_id: str) -> Sequence[Waiver]:
        """Return a tenant's waivers as they were at most `KNOWN_SECONDS` ago; raises JobStoreUnavailable."""
        now = time.monotonic()
        known = self._known.get(tenant_id)
        if known is None or now - known.at >= KNOWN_SECONDS:
            known = self._known[tenant_id] = _Known(await self._store.active(tenant_id=tenant_id), now)
        return known.waivers


def _waiver(row: Mapping[str, Any]) -> Waiver:
    return Waiver.model_validate({name: row[name] for name in Waiver.model_fields})
