"""A draft as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import asyncio
import json
from collections.abc import AsyncIterator

from keyturn.desk.desk import DraftView

COMMENT_SECONDS = 15.0  # a proxy closes what is silent for a minute; a reader that has gone is noticed by it


def place_of(last_event_id: str | None) -> tuple[int, int]:
    """Return where a reader is, by the id of the last event that they had: GENERATION.LENGTH; else the beginning."""
    generation, _, length = (last_event_id or "").partition(".")
    known = generation.isdecimal() and length.isdecimal() and len(generation) < 10 and len(length) < 10
    return (int(generation), int(length)) if known and generation.isascii() and length.isascii() else (0, 0)


async def with_comments(changes: AsyncIterator[DraftView]) -> AsyncIterator[str]:
    """Yield the events of a stream, and a comment where there was none for a while."""
    coming = asyncio.ensure_future(anext(changes, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=COMMENT_SECONDS)
            if not done:
                yield ": still here\n\n"
                continue
            seen = coming.result()
            if seen is None:
                return
            yield _events(seen)
            coming = asyncio.ensure_future(anext(changes, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _events(seen: DraftView) -> str:
    draft = seen.draft
    place = f"id: {draft.generation}.{len(draft.text)}\n"
    frames = f"{place}event: reset\ndata: {{}}\n\n" if seen.starts_over else ""
    if seen.more:
        frames += f"{place}event: text\ndata: {json.dumps({'text': seen.more})}\n\n"
    if draft.has_ended:
        end = {name: getattr(draft, name) for name in ("state", "approved", "reason", "explanation")}
        frames += f"{place}event: end\ndata: {json.dumps(end)}\n\n"
    return frames or ": begun\n\n"
