"""Our small servers and the desk's under requests that are none, or that never come whole; on sockets."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyturn.lab.stack.loopback import loopback_client
from keyturn.web.applications import plain_application, unstored
from keyturn.web.guard import Guard
from keyturn.web.problems import refuse_with_problem
from keyturn.web.serving import served

SECRET = "hunter2hunter2"  # pragma: allowlist secret
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MALFORMED = {
    "a stray carriage return": f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\rx\r\n\r\n".encode(),
    "no HTTP at all": f"{SECRET} is the token\r\n\r\n".encode(),
    "bytes that are no UTF-8": f"GET /\xff\xfe{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"),
    "an absolute URI": f"GET http://[::1{SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
    "an asterisk": f"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {SECRET}\r\n\r\n".encode(),
    "a header without a colon": f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET}\r\n\r\n".encode(),
    "two lengths": f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: {SECRET}\r\n\r\n".encode(),
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def failing(_request: Request) -> Response:
        raise RuntimeError(SECRET)

    async def fine(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def taking(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def check(_request: Request) -> None:
        """Let every request pass."""

    app = plain_application([Route("/takes", taking, methods=["POST"]), Route("/fails", failing), Route("/", fine)])
    guarded = Guard(app, check=check, refuse=refuse_with_problem, headers=unstored, max_body_bytes=1_000)
    async with served(guarded, "127.0.0.1:0", setting="KEYTURN_JOBS_ADDRESS") as url:
        yield int(url.rpartition(":")[2])


async def answer_to(port: int, sent: bytes) -> bytes:
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
    answer = await answer_to(port, sent)
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b"malformed_request" in answer
    out = capsys.readouterr()
    for place in (answer.decode(), caplog.text, out.out, out.err):
        assert SECRET not in place
        assert "Traceback" not in place


async def test_an_unforeseen_failure_is_logged_by_kind_and_place_alone(
    port: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await answer_to(port, b"GET /fails HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 500 " in answer
    out = capsys.readouterr()
    assert "RuntimeError" in out.out + out.err + caplog.text
    for place in (answer.decode(), caplog.text, out.out, out.err):
        assert SECRET not in place


async def test_a_request_that_never_comes_whole_loses_its_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyturn.web.connections.HEAD_SECONDS", 0.2)
    assert await answer_to(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ") == b""
    assert await answer_to(port, b"") == b""
    assert (await answer_to(port, WHOLE.replace(b"Connection: close\r\n", b"") + b"GET / HT")).count(
        b"HTTP/1.1 200"
    ) == 1


async def test_a_body_that_never_comes_is_waited_for_some_seconds(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyturn.web.guard.BODY_SECONDS", 0.2)
    answer = await answer_to(port, b"POST /takes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert b" 408 " in answer
    assert b"too_slow" in answer


async def test_who_goes_away_before_the_answer_is_no_failure_in_the_log(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /takes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()
    assert (await answer_to(port, WHOLE)).startswith(b"HTTP/1.1 200")
    assert "request_failed" not in capsys.readouterr().out


async def test_one_peer_holds_no_more_of_a_small_server_than_its_share(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyturn.web.connections.PER_PEER", 5)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert await answer_to(port, WHOLE) == b""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while not (await answer_to(port, WHOLE)).startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.02)


async def test_a_desks_connection_that_sends_nothing_or_half_a_second_head_is_ended(
    quiet_desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyturn.web.connections.HEAD_SECONDS", 0.3)
    port = int(quiet_desk.rpartition(":")[2])
    assert await answer_to(port, b"") == b""
    kept = WHOLE.replace(b"Connection: close\r\n", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(kept)
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET / HT")
    async with asyncio.timeout(4):  # an idle connection ends by itself after five seconds without a request
        with pytest.raises(ConnectionResetError):
            raise ConnectionResetError if await reader.read() == b"" else AssertionError


@pytest.fixture
async def quiet_desk() -> AsyncIterator[str]:
    """The desk's server around an application that answers at once."""

    async def application(scope: object, receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with served(application, "127.0.0.1:0", setting="KEYTURN_DESK_ADDRESS") as url:
        yield url


async def test_half_sent_heads_are_ended_and_one_peer_holds_no_more_than_its_share(
    quiet_desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then prolongs nothing; a whole request is answered meanwhile."""
    monkeypatch.setattr("keyturn.web.connections.HEAD_SECONDS", 0.5)
    monkeypatch.setattr("keyturn.web.connections.PER_PEER", 20)
    port = int(quiet_desk.rpartition(":")[2])
    half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(19)]
    begun = time.monotonic()
    for _, writer in half:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
    assert (await answer_to(port, WHOLE)).startswith(b"HTTP/1.1 200")
    more = [asyncio.create_task(answer_to(port, WHOLE)) for _ in range(10)]
    for _, writer in half:
        writer.write(b"x")
    for reader, writer in half:
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                raise ConnectionResetError if await reader.read() == b"" else AssertionError
        writer.close()
    assert time.monotonic() - begun < 5
    await asyncio.gather(*more)
    assert (await answer_to(port, WHOLE)).startswith(b"HTTP/1.1 200")


async def test_beyond_its_share_a_peers_connections_are_closed_at_once(
    quiet_desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyturn.web.connections.PER_PEER", 5)
    port = int(quiet_desk.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert await answer_to(port, WHOLE) == b""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while not (await answer_to(port, WHOLE)).startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.02)


async def test_a_kept_connection_is_answered_at_once(quiet_desk: str) -> None:
    """Nagle's algorithm and a delayed acknowledgement together cost each answer 40 ms."""
    times = []
    async with loopback_client(quiet_desk) as http:
        for _ in range(10):
            begun = time.monotonic()
            await http.get("/")
            times.append(time.monotonic() - begun)
    assert min(times[1:]) < 0.03
