"""A TCP proxy in front of PostgreSQL that loses answers at a chosen moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import open_database
from keyturn.lab.proof.cable import Cable

Fault = Literal["answer_lost", "request_lost", "half_open"]

CLAIM = b"INSERT INTO rotation_jobs"
# CommandComplete of a SELECT of one row, then ReadyForQuery "idle": PostgreSQL has committed before it says so.
COMMITTED = b"SELECT 1\x00Z\x00\x00\x00\x05I"


class LossyProxy:
    """Passes bytes both ways; when armed, it spoils the next claim once."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.spoiled = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._socket = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        claims = asyncio.Event()
        both = {writer, server_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._pass(reader, server_writer, both, claims, from_client=True),
                self._pass(server_reader, writer, both, claims, from_client=False),
            )
        finally:
            for end in both:
                with suppress(Exception):
                    end.transport.abort()
            self._writers -= both

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: set[asyncio.StreamWriter],
        claims: asyncio.Event,
        *,
        from_client: bool,
    ) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                if from_client and CLAIM in chunk:
                    claims.set()
                    if self.fault == "request_lost":
                        return self._spoil(both)
                if not from_client and claims.is_set() and COMMITTED in chunk:
                    if self.fault == "answer_lost":
                        return self._spoil(both)
                    if self.fault == "half_open":
                        self.fault = None
                        self.spoiled += 1
                        await asyncio.Event().wait()  # the answer never comes, and neither does an end
                writer.write(chunk)
                await writer.drain()
        for end in both:
            with suppress(Exception):
                end.close()
        return None

    def _spoil(self, both: set[asyncio.StreamWriter]) -> None:
        self.fault = None
        self.spoiled += 1
        for end in both:
            end.transport.abort()

    @asynccontextmanager
    async def before(self, database: URL) -> AsyncIterator[URL]:
        """Yield the URL of `database` (which listens on a Unix socket) through this proxy."""
        self._socket = f"{database.query['host']}/.s.PGSQL.5432"
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield database.set(host="127.0.0.1", port=port, query={})
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()


@asynccontextmanager
async def cabled(postgresql: URL) -> AsyncIterator[tuple[Cable, AsyncEngine]]:
    """An engine of two connections to a database, and the cable that they go over."""
    async with Cable("", 0, path=f"{postgresql.query['host']}/.s.PGSQL.5432").open("127.0.0.1") as cable:
        host, _, port = cable.address.rpartition(":")
        engine = open_database(postgresql.set(host=host, port=int(port), query={}), pool_size=2)
        yield cable, engine
        await engine.dispose()
