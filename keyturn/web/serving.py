"""Serve an ASGI application over HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from starlette.types import ASGIApp

from keyturn.errors import SettingsInvalid
from keyturn.settings import Network

_log = structlog.get_logger("keyturn.http")


@asynccontextmanager
async def served(
    application: ASGIApp, address: str, *, setting: str, proxies: Sequence[Network] = ()
) -> AsyncIterator[str]:
    """Serve on `address` (HOST:PORT; port 0 takes any free one) and yield the URL.

    Args:
        application: what answers.
        address: where to listen.
        setting: the setting that names the address, for the error.
        proxies: the networks whose peers may open as many connections as they like.

    Raises:
        SettingsInvalid: the address is taken; the message names `setting`.
    """
    import uvicorn

    from keyturn.web.connections import protocol_for

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # asyncio takes Nagle's delay off (40 ms an answer) only where the protocol is named.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
    except OSError as error:
        listening.close()
        raise SettingsInvalid(f"{setting}: cannot listen on {address}: {error.strerror}") from None
    config = uvicorn.Config(
        application,
        http=protocol_for(proxies),
        ws="none",  # where websockets happens to be installed, a connection would leave our protocol by an upgrade
        lifespan="off",
        log_config=None,
        log_level="warning",  # that it serves, we say ourselves
        access_log=False,
        proxy_headers=False,  # whose header is believed is the desk's own decision
        server_header=False,
        timeout_graceful_shutdown=2,  # streams never end by themselves
        limit_concurrency=2_000,
    )
    server = uvicorn.Server(config)
    # `serve` would take the signals for itself, and give none of them on; who serves here waits for them.
    serving = asyncio.ensure_future(server._serve(sockets=[listening]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
        bound = listening.getsockname()
        url = f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}"
        _log.info("serving", url=url, setting=setting)
        yield url
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving
