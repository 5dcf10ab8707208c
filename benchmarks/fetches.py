"""Fetching an inventory: the time of it against the least that the APIs allow, and what two kills change: nothing.

The simulator is a process of its own, and answers each call in 50 ms. The least time is that of the calls that an
account needs one behind the other, with as many accounts and calls at once as the fetch allows itself.
"""

import asyncio
import hashlib
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from benchmarks.results import Result
from keyturn.lab.simulator.aws_iam import AwsEstate
from keyturn.snapshots.fetch import PARTS_AT_ONCE
from keyturn.snapshots.fetchers.aws import CALLS_AT_ONCE, USERS_A_PAGE

SECONDS = 0.05
KEYS_A_USER = 2
MOST = 1.5


async def measure(*, accounts: int, keys: int) -> list[Result]:
    """Return the rows of a fetch that runs through, and of one that is throttled and killed twice."""
    users = keys // accounts // KEYS_A_USER
    least = least_seconds(accounts, users)
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as folder:
        async with simulator(accounts, users, throttled=0) as environment:
            took, through = await fetch(Path(folder) / "through.jsonl", environment)
        async with simulator(accounts, users, throttled=50) as environment:
            killed = Path(folder) / "killed.jsonl"
            for _ in range(2):
                await fetch(killed, environment, kill_after=took / 3)
            rest, digest = await fetch(killed, environment)
    ratio = took / least
    detail = f"{took:.1f} s against {least:.1f} s, {accounts} accounts, {SECONDS * 1000:g} ms a call"
    name = f"fetch of {keys:,} keys against the least that page sizes and limits allow"
    same = float(digest == through and bool(digest))
    again = f"killed after {took / 3:.0f} s twice, each fiftieth call throttled; the rest took {rest:.1f} s"
    return [
        Result(name, round(ratio, 3), f"<= {MOST:g}", ratio <= MOST, detail),
        Result(f"fetch of {keys:,} keys that is killed twice: the same bytes", same, ">= 1", same >= 1, again),
    ]


def least_seconds(accounts: int, users: int) -> float:
    """Return the least time: AssumeRole, two calls for the report, pages of users, and a list of keys a user."""
    behind = 3 + math.ceil(users / USERS_A_PAGE) + math.ceil(users / CALLS_AT_ONCE)
    return math.ceil(accounts / PARTS_AT_ONCE) * behind * SECONDS


async def fetch(out: Path, environment: dict[str, str], *, kill_after: float | None = None) -> tuple[float, str]:
    """Run the command in a process of its own; return how long it took, and the digest of what it wrote."""
    command = [sys.executable, "-m", "keyturn.starter", "inventory", "fetch", "--from", "aws", "--out", str(out)]
    started, quiet = time.perf_counter(), asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=quiet, stderr=quiet)
    try:
        await asyncio.wait_for(process.wait(), kill_after)
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    took = time.perf_counter() - started
    return took, hashlib.sha256(out.read_bytes()).hexdigest() if out.exists() else ""


@asynccontextmanager
async def simulator(accounts: int, users: int, *, throttled: int) -> AsyncIterator[dict[str, str]]:
    """Run the simulator; yields the environment of what asks it."""
    serving = [sys.executable, "-m", "benchmarks.fetches", str(accounts), str(users), str(throttled)]
    process = await asyncio.create_subprocess_exec(*serving, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    try:
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": address,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",  # pragma: allowlist secret
            "AWS_SECRET_ACCESS_KEY": "no secret of anyone's",  # pragma: allowlist secret
            "AWS_EC2_METADATA_DISABLED": "true",
            "KEYTURN_AWS_ACCOUNTS": " ".join(f"{number:012d}" for number in range(1, accounts + 1)),
            "KEYTURN_AWS_EXTERNAL_ID": "external-1",
        }
    finally:
        process.kill()
        await process.wait()


async def _serve(accounts: int, users: int, throttled: int) -> None:
    estate = AwsEstate(seconds=SECONDS, users_a_page=1_000, throttled=throttled)
    estate.fill(accounts=accounts, users=users, keys=lambda number: KEYS_A_USER)
    for account in estate.accounts.values():
        account.report_states.clear()  # AWS serves a report for four hours
    runner = web.AppRunner(estate.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:4])))
