"""Reading drafts while they are written: one look at the database for all readers of a process."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from keyturn.drafts.store import Draft, DraftStore
from keyturn.errors import JobStoreUnavailable, KeyturnError

# With what a writer waits at most (50 ms), text is seen within a tenth of a second, and an idle look is one query.
EVERY_SECONDS = 0.03


class DraftReading:
    """Notifies readers of changes. However many they are, `store` is asked once each time, and only while one reads."""

    def __init__(self, store: DraftStore) -> None:
        self._store = store
        self._readers: Counter[str] = Counter()
        self._known: dict[str, Draft] = {}
        self._changed = asyncio.Condition()
        self._failed: KeyturnError | None = None
        self._looking: asyncio.Task[None] | None = None

    async def follow(self, draft_id: str, *, seen: int = 0) -> AsyncGenerator[Draft, None]:
        """Yield a draft whenever it has changed since revision `seen`, until it has ended. It may not be there yet.

        Raises:
            PayloadError: the texts cannot be decrypted with the keys of this process.
        """
        self._readers[draft_id] += 1
        if self._looking is None or self._looking.done():
            self._failed = None
            self._looking = asyncio.create_task(self._look())
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._is_newer(draft_id, seen))  # noqa: B023 - called at once
                    if self._failed is not None:
                        raise self._failed
                    draft = self._known[draft_id]
                seen = draft.revision
                yield draft
                if draft.has_ended:
                    return
        finally:
            self._readers[draft_id] -= 1
            if not self._readers[draft_id]:
                del self._readers[draft_id]
                self._known.pop(draft_id, None)

    def _is_newer(self, draft_id: str, seen: int) -> bool:
        known = self._known.get(draft_id)
        return self._failed is not None or (known is not None and known.revision > seen)

    async def _look(self) -> None:
        while self._readers:
            seen = {one: self._known[one].revision if one in self._known else 0 for one in self._readers}
            try:
                found = await self._store.look(seen)
            except JobStoreUnavailable:  # readers wait, and continue where they were
                found = []
            except KeyturnError as error:
                self._failed, found = error, []
            self._known |= {draft.draft_id: draft for draft in found if draft.draft_id in self._readers}
            if found or self._failed is not None:
                async with self._changed:
                    self._changed.notify_all()
            if self._failed is not None:
                return
            await asyncio.sleep(EVERY_SECONDS)
