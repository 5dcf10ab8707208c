"""Writing a draft while it is read: the boundary's text so far goes into the draft's row as it comes."""

import asyncio
from contextlib import suppress
from typing import Protocol

from keyturn.contracts import MAX_ANSWER_CHARACTERS
from keyturn.drafts.contracts import DraftEnd, DraftResult
from keyturn.drafts.store import DraftStore, Writer
from keyturn.errors import JobStoreUnavailable
from keyturn.llm.boundary import JudgedAnswer
from keyturn.llm.wire import OnText
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.draft_reply import DraftRequest

# A person reads on without a break at 20 changes a second, and each is one small statement. The first text waits for
# nothing.
EVERY_SECONDS = 0.05


class Answerer(Protocol):
    """The model boundary."""

    async def answer(self, request: DraftRequest, attempt: int = 1, *, on_text: OnText | None = None) -> JudgedAnswer:
        """Return the judged answer; raises a KeyturnError."""
        ...


class DraftWriting:
    """Writes drafts into `store` as `answerer` gives them."""

    def __init__(self, store: DraftStore, answerer: Answerer) -> None:
        self._store = store
        self._answerer = answerer

    async def write(self, draft_id: str, request: DraftRequest, *, run_id: str, attempt: int) -> DraftResult:
        """Write one attempt of a draft; returns it whole and judged. Its ending is not written: see `DraftStore.end`.

        Raises:
            DraftTakenOver: a later attempt has it, or it has ended; the provider's connection was closed.
            KeyturnError: no answer came, or the database did not answer at the beginning.
        """
        writer = await self._store.start(
            draft_id,
            tenant_id=request.tenant_id,
            account_id=request.account_id,
            requested_by=request.user_id,
            run_id=run_id,
            attempt=attempt,
        )
        latest = _Latest()
        answering = asyncio.ensure_future(self._answerer.answer(request, attempt, on_text=latest.take))
        showing = asyncio.ensure_future(self._show(writer, latest))
        try:
            await asyncio.wait({answering, showing}, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                showing.result()  # it ends by an error alone
            judged = await answering
        finally:
            for task in (answering, showing):
                task.cancel()
            # What is still being shown is fenced by the draft's end. A slow database does not delay an answer.
            showing.add_done_callback(lambda late: late.cancelled() or late.exception())
            await asyncio.gather(answering, return_exceptions=True)
        if isinstance(judged.verdict, Rejection):
            why = judged.verdict
            return DraftResult(
                text="" if judged.exchange is None else judged.exchange.answer.strip(),
                approved=False,
                reason=why.reason,
                explanation=why.explanation,
                call=judged.call,
            )
        return DraftResult(text=judged.verdict.text, approved=True, call=judged.call)

    async def end(self, end: DraftEnd) -> None:
        """Store how a draft ended, for its readers; once, however often it is called."""
        await self._store.end(end)

    async def _show(self, writer: Writer, latest: "_Latest") -> None:
        shown = ""
        while True:
            text = await latest.newer_than(shown)
            # A database that is away for a moment delays what is seen, and not what is written.
            with suppress(JobStoreUnavailable):
                if not text.startswith(shown):
                    writer = await self._store.anew(writer)
                    shown = ""
                await self._store.show(writer, text, first=not shown)
                shown = text
            await asyncio.sleep(EVERY_SECONDS)


class _Latest:
    """The newest text, bounded as it is recorded: a late reader sees the newest and not all that was before it."""

    def __init__(self) -> None:
        self._text = ""
        self._came = asyncio.Event()

    def take(self, text: str) -> None:
        # As it is judged, without space in front: a reader's place in it counts in the one as in the other.
        self._text = text.lstrip()[:MAX_ANSWER_CHARACTERS]
        self._came.set()

    async def newer_than(self, shown: str) -> str:
        while self._text == shown:
            self._came.clear()
            await self._came.wait()
        return self._text
