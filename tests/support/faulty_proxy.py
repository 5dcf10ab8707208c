"""A proxy before any HTTP server, which loses, halves and throttles a share of the calls."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.servers import fake_server

FAULTS = ("request_lost", "answer_lost", "half_body", "throttled", "unavailable")
_HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "keep-alive", "date", "server"}


class FaultyProxy:
    """Passes requests on to `upstream`; the share `rate` of them meets one of the faults, by `chance`."""

    def __init__(self, upstream: str, *, rate: float, chance: random.Random, faults: tuple[str, ...] = FAULTS) -> None:
        self._faults = faults
        self._upstream = upstream
        self.rate = rate
        self._chance = chance
        self.met: Counter[str] = Counter()
        self.calls = 0
        self.address = ""

    @asynccontextmanager
    async def served(self) -> AsyncIterator["FaultyProxy"]:
        application = web.Application(client_max_size=4 << 20)
        application.router.add_route("*", "/{path:.*}", self._pass)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as self._http,
            fake_server(application) as self.address,
        ):
            yield self

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        fault = self._chance.choice(self._faults) if self._chance.random() < self.rate else ""
        if fault:
            self.met[fault] += 1
        body = await request.read()
        if fault == "throttled":
            return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "1"})
        if fault == "unavailable":
            return web.Response(status=503, text="<html>maintenance</html>", content_type="text/html")
        if fault == "request_lost":
            return _lost(request)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        url = URL(self._upstream + request.rel_url.raw_path_qs, encoded=True)
        skipped = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
        asked = self._http.request(request.method, url, data=body, headers=headers, skip_auto_headers=skipped)
        async with asked as answered:
            whole = await answered.read()
            kept = {name: value for name, value in answered.headers.items() if name.lower() not in _HOP_BY_HOP}
        if fault == "answer_lost":
            return _lost(request)
        if fault == "half_body":
            return await _half(request, answered.status, kept, whole)
        return web.Response(status=answered.status, body=whole, headers=kept)


def _lost(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, status: int, headers: dict[str, str], whole: bytes) -> web.StreamResponse:
    half = web.StreamResponse(status=status, headers=headers)
    half.content_length = len(whole) + 2
    await half.prepare(request)
    await half.write(whole[: len(whole) // 2])
    if request.transport is not None:
        request.transport.close()
    return half
