"""The job store: `create_once` makes exactly one job for an idempotency key, whatever is lost or repeated.

Job, audit row and outbox row are written together or not at all. The unique index on the key is the claim: the first
insert wins, and the others find that row. It is never deleted, so the key refuses a second job for ever.

A rotation that ends without its job withdraws its claim first: `withdraw` puts a row of status `withdrawn` where the
job would be, with a fence. An attempt that was frozen and wakes up later (it timed out, but cannot be stopped)
finds that row and changes nothing. A later attempt, whose fence is higher, turns the row into the job.

A job that failed or was cancelled gets a successor if a caller asks again (`JobOrder.replaces_before`): its row gives
the key to a withdrawn claim, whose fence is the moment at which the asking run started. Only attempts of that run, or
of a later one, may turn it into a job; and that job is later than this moment, so that none of them replaces it again.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from keyturn.canonical import digest_of
from keyturn.contracts import CredentialKind
from keyturn.database import transaction
from keyturn.errors import JobStoreUnavailable
from keyturn.jobs.errors import IdempotencyConflict, OpenJobExists, StaleAttempt
from keyturn.jobs.outbox import TIGHTENED_TOPIC, TOPIC
from keyturn.jobs.rows import (
    INSERT_ALL_AT_ONCE,
    INSERT_JOB_SQLITE,
    MERGED,
    REVIVE_ALL_AT_ONCE,
    REVIVE_JOB,
    WITHDRAWN,
    approval_of,
    are_two_keys,
    asks_for_the_same,
    audit_row,
    gives_id,
    is_stricter,
    job_row,
    message_payload,
    moment_in_words,
    stricter_columns,
)
from keyturn.jobs.states import OPEN, REPLACEABLE
from keyturn.jobs.tables import URGENT, job_audit, outbox, rotation_events, rotation_jobs
from keyturn.rotations.contracts import JobOrder, RotationEvent
from keyturn.rotations.outcomes import RotationJob

_jobs = rotation_jobs.c


def fingerprint_of(order: JobOrder) -> str:
    """Return what the key identifies: the rotation of one credential. Two orders of one key may not differ in it.

    Left out on purpose: evidence, trace, question, and which of the lines the model cited. A workflow that is reset or
    started again asks for the same job although those differ; the lines it may cite are in the key itself.
    """
    return _fingerprint(order.tenant_id, order.account_id, order.credential.key_id, order.credential.kind)


def _fingerprint(tenant_id: str, account_id: str, key_id: str, kind: str) -> str:
    return digest_of({"tenant": tenant_id, "account": account_id, "key": key_id, "kind": kind})


def _fingerprints_of(row: Mapping[str, Any]) -> Sequence[str]:
    """Return the fingerprints of a row's credential by whatever kind it is called.

    Who called it by the wrong kind asks again by the right one, once the job of the wrong one has ended.
    """
    return [_fingerprint(row["tenant_id"], row["account_id"], row["key_id"], kind) for kind in get_args(CredentialKind)]


async def creation_asked_for(engine: AsyncEngine, job_id: str) -> str | None:
    """Return the name by creation under which a job was ordered; None if it was ordered by its key's ID.

    Its ID is then what a later order said, and whoever gave that may have had another key in mind.

    Raises JobStoreUnavailable.
    """
    names = (_jobs.tenant_id, _jobs.account_id, _jobs.name_by_creation, _jobs.credential_kind, _jobs.fingerprint)
    async with transaction(engine) as connection:
        row = (await connection.execute(select(*names).where(_jobs.job_id == job_id))).mappings().first()
    if row is None or (name := row["name_by_creation"]) is None or row["account_id"] is None:
        return None
    asked = _fingerprint(row["tenant_id"], row["account_id"], name, row["credential_kind"])
    return str(name) if row["fingerprint"] == asked else None


class StoredState(NamedTuple):
    """What a job is at, and its date; None if it has none, or was purged."""

    state: str
    rotate_by: datetime | None


class _AnotherKey(Exception):
    """Another key of the account was made in the same second, and has an open job."""


class JobStore:
    """Rotation jobs in the database behind `engine`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._on_postgresql = engine.dialect.name == "postgresql"
        self._upsert = postgresql.insert if self._on_postgresql else sqlite.insert

    async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        """Create the job of `idempotency_key`, or return the one that it made before (`created=False`).

        Args:
            order: what the job is for.
            idempotency_key: the workflow's id.
            fence: when the attempt was scheduled, in microseconds by the server: it grows from attempt to attempt,
                whichever run they belong to.

        Raises:
            StaleAttempt: the claim was withdrawn after this attempt started; nothing changed.
            IdempotencyConflict: the key created another job than the one ordered; audited, nothing else changed.
            OpenJobExists: the credential has an open job under another key that is no laxer; audited there, nothing
                else changed. An open job that is laxer is tightened, and returned.
            JobStoreUnavailable: the database did not answer. Whether it committed is unknown: call again.
        """
        row = job_row(order, idempotency_key, fingerprint_of(order), fence)
        if order.replaces_before is not None:
            await self._free_key(row, order.replaces_before)
        try:
            return await self._create(row, fence)
        except _AnotherKey:  # made in the same second: each is known by its id alone
            return await self._create(row | {"name_by_creation": None}, fence)

    async def _create(self, row: dict[str, Any], fence: int) -> RotationJob:
        idempotency_key, fingerprint = row["idempotency_key"], row["fingerprint"]
        async with transaction(self._engine) as connection:
            if await self._insert(connection, row):
                return RotationJob(job_id=row["job_id"], created=True)
            existing = await self._by_key(connection, row["tenant_id"], idempotency_key)
            conflict = existing is not None and existing["fingerprint"] not in (
                _fingerprints_of(row) if existing["status"] == WITHDRAWN else [fingerprint]
            )
            holder = (existing["merged_into"] or existing["job_id"]) if existing is not None and conflict else None
            if not conflict and (existing is None or existing["status"] == WITHDRAWN):
                holder = await self._open_job_of(connection, row)
            if existing is not None and existing["status"] == MERGED and not conflict:
                return _merged_job(existing)
            if existing is not None and holder is None:
                if existing["status"] != WITHDRAWN:
                    return RotationJob(job_id=existing["job_id"], created=False)
                if await self._revive(connection, row, existing, fence):
                    return RotationJob(job_id=existing["job_id"], created=True)
                now = await self._by_key(connection, row["tenant_id"], idempotency_key)
                if now is not None and now["status"] != WITHDRAWN:  # another attempt was quicker
                    return RotationJob(job_id=now["job_id"], created=False)
                raise StaleAttempt("the order was withdrawn since this attempt started")
        if holder is not None and not conflict and (joined := await self.join_open_job(row, holder, fence)) is not None:
            return joined
        if holder is not None:
            event = "idempotency_conflict" if conflict else "duplicate_refused"
            detail = {"idempotency_key": idempotency_key, "fingerprint": fingerprint}
            async with transaction(self._engine) as connection:
                await connection.execute(insert(job_audit).inline(), audit_row(row, event, detail) | {"job_id": holder})
                if not conflict:
                    await self._note_name(connection, row, holder)
        # Raised outside the transaction, so that the audit row stays.
        if conflict:
            raise IdempotencyConflict(f"the idempotency key already created {holder} for another order")
        if holder is not None:
            raise OpenJobExists(holder)
        # The job that stood in the way was closed between our two statements: the next attempt will find the way free.
        raise JobStoreUnavailable("the credential's job was being closed at this moment")

    async def withdraw(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob | None:
        """Withdraw the claim of `idempotency_key`; from now on no attempt up to `fence` can create its job.

        Returns the job if one was created already: then it remains. None means that there is none, and that no attempt
        that has started can create one.

        Raises:
            JobStoreUnavailable: the database did not answer; call again.
        """
        fingerprint = fingerprint_of(order)
        if order.replaces_before is not None:
            await self._free_key(job_row(order, idempotency_key, fingerprint, fence), order.replaces_before)
        statement = self._upsert(rotation_jobs).values(
            job_id=f"job_{uuid.uuid4().hex}",
            tenant_id=order.tenant_id,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            status=WITHDRAWN,
            created_at=datetime.now(UTC),
            fence=fence,
        )
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "idempotency_key"],
            set_={"fence": fence},
            where=(rotation_jobs.c.status == WITHDRAWN) & (rotation_jobs.c.fence < fence),
        )
        async with transaction(self._engine) as connection:
            await connection.execute(statement)
            found = await self._by_key(connection, order.tenant_id, idempotency_key)
            if found is not None and found["status"] != WITHDRAWN and order.replaces_before is not None:
                # An attempt that comes after this must not free the key, though the job should have ended by then.
                fenced = update(rotation_jobs).where(
                    _jobs.tenant_id == order.tenant_id,
                    _jobs.idempotency_key == idempotency_key,
                    func.coalesce(_jobs.fence, 0) < fence,
                )
                await connection.execute(fenced.values(fence=fence))
        if found is None or found["status"] == WITHDRAWN or found["fingerprint"] != fingerprint:
            return None
        if found["status"] == MERGED:
            return _merged_job(found)
        return RotationJob(job_id=found["job_id"], created=False)

    async def record_event(self, event: RotationEvent, *, workflow_id: str, event_id: str) -> None:
        """Add what happened to a rotation to the audit trail, once for an `event_id`.

        Raises:
            JobStoreUnavailable: the database did not answer; call again.
        """
        statement = self._upsert(rotation_events).values(
            event_id=event_id, workflow_id=workflow_id, recorded_at=datetime.now(UTC), **event.model_dump()
        )
        async with transaction(self._engine) as connection:
            await connection.execute(statement.on_conflict_do_nothing(index_elements=["event_id"]))

    async def events(self, *, tenant_id: str, workflow_id: str) -> Sequence[Mapping[str, Any]]:
        """Return what happened to a rotation, the job's own audit included, oldest first."""
        on_the_way = select(
            rotation_events.c.at, rotation_events.c.event, rotation_events.c.actor, rotation_events.c.detail
        ).where(rotation_events.c.tenant_id == tenant_id, rotation_events.c.workflow_id == workflow_id)
        of_the_job = (
            select(job_audit.c.at, job_audit.c.event, job_audit.c.actor, job_audit.c.detail)
            .join(rotation_jobs, rotation_jobs.c.job_id == job_audit.c.job_id)
            .where(rotation_jobs.c.job_id == _job_of_key(tenant_id, workflow_id))
        )
        async with transaction(self._engine) as connection:
            rows = [dict(row) for row in (await connection.execute(on_the_way)).mappings()]
            rows += [dict(row) for row in (await connection.execute(of_the_job)).mappings()]
        return sorted(rows, key=lambda row: row["at"])

    async def state_of(self, job_id: str) -> StoredState | None:
        """Return a job's state and date; None if there is no such job. Raises JobStoreUnavailable."""
        query = select(_jobs.status, _jobs.rotate_by).where(_jobs.job_id == job_id)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).first()
            return None if row is None else StoredState(row[0], row[1])

    async def jobs(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the newest `limit` jobs of one tenant, newest first."""
        query = (
            select(rotation_jobs)
            .where(rotation_jobs.c.tenant_id == tenant_id, rotation_jobs.c.status.not_in([WITHDRAWN, MERGED]))
            .order_by(rotation_jobs.c.created_at.desc(), rotation_jobs.c.job_id)
            .limit(limit)
        )
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def _insert(self, connection: AsyncConnection, row: Mapping[str, Any]) -> bool:
        """Insert job, audit row and outbox row; False, and nothing is written, if a unique index refuses the job."""
        return await self._write(connection, row, row, INSERT_ALL_AT_ONCE, INSERT_JOB_SQLITE)

    async def _revive(
        self, connection: AsyncConnection, row: dict[str, Any], claim: Mapping[str, Any], fence: int
    ) -> bool:
        """Create the job of a claim that was withdrawn before this attempt started; False, and no change, if after."""
        named = {f"set_{name}": value for name, value in row.items()}
        named |= {"this_tenant": row["tenant_id"], "this_key": row["idempotency_key"], "this_fence": fence}
        row = row | {"job_id": claim["job_id"], "replaces": claim["merged_into"]}
        return await self._write(connection, row, named, REVIVE_ALL_AT_ONCE, REVIVE_JOB)

    async def _free_key(self, row: Mapping[str, Any], before: datetime) -> None:
        """Put a withdrawn claim in the place of a job that failed or was cancelled; no other is changed."""
        moment = int(before.timestamp() * 1_000_000)
        ended = (
            update(rotation_jobs)
            .where(*_is_replaceable(row, moment))
            .values(idempotency_key=_jobs.job_id)  # a key that no workflow has
            .returning(func.coalesce(_jobs.merged_into, _jobs.job_id))
        )
        async with transaction(self._engine, whole=True) as connection:
            replaced = (await connection.execute(ended)).scalar_one_or_none()
            if replaced is None:
                return
            claim = {name: row[name] for name in ("tenant_id", "idempotency_key", "fingerprint", "created_at")}
            claim |= {"job_id": f"job_{uuid.uuid4().hex}", "status": WITHDRAWN}
            # No attempt from before `before` may turn it into a job.
            await connection.execute(insert(rotation_jobs).values(**claim, fence=moment, merged_into=replaced))
            audit = audit_row(row, "asked_again", {"idempotency_key": row["idempotency_key"]}) | {"job_id": replaced}
            await connection.execute(insert(job_audit).inline(), audit)

    async def _write(
        self,
        connection: AsyncConnection,
        row: Mapping[str, Any],
        parameters: Mapping[str, Any],
        at_once: Select[tuple[str]],
        job_alone: ReturningInsert[tuple[str]] | ReturningUpdate[tuple[str]],
    ) -> bool:
        replaces = row.get("replaces")
        successor = {} if replaces is None else {"replaces": replaces}
        audit = audit_row(row, "created", {"decision_digest": row["decision_digest"]} | approval_of(row) | successor)
        payload = message_payload(row)
        if replaces is not None:  # a receiver that remembers keys has seen this one with the job before
            payload["idempotency_key"] += f":after:{replaces}"
        message = {"job_id": row["job_id"], "topic": TOPIC, "payload": payload, "created_at": row["created_at"]}
        if self._on_postgresql:
            whole = dict(parameters) | {f"audit_{name}": value for name, value in audit.items()}
            whole |= {f"outbox_{name}": value for name, value in message.items()}
            return (await connection.execute(at_once, whole)).first() is not None
        if (await connection.execute(job_alone, dict(parameters))).first() is None:
            return False
        await connection.execute(insert(job_audit).inline(), audit)
        await connection.execute(insert(outbox).inline(), message)
        return True

    async def _by_key(self, connection: AsyncConnection, tenant_id: str, key: str) -> Mapping[str, Any] | None:
        columns = (_jobs.job_id, _jobs.fingerprint, _jobs.status, _jobs.merged_into, _jobs.decision_digest)
        query = select(*columns).where(_jobs.tenant_id == tenant_id, _jobs.idempotency_key == key)
        row = (await connection.execute(query)).mappings().first()
        return None if row is None else dict(row)

    async def join_open_job(self, row: Mapping[str, Any], job_id: str, fence: int) -> RotationJob | None:
        """Let a decision that is stricter, or knows the key's id, govern the credential's open job.

        One that asks for the same under the key's other name finds the job. None, and nothing changed, for any other.

        Its own key is marked as merged in the same transaction: a repeated call finds the same job, also when that is
        closed by then, and makes no second one.
        """
        async with transaction(self._engine, whole=True) as connection:
            open_job = select(rotation_jobs).where(_jobs.job_id == job_id, _jobs.status.in_(OPEN)).with_for_update()
            found = (await connection.execute(open_job)).mappings().first()
            held = {} if found is None else dict(found)
            if held and are_two_keys(row, held["key_id"]):
                raise _AnotherKey  # it was given its id since it was found
            tightens = bool(held) and (is_stricter(row, held) or gives_id(row, held))
            if not held or not (tightens or asks_for_the_same(row, held)):
                return None
            if not await self._merge_key(connection, row, job_id, fence, tightens=tightens):
                raise StaleAttempt("the order was withdrawn or executed by another attempt since this attempt started")
            if not tightens:
                known = {"idempotency_key": row["idempotency_key"], "key_id": row["key_id"]}
                audit = audit_row(row, "found_by_other_name", known) | {"job_id": job_id}
                await connection.execute(insert(job_audit).inline(), audit)
                return RotationJob(job_id=job_id, created=False)
            changed = stricter_columns(row, held)
            await connection.execute(update(rotation_jobs).where(_jobs.job_id == job_id).values(changed))
            now = row["created_at"]
            detail = {
                "idempotency_key": row["idempotency_key"],
                "decision_digest": row["decision_digest"],
                "key_id": changed["key_id"],
                "policy_lines": ", ".join(row["policy_lines"]),
                "rotate_by_before": moment_in_words(held["rotate_by"]),
                "rotate_by": moment_in_words(changed["rotate_by"]),
                "priority": "urgent" if changed["priority"] == URGENT else "normal",
            } | approval_of(row)
            await connection.execute(
                insert(job_audit).inline(), audit_row(row, "tightened", detail) | {"job_id": job_id}
            )
            payload = message_payload({**row, **held, **changed, "approved_by": row["approved_by"]})
            message = {"job_id": job_id, "topic": TIGHTENED_TOPIC, "payload": payload, "created_at": now}
            await connection.execute(insert(outbox).inline(), message)
            return RotationJob(job_id=job_id, created=False, tightened=True)

    async def _merge_key(
        self, connection: AsyncConnection, row: Mapping[str, Any], job_id: str, fence: int, *, tightens: bool
    ) -> bool:
        """Mark a key as merged into a job; False if a later attempt withdrew its claim, or created its own job.

        A decision's digest in the mark says that it tightened the job.
        """
        names = ("job_id", "tenant_id", "idempotency_key", "fingerprint", "created_at")
        mark = {
            "status": MERGED,
            "merged_into": job_id,
            "decision_digest": row["decision_digest"] if tightens else None,
            "fence": fence,
        }
        statement = self._upsert(rotation_jobs).values({name: row[name] for name in names} | mark)
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "idempotency_key"],
            set_=mark,
            where=(_jobs.status == WITHDRAWN) & (_jobs.fence < fence),
        )
        return (await connection.execute(statement.returning(_jobs.job_id))).first() is not None

    async def _open_job_of(self, connection: AsyncConnection, row: Mapping[str, Any]) -> str | None:
        """The open job that the credential has under another idempotency key, by its id before its other name.

        Raises _AnotherKey where only a key of another id has that name.
        """
        is_it, name = _jobs.key_id == row["key_id"], row["name_by_creation"]
        query = (
            select(_jobs.job_id, _jobs.key_id)
            .where(
                _jobs.tenant_id == row["tenant_id"],
                _jobs.account_id == row["account_id"],
                is_it if name is None else is_it | (_jobs.name_by_creation == name),
                _jobs.status.in_(OPEN),
                _jobs.idempotency_key != row["idempotency_key"],
            )
            .order_by(is_it.desc())
            .limit(1)
        )
        found = (await connection.execute(query)).mappings().first()
        if found is None:
            return None
        if are_two_keys(row, found["key_id"]):
            raise _AnotherKey
        job_id: str = found["job_id"]
        return job_id

    async def _note_name(self, connection: AsyncConnection, row: Mapping[str, Any], job_id: str) -> None:
        """Let a job that is known by its key's id alone be found by the other name as well."""
        if row["name_by_creation"] is None:
            return
        other = rotation_jobs.alias()
        taken = select(other.c.job_id).where(
            other.c.tenant_id == row["tenant_id"],
            other.c.account_id == row["account_id"],
            other.c.name_by_creation == row["name_by_creation"],
            other.c.status.in_(OPEN),
        )
        unnamed = (_jobs.job_id == job_id, _jobs.key_id == row["key_id"], _jobs.name_by_creation.is_(None))
        statement = update(rotation_jobs).where(*unnamed, ~taken.exists())
        await connection.execute(statement.values(name_by_creation=row["name_by_creation"]))


def _is_replaceable(row: Mapping[str, Any], moment: int) -> Sequence[ColumnElement[bool]]:
    """Whether the job of a row's key has ended without a rotation, and was ordered before a moment (microseconds)."""
    held = rotation_jobs.alias()
    ended = select(held.c.job_id).where(held.c.job_id == _jobs.merged_into, held.c.status.in_(REPLACEABLE))
    return [
        *(_jobs[name] == row[name] for name in ("tenant_id", "idempotency_key")),
        _jobs.fingerprint.in_(_fingerprints_of(row)),
        _jobs.status.in_(REPLACEABLE) | ((_jobs.status == MERGED) & ended.exists()),
        func.coalesce(_jobs.fence, 0) < moment,  # 0: a job from before fences were kept
    ]


def _merged_job(key: Mapping[str, Any]) -> RotationJob:
    return RotationJob(job_id=key["merged_into"], created=False, tightened=key["decision_digest"] is not None)


def _job_of_key(tenant_id: str, key: str) -> ScalarSelect[str]:
    """The job that a key made, or that its decision tightened."""
    found = select(func.coalesce(_jobs.merged_into, _jobs.job_id))
    return found.where(_jobs.tenant_id == tenant_id, _jobs.idempotency_key == key).scalar_subquery()
