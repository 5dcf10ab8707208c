"""What happened, read from the database as one sequence, for an export: rotations, jobs, and what people decided.

Waivers, freezes, exposures and runs have no trail of their own: their rows say when they began and ended, and by whom.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_runs
from keyturn.database import rows_of
from keyturn.exposures.tables import exposures
from keyturn.freezes.tables import freezes
from keyturn.jobs.audit import job_events
from keyturn.waivers.tables import waivers


class _Moment(NamedTuple):
    """Something that a row says to have happened: its event, and the columns that say when and by whom."""

    event: str
    at: str
    by: str | None
    detail: tuple[str, ...]


class _Source(NamedTuple):
    """A table whose rows say what happened."""

    of: str
    table: Table
    ids: tuple[str, ...]  # which tell its rows apart; the last one is what the event is about
    moments: tuple[_Moment, ...]


_SOURCES = (
    _Source(
        "waiver",
        waivers,
        ("waiver_id",),
        (
            _Moment(
                "granted",
                "granted_at",
                "granted_by",
                ("account", "key_id", "owner", "line", "reason", "until", "covers_compromised"),
            ),
            _Moment("ended", "ended_at", "ended_by", ()),
        ),
    ),
    _Source(
        "freeze",
        freezes,
        ("freeze_id",),
        (
            _Moment("started", "started_at", "started_by", ("cloud_account", "reason", "until")),
            _Moment("ended", "ended_at", "ended_by", ()),
        ),
    ),
    _Source(
        "exposure",
        exposures,
        ("account_id", "key_id"),  # several accounts may have keys of one ID
        (_Moment("reported", "reported_at", "reported_by", ("account_id", "key_id", "source", "place")),),
    ),
    _Source(
        "run",
        bulk_runs,
        ("run_id",),
        (
            _Moment(
                "ordered",
                "created_at",
                "requested_by",
                ("task", "source", "source_digest", "policy_lines", "policy_digest", "decide_by"),
            ),
            _Moment("ended", "ended_at", None, ("ended",)),
        ),
    ),
)


async def events_of(
    engine: AsyncEngine, *, tenant_id: str, since: datetime | None, until: datetime
) -> AsyncIterator[dict[str, Any]]:
    """Yield what happened to a tenant's rotations, jobs, waivers, freezes, exposures and runs, oldest first.

    Args:
        engine: the database.
        tenant_id: whose.
        since: from then on; None from the first on.
        until: before then.

    Raises:
        JobStoreUnavailable: the database did not answer.
    """
    read = (_events_of_table(engine, one, tenant_id) for one in _SOURCES)
    # Some thousands at most: people write them.
    read_all = [one for found in await asyncio.gather(*read) for one in found]
    wanted = (one for one in read_all if one["at"] < until and (since is None or one["at"] >= since))
    waiting = deque(sorted(wanted, key=_order))
    async for event in job_events(engine, tenant_id=tenant_id, since=since, until=until):
        while waiting and _order(waiting[0]) < _order(event):
            yield _written(waiting.popleft())
        yield _written(event)
    for one in waiting:
        yield _written(one)


async def _events_of_table(engine: AsyncEngine, source: _Source, tenant_id: str) -> list[dict[str, Any]]:
    query = select(source.table).where(source.table.c.tenant_id == tenant_id)
    return [event for row in await rows_of(engine, query) for event in _events_in(source, row)]


def _events_in(source: _Source, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for moment in source.moments:
        if row[moment.at] is not None:
            yield {
                "at": row[moment.at],
                "event_id": "-".join([source.of, *(row[name] for name in source.ids if row[name]), moment.event]),
                "of": source.of,
                "id": row[source.ids[-1]],
                "event": moment.event,
                "actor": "keyturn" if moment.by is None else row[moment.by],
                "detail": {name: _plain(row[name]) for name in moment.detail if row[name] not in (None, "")},
            }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _order(event: Mapping[str, Any]) -> tuple[datetime, str, str]:
    return event["at"], event["of"], event["event_id"]


def _written(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"at": event["at"].isoformat()}
