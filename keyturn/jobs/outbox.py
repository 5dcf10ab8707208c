"""The outbox: messages that were written with their jobs, to be delivered once in effect, in order per credential."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, and_, bindparam, case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.jobs.errors import UnknownDelivery
from keyturn.jobs.tables import audit_of, job_audit, outbox, rotation_jobs

TOPIC, TIGHTENED_TOPIC, BLOCKED_TOPIC = "rotation_job.created", "rotation_job.tightened", "rotation_job.blocked"
MAX_ID = 2**62  # above every row's number, in a column of 64 bits


class Message(NamedTuple):
    """A message of the outbox, and whether another one must come first."""

    outbox_id: int
    job_id: str
    tenant_id: str
    topic: str
    payload: Mapping[str, Any]
    created_at: datetime
    delivered_at: datetime | None
    waits_for: str | None
    delivered_by: Mapping[str, str] = {}  # answers by channel, of one that has come through some of several


class Outbox:
    """The messages in the database behind `engine`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def message(self, job_id: str) -> Message:
        """Return the next message of a job, and which earlier one of its credential is not delivered yet.

        The next one is the oldest that waits; where none does, the last.

        Raises:
            UnknownDelivery: there is none, or its job was purged.
            JobStoreUnavailable: the database did not answer.
        """
        query = _of_jobs(_pending_first()).add_columns(_earlier()).where(outbox.c.job_id == job_id)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None or not row["payload"]:
            raise UnknownDelivery(f"the job {job_id[:64]} has no message")
        names = ("outbox_id", "job_id", "tenant_id", "topic", "payload", "created_at", "delivered_at", "waits_for")
        return Message(**{name: row[name] for name in names}, delivered_by=row["delivered_by"] or {})

    async def add(self, job_id: str, *, topic: str, **more: Any) -> None:
        """Write one more message of a job: what the first one said, and `more`. A sweep finds and delivers it."""
        first = select(outbox.c.payload).where(outbox.c.job_id == job_id).order_by(outbox.c.outbox_id).limit(1)
        async with transaction(self._engine, whole=True) as connection:
            payload = (await connection.execute(first)).scalar_one_or_none()
            if not payload:
                return  # purged, or of a database that was restored: no one has heard of the job itself
            message = {"job_id": job_id, "topic": topic, "payload": {**payload, **more}}
            await connection.execute(insert(outbox), message | {"created_at": datetime.now(UTC)})

    async def note_answers(self, message: Message, answers: Mapping[str, str]) -> None:
        """Write by which channels a message has come through, and how it was answered, while others are left."""
        this = outbox.c.outbox_id == message.outbox_id
        async with transaction(self._engine) as connection:
            await connection.execute(update(outbox).where(this).values(delivered_by=dict(answers)))

    async def mark_delivered(self, message: Message, *, answer: str) -> None:
        """Write that a message came through, and how the receiver answered; an open job becomes `delivered`."""
        now = datetime.now(UTC)
        audit = _audit(message.job_id, "delivered", {"answer": answer}, now)
        if self._engine.dialect.name == "postgresql":
            parameters = {"this_message": message.outbox_id, "this_moment": now}
            async with transaction(self._engine) as connection:
                await connection.execute(_DELIVERED_AT_ONCE, parameters | {f"audit_{k}": v for k, v in audit.items()})
            return
        this = and_(outbox.c.outbox_id == message.outbox_id, outbox.c.delivered_at.is_(None))
        async with transaction(self._engine) as connection:
            done = await connection.execute(
                update(outbox).where(this).values(delivered_at=now, dead_at=None, failure=None)
            )
            if done.rowcount == 0:
                return  # another attempt, whose answer was lost, has written it
            job = and_(rotation_jobs.c.job_id == message.job_id, rotation_jobs.c.status == "open")
            await connection.execute(update(rotation_jobs).where(job).values(status="delivered"))
            await connection.execute(insert(job_audit).inline(), audit)

    async def mark_dead(self, job_id: str, *, failure: str) -> None:
        """Record that a delivery was abandoned, and why; an operator resends it."""
        now = datetime.now(UTC)
        waiting = and_(outbox.c.job_id == job_id, _waiting())
        async with transaction(self._engine, whole=True) as connection:
            done = await connection.execute(update(outbox).where(waiting).values(dead_at=now, failure=failure))
            if done.rowcount:
                await connection.execute(
                    insert(job_audit).inline(), _audit(job_id, "undeliverable", {"failure": failure}, now)
                )

    async def revive(self, job_id: str) -> None:
        """Let an abandoned message be delivered again."""
        async with transaction(self._engine) as connection:
            await connection.execute(update(outbox).where(outbox.c.job_id == job_id).values(dead_at=None, failure=None))

    async def dead_letters(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the dead letters, the oldest first; those of purged jobs cannot be resent and are left out."""
        query = _of_jobs().where(outbox.c.dead_at.is_not(None), rotation_jobs.c.tenant_id == tenant_id)
        query = query.where(rotation_jobs.c.status != "purged").limit(limit)
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def set_aside(self, *, at_first: timedelta, later: timedelta) -> int:
        """Abandon messages that no receiver was waiting for, so that a new channel does not send old jobs.

        An operator who wants them sent resends them, as any dead letter.

        Args:
            at_first: how old, where nothing has ever been delivered or abandoned: there was no channel until now.
            later: how old, where something has: there was none in between.

        Returns how many; raises JobStoreUnavailable.
        """
        now = datetime.now(UTC)
        used = select(outbox.c.outbox_id).where(outbox.c.delivered_at.is_not(None) | outbox.c.dead_at.is_not(None))
        async with transaction(self._engine, whole=True) as connection:
            age = later if (await connection.execute(used.limit(1))).first() else at_first
            old = and_(_waiting(), outbox.c.created_at < now - age)
            done = await connection.execute(update(outbox).where(old).values(dead_at=now, failure="before_the_webhook"))
            return done.rowcount

    async def waiting(self, *, older_than: timedelta, limit: int) -> Sequence[str]:
        """Return the jobs whose messages wait for longer than that, urgent ones first, then the oldest.

        A message from the future was written by a clock that is wrong; it is sent at once.
        """
        now = datetime.now(UTC)
        old = or_(outbox.c.created_at < now - older_than, outbox.c.created_at > now + older_than)
        query = select(outbox.c.job_id).join(rotation_jobs, rotation_jobs.c.job_id == outbox.c.job_id)
        query = query.where(_waiting(), old).order_by(rotation_jobs.c.priority, outbox.c.outbox_id).limit(limit)
        async with transaction(self._engine) as connection:
            return list((await connection.execute(query)).scalars())


def _waiting() -> Any:
    return and_(outbox.c.delivered_at.is_(None), outbox.c.dead_at.is_(None))


def _pending_first() -> Any:
    """Sorts what waits before what was delivered; of that, the last comes first."""
    return case((outbox.c.delivered_at.is_(None), outbox.c.outbox_id), else_=MAX_ID - outbox.c.outbox_id)


def _of_jobs(order: Any = outbox.c.outbox_id) -> Select[Any]:
    return (
        select(outbox, rotation_jobs.c.tenant_id, rotation_jobs.c.account_id, rotation_jobs.c.key_id)
        .join(rotation_jobs, rotation_jobs.c.job_id == outbox.c.job_id)
        .order_by(order)
    )


def _earlier() -> Any:
    """The first message of the same credential that must come before."""
    earlier, job = outbox.alias("earlier"), rotation_jobs.alias("earlier_job")
    return (
        select(earlier.c.job_id)
        .join(job, job.c.job_id == earlier.c.job_id)
        .where(
            job.c.tenant_id == rotation_jobs.c.tenant_id,
            job.c.account_id == rotation_jobs.c.account_id,
            job.c.key_id == rotation_jobs.c.key_id,
            earlier.c.outbox_id < outbox.c.outbox_id,
            earlier.c.delivered_at.is_(None),
            earlier.c.dead_at.is_(None),
        )
        .order_by(earlier.c.outbox_id)
        .limit(1)
        .correlate(rotation_jobs, outbox)
        .scalar_subquery()
        .label("waits_for")
    )


def _delivered_at_once() -> Select[Any]:
    """PostgreSQL: message, job and audit row in one statement, which is one transaction and one round trip."""
    done = (
        update(outbox)
        .where(outbox.c.outbox_id == bindparam("this_message", type_=BigInteger), outbox.c.delivered_at.is_(None))
        .values(delivered_at=bindparam("this_moment", type_=outbox.c.created_at.type), dead_at=None, failure=None)
        .returning(outbox.c.job_id)
        .cte("done")
    )
    job = (
        update(rotation_jobs)
        .where(rotation_jobs.c.job_id == select(done.c.job_id).scalar_subquery(), rotation_jobs.c.status == "open")
        .values(status="delivered")
    )
    return select(done.c.job_id).add_cte(job.cte("job"), audit_of(done))


_DELIVERED_AT_ONCE = _delivered_at_once()


def _audit(job_id: str, event: str, detail: Mapping[str, str], now: datetime) -> dict[str, Any]:
    return {"job_id": job_id, "at": now, "event": event, "actor": "keyturn", "detail": dict(detail)}
