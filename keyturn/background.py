"""Tasks that run until they are cancelled."""

import asyncio


def is_cancelled() -> bool:
    """Return whether the running task was cancelled: for the head of a loop that goes on after errors.

    A cancellation may be hidden: `asyncio.wait_for` of Python 3.11 may return where it is cancelled
    (https://github.com/python/cpython/issues/86296), and a driver may raise an error of its own. Such a loop would go
    on, and whoever waits for its end would wait for ever.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
