"""What both ways are given to tell: pieces of text at a model's pace, each with the moment at which it came."""

import asyncio
import time
from collections.abc import AsyncIterator

PIECES, SECONDS = 40, 0.03


async def pieces() -> AsyncIterator[str]:
    """Yield them."""
    for number in range(PIECES):
        yield f"{number}@{time.time():.4f} "
        await asyncio.sleep(SECONDS)
