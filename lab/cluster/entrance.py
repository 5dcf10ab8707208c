"""One plain address on loopback before several frontends: it shows the client's certificate in the caller's place.

A proxy of a service mesh does the same. A connection goes to the next frontend that accepts it.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from keyturn.lab.cluster.configuration import FRONTEND_PORT
from keyturn.lab.stack.certificates import SERVER_NAME, Certificates

CONNECT_SECONDS = 2.0  # a frontend on this machine that does not answer in that time is gone
_CHUNK = 1 << 16


@asynccontextmanager
async def entrance(frontends: Sequence[str], certificates: Certificates) -> AsyncIterator[str]:
    """Yield an address that passes connections on to `frontends`, IPs that need not be up."""
    context = ssl.create_default_context(cafile=str(certificates.authority))
    context.load_cert_chain(certificates.client.certificate, certificates.client.key)
    context.set_alpn_protocols(["h2"])  # gRPC accepts no other
    turn = list(frontends)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn.append(turn.pop(0))
        try:
            for ip in list(turn):
                with suppress(OSError, TimeoutError):
                    opening = asyncio.open_connection(ip, FRONTEND_PORT, ssl=context, server_hostname=SERVER_NAME)
                    theirs = await asyncio.wait_for(opening, CONNECT_SECONDS)
                    break
            else:
                return
            await _join((reader, writer), theirs)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def forwarded(ip: str, port: int, to: str) -> AsyncIterator[None]:
    """Pass connections to `ip` on to the host `to`, as where an address moves to another host."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            theirs = await asyncio.open_connection(to, port)
            await _join((reader, writer), theirs)
        writer.transport.abort()

    server = await asyncio.start_server(pass_on, ip, port)
    try:
        yield
    finally:
        server.close()


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(ours: Ends, theirs: Ends) -> None:
    """Pass on what either end says, until one of them is gone; so is the other, then."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(ours[0], theirs[1]))
            both.create_task(_copy(theirs[0], ours[1]))
    except ExceptionGroup:
        pass
    finally:
        theirs[1].transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    raise ConnectionResetError  # one end is done: gRPC's connections end as a whole
