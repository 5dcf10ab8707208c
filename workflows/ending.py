"""What a workflow does when its outcome is final: a cancellation no longer changes it."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def to_its_end(step: Awaitable[Any]) -> None:
    """Await a step that a cancellation of the workflow does not stop."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
