"""Collecting labelled cases: the audit trails say what people answered, and histories say what it was about.

Histories expire with the namespace's retention, of a day at least, so that workers look every ten minutes. Nothing that
decides or rotates waits for it. Any number of workers may look at once: a case is written once for its event.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.service import RPCError

from keyturn.application.labels import case_of
from keyturn.background import is_cancelled
from keyturn.errors import JobStoreUnavailable
from keyturn.labels.contracts import PersonsAnswer
from keyturn.labels.sources import MOST_AT_ONCE, LabelSources
from keyturn.labels.store import LabelStore
from keyturn.payload_errors import PayloadError

_log = structlog.get_logger("keyturn.worker")

LOOK_SECONDS = 600.0
# The first look of a worker goes back to the start of the retention, later ones so far: an event may be written a day
# after it happened, for as long as the database may be away.
LOOK_BACK = timedelta(days=2)
EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Collected:
    """What a look came to.

    Attributes:
        cases: how many were written, by label.
        gone: workflow IDs whose histories have expired.
        unreadable: workflow IDs whose histories the keys here do not open; they are looked at again.
        renewed: how many cases of an older key are under the newest one now.
        looked_at: how many answers were found.
    """

    cases: Counter[str] = field(default_factory=Counter)
    gone: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    renewed: int = 0
    looked_at: int = 0

    def log(self) -> None:
        """Log it, if there was anything."""
        if self.cases or self.gone or self.unreadable or self.renewed:
            _log.info(
                "labels_collected",
                cases=dict(self.cases),
                gone=len(self.gone),
                unreadable=len(self.unreadable),
                renewed=self.renewed,
            )


class LabelCollector:
    """Turns what people answered into labelled cases.

    Args:
        client: with the keys that encrypted the histories.
        sources: the audit trails.
        store: where cases go.
        days: for which cases are stored; older answers are left alone. None for ever.
    """

    def __init__(self, client: Client, sources: LabelSources, store: LabelStore, *, days: int | None) -> None:
        self._client = client
        self._sources, self._store = sources, store
        self._days = days

    async def collect(
        self, *, back: timedelta | None = None, tenant_id: str | None = None, gone_too: bool = False
    ) -> Collected:
        """Write a case for each answer that has none yet; what was written stays, whatever happens to the rest.

        A look at all of them also encrypts older cases under the newest key.

        Args:
            back: how far; None for as long as cases are stored.
            tenant_id: whose; None for every tenant's.
            gone_too: look once more at those whose histories were gone.

        Raises:
            JobStoreUnavailable, RPCError: collect again.
        """
        found = Collected()
        answers = await self._sources.uncollected(since=self._since(back), tenant_id=tenant_id, gone_too=gone_too)
        found.looked_at = len(answers)
        for answer in answers:
            await self._collect_one(answer, found)
        if back is None:  # not at each look: it reads the start of each case
            found.renewed = await self._store.renew(tenant_id=tenant_id)
        return found

    async def run(self, *, every: float = LOOK_SECONDS) -> None:
        """Look again and again, for ever; what fails is tried at the next look."""
        back: timedelta | None = None
        while not is_cancelled():
            try:
                found = await self.collect(back=back)
            except (JobStoreUnavailable, RPCError) as error:
                _log.warning("labels_not_collected", cause=type(error).__name__)
            else:
                # What one look could not hold is older than what the next one would go back to.
                back = LOOK_BACK if found.looked_at < MOST_AT_ONCE else back
                found.log()
            await asyncio.sleep(every)

    async def _collect_one(self, answer: PersonsAnswer, found: Collected) -> None:
        try:
            case = await case_of(self._client, answer)
        except (PayloadError, ValidationError):  # other keys' history, or one of another version's form
            found.unreadable.append(answer.workflow_id)
            return
        if case is None:
            await self._store.add_gone(answer)
            found.gone.append(answer.workflow_id)
        else:
            await self._store.add(case)
            found.cases[case.label] += 1

    def _since(self, back: timedelta | None) -> datetime:
        now = datetime.now(UTC)
        spans = [
            span for span in (back, None if self._days is None else timedelta(days=self._days)) if span is not None
        ]
        return now - min(spans) if spans else EVER
