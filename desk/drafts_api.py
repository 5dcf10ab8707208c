"""Drafts as JSON and as a stream of events."""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path
from fastapi.responses import JSONResponse, StreamingResponse

from keyturn.desk.desk import Desk
from keyturn.desk.events import place_of, with_comments
from keyturn.desk.idempotency import Key, Once
from keyturn.desk.people import Person
from keyturn.desk.roles import AnyPerson, Asker
from keyturn.desk.schemas import AskDraft, DraftStatus, draft_status, in_path
from keyturn.web.problems import Refused

# One person has some pages open; a script that follows more is no person's page.
STREAMS_A_PERSON = 300

DraftId = Annotated[str, Path(max_length=256)]


def add_drafts(router: APIRouter, desk: Desk, once: Once) -> None:
    """Add the routes of drafts."""
    streams: Counter[str] = Counter()

    @router.post("/drafts", status_code=202, response_model=DraftStatus)
    async def draft(person: Asker, body: AskDraft, key: Key = None) -> JSONResponse:
        """Start a draft; `/drafts/{draft_id}/events` streams it as it is written."""

        async def do(digest: str) -> tuple[int, dict[str, Any]]:
            draft_id = await begin_draft(desk, person, digest, body.model_dump(exclude_none=True))
            reply = draft_status(await desk.find_draft(draft_id)).model_dump(mode="json")
            return 202, reply | {"location": f"/api/v1/drafts/{in_path(draft_id)}"}

        return await once(person, "draft", key, body, do)

    @router.get("/drafts/{draft_id}", response_model=DraftStatus)
    async def find_draft(person: AnyPerson, draft_id: DraftId) -> Any:
        """Return the current text and state of a draft."""
        return draft_status(await desk.find_draft(draft_id))

    @router.post("/drafts/{draft_id}/stop", status_code=204)
    async def stop(person: Asker, draft_id: DraftId) -> None:
        """Stop a draft and close the provider's connection. A closed draft does not change."""
        await desk.stop(draft_id)

    @router.get(
        "/drafts/{draft_id}/events",
        response_class=StreamingResponse,
        responses={200: {"description": "Server-sent events: text, reset, end.", "content": {"text/event-stream": {}}}},
    )
    async def events(
        person: AnyPerson,
        draft_id: DraftId,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)] = None,
    ) -> StreamingResponse:
        """Stream a draft as it is written: `text` appends to it, `reset` empties it, `end` carries its outcome.

        A client that reconnects with `Last-Event-ID` gets what it has missed.
        """
        await desk.share_draft(draft_id)
        if streams[person.name] >= STREAMS_A_PERSON:
            raise Refused(429, "too_many_streams", f"{person.name} already follows {STREAMS_A_PERSON} drafts")
        generation, length = place_of(last_event_id)

        async def reply() -> AsyncIterator[str]:
            streams[person.name] += 1
            try:
                async with aclosing(desk.follow(draft_id, generation=generation, length=length)) as changes:
                    async for chunk in with_comments(changes):
                        yield chunk
            finally:
                streams[person.name] -= 1

        return StreamingResponse(reply(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def begin_draft(desk: Desk, person: Person, digest: str, asked: Mapping[str, Any]) -> str:
    """Start the draft that belongs to a request's digest; returns its id. Sent again, it is the same draft."""
    missing = [name for name in ("account_id", "question", "policy_lines") if not asked.get(name)]
    if missing and not asked.get("workflow_id"):
        raise Refused(
            422, "invalid", f"{missing[0]}: is required, or workflow_id", hint="State the question, or name a rotation."
        )
    draft_id = f"draft:{desk.tenant}:{digest[:32]}"
    await desk.draft(person.name, draft_id, dict(asked) | {"trace_id": f"trace_{uuid.uuid4().hex}"})
    return draft_id
