"""A TCP proxy in front of a server, which breaks connections off: all of them, or one at a chosen statement."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

HALF_OPEN_SECONDS = 12.0  # past a claim's start-to-close of 10 s
STRANDED_SECONDS = 60.0  # past whatever gives a connection up by itself: 8 s, and the driver's 10
# What a worker puts before a statement whose connection is to break: see `proof.worker.faulty_statements`.
_MARK = b"proof:"


class Cable:
    """Passes connections on to a server, at `host` and `port` or at the Unix socket `path`."""

    def __init__(self, host: str, port: int, *, path: str | None = None) -> None:
        self._host, self._port, self._path = host, port, path
        self._ends: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._stranded = 0  # of the connections so far, those that pass nothing any more
        self._laid = 0
        self.address = ""

    def pull(self) -> None:
        """Break every connection off, in both directions."""
        for end in list(self._ends):
            end.transport.abort()

    async def mute(self, seconds: float) -> None:
        """Pass nothing on for so long, in either direction; connections stay open, and what waited comes then."""
        self._passes.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._passes.set()

    def strand(self) -> None:
        """Pass nothing more on over the connections that there are, whose other ends have vanished; over new ones, do.

        After STRANDED_SECONDS they are broken off, as by the keep-alive of the end that is still there.
        """
        self._stranded = self._laid

    @asynccontextmanager
    async def open(self, outside: str) -> AsyncIterator["Cable"]:
        """Pass connections to the address `outside` on, until it is left."""
        server = await asyncio.start_server(self._pass_on, outside, 0)
        self.address = f"{outside}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.pull()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._path is not None:
                ours = await asyncio.open_unix_connection(self._path)
            else:
                ours = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, ours[1])
        self._ends |= set(ends)
        self._laid += 1
        number, cut = self._laid, _Cut()

        async def passes() -> None:
            await self._passes.wait()
            if number <= self._stranded:
                await asyncio.sleep(STRANDED_SECONDS)
                raise ConnectionAbortedError

        try:
            await asyncio.gather(
                _copy(reader, ours[1], cut.on_request, passes), _copy(ours[0], writer, cut.on_response, passes)
            )
        except (asyncio.CancelledError, ConnectionAbortedError):  # the loop ends, or it was cut
            return
        finally:
            for end in ends:
                end.transport.abort()
                self._ends.discard(end)


class _Cut:
    """One connection's fault, if a statement on it asks for one."""

    def __init__(self) -> None:
        self._fault = b""

    async def on_request(self, chunk: bytes) -> None:
        if _MARK in chunk:
            self._fault = chunk.partition(_MARK)[2].partition(b" ")[0]
        if self._fault == b"cut_before_commit":
            raise ConnectionAbortedError

    async def on_response(self, _chunk: bytes) -> None:
        if self._fault == b"half_open":
            await asyncio.sleep(HALF_OPEN_SECONDS)
        if self._fault:  # the statement has committed by itself: its answer is what is lost
            raise ConnectionAbortedError


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    look: Callable[[bytes], Awaitable[None]],
    passes: Callable[[], Awaitable[None]],
) -> None:
    try:
        with suppress(ConnectionResetError, BrokenPipeError):
            while chunk := await reader.read(65_536):
                await look(chunk)
                await passes()
                writer.write(chunk)
                await writer.drain()
    finally:
        writer.close()  # also when it was reset: the other end sees it at once
