"""Our small servers and the desk's under requests that are none, or that never come whole; on sockets."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

import desk.connections
import workers.http
from workers.monitoring import served

SECRET = "hunter2hunter2"  # pragma: allowlist secret
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MALFORMED = {
    "a stray carriage return": f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\rx\r\n\r\n".encode(),
    "no HTTP at all": f"{SECRET} is the token\r\n\r\n".encode(),
    "bytes that are no UTF-8": f"GET /\xff\xfe{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"),
    "an absolute URI that is none": f"GET http://[::1{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "an asterisk": f"GET * HTTP/1.1\r\nHost: x\r\nX: {SECRET}\r\n\r\n".encode(),
    "a header without a colon": f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET}\r\n\r\n".encode(),
    "two lengths": f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: {SECRET}\r\n\r\n".encode(),
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    application = web.Application()

    async def failing(_request: web.Request) -> web.Response:
        raise RuntimeError(SECRET)

    async def fine(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    application.router.add_get("/fails", failing)
    application.router.add_get("/", fine)
    async with served(application, "127.0.0.1:0") as url:
        yield int(url.rpartition(":")[2])


async def told(port: int, sent: bytes) -> bytes:
    """What the server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_answered_and_logged_without_a_byte_of_it(
    port: int, sent: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await told(port, sent)
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b"malformed_request" in answer
    out = capsys.readouterr()
    for place in (answer.decode(), caplog.text, out.out, out.err):
        assert SECRET not in place
        assert "Traceback" not in place


async def test_an_unforeseen_failure_is_logged_by_kind_and_place_alone(
    port: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await told(port, b"GET /fails HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 500 " in answer
    out = capsys.readouterr()
    assert "RuntimeError" in out.out + out.err + caplog.text
    for place in (answer.decode(), caplog.text, out.out, out.err):
        assert SECRET not in place


async def test_a_request_that_never_comes_whole_loses_its_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.http, "REQUEST_SECONDS", 0.2)
    assert await told(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ") == b""
    assert await told(port, b"") == b""


@pytest.fixture
async def quiet_desk() -> AsyncIterator[str]:
    """The desk's server around an application that answers at once."""
    from desk.commands import served as desk_served

    async def application(scope: object, receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with desk_served(application, "127.0.0.1:0") as url:
        yield url


async def test_half_sent_heads_are_ended_and_one_peer_holds_no_more_than_its_share(
    quiet_desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then prolongs nothing; a whole request is answered meanwhile."""
    monkeypatch.setattr(desk.connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(desk.connections, "PER_PEER", 20)
    port = int(quiet_desk.rpartition(":")[2])
    half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(19)]
    begun = time.monotonic()
    for _, writer in half:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
    assert (await told(port, WHOLE)).startswith(b"HTTP/1.1 200")
    more = [asyncio.create_task(told(port, WHOLE)) for _ in range(10)]
    for _, writer in half:
        writer.write(b"x")
    for reader, writer in half:
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                raise ConnectionResetError if await reader.read() == b"" else AssertionError
        writer.close()
    assert time.monotonic() - begun < 5
    await asyncio.gather(*more)
    assert (await told(port, WHOLE)).startswith(b"HTTP/1.1 200")


async def test_beyond_its_share_a_peers_connections_are_closed_at_once(
    quiet_desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.connections, "PER_PEER", 5)
    port = int(quiet_desk.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert await told(port, WHOLE) == b""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while not (await told(port, WHOLE)).startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.02)
