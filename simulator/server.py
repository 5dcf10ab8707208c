"""The simulator's HTTP server: OpenAI's chat completions, and `/control/` to tell it how to fail.

POST   /v1/chat/completions   the model call
POST   /control/faults        {"name", "times"?, "account"?, "seconds"?, "days"?}: see simulator/faults.py
DELETE /control/faults        no more faults
GET    /control/requests      every model request so far, as a list of {"at", "account", "trace_id", "fault", "status"}
DELETE /control/requests      forget them
GET    /healthz               200 when it serves
"""

import asyncio
import json
import time
from typing import Any

from aiohttp import web

from simulator.answers import account_of, decide
from simulator.faults import Fault, UnknownFault, bend, error_response

DEFAULT_SLOW_SECONDS = 30.0  # longer than any default deadline, so that "slow" without a figure means "too slow"
MODEL = "simulator-1"


class Simulator:
    """The state of one simulator: faults to come and requests gone by."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this simulator."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_post("/v1/chat/completions", self._chat_completions)
        application.router.add_post("/control/faults", self._add_fault)
        application.router.add_delete("/control/faults", self._clear_faults)
        application.router.add_get("/control/requests", self._list_requests)
        application.router.add_delete("/control/requests", self._clear_requests)
        application.router.add_get("/healthz", self._healthz)
        return application

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
            prompt = next(m["content"] for m in body["messages"] if m["role"] == "user")
            asked = sum(len(m["content"]) for m in body["messages"])
            model = str(body["model"])
        except (ValueError, KeyError, TypeError, StopIteration):
            return web.json_response({"error": {"message": "not a chat completion request", "code": None}}, status=400)
        account = account_of(prompt)
        fault = next((fault for fault in self.faults if fault.meets(account)), Fault("none"))
        entry = {
            "at": time.time(),
            "account": account,
            "trace_id": request.headers.get("x-client-request-id"),
            "fault": fault.name,
            "status": None,
        }
        self.requests.append(entry)
        response = await self._respond(request, fault, prompt, model, asked)
        entry["status"] = response.status
        return response

    async def _respond(
        self, request: web.Request, fault: Fault, prompt: str, model: str, asked: int
    ) -> web.StreamResponse:
        if fault.name == "slow":
            await asyncio.sleep(DEFAULT_SLOW_SECONDS if fault.seconds is None else fault.seconds)
        if fault.name == "drop" and request.transport is not None:
            request.transport.abort()
            return web.Response(status=499)
        error = error_response(fault)
        if error is not None:
            status, body, headers = error
            return web.json_response(body, status=status, headers=headers)
        if fault.name == "not_a_completion":
            return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")
        content, finish_reason, refusal = bend(fault, decide(prompt))
        completion = _completion(model, content, finish_reason, refusal, asked)
        if fault.name == "half_body":
            return await _half(request, completion)
        return web.json_response(completion)

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
        return web.Response(status=204)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


def _completion(model: str, content: str | None, finish_reason: str, refusal: str | None, asked: int) -> dict[str, Any]:
    # About 4 bytes a token in English JSON: close enough for a bill that nobody pays.
    used = {"prompt_tokens": asked // 4 + 1, "completion_tokens": len(content or refusal or "") // 4 + 1}
    return {
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
        "usage": used | {"total_tokens": sum(used.values())},
    }


async def _half(request: web.Request, completion: dict[str, Any]) -> web.StreamResponse:
    """Announce the whole body, send half of it, and drop the connection."""
    whole = json.dumps(completion).encode()
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(whole))})
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
