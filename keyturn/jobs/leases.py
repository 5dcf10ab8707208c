"""Executing jobs: claim the most urgent one for a while, prolong the claim, and close the job.

A claim is a lease with a token that grows. When the lease runs out, another one may claim the job, with a higher token;
later calls of the slow one, under its lower token, change nothing and are refused. Each change is one statement
(on PostgreSQL one round trip; on SQLite one immediate transaction) with its audit row. Whether a lease has expired, the
database's clock says: a claimer's own may be days off.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import ReturningUpdate

from keyturn.contracts import CredentialKind
from keyturn.database import transaction
from keyturn.database_moments import moment_from_now, span_of
from keyturn.jobs.contracts import ClaimedJob, Evidence
from keyturn.jobs.errors import JobClosed, JobHeld, StaleClaim, StateRefused, UnknownJob
from keyturn.jobs.states import CLOSED, FOLLOWS, OPEN, ProgressState
from keyturn.jobs.tables import URGENT, audit_of, job_audit, rotation_jobs

MIN_LEASE, MAX_LEASE = timedelta(seconds=1), timedelta(hours=24)  # shorter expires on its way; no job needs longer
_jobs = rotation_jobs.c
_SHOWN = [column for column in rotation_jobs.c if column.name not in {"fingerprint", "fence"}]


class JobLeases:
    """Claims on the jobs in the database behind `engine`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = self.engine = engine
        self._on_postgresql = engine.dialect.name == "postgresql"
        self._statements = _statements(self._on_postgresql)

    async def claim_next(
        self,
        *,
        tenant_id: str,
        owner: str,
        lease: timedelta,
        kind: CredentialKind | None = None,
        account_id: str | None = None,
    ) -> ClaimedJob | None:
        """Claim the tenant's most urgent job without a holder; None if there is none.

        Args:
            tenant_id: whose jobs.
            owner: the claiming executor, for the audit trail.
            lease: for how long, from a second to a day; `heartbeat` prolongs it.
            kind: only a job for this kind of credential; None for any.
            account_id: only a job of this account; None for any.

        Raises:
            JobStoreUnavailable: the database did not answer. If it committed, the job is free again after the lease.
        """
        parameters = {"this_tenant": tenant_id, "this_owner": owner, "this_lease": self._span(lease)}
        parameters |= {"this_kind": kind, "this_account": account_id}
        row = await self._change(self._statements.claim_next, parameters, "claimed", owner, _lease_parameters(lease))
        return None if row is None else claimed_job(row)

    async def claim(self, job_id: str, *, tenant_id: str, owner: str, lease: timedelta) -> ClaimedJob:
        """Claim one job without another holder. Its own holder may claim it again: the token grows each time.

        Raises:
            UnknownJob, JobClosed, JobHeld: nothing changed.
            JobStoreUnavailable: the database did not answer; say it again.
        """
        parameters = {
            "this_tenant": tenant_id,
            "this_owner": owner,
            "this_lease": self._span(lease),
            "this_job": job_id,
        }
        row = await self._change(self._statements.claim_this, parameters, "claimed", owner, _lease_parameters(lease))
        if row is not None:
            return claimed_job(row)
        job, _ = await self.show(job_id, tenant_id=tenant_id)
        if job["status"] in CLOSED:
            raise JobClosed(f"{job_id} is {job['status']} already")
        raise JobHeld(f"{job_id} is claimed by another owner until its lease expires")

    async def free(self, *, tenant_id: str, kind: CredentialKind, limit: int, skip: int = 0) -> Sequence[str]:
        """Return the jobs for credentials of `kind` without a holder, except those in `skip`; most urgent first."""
        free = _free(self._on_postgresql) & (_jobs.credential_kind == kind)
        query = _urgent(select(_jobs.job_id).where(free)).limit(limit).offset(skip)
        parameters = {"this_tenant": tenant_id}
        async with transaction(self._engine) as connection:
            return [row.job_id for row in await connection.execute(query, parameters)]

    async def count_free(self, *, tenant_id: str) -> Mapping[CredentialKind, int]:
        """Return how many jobs without a holder there are, by the kind of credential."""
        query = select(_jobs.credential_kind, func.count()).where(_free(self._on_postgresql))
        async with transaction(self._engine) as connection:
            rows = await connection.execute(query.group_by(_jobs.credential_kind), {"this_tenant": tenant_id})
            return {row[0]: row[1] for row in rows}

    async def heartbeat(
        self,
        job_id: str,
        *,
        tenant_id: str,
        token: int,
        lease: timedelta,
        state: ProgressState | None = None,
        evidence: Evidence | None = None,
        owner: str | None = None,
    ) -> ClaimedJob:
        """Prolong a claim and, if `state` is given, say how far the rotation is; `evidence` goes into the audit.

        Args:
            job_id: of the job.
            tenant_id: whose.
            token: of the claim.
            lease: for how long from now.
            state: how far it is.
            evidence: for the audit trail.
            owner: who says so: the claim must be theirs. None for an operator with the database.

        Raises:
            UnknownJob, StaleClaim, JobClosed, StateRefused: nothing changed.
            JobStoreUnavailable: the database did not answer; say it again.
        """
        return await self._say(job_id, tenant_id, token, owner, state=state, lease=lease, evidence=evidence or {})

    async def complete(
        self, job_id: str, *, tenant_id: str, token: int, evidence: Evidence | None = None, owner: str | None = None
    ) -> ClaimedJob:
        """Close a job as done. Said twice with one token, it is done once; see `heartbeat`."""
        return await self._say(job_id, tenant_id, token, owner, state="done", evidence=evidence or {})

    async def fail(
        self, job_id: str, *, tenant_id: str, token: int, reason: str, owner: str | None = None
    ) -> ClaimedJob:
        """Close a job as failed; see `complete`."""
        return await self._say(job_id, tenant_id, token, owner, state="failed", evidence={"reason": reason})

    async def cancel(self, job_id: str, *, tenant_id: str, actor: str, reason: str) -> ClaimedJob:
        """Close a job that is not closed, whoever has claimed it: that executor's later calls are refused.

        Raises:
            UnknownJob, JobClosed: nothing changed.
        """
        named: dict[str, Any] = {"state": "cancelled", "evidence": {"reason": reason}, "actor": actor}
        return await self._say(job_id, tenant_id, None, None, **named)

    async def overdue(self, *, tenant_id: str | None = None, limit: int = 1_000) -> Sequence[Mapping[str, Any]]:
        """Return the jobs past their `rotate_by` that are not closed, the longest overdue first."""
        query = (
            select(*_SHOWN)
            .where(_jobs.status.in_(OPEN), _jobs.rotate_by < self._now())
            .order_by(_jobs.rotate_by, _jobs.job_id)
            .limit(limit)
        )
        if tenant_id is not None:
            query = query.where(_jobs.tenant_id == tenant_id)
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def count(self) -> Mapping[tuple[str, bool], int]:
        """Return how many jobs there are that are not closed, by state and by whether they are overdue."""
        late = (_jobs.rotate_by < self._now()).label("late")
        query = select(_jobs.status, late, func.count()).where(_jobs.status.in_(OPEN)).group_by(_jobs.status, late)
        async with transaction(self._engine) as connection:
            counted: dict[tuple[str, bool], int] = {}
            for state, overdue, number in await connection.execute(query):
                key = (state, bool(overdue))  # one without a date is never overdue
                counted[key] = counted.get(key, 0) + number
            return counted

    async def show(self, job_id: str, *, tenant_id: str) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """Return a job and its audit rows, oldest first; raises UnknownJob."""
        trail = select(job_audit).where(job_audit.c.job_id == job_id).order_by(job_audit.c.audit_id)
        async with transaction(self._engine) as connection:
            job = (await connection.execute(_by_id(job_id, tenant_id))).mappings().first()
            rows = [dict(row) for row in (await connection.execute(trail)).mappings()]
        if job is None:
            raise UnknownJob(f"there is no job {job_id[:64]} of this tenant")
        return dict(job), rows

    async def other_trails(
        self, job_id: str, *, actor: str, since: datetime, naming: str
    ) -> Sequence[Sequence[Mapping[str, Any]]]:
        """Return what the executions of other jobs wrote into their trails, each oldest first.

        Args:
            job_id: whose others.
            actor: what an execution's name in the trail is, in front of its own job's ID.
            since: only of jobs that were not closed before.
            naming: only where this stands in one of its details, such as the user's name.

        Raises:
            JobStoreUnavailable: the database does not answer.
        """
        written = job_audit.c.actor.startswith(actor, autoescape=True)
        named = select(job_audit.c.job_id).where(
            written, cast(job_audit.c.detail, String).contains(json.dumps(naming)[1:-1], autoescape=True)
        )
        rows = (
            select(job_audit)
            .join(rotation_jobs, rotation_jobs.c.job_id == job_audit.c.job_id)
            .where(written, job_audit.c.job_id != job_id, job_audit.c.job_id.in_(named))
            .where(or_(rotation_jobs.c.closed_at.is_(None), rotation_jobs.c.closed_at >= since))
            .order_by(job_audit.c.audit_id)
        )
        trails: dict[str, list[Mapping[str, Any]]] = {}
        async with transaction(self._engine) as connection:
            for row in (await connection.execute(rows)).mappings():
                if row["actor"] == f"{actor}{row['job_id']}":  # what others write into a trail is no proof of a key
                    trails.setdefault(row["job_id"], []).append(dict(row))
        return list(trails.values())

    async def _say(
        self,
        job_id: str,
        tenant_id: str,
        token: int | None,
        owner: str | None,
        *,
        state: str | None,
        evidence: Evidence,
        lease: timedelta | None = None,
        actor: str | None = None,
    ) -> ClaimedJob:
        async with transaction(self._engine) as connection:
            found = (await connection.execute(_by_id(job_id, tenant_id))).mappings().first()
        if found is None:
            raise UnknownJob(f"there is no job {job_id[:64]} of this tenant")
        # Who else knows the number of a claim says nothing in its holder's name: of what an executor wrote, its next
        # steps are taken.
        if owner is not None and owner != found["lease_owner"]:
            raise StaleClaim(f"{owner} does not hold {job_id}: another one has claimed it, or no one")
        if token == found["lease_token"] and state in CLOSED and found["status"] == state:
            return claimed_job(found)  # said again: its answer was lost
        if found["status"] not in OPEN:
            raise JobClosed(f"{job_id} is {found['status']} already")
        # A job without a claim has the token 0, which no claim has.
        if token is not None and (token != found["lease_token"] or token == 0):
            raise StaleClaim(f"the claim {token} does not hold {job_id}: it is not the latest one")
        if state is not None and state not in FOLLOWS[found["status"]]:
            raise StateRefused(f"{job_id} is {found['status']}: {state} cannot follow it")
        # Compared again where it is changed: a claim, cancellation or report in between is not overwritten.
        parameters = {"this_job": job_id, "this_token": found["lease_token"], "this_status": found["status"]}
        parameters |= {"this_state": state or found["status"], "this_lease": self._span(lease)}
        parameters |= {"this_closed": datetime.now(UTC) if state in CLOSED else None}
        who = actor or found["lease_owner"] or "unknown"
        # A progress report is written down too, under the state that the job is in.
        is_noted = (state is not None and state != found["status"]) or evidence
        event = (state or found["status"]) if is_noted else None
        row = await self._change(self._statements.say, parameters, event, who, evidence)
        if row is None:
            again: dict[str, Any] = {"state": state, "evidence": evidence, "lease": lease, "actor": actor}
            return await self._say(job_id, tenant_id, token, owner, **again)
        return claimed_job(row)

    def _span(self, lease: timedelta | None) -> timedelta | str | None:
        return span_of(None if lease is None else clamp_lease(lease), self._on_postgresql)

    def _now(self) -> ColumnElement[Any]:
        return moment_from_now(timedelta(0), on_postgresql=self._on_postgresql)

    async def _change(
        self,
        change: "_Change",
        parameters: Mapping[str, Any],
        event: str | None,
        actor: str,
        detail: Mapping[str, Any],
    ) -> Mapping[str, Any] | None:
        audit = {"at": datetime.now(UTC), "event": event, "actor": actor, "detail": dict(detail)}
        async with transaction(self._engine) as connection:
            if self._on_postgresql and event is not None:
                whole = dict(parameters) | {f"audit_{name}": value for name, value in audit.items()}
                row = (await connection.execute(change.audited, whole)).mappings().first()
                return None if row is None else dict(row)
            row = (await connection.execute(change.alone, dict(parameters))).mappings().first()
            if row is not None and event is not None:
                await connection.execute(insert(job_audit).inline(), audit | {"job_id": row["job_id"]})
            return None if row is None else dict(row)


def clamp_lease(lease: timedelta) -> timedelta:
    """Return `lease`, not shorter than a second and not longer than a day."""
    return min(max(lease, MIN_LEASE), MAX_LEASE)


def claimed_job(row: Mapping[str, Any]) -> ClaimedJob:
    """Return a row of a job as its executor sees it."""
    return ClaimedJob(
        job_id=row["job_id"],
        tenant_id=row["tenant_id"],
        account_id=row["account_id"],
        key_id=row["key_id"],
        credential_kind=row["credential_kind"],
        policy_lines=tuple(row["policy_lines"] or ()),
        rotation_window_days=row["rotation_window_days"],
        rotate_by=row["rotate_by"],
        priority="urgent" if row["priority"] == URGENT else "normal",
        state=row["status"],
        token=row["lease_token"],
        lease_until=row["lease_until"],
    )


def _by_id(job_id: str, tenant_id: str) -> Select[Any]:
    shown = _jobs.status.in_([*OPEN, *CLOSED])
    return select(*_SHOWN).where(_jobs.job_id == job_id, _jobs.tenant_id == tenant_id, shown)


def _mine() -> ColumnElement[bool]:
    return and_(_jobs.tenant_id == bindparam("this_tenant", type_=String), _jobs.status.in_(OPEN))


def _lease_parameters(lease: timedelta) -> dict[str, Any]:
    return {"lease_seconds": clamp_lease(lease).total_seconds()}


def _free(on_postgresql: bool) -> ColumnElement[bool]:
    now = moment_from_now(timedelta(0), on_postgresql=on_postgresql)
    return and_(_mine(), or_(_jobs.lease_until.is_(None), _jobs.lease_until < now))


def _wanted() -> ColumnElement[bool]:
    """What a claimer can execute: a kind and an account, where it names them."""
    kind, account = (bindparam(name, type_=String) for name in ("this_kind", "this_account"))
    return and_(or_(kind.is_(None), _jobs.credential_kind == kind), or_(account.is_(None), _jobs.account_id == account))


def _until(on_postgresql: bool) -> ColumnElement[Any]:
    """The end of a lease that starts now; none, if it has no length."""
    lease = bindparam("this_lease", type_=Interval() if on_postgresql else String())
    return moment_from_now(lease, on_postgresql=on_postgresql)


def _claim(which: ColumnElement[bool], on_postgresql: bool) -> ReturningUpdate[Any]:
    # A job that is taken over keeps the state that it was in: its rotation may be half done.
    state = case((_jobs.status.in_(["open", "delivered"]), "claimed"), else_=_jobs.status)
    return (
        update(rotation_jobs)
        .where(which)
        .values(
            status=state,
            lease_token=_jobs.lease_token + 1,
            lease_owner=bindparam("this_owner", type_=String),
            lease_until=_until(on_postgresql),
        )
        .returning(*_SHOWN)
    )


def _say(on_postgresql: bool) -> ReturningUpdate[Any]:
    return (
        update(rotation_jobs)
        .where(
            _jobs.job_id == bindparam("this_job", type_=String),
            _jobs.lease_token == bindparam("this_token", type_=_jobs.lease_token.type),
            _jobs.status == bindparam("this_status", type_=String),
        )
        .values(
            status=bindparam("this_state", type_=String),
            lease_until=_until(on_postgresql),
            closed_at=bindparam("this_closed", type_=_jobs.closed_at.type),
        )
        .returning(*_SHOWN)
    )


def _urgent(query: Select[tuple[str]]) -> Select[tuple[str]]:
    return query.order_by(_jobs.priority, _jobs.rotate_by.nulls_last(), _jobs.created_at, _jobs.job_id)


class _Change(NamedTuple):
    """A change of a job; and PostgreSQL's statement of it together with its audit row."""

    alone: ReturningUpdate[Any]
    audited: Select[Any]


class _Statements(NamedTuple):
    claim_next: _Change
    claim_this: _Change
    say: _Change


@cache
def _statements(on_postgresql: bool) -> _Statements:
    """Return the statements of a database; building one takes as long as executing it."""

    def change(alone: ReturningUpdate[Any]) -> _Change:
        changed = alone.cte("changed")
        return _Change(alone, select(changed).add_cte(audit_of(changed)))

    free = _free(on_postgresql)
    following = _urgent(select(_jobs.job_id).where(free, _wanted())).limit(1)
    if on_postgresql:
        following = following.with_for_update(skip_locked=True)
    mine = _mine() & (_jobs.lease_owner == bindparam("this_owner", type_=String))
    this = (_jobs.job_id == bindparam("this_job", type_=String)) & (free | mine)
    return _Statements(
        claim_next=change(_claim(_jobs.job_id == following.scalar_subquery(), on_postgresql)),
        claim_this=change(_claim(this, on_postgresql)),
        say=change(_say(on_postgresql)),
    )
