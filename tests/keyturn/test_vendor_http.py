"""One request to a vendor's API, one try: what comes back, and what an error says; against real sockets."""

import asyncio
import gzip
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from keyturn.execution import http
from keyturn.execution.errors import CloudRefused, CloudUnavailable
from keyturn.execution.http import VendorHttp
from keyturn.gcp.replies import read_reply
from keyturn.lab.stack.certificates import write_certificates
from tests.support.servers import fake_server

SECRET = "a-token-of-the-executor-4e1d"  # pragma: allowlist secret
HEADERS = {"authorization": f"Bearer {SECRET}"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    async with fake_server(application) as address:
        yield address


async def refused(calling: Awaitable[object], kind: type[Exception]) -> str:
    """Return what an error says: neither it nor what it refers to has what was sent."""
    with pytest.raises(kind) as caught:
        await calling
    seen: BaseException | None = caught.value
    while seen is not None:
        assert SECRET not in f"{seen} {seen!r} {vars(seen)}"
        assert getattr(seen, "request", None) is None
        seen = seen.__context__
    return str(caught.value)


async def test_an_answer_of_any_status_is_returned_and_a_redirect_is_not_followed() -> None:
    async def answer(request: web.Request) -> web.Response:
        moved = {"Location": "http://127.0.0.1:9/elsewhere"}
        return web.Response(status=int(request.path[1:]), text="said", headers=moved)

    async with served(answer) as address:
        vendor = VendorHttp()
        for status in (200, 302, 404, 503):
            received = await vendor.send("call", "GET", f"{address}/{status}", headers=HEADERS)
            assert (received.status, received.content) == (status, b"said")
        await vendor.close()


async def test_an_answer_that_does_not_end_in_time_or_is_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps a connection alive for ever; an endless answer fills the memory."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        sent = web.StreamResponse()
        await sent.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await sent.write(b" " if request.path == "/slow" else b" " * 4_000)
            await asyncio.sleep(0.02)
        return sent

    async with served(trickle) as address:
        vendor = VendorHttp(most_bytes=10_000)
        sending = vendor.send("put secret", "GET", f"{address}/long", headers=HEADERS)
        assert await refused(sending, CloudUnavailable) == "put secret: the answer is too long"
        monkeypatch.setattr(http, "CALL_SECONDS", 0.3)
        sending = vendor.send("put secret", "GET", f"{address}/slow", headers=HEADERS)
        assert await refused(sending, CloudUnavailable) == "put secret: no answer (TimeoutError)"
        await vendor.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://127.0.0.1:1/x"])
async def test_a_server_that_is_away_is_named_by_the_call(url: str) -> None:
    assert await refused(VendorHttp().send("keys.list", "GET", url, headers=HEADERS), CloudUnavailable) == (
        "keys.list: no answer (ConnectError)"
    )


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://[::1/", "http://\udcff/"])
async def test_a_url_that_cannot_be_used_is_for_a_person(url: str) -> None:
    said = await refused(VendorHttp().send("keys.list", "GET", url, headers=HEADERS), CloudRefused)
    assert said == "keys.list: its URL or a header of it cannot be used"


async def test_a_certificate_that_is_not_to_be_trusted_is_named_with_the_setting(tmp_path: Path) -> None:
    """Such as of a company's own proxy; once its authority is named, the next call works."""
    made = write_certificates(tmp_path / "made", ["127.0.0.1"])
    other = write_certificates(tmp_path / "other", ["127.0.0.1"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made.server.certificate, made.server.key)
    server = await asyncio.start_server(_answer_once, "127.0.0.1", 0, ssl=serving)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    authority = tmp_path / "ca.pem"
    authority.write_bytes(other.authority.read_bytes())
    vendor = VendorHttp(
        authorities=lambda: ssl.create_default_context(cafile=authority), authorities_named="VAULT_CACERT"
    )
    said = await refused(vendor.send("Vault", "GET", url, headers=HEADERS), CloudRefused)
    assert said.startswith("Vault: the server's certificate is refused: ")
    assert said.endswith("(VAULT_CACERT names the authorities)")
    assert "SSL_CERT_FILE names" in await refused(VendorHttp().send("IAM", "GET", url, headers=HEADERS), CloudRefused)
    authority.write_bytes(made.authority.read_bytes())
    assert (await vendor.send("Vault", "GET", url, headers=HEADERS)).content == b"ok"
    await vendor.close()
    server.close()
    await server.wait_closed()


async def _answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"keys": [], "keys": []}', b"\xff\xfe", b"[]"])
def test_an_answer_of_googles_that_is_no_json_object_is_none(content: bytes) -> None:
    """Brackets without an end exhaust the stack of a parser without bounds."""
    with pytest.raises(CloudUnavailable, match="the answer is no JSON object"):
        read_reply("keys.list", 200, content)


async def test_a_large_answer_in_small_pieces_is_read_in_time() -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        sent = web.StreamResponse()
        await sent.prepare(request)
        for _ in range(2_000):
            await sent.write(b"x" * 4_096)
        return sent

    async with served(pieces) as address:
        vendor = VendorHttp(most_bytes=8 << 20)
        began = time.process_time()
        assert len((await vendor.send("call", "GET", address, headers=HEADERS)).content) == 2_000 * 4_096
        assert time.process_time() - began < 5, "each piece copied what was there before"
        await vendor.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_an_answer_that_a_proxy_compresses_all_the_same_is_read(coding: str) -> None:
    """Plain is asked for; the limit is of what it unfolds to."""

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["accept-encoding"] == "identity"
        body = b"x" * (2_000_000 if request.path == "/large" else 20)
        packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
        return web.Response(body=packed, headers={"content-encoding": coding})

    async with served(answer) as address:
        vendor = VendorHttp()
        assert (await vendor.send("call", "GET", address, headers=HEADERS)).content == b"x" * 20
        sending = vendor.send("call", "GET", f"{address}/large", headers=HEADERS)
        assert await refused(sending, CloudUnavailable) == "call: the answer is too long"
        await vendor.close()


async def test_an_answer_that_says_gzip_and_is_none_is_no_answer() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"no gzip", headers={"content-encoding": "gzip"})

    async with served(answer) as address:
        vendor = VendorHttp()
        sending = vendor.send("call", "GET", address, headers=HEADERS)
        assert await refused(sending, CloudUnavailable) == "call: no answer (DecodingError)"
        await vendor.close()
