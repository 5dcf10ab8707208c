"""Servers of others, played by aiohttp, which lets a test break off an answer where HTTP does not end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def fake_server(application: web.Application) -> AsyncIterator[str]:
    """Serve `application` on a free loopback port and yield its URL."""
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
