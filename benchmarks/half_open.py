"""The desk with 200 half-sent requests held open, against the quiet desk: a signed-in reader's list, in turn."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
from sqlalchemy.engine import URL

from benchmarks.results import Result, compared
from keyturn.database import open_database
from keyturn.desk.app import desk_application
from keyturn.desk.desk import Desk
from keyturn.desk.settings import DeskSettings
from keyturn.lab.stack.temporal import dev_server
from keyturn.policy.catalogue import load_catalogue
from keyturn.web.serving import served
from tests.support.keys import KEYRING

PEERS = 200
TOKEN = "a_token_of_the_benchmarks_0123456789"


async def measure(url: URL, *, rounds: int, reads: int) -> list[Result]:
    """Return the desk's latency under half-open peers against its own when it is quiet."""
    async with _desk(url) as address:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=30) as reader:
            await _p50(reader, 50)
            abused: list[float] = []
            quiet: list[float] = []
            for _ in range(rounds):
                quiet.append(await _p50(reader, reads))
                async with _half_open(address):
                    abused.append(await _p50(reader, reads))
    return [compared(f"desk under {PEERS} half-open peers / quiet, p50", abused, quiet, unit="ms", target=1.5)]


async def _p50(reader: httpx.AsyncClient, reads: int) -> float:
    times = []
    for _ in range(reads):
        begun = time.perf_counter()
        (await reader.get("/api/v1/rotations")).raise_for_status()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


@asynccontextmanager
async def _half_open(address: str) -> AsyncIterator[None]:
    """Hold heads that are never sent whole; what the desk ends is opened anew, as an abuser does."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    open_ones: set[int] = set()

    async def hold(number: int) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
                    await writer.drain()
                    open_ones.add(number)
                    await reader.read()
                finally:
                    writer.transport.abort()

    holders = [asyncio.create_task(hold(number)) for number in range(PEERS)]
    try:
        while len(open_ones) < PEERS:
            await asyncio.sleep(0.01)
        yield
    finally:
        for holder in holders:
            holder.cancel()
        await asyncio.gather(*holders, return_exceptions=True)


@asynccontextmanager
async def _desk(url: URL) -> AsyncIterator[str]:
    async with AsyncExitStack() as parts:
        client = await parts.enter_async_context(dev_server(keyring=KEYRING))
        engine = open_database(url)
        parts.push_async_callback(engine.dispose)
        settings = DeskSettings(
            **{  # type: ignore[arg-type]
                "KEYTURN_DESK_ADDRESS": "127.0.0.1:0",
                "KEYTURN_DESK_TOKENS": f"luna:{TOKEN}",
                "KEYTURN_DESK_ROLES": "luna=asker",
                "KEYTURN_DESK_REQUESTS_PER_MINUTE": 100_000,
            }
        )
        desk = Desk(client, engine, KEYRING, load_catalogue(), tenant="default", task_queue="bench")
        application = desk_application(desk, engine, settings, KEYRING)
        yield await parts.enter_async_context(served(application, settings.address, setting="KEYTURN_DESK_ADDRESS"))
