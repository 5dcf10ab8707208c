"""Drafts in SQL. A row has the whole text so far, encrypted, so a reader resumes from any place in it by itself.

The writer is fenced: a later attempt takes the row over, and what an earlier one still writes is refused. A draft ends
once: the first ending counts, and there is no second one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyturn.database import insert_of, transaction
from keyturn.database_moments import moment_from_now
from keyturn.drafts.contracts import DraftEnd, DraftEnding, DraftState
from keyturn.drafts.errors import DraftTakenOver, UnknownDraft
from keyturn.drafts.tables import draft_states, drafts, is_expired
from keyturn.keyring import EncryptedTexts, Keyring

# A draft is sent or thrown away within days; Temporal's own history has its own retention.
RETENTION_DAYS = 7
ENDED: tuple[DraftEnding, ...] = ("completed", "failed", "cancelled")
_drafts = drafts.c


@dataclass(frozen=True)
class Draft:
    """A draft as stored. Offsets into `text` count within one `generation`: with the next, it starts over."""

    draft_id: str
    account_id: str
    requested_by: str
    state: DraftState
    attempt: int
    generation: int
    revision: int
    text: str
    approved: bool | None
    reason: str | None
    explanation: str | None
    created_at: datetime

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED


@dataclass(frozen=True)
class Writer:
    """The right to write a draft, until a later attempt takes it over."""

    draft_id: str
    run_id: str
    attempt: int
    generation: int


class DraftStore:
    """Drafts behind `engine`, their texts encrypted by `keyring`. All raise JobStoreUnavailable.

    Args:
        engine: the database.
        keyring: which encrypts their texts.
        retention_days: how long drafts are stored after their end; None for ever.
    """

    def __init__(self, engine: AsyncEngine, keyring: Keyring, *, retention_days: int | None = RETENTION_DAYS) -> None:
        self._engine = engine
        self._insert = insert_of(engine)
        self._encryption = EncryptedTexts(keyring, "keyturn-draft-v1")
        # By the database's clock: a worker whose own is wrong would forget drafts at once, and their fence with them.
        on_postgresql = engine.dialect.name == "postgresql"
        self._now = moment_from_now(timedelta(0), on_postgresql=on_postgresql)
        stored = None if retention_days is None else timedelta(days=retention_days)
        self._too_old = None if stored is None else moment_from_now(-stored, on_postgresql=on_postgresql)

    async def start(
        self, draft_id: str, *, tenant_id: str, account_id: str, requested_by: str, run_id: str, attempt: int
    ) -> Writer:
        """Take a draft over for an attempt: its text starts over. Deletes drafts that have expired.

        Raises:
            DraftTakenOver: a later attempt has it, or it has ended.
        """
        now = datetime.now(UTC)
        row: dict[str, Any] = {"state": "started", "run_id": run_id, "attempt": attempt, "text": None}
        new = row | {"draft_id": draft_id, "tenant_id": tenant_id, "account_id": account_id, "created_at": now}
        claim = self._insert(drafts).values(new | {"requested_by": requested_by, "generation": 1, "revision": 1})
        anew = row | {"generation": _drafts.generation + 1, "revision": _drafts.revision + 1}
        earlier = or_(_drafts.run_id != run_id, _drafts.attempt < attempt)
        claim = claim.on_conflict_do_update(
            index_elements=[_drafts.draft_id],
            set_=anew,
            where=earlier & _drafts.state.not_in(ENDED) & (_drafts.tenant_id == tenant_id),
        )
        async with transaction(self._engine, whole=True) as connection:
            if self._too_old is not None:
                # What another one deletes now is left to it: two that wait for each other's rows would both be refused.
                expired = select(_drafts.draft_id).where(is_expired(self._too_old)).with_for_update(skip_locked=True)
                await connection.execute(delete(drafts).where(_drafts.draft_id.in_(expired)))
            generation = (await connection.execute(claim.returning(_drafts.generation))).scalar_one_or_none()
            if generation is None:
                raise DraftTakenOver("a later attempt writes this draft, or it is closed")
            await insert_state(connection, draft_id, "started", attempt)
        return Writer(draft_id, run_id, attempt, generation)

    async def anew(self, writer: Writer) -> Writer:
        """Start the text over within an attempt: another provider writes now. Raises DraftTakenOver.

        Said again when its answer was lost, it is the same beginning.
        """
        following = replace(writer, generation=writer.generation + 1)
        changed = {"state": "started", "text": None, "generation": following.generation}
        await self._write(changed, writer, following, new_state="started")
        return following

    async def show(self, writer: Writer, text: str, *, first: bool) -> None:
        """Write the text so far; `first` if it is the first of its generation. Raises DraftTakenOver."""
        encrypted = self._encryption.encrypt(writer.draft_id, text)
        await self._write({"state": "streaming", "text": encrypted}, writer, new_state="streaming" if first else None)

    async def end(self, end: DraftEnd) -> None:
        """Write down how a draft ended, unless that was done. What had come of its text stays, if the whole did not."""
        now, written = datetime.now(UTC), end.written
        changed: dict[str, Any] = {"state": end.state, "reason": end.reason, "explanation": end.explanation}
        if written is not None:
            changed["text"] = self._encryption.encrypt(end.draft_id, written.text)
            changed |= {"approved": written.approved, "reason": written.reason, "explanation": written.explanation}
        changed["ended_at"] = self._now
        # A draft that was stopped before any worker had started it has no row yet, and its readers wait for one.
        named: dict[str, Any] = {"draft_id": end.draft_id, "tenant_id": end.tenant_id, "account_id": end.account_id}
        named |= {"requested_by": end.requested_by, "created_at": now}
        unbegun = {"run_id": "", "attempt": 0, "generation": 1, "revision": 1}
        statement = self._insert(drafts).values(named | unbegun | changed)
        statement = statement.on_conflict_do_update(
            index_elements=[_drafts.draft_id],
            set_=changed | {"revision": _drafts.revision + 1},
            where=_drafts.state.not_in(ENDED) & (_drafts.tenant_id == end.tenant_id),
        )
        async with transaction(self._engine, whole=True) as connection:
            attempt = (await connection.execute(statement.returning(_drafts.attempt))).scalar_one_or_none()
            if attempt is not None:
                await insert_state(connection, end.draft_id, end.state, attempt)

    async def look(self, seen: Mapping[str, int]) -> list[Draft]:
        """Return those of some drafts that changed, given the revision of each that was seen; 0 for none."""
        if not seen:
            return []
        newer = or_(*((_drafts.draft_id == one) & (_drafts.revision > revision) for one, revision in seen.items()))
        return await self._drafts(newer)

    async def find(self, draft_id: str, *, tenant_id: str) -> Draft:
        """Return a draft; raises UnknownDraft."""
        found = await self._drafts((_drafts.draft_id == draft_id) & (_drafts.tenant_id == tenant_id))
        if not found:
            raise UnknownDraft("no such draft")
        return found[0]

    async def trail(self, draft_id: str) -> Sequence[Mapping[str, Any]]:
        """Return the states that a draft went through, each with its attempt and time."""
        columns = (draft_states.c.state, draft_states.c.attempt, draft_states.c.at)
        query = select(*columns).where(draft_states.c.draft_id == draft_id).order_by(draft_states.c.id)
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def _write(self, changed: Mapping[str, Any], *writers: Writer, new_state: DraftState | None) -> None:
        """Change the draft, if one of `writers` has it: those of one attempt."""
        writer = writers[0]
        mine = (_drafts.draft_id == writer.draft_id) & (_drafts.run_id == writer.run_id)
        mine &= (_drafts.attempt == writer.attempt) & _drafts.generation.in_([one.generation for one in writers])
        values = {**changed, "revision": _drafts.revision + 1}
        statement = update(drafts).where(mine, _drafts.state.not_in(ENDED)).values(values)
        async with transaction(self._engine, whole=new_state is not None) as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise DraftTakenOver("a later attempt writes this draft, or it is closed")
            if new_state is not None:
                await insert_state(connection, writer.draft_id, new_state, writer.attempt)

    async def _drafts(self, which: ColumnElement[bool]) -> list[Draft]:
        query = select(*(_drafts[field.name] for field in fields(Draft))).where(which)
        async with transaction(self._engine) as connection:
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
        for row in rows:
            row["text"] = self._encryption.decrypt(row["draft_id"], row["text"]) if row["text"] else ""
        return [Draft(**row) for row in rows]


async def insert_state(connection: AsyncConnection, draft_id: str, state: DraftState, attempt: int) -> None:
    """Add a state to a draft's trail."""
    row = {"draft_id": draft_id, "state": state, "attempt": attempt, "at": datetime.now(UTC)}
    await connection.execute(insert(draft_states).values(row))
