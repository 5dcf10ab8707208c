"""Labelled cases in the database: a row each, whose question, evidence and answer are encrypted for that row alone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import insert_of, rows_of, transaction
from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.labels.contracts import LabelledCase, PersonsAnswer
from keyturn.labels.tables import labelled_cases
from keyturn.payload_errors import PayloadError

_cases = labelled_cases.c
PAGE = 500  # cases a query: some 5 kB each


class LabelCounts:
    """How many cases there are behind `engine`: no key is needed for that. Everything raises JobStoreUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def counts(self, *, tenant_id: str) -> Sequence[Mapping[str, Any]]:
        """Return how many cases there are by label, source and lines, with the oldest and newest label of each.

        Those without `policy_lines` are of histories that were gone.
        """
        groups = (_cases.policy_lines, _cases.label, _cases.source)
        at = _cases.labelled_at
        figures = (func.count().label("cases"), func.min(at).label("oldest"), func.max(at).label("newest"))
        query = select(*groups, *figures).where(_cases.tenant_id == tenant_id).group_by(*groups).order_by(*groups)
        async with transaction(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def gone(self, *, tenant_id: str, limit: int) -> Sequence[str]:
        """Return the workflow IDs of labels whose histories were gone, newest first."""
        query = select(_cases.workflow_id).where(_cases.tenant_id == tenant_id, _cases.content.is_(None))
        async with transaction(self._engine) as connection:
            ids = await connection.execute(query.order_by(_cases.labelled_at.desc()).limit(limit))
            return list(ids.scalars())


class LabelStore(LabelCounts):
    """The labelled cases behind `engine`, encrypted by `keyring`. Everything raises JobStoreUnavailable."""

    def __init__(self, engine: AsyncEngine, keyring: Keyring) -> None:
        super().__init__(engine)
        self._insert = insert_of(engine)
        self._encryption = EncryptedTexts(keyring, "keyturn-label-v1")

    async def add(self, case: LabelledCase) -> None:
        """Write a case, once for its event; one whose history was gone before is completed."""
        row = {name: getattr(case, name) for name in ("tenant_id", "workflow_id", "event_id", "label", "source")}
        content = self._encryption.encrypt(_place(row), case.model_dump_json())
        await self._write(row | {"policy_lines": case.lines, "content": content, "labelled_at": case.labelled_at})

    async def add_gone(self, answer: PersonsAnswer) -> None:
        """Note that the history of a person's answer is gone, unless its case is there."""
        names = ("tenant_id", "workflow_id", "event_id", "label")
        await self._write({name: getattr(answer, name) for name in names} | {"labelled_at": answer.at})

    async def cases(self, *, tenant_id: str, limit: int | None = None) -> Sequence[LabelledCase]:
        """Return a tenant's cases, newest label first, and of one decision the last label alone.

        An approved rotation that was rolled back later is one case, and was not right.

        Raises:
            PayloadError: the keys here do not open a case, or it was copied from another row.
        """
        found: dict[tuple[str, str], LabelledCase] = {}
        before: tuple[datetime, int] | None = None
        while limit is None or len(found) < limit:
            rows = await self._page(tenant_id, before)
            for row in rows:
                case = self._open(row)
                found.setdefault((case.workflow_id, case.supported.digest), case)
            if len(rows) < PAGE:
                break
            before = rows[-1]["labelled_at"], rows[-1]["case_id"]
        return list(found.values())[:limit]

    async def renew(self, *, tenant_id: str | None = None) -> int:
        """Encrypt under the newest key what an older one encrypted, so that that one can be retired; returns how many.

        What the keys here do not open stays as it is.
        """
        query = select(labelled_cases).where(~_cases.content.startswith(self._encryption.newest, autoescape=True))
        if tenant_id is not None:
            query = query.where(_cases.tenant_id == tenant_id)
        after = count = 0
        while rows := await rows_of(
            self._engine, query.where(_cases.case_id > after).order_by(_cases.case_id).limit(PAGE)
        ):
            for row in rows:
                count += await self._renew_one(row)
            after = rows[-1]["case_id"]
        return count

    async def _renew_one(self, row: Mapping[str, Any]) -> int:
        place, content = _place(row), row["content"]
        try:
            renewed = self._encryption.encrypt(place, self._encryption.decrypt(place, content))
        except PayloadError:
            return 0
        same = (_cases.case_id == row["case_id"], _cases.content == content)
        async with transaction(self._engine) as connection:
            done = await connection.execute(update(labelled_cases).where(*same).values(content=renewed))
        return done.rowcount

    async def _page(self, tenant_id: str, before: tuple[datetime, int] | None) -> list[dict[str, Any]]:
        query = select(labelled_cases).where(_cases.tenant_id == tenant_id, _cases.content.is_not(None))
        if before is not None:
            at, case_id = before
            same = (_cases.labelled_at == at) & (_cases.case_id < case_id)
            query = query.where((_cases.labelled_at < at) | same)
        return await rows_of(self._engine, query.order_by(_cases.labelled_at.desc(), _cases.case_id.desc()).limit(PAGE))

    def _open(self, row: Mapping[str, Any]) -> LabelledCase:
        return LabelledCase.model_validate_json(self._encryption.decrypt(_place(row), row["content"]))

    async def _write(self, row: Mapping[str, Any]) -> None:
        statement = self._insert(labelled_cases).values({**row, "collected_at": datetime.now(UTC)})
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "event_id"],
            set_={"source": new.source, "policy_lines": new.policy_lines, "content": new.content},
            where=_cases.content.is_(None) & new.content.is_not(None),
        )
        async with transaction(self._engine) as connection:
            await connection.execute(statement)


def _place(row: Mapping[str, Any]) -> str:
    """What a case is bound to: under another tenant, workflow, event or label, it does not open."""
    return "\0".join(row[name] for name in ("tenant_id", "workflow_id", "event_id", "label"))
