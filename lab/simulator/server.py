"""The simulator's HTTP server: three providers' wire formats, and `/control/` to make it fail.

POST   /v1/chat/completions                        OpenAI
POST   /v1/messages                                Anthropic
POST   /v1beta/models/MODEL:generateContent        Gemini; MODEL:streamGenerateContent too
POST   /control/faults        {"name", ...}: see lab/simulator/faults.py
DELETE /control/faults        no more faults
GET    /control/requests      each model request: {"at", "provider", "model", "account", "trace_id", "fault", "status",
                              "tokens"};
                              of a stream also "first_text_at", and "closed_at" if its reader went away
DELETE /control/requests      forget them
PUT    /control/keys          the API keys that are taken, as a list; null takes any
PUT    /control/pace          seconds between two pieces of a stream, a number (0.02 by default)
DELETE /control               all as at the start: no faults, requests, keys, or pace of its own
GET    /healthz               200 when it serves

It answers for models called `simulator-...` only, so that no production setting can mistake it for a provider.
"""

import asyncio
import gzip
import json
import time
import uuid
from collections import deque
from dataclasses import replace
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.answers import account_of, answer
from keyturn.lab.simulator.batches import Batches
from keyturn.lab.simulator.faults import Fault, UnknownFault, apply_fault
from keyturn.lab.simulator.formats import ANTHROPIC, GEMINI, OPENAI, Event, Format, ParsedRequest, PlainAnswer

DEFAULT_SLOW_SECONDS = 30.0  # longer than any default deadline, so that "slow" without a figure means "too slow"
MODELS = "simulator-"
LEAST_CACHED_TOKENS = 1_024  # from where on the providers' prompt caches count
PACE_SECONDS = 0.02  # about as quickly as a hosted model of middling size writes
CHARACTERS_A_PIECE = 8
CHARACTERS_A_TOKEN = 4  # about right for English JSON: close enough for a bill that is never paid


class Simulator:
    """The state of one simulator: faults to come, requests gone by, keys that it takes."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] | None = None
        self.pace = PACE_SECONDS
        self.batches = Batches(self.requests)
        self._prefixes: deque[str] = deque(maxlen=32)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this simulator."""
        application = web.Application(client_max_size=256 << 20)  # a batch is one request, or one file
        router = application.router
        self.batches.add_to(router)
        router.add_post("/v1/chat/completions", lambda request: self._model(OPENAI, request))
        router.add_post("/v1/messages", lambda request: self._model(ANTHROPIC, request))
        router.add_post("/v1beta/models/{model}:generateContent", lambda request: self._model(GEMINI, request))
        router.add_post("/v1beta/models/{model}:streamGenerateContent", lambda request: self._model(GEMINI, request))
        router.add_delete("/control", self._reset)
        router.add_put("/control/pace", self._set_pace)
        router.add_post("/control/faults", self._add_fault)
        router.add_delete("/control/faults", self._clear_faults)
        router.add_get("/control/requests", self._list_requests)
        router.add_delete("/control/requests", self._clear_requests)
        router.add_put("/control/keys", self._set_keys)
        router.add_get("/healthz", self._healthz)
        return application

    async def _model(self, wire: Format, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
            asked = wire.read(request.headers, request.match_info.get("model", ""), body)
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error(wire, "bad_request")
        account = account_of(asked.user)
        fault = next((fault for fault in self.faults if fault.meets(account, wire.name)), Fault("none"))
        if self.keys is not None and asked.key not in self.keys:
            fault = Fault("unauthorized")
        elif not asked.model.startswith(MODELS):
            fault = Fault("not_found")
        entry = {
            "at": time.time(),
            "provider": wire.name,
            "model": asked.model,
            "account": account,
            "trace_id": request.headers.get("x-client-request-id"),
            "fault": fault.name,
            "status": None,
            "tokens": 0,  # what a whole answer is paid for, in and out
        }
        self.requests.append(entry)
        if request.path.endswith(":streamGenerateContent"):
            asked = replace(asked, streamed=True)
        response = await self._respond(request, wire, fault, asked, entry)
        entry["status"] = response.status
        return response

    async def _respond(
        self, request: web.Request, wire: Format, fault: Fault, asked: ParsedRequest, entry: dict[str, Any]
    ) -> web.StreamResponse:
        if fault.name == "slow":
            await asyncio.sleep(DEFAULT_SLOW_SECONDS if fault.seconds is None else fault.seconds)
        if fault.name == "drop" and request.transport is not None:
            request.transport.abort()
            return web.Response(status=499)
        broken = _response_of_fault(wire, fault)
        if broken is not None:
            return broken
        text, ending = apply_fault(fault, answer(asked.user, asked.fields))
        tokens = asked.size // CHARACTERS_A_TOKEN + 1
        said = PlainAnswer(text, ending, tokens, self._cached_tokens(asked.prefix), len(text) // CHARACTERS_A_TOKEN + 1)
        paid = said.input_tokens + said.output_tokens
        if fault.name not in {"slow", "half_body", "broken_stream", "hang"}:
            entry["tokens"] = paid
        request_id = uuid.uuid4().hex
        headers = {"content-type": "application/json", wire.request_id_header: f"req_{request_id}"}
        if asked.streamed:
            pieces = [text[place : place + CHARACTERS_A_PIECE] for place in range(0, len(text), CHARACTERS_A_PIECE)]
            stream = wire.stream(request_id, asked.model, said, pieces)
            return await self._stream(request, wire, fault, stream, headers, entry)
        whole = json.dumps(wire.write(request_id, asked.model, said)).encode()
        if fault.name in {"half_body", "trickle"}:
            response, sent = await _piecemeal(request, fault, whole, headers)
            entry["tokens"] = paid if sent else 0
            return response
        return web.Response(body=whole, headers=headers)

    async def _stream(
        self,
        request: web.Request,
        wire: Format,
        fault: Fault,
        stream: tuple[list[Event], list[Event], list[Event]],
        headers: dict[str, str],
        entry: dict[str, Any],
    ) -> web.StreamResponse:
        """Send a stream's events at the simulator's pace, and note when its first text went out and who left early."""
        first, pieces, last = stream
        response = web.StreamResponse(headers=headers | {"content-type": "text/event-stream"})
        seconds = DEFAULT_SLOW_SECONDS if fault.seconds is None else fault.seconds
        pace = seconds / max(1, len(pieces)) if fault.name == "trickle" else self.pace
        try:
            await response.prepare(request)
            for event in first:
                await response.write(_event(*event))
            for place, event in enumerate(pieces):
                if place == len(pieces) // 2 and await _breaks(request, response, wire, fault, seconds):
                    return response
                await response.write(_event(*event))
                entry.setdefault("first_text_at", time.time())
                await _pause(request, pace)
            for event in last:
                await response.write(_event(*event))
        except ConnectionError:
            entry["closed_at"] = time.time()
        return response

    async def _set_pace(self, request: web.Request) -> web.Response:
        self.pace = float(await request.text())
        return web.Response(status=204)

    def _cached_tokens(self, prefix: str) -> int:
        """How many tokens of the prefix were seen before; and remember it."""
        shared = max((_shared_length(prefix, seen) for seen in self._prefixes), default=0)
        self._prefixes.append(prefix)
        tokens = shared // CHARACTERS_A_TOKEN
        return tokens if tokens >= LEAST_CACHED_TOKENS else 0

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.from_json(await request.json())
        except (UnknownFault, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self.faults.append(fault)
        return web.json_response({"accepted": fault.name}, status=201)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        return web.Response(status=204)

    async def _list_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(self.requests)

    async def _clear_requests(self, _request: web.Request) -> web.Response:
        self.requests.clear()
        self.batches.clear()
        return web.Response(status=204)

    async def _set_keys(self, request: web.Request) -> web.Response:
        keys = json.loads(await request.read())
        self.keys = None if keys is None else set(keys)
        return web.Response(status=204)

    async def _reset(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        self.requests.clear()
        self.batches.clear()
        self.keys, self.pace = None, PACE_SECONDS
        return web.Response(status=204)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


async def _breaks(
    request: web.Request, response: web.StreamResponse, wire: Format, fault: Fault, seconds: float
) -> bool:
    """Let a fault of the middle of a stream happen; returns whether the stream ends with it."""
    if fault.name == "hang":
        await _pause(request, seconds)
    if fault.name == "broken_stream":
        found = wire.error("overloaded", None)
        await response.write(_event("error", found[1] if found else {}))
    if fault.name == "half_body" and request.transport is not None:
        request.transport.close()
    return fault.name in {"broken_stream", "half_body"}


async def _pause(request: web.Request, seconds: float) -> None:
    """Wait, and raise ConnectionError as soon as the reader has gone."""
    until = time.monotonic() + seconds
    while True:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError("the reader has gone")
        left = until - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(left, PACE_SECONDS))


def _event(name: str | None, data: Any) -> bytes:
    line = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {line}\n\n".encode()


def _shared_length(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their start."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
    )


def _response_of_fault(wire: Format, fault: Fault) -> web.Response | None:
    """The response of a fault that has no answer in it; None if it has one."""
    waits = {} if fault.seconds is None else {"retry-after": f"{fault.seconds:g}"}
    page = "<html><body>Welcome</body></html>"
    if wire.error(fault.name, None) is not None:
        return _error(wire, fault.name, fault.seconds)
    match fault.name:
        case "status":
            return web.Response(status=fault.status, text=page, content_type="text/html", headers=waits)
        case "not_a_completion":
            return web.Response(text=page, content_type="text/html")
        case "huge_body":
            return web.Response(body=b" " * (8 << 20), content_type="application/json")
        case "compressed":
            body = gzip.compress(b" " * (64 << 20))
            return web.Response(body=body, content_type="application/json", headers={"content-encoding": "gzip"})
        case _:
            return None


def _error(wire: Format, fault: str, seconds: float | None = None) -> web.Response:
    found = wire.error(fault, seconds)
    status, body = found if found is not None else (500, {})
    # Google states the wait in the body, the others in a header.
    waits = seconds is not None and wire is not GEMINI
    return web.json_response(body, status=status, headers={"retry-after": f"{seconds:g}"} if waits else {})


async def _piecemeal(
    request: web.Request, fault: Fault, whole: bytes, headers: dict[str, str]
) -> tuple[web.StreamResponse, bool]:
    """Announce the whole body and send half of it and drop the connection, or all of it very slowly.

    Returns the response, and whether all of it was sent.
    """
    response = web.StreamResponse(headers=headers | {"content-length": str(len(whole))})
    await response.prepare(request)
    if fault.name == "half_body":
        await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.close()
        return response, False
    seconds = DEFAULT_SLOW_SECONDS if fault.seconds is None else fault.seconds
    try:
        for place in range(len(whole)):
            await response.write(whole[place : place + 1])
            await asyncio.sleep(seconds / len(whole))
    except ConnectionError:  # the reader has gone
        return response, False
    return response, True
