"""Requests that may be sent again: one with the same `Idempotency-Key` is executed once and answered alike.

As draft-ietf-httpapi-idempotency-key-header-07 has it: no key where one is needed is 400, a key of another request is
422, one whose first request is still in progress is 409.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, transaction
from keyturn.desk.people import Person
from keyturn.desk.tables import desk_requests
from keyturn.errors import JobStoreUnavailable
from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.web.problems import Refused

RETENTION = timedelta(days=1)  # a request that is sent again a day later is a new one
# A desk that died while executing one leaves its row: after this long the request may be sent again. What it started
# is found again by its own id.
UNDER_WAY_FOR = timedelta(seconds=90)
MAX_KEY_CHARACTERS = 255
_columns = desk_requests.c
Answer = tuple[int, dict[str, Any]]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="A new UUID for each new request; required.", max_length=1_000),
]
# Executes a request of a person once, by its operation, key, body, and what it does.
Once = Callable[[Person, str, str | None, BaseModel, Any], Awaitable[JSONResponse]]


class Idempotency:
    """Remembers answers by key in the database behind `engine`, encrypted by `keyring`."""

    def __init__(self, engine: AsyncEngine, keyring: Keyring) -> None:
        self._engine = engine
        self._insert = insert_of(engine)
        self._encryption = EncryptedTexts(keyring, "keyturn-desk-answer-v1")

    async def once(
        self, key: str | None, *, whose: tuple[str, ...], request: Any, do: Callable[[str], Awaitable[Answer]]
    ) -> Answer:
        """Return what `do` answers, or what it answered to the same request before.

        Args:
            key: of the request, as its header has it.
            whose: tenant, person and operation: keys of others are other keys.
            request: what is asked, as JSON.
            do: carries it out; given the key's digest, from which ids may be made.

        Raises:
            Refused: there is no key, or it belongs to another request, or to one in progress.
            JobStoreUnavailable: the database did not answer; send it again.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            detail = f"this request needs an Idempotency-Key of at most {MAX_KEY_CHARACTERS} characters"
            raise Refused(400, "idempotency_key_missing", detail, hint="Send a new UUID with each new request.")
        digest = _digest([*whose, key])
        fingerprint = _digest(request)
        if not await self._claim(digest, fingerprint):
            return await self._stored_answer(digest, fingerprint)
        try:
            status, answer = await do(digest)
        except BaseException:
            with suppress(JobStoreUnavailable):  # it may be sent again a little later, then
                await self.change(delete(desk_requests).where(_columns.key_digest == digest))
            raise
        encrypted = self._encryption.encrypt(digest, json.dumps(answer))
        done = update(desk_requests).where(_columns.key_digest == digest).values(status=status, answer=encrypted)
        with suppress(JobStoreUnavailable):  # sent again, it is executed again, and finds by its ids what it started
            await self.change(done)
        return status, answer

    async def _claim(self, digest: str, fingerprint: str) -> bool:
        now = datetime.now(UTC)
        claim = self._insert(desk_requests).values(key_digest=digest, fingerprint=fingerprint, began_at=now)
        left_behind = _columns.status.is_(None) & (_columns.began_at < now - UNDER_WAY_FOR)
        claim = claim.on_conflict_do_update(
            index_elements=[_columns.key_digest],
            set_={"began_at": now},
            where=left_behind & (_columns.fingerprint == fingerprint),
        )
        async with transaction(self._engine) as connection:
            await connection.execute(delete(desk_requests).where(_columns.began_at < now - RETENTION))
            return (await connection.execute(claim.returning(_columns.key_digest))).first() is not None

    async def _stored_answer(self, digest: str, fingerprint: str) -> Answer:
        query = select(_columns.fingerprint, _columns.status, _columns.answer).where(_columns.key_digest == digest)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is not None and row.fingerprint != fingerprint:
            detail = "this Idempotency-Key was used for another request"
            raise Refused(422, "idempotency_key_reused", detail, hint="Send a new key with each new request.")
        if row is None or row.status is None:
            detail = "the first request with this Idempotency-Key is still under way"
            raise Refused(409, "still_under_way", detail, hint="Send it again.", headers={"Retry-After": "1"})
        return row.status, json.loads(self._encryption.decrypt(digest, row.answer))

    async def change(self, statement: Any) -> None:
        """Write to the table of requests; raises JobStoreUnavailable."""
        async with transaction(self._engine) as connection:
            await connection.execute(statement)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
