"""How long a check takes by the processor, which is the same beside other work."""

import time
from collections.abc import Callable


def processor_seconds(check: Callable[[str], object], unit: str, length: int) -> float:
    """The least of five times that `check` takes for a text of `length` characters, repeated from `unit`."""
    text, times = (unit * length)[:length], []
    for _ in range(5):
        begun = time.thread_time()
        check(text)
        times.append(time.thread_time() - begun)
    return min(times)
