"""How often each payload key has encrypted, over the whole fleet: AES-GCM with random nonces bears 2^32 messages a key.

NIST SP 800-38D, 8.3: with nonces of 96 random bits no more than 2^32 invocations under one key. Workers add what they
counted once a minute. Starters, desks and executors encrypt a handful of payloads for each hundred of a worker, and are
not counted: the warning comes at half of the limit, which covers them many times over.
"""

from collections.abc import Mapping

from sqlalchemy import BigInteger, Column, String, Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, metadata, transaction

LIMIT = 2**32
WARN_AT = 2**31
# In this order: a key that encrypts before every process has it makes payloads that some cannot decrypt.
REPLACE = (
    "`keyturn keys generate` prints a new key: add it last everywhere and deploy, then move it first "
    "(docs/how-to/encrypt-payloads.md)."
)

payload_key_use = Table(
    "payload_key_use",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("encryptions", BigInteger, nullable=False),
)


class KeyUse:
    """The counts in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_of(engine)

    async def add(self, counted: Mapping[str, int]) -> Mapping[str, int]:
        """Add what a process counted, by key id; returns the totals."""
        for key_id, number in counted.items():
            statement = self._insert(payload_key_use).values(key_id=key_id, encryptions=number)
            total = payload_key_use.c.encryptions + number
            async with transaction(self._engine) as connection:
                await connection.execute(
                    statement.on_conflict_do_update(index_elements=["key_id"], set_={"encryptions": total})
                )
        return await self.totals()

    async def totals(self) -> Mapping[str, int]:
        """Return how often each key has encrypted."""
        async with transaction(self._engine) as connection:
            return {row.key_id: row.encryptions for row in await connection.execute(select(payload_key_use))}


def keys_to_replace(totals: Mapping[str, int]) -> list[str]:
    """Return the ids of the keys that must be replaced: they have encrypted half as often as they may."""
    return sorted(key_id for key_id, number in totals.items() if number >= WARN_AT)
