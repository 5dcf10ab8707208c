"""`draft_reply`: write a draft while it is read. Its one effect is the draft's own row: no action follows from it."""

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from keyturn.activities.alive import heartbeating
from keyturn.drafts.contracts import DraftEnd, DraftResult
from keyturn.tasks.draft_reply import DraftRequest

# A user who stops a draft sees the provider's connection closed within a second: a heartbeat brings the cancellation.
BEAT_SECONDS = 0.3


class Drafts(Protocol):
    """Writes drafts. Each method raises a KeyturnError."""

    async def write(self, draft_id: str, request: DraftRequest, *, run_id: str, attempt: int) -> DraftResult:
        """Write one attempt of a draft; returns it whole and judged."""
        ...

    async def end(self, end: DraftEnd) -> None:
        """Store how the draft ended, so that its readers see it; once, however often it is called."""
        ...


class DraftReply:
    """The activities, on `drafts`."""

    def __init__(self, drafts: Drafts) -> None:
        self._drafts = drafts

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.draft_reply, self.end_draft]

    @activity.defn
    async def draft_reply(self, request: DraftRequest) -> DraftResult:
        """Write the draft; a cancellation closes the provider's connection."""
        info = activity.info()
        async with heartbeating(every=BEAT_SECONDS):
            run_id = info.workflow_run_id or ""
            return await self._drafts.write(info.workflow_id or "", request, run_id=run_id, attempt=info.attempt)

    @activity.defn
    async def end_draft(self, end: DraftEnd) -> None:
        """Store how the draft ended, for its readers."""
        async with heartbeating():
            await self._drafts.end(end)
