"""Notices in the database: written once, routed once, grouped into messages, sent until they came through."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import and_, case, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, rows_of, transaction
from keyturn.notices.contracts import SHOWN, Notice, NoticeMessage
from keyturn.notices.errors import UnknownMessage
from keyturn.notices.routing import Send
from keyturn.notices.tables import notice_sends, notices

_log = structlog.get_logger("keyturn.notices")
AT_ONCE = 500  # rows a transaction: some ten milliseconds, in which no one else waits for long
RESTARTED_AFTER = timedelta(minutes=10)  # a delivery that was terminated by hand is started again then
_MOST_GROUPED = 5_000  # of the notices that share a message; the next message takes the others
_sends, _notices = notice_sends.c, notices.c
_WAITS = and_(_sends.sent_at.is_(None), _sends.dead_at.is_(None))


def _behind_others() -> Any:
    """Messages that wait for an earlier one to the same destination about one of their keys, with that one.

    Who hears that a rotation is done has heard that it began. Whole messages are compared, by the first notice of each:
    two that share several keys would otherwise wait for each other for ever.
    """
    waits = and_(_WAITS, _sends.message_id.is_not(None))
    firsts = (
        select(_sends.message_id, _sends.destination, func.min(_sends.notice_id).label("first"))
        .where(waits)
        .group_by(_sends.message_id, _sends.destination)
    )
    own, other = firsts.subquery("own"), firsts.subquery("other")
    mine, theirs = notice_sends.alias("mine"), notice_sends.alias("theirs")
    my_notice, their_notice = notices.alias("my_notice"), notices.alias("their_notice")
    same_key = and_(
        their_notice.c.tenant_id == my_notice.c.tenant_id,
        their_notice.c.account_id == my_notice.c.account_id,
        their_notice.c.key_id == my_notice.c.key_id,
    )
    return (
        select(own.c.message_id, other.c.message_id.label("waits_for"))
        .select_from(own)
        .join(mine, mine.c.message_id == own.c.message_id)
        .join(my_notice, my_notice.c.notice_id == mine.c.notice_id)
        .join(their_notice, same_key)
        .join(theirs, theirs.c.notice_id == their_notice.c.notice_id)
        .join(other, and_(other.c.message_id == theirs.c.message_id, other.c.destination == own.c.destination))
        .where(other.c.first < own.c.first)
    )


def _sends_of(content: Any, sends_of: Callable[[Notice], Sequence[Send]]) -> Sequence[Send]:
    """Return where a stored notice goes; one that cannot be read, of another release, goes nowhere."""
    try:
        return sends_of(Notice.model_validate(content))
    except ValidationError as error:
        _log.error("notice_unreadable", cause=type(error).__name__)
        return ()


class NoticeStore:
    """The notices in the database behind `engine`. Everything raises JobStoreUnavailable if that does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_of(engine)

    async def add(self, found: Sequence[Notice]) -> None:
        """Write notices; those that are there already stay as they are."""
        now = datetime.now(UTC)
        statement = self._insert(notices).on_conflict_do_nothing(index_elements=["tenant_id", "event_id"])
        for start in range(0, len(found), AT_ONCE):
            rows = [
                {
                    "tenant_id": one.tenant_id,
                    "event_id": one.event_id,
                    "topic": one.topic,
                    "owner": one.owner,
                    "account_id": one.account_id,
                    "key_id": one.key_id,
                    "content": one.model_dump(mode="json", exclude_none=True),
                    "created_at": now,
                }
                for one in found[start : start + AT_ONCE]
            ]
            async with transaction(self._engine, whole=True) as connection:
                await connection.execute(statement, rows)

    async def route(self, sends_of: Callable[[Notice], Sequence[Send]]) -> int:
        """Write where notices go that were not routed yet, the oldest first; returns how many there were."""
        unrouted = select(_notices.notice_id, _notices.content).where(_notices.routed_at.is_(None))
        unrouted = unrouted.order_by(_notices.notice_id).limit(AT_ONCE)
        if self._engine.dialect.name == "postgresql":  # another worker routes others meanwhile
            unrouted = unrouted.with_for_update(skip_locked=True)
        async with transaction(self._engine, whole=True) as connection:
            found = (await connection.execute(unrouted)).all()
            rows = [
                {"notice_id": notice_id, **send._asdict()}
                for notice_id, content in found
                for send in _sends_of(content, sends_of)
            ]
            if rows:
                await connection.execute(self._insert(notice_sends).on_conflict_do_nothing(), rows)
            if found:
                these = _notices.notice_id.in_([notice_id for notice_id, _ in found])
                await connection.execute(update(notices).where(these).values(routed_at=datetime.now(UTC)))
        return len(found)

    async def group(self, now: datetime) -> int:
        """Put what is due into messages, one for each destination and group; returns how many messages were made."""
        due = and_(_WAITS, _sends.message_id.is_(None), _sends.due_at <= now)
        groups = select(_sends.destination, _sends.grouped_by).where(due).distinct().limit(AT_ONCE)
        made = 0
        for row in await rows_of(self._engine, groups):
            of_group = and_(due, _sends.destination == row["destination"], _sends.grouped_by == row["grouped_by"])
            members = select(_sends.send_id).where(of_group).order_by(_sends.send_id).limit(_MOST_GROUPED)
            # Compared again where it is written: what another worker took first is not taken twice.
            taken = (
                update(notice_sends)
                .where(_sends.send_id.in_(members), _sends.message_id.is_(None))
                .values(message_id=f"notice_{uuid.uuid4().hex}")
            )
            async with transaction(self._engine) as connection:
                made += (await connection.execute(taken)).rowcount > 0
        return made

    async def pending(self, now: datetime, *, limit: int, of_each: int) -> Sequence[str]:
        """Return the messages whose delivery is to be started, urgent ones first, then the oldest.

        Left out are those that wait for an earlier one, and those that were started lately: their deliveries run.

        Args:
            now: the present moment.
            limit: at most so many.
            of_each: at most so many of one destination, so that one that is down does not hold up the others.
        """
        behind = select(_behind_others().subquery("behind").c.message_id)
        idle = or_(
            _sends.started_at.is_(None), _sends.started_at < literal(now - RESTARTED_AFTER, _sends.started_at.type)
        )
        waiting = (
            select(
                _sends.message_id,
                _sends.destination,
                func.max(case((_sends.is_urgent, 1), else_=0)).label("urgent"),
                func.min(_sends.notice_id).label("first"),
            )
            .where(_WAITS, _sends.message_id.is_not(None), idle, _sends.message_id.not_in(behind))
            .group_by(_sends.message_id, _sends.destination)
        ).subquery()
        order = (waiting.c.urgent.desc(), waiting.c.first)
        place = func.row_number().over(partition_by=waiting.c.destination, order_by=order).label("place")
        ranked = select(waiting.c.message_id, waiting.c.urgent, waiting.c.first, place).subquery()
        query = (
            select(ranked.c.message_id)
            .where(ranked.c.place <= of_each)
            .order_by(ranked.c.urgent.desc(), ranked.c.first)
            .limit(limit)
        )
        return [str(row["message_id"]) for row in await rows_of(self._engine, query)]

    async def mark_started(self, message_id: str, now: datetime) -> None:
        """Write that the delivery of a message was started."""
        await self._change(message_id, started_at=now)

    async def message(self, message_id: str) -> NoticeMessage:
        """Return a message, and which earlier one about a key of its own must come first; raises UnknownMessage."""
        members = (
            select(_sends.destination, _sends.sent_at, _notices.topic, _notices.content)
            .join(notices, _notices.notice_id == _sends.notice_id)
            .where(_sends.message_id == message_id)
            .order_by(_sends.notice_id)
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(members)).mappings().all()
            if not rows:
                raise UnknownMessage(f"there is no message {message_id[:64]}")
            behind = _behind_others().subquery()
            earlier = select(behind.c.waits_for).where(behind.c.message_id == message_id).limit(1)
            waits_for = (await connection.execute(earlier)).scalar_one_or_none()
        return NoticeMessage(
            message_id=message_id,
            destination=rows[0]["destination"],
            notices=tuple(Notice.model_validate(row["content"]) for row in rows[-SHOWN:]),
            total=len(rows),
            by_topic=Counter(row["topic"] for row in rows),
            waits_for=waits_for,
            is_sent=all(row["sent_at"] is not None for row in rows),
        )

    async def mark_sent(self, message_id: str) -> None:
        """Write that a message came through."""
        await self._change(message_id, sent_at=datetime.now(UTC), dead_at=None, failure=None)

    async def mark_dead(self, message_id: str, *, failure: str) -> None:
        """Record that a message was abandoned, and why; an operator resends it."""
        await self._change(message_id, dead_at=datetime.now(UTC), failure=failure)

    async def revive(self, message_id: str) -> None:
        """Let an abandoned message be delivered again."""
        await self._change(message_id, dead_at=None, failure=None, started_at=None)

    async def _change(self, message_id: str, **values: Any) -> None:
        this = and_(_sends.message_id == message_id, _sends.sent_at.is_(None))
        async with transaction(self._engine) as connection:
            await connection.execute(update(notice_sends).where(this).values(**values))

    async def waiting(self, *, tenant_id: str, older_than: timedelta) -> Sequence[Mapping[str, Any]]:
        """Return the destinations whose messages wait for longer, each with how many, and since when."""
        query = (
            select(
                _sends.destination,
                func.count(_sends.message_id.distinct()).label("messages"),
                func.min(_sends.due_at).label("since"),
            )
            .join(notices, _notices.notice_id == _sends.notice_id)
            .where(_WAITS, _sends.message_id.is_not(None), _notices.tenant_id == tenant_id)
            .where(_sends.due_at < literal(datetime.now(UTC) - older_than, _sends.due_at.type))
            .group_by(_sends.destination)
            .order_by(_sends.destination)
        )
        return await rows_of(self._engine, query)

    async def dead_letters(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the abandoned messages of a tenant, the oldest first, each with its destination and failure."""
        query = (
            select(
                _sends.message_id,
                _sends.destination,
                func.max(_sends.failure).label("failure"),
                func.min(_sends.dead_at).label("dead_at"),
                func.count().label("notices"),
            )
            .join(notices, _notices.notice_id == _sends.notice_id)
            .where(_sends.dead_at.is_not(None), _notices.tenant_id == tenant_id)
            .group_by(_sends.message_id, _sends.destination)
            .order_by(func.min(_sends.send_id))
            .limit(limit)
        )
        return await rows_of(self._engine, query)
