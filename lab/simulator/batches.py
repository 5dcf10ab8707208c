"""The providers' batch endpoints: submitted now, answered later, in no order, some of it perhaps not at all.

POST /v1/files, GET /v1/files/ID/content, POST /v1/batches, GET /v1/batches, GET /v1/batches/ID           OpenAI
POST /v1/messages/batches, GET the same, GET /v1/messages/batches/ID, GET /v1/messages/batches/ID/results  Anthropic
PUT  /control/batches    {"polls": 2, "missing": 1, "duplicate": 1, "errored": 1, "expired": 1, "end": "expired",
                         "lose": true}: how often a batch is polled before it has ended; how many of its first requests
                         are left out, answered twice, answered by an error or as expired; how it ends; whether the
                         answer to the next submit is lost

Sources: the providers' API references (2026-11).
"""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.answers import account_of, answer
from keyturn.lab.simulator.formats import ANTHROPIC, OPENAI, Format, PlainAnswer

Entry = dict[str, Any]


@dataclass
class Plan:
    """What is to become of batches from now on."""

    polls: int = 1
    missing: int = 0
    duplicate: int = 0
    errored: int = 0
    expired: int = 0
    end: str = "completed"
    lose: bool = False


@dataclass
class Batch:
    """One batch: its requests by custom id, and how it ends."""

    id: str
    wire: Format
    requests: list[tuple[str, Entry]]
    plan: Plan
    metadata: Entry = field(default_factory=dict)
    made: float = field(default_factory=time.time)
    polled: int = 0

    @property
    def ended(self) -> bool:
        """Whether it was polled often enough."""
        return self.polled >= self.plan.polls


class Batches:
    """The batches of one simulator; `log` takes each request that was answered."""

    def __init__(self, log: list[dict[str, Any]]) -> None:
        self._log = log
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, Batch] = {}
        self._plan = Plan()

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the endpoints."""
        router.add_post("/v1/files", self._upload)
        router.add_get("/v1/files/{id}/content", self._content)
        router.add_post("/v1/batches", self._submit_openai)
        router.add_get("/v1/batches", lambda request: self._list(request, OPENAI))
        router.add_get("/v1/batches/{id}", self._poll)
        router.add_post("/v1/messages/batches", self._submit_anthropic)
        router.add_get("/v1/messages/batches", lambda request: self._list(request, ANTHROPIC))
        router.add_get("/v1/messages/batches/{id}", self._poll)
        router.add_get("/v1/messages/batches/{id}/results", self._results)
        router.add_put("/control/batches", self._set_plan)

    def clear(self) -> None:
        """Forget everything."""
        self._files.clear()
        self._batches.clear()
        self._plan = Plan()

    async def _set_plan(self, request: web.Request) -> web.Response:
        self._plan = Plan(**await request.json())
        return web.Response(status=204)

    async def _upload(self, request: web.Request) -> web.Response:
        parts = await request.post()
        sent = parts["file"]
        if parts.get("purpose") != "batch" or not isinstance(sent, web.FileField):
            return web.json_response({"error": {"message": "no batch file"}}, status=400)
        file_id = f"file-{uuid.uuid4().hex}"
        self._files[file_id] = sent.file.read()
        return web.json_response({"id": file_id, "object": "file", "purpose": "batch"})

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._files[request.match_info["id"]], content_type="application/jsonl")

    async def _submit_openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        lines = self._files[body["input_file_id"]].decode().splitlines()
        requests = [(line["custom_id"], line["body"]) for line in map(json.loads, lines)]
        made = Batch(f"batch_{uuid.uuid4().hex}", OPENAI, requests, self._plan, body.get("metadata") or {})
        return self._create(request, made)

    async def _submit_anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        requests = [(line["custom_id"], line["params"]) for line in body["requests"]]
        return self._create(request, Batch(f"msgbatch_{uuid.uuid4().hex}", ANTHROPIC, requests, self._plan))

    def _create(self, request: web.Request, batch: Batch) -> web.StreamResponse:
        self._batches[batch.id] = batch
        if self._plan.lose and request.transport is not None:
            self._plan.lose = False
            request.transport.abort()
        return web.json_response(self._batch_entry(batch))

    async def _poll(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch", "type": "not_found_error"}}, status=404)
        batch.polled += 1
        return web.json_response(self._batch_entry(batch))

    async def _list(self, _request: web.Request, wire: Format) -> web.Response:
        found = [self._batch_entry(batch) for batch in reversed(self._batches.values()) if batch.wire is wire]
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def _results(self, request: web.Request) -> web.Response:
        lines = self._lines(self._batches[request.match_info["id"]], _anthropic_line)
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))

    def _batch_entry(self, batch: Batch) -> Entry:
        if batch.wire is ANTHROPIC:
            counts = {"processing": 0 if batch.ended else len(batch.requests)}
            counts |= dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0)
            counts["succeeded"] = len(batch.requests) if batch.ended else 0
            moment = datetime.fromtimestamp(batch.made, UTC).isoformat()
            return {
                "id": batch.id,
                "type": "message_batch",
                "processing_status": "ended" if batch.ended else "in_progress",
                "request_counts": counts,
                "created_at": moment,
                "results_url": f"/v1/messages/batches/{batch.id}/results" if batch.ended else None,
            }
        described: Entry = {
            "id": batch.id,
            "object": "batch",
            "metadata": batch.metadata,
            "created_at": int(batch.made),
        }
        described |= {"status": batch.plan.end if batch.ended else "in_progress"}
        if batch.ended and batch.plan.end in {"completed", "expired"}:
            lines = self._lines(batch, _openai_line)
            for name, chosen in (("output_file_id", True), ("error_file_id", False)):
                kept = [line for line in lines if (line["error"] is None) is chosen]
                described[name] = f"file-{name[:3]}-{batch.id}" if kept else None
                self._files[f"file-{name[:3]}-{batch.id}"] = "".join(json.dumps(line) + "\n" for line in kept).encode()
        return described

    def _lines(self, batch: Batch, line: Callable[[str, Entry | None, str], Entry]) -> list[Entry]:
        """The results of a batch, last first: no client may rely on an order."""
        plan, lines = batch.plan, []
        for number, (custom_id, body) in enumerate(batch.requests[plan.missing :]):
            if number < plan.errored:
                lines.append(line(custom_id, None, "errored"))
            elif number < plan.errored + plan.expired:
                lines.append(line(custom_id, None, "expired"))
            else:
                answered = line(custom_id, self._answer(batch, body), "succeeded")
                lines += [answered] * (2 if number < plan.errored + plan.expired + plan.duplicate else 1)
        return lines[::-1]

    def _answer(self, batch: Batch, body: Entry) -> Entry:
        asked = batch.wire.read({"anthropic-version": "of the batch"}, "", body)
        text = answer(asked.user, asked.fields)
        entry = {
            "provider": batch.wire.name,
            "model": asked.model,
            "account": account_of(asked.user),
            "batch": batch.id,
        }
        if entry not in self._log:
            self._log.append(entry)
        tokens = asked.size // 4 + 1
        said = PlainAnswer(text, "complete", tokens, 0, len(text) // 4 + 1)
        return batch.wire.write(uuid.uuid4().hex, asked.model, said)


def _openai_line(custom_id: str, body: Entry | None, state: str) -> Entry:
    if body is None:
        code = "batch_expired" if state == "expired" else "server_error"
        return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": None, "error": {"code": code}}
    response = {"status_code": 200, "request_id": uuid.uuid4().hex, "body": body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def _anthropic_line(custom_id: str, body: Entry | None, state: str) -> Entry:
    result: Entry = {"type": state} | ({"message": body} if body is not None else {})
    return {"custom_id": custom_id, "result": result}
