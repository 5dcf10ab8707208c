"""A run that is killed on every side, with -9: worker, server and starter in turn, again and again."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.bulk.tables import bulk_items, bulk_runs
from keyturn.database import open_database
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.processes import child
from keyturn.lab.stack.temporal import dev_server_command
from keyturn.web.ports import free_loopback_port
from tests.support.estates import LINE, estate
from tests.support.simulated import SimulatorControl

# The whole proof has 10,000 (`make prove-bulk`); `make test` runs a short form of it.
KEYS = int(os.environ.get("PROOF_KEYS", "300"))
KILLS = 3 if KEYS < 1_000 else 9
SEED = 20261121
KEYTURN = Path(sys.executable).parent / "keyturn"


class Parts:
    """The processes of a run; each may be killed and started again."""

    def __init__(self, folder: Path, database: URL, simulator: str, keys: Path) -> None:
        self.folder = folder
        self.port = free_loopback_port()
        url = database.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = worker_environment(f"127.0.0.1:{self.port}", url, simulator, keys=keys)
        # What is being asked when a worker dies is asked again after its heartbeats are missed: 20 s.
        self.environment = environment | {"PATH": str(KEYTURN.parent), "KEYTURN_USER": "omar"}
        self._running: dict[str, tuple[AsyncExitStack, asyncio.subprocess.Process]] = {}

    def command_of(self, part: str) -> list[str | Path]:
        if part == "server":
            return dev_server_command(self.port, database=self.folder / "temporal.db")
        if part == "worker":
            return [KEYTURN, "worker"]
        return [KEYTURN, "bulk", self.folder / "keys.jsonl", "--policy", LINE, "--always-ask", "--name", "killed"]

    async def begin(self, part: str) -> None:
        stack = AsyncExitStack()
        log = self.folder / f"{part}.log"
        process = await stack.enter_async_context(child(self.command_of(part), environment=self.environment, log=log))
        self._running[part] = (stack, process)

    async def kill(self, part: str) -> None:
        stack, process = self._running.pop(part)
        if process.returncode is None:
            process.kill()
        await stack.aclose()

    async def revive(self) -> None:
        """Start again what has exited by itself: a worker that found no server, a starter that was refused."""
        for part in ("server", "worker", "starter"):
            if part not in self._running:
                await self.begin(part)
            elif self._running[part][1].returncode is not None:
                await self.kill(part)
                await self.begin(part)

    async def end(self) -> None:
        for part in list(self._running):
            await self.kill(part)


@asynccontextmanager
async def parts_of(folder: Path, database: URL, simulator: str, keys: Path) -> AsyncIterator[Parts]:
    parts = Parts(folder, database, simulator, keys)
    try:
        yield parts
    finally:
        await parts.end()


async def asked(engine: AsyncEngine) -> int:
    query = select(func.count()).select_from(bulk_items).where(bulk_items.c.outcome.is_not(None))
    async with engine.connect() as connection:
        return int((await connection.execute(query)).scalar_one())


async def test_a_run_that_is_killed_on_every_side_ends_with_exactly_the_jobs_of_an_undisturbed_one(
    postgresql: URL, simulator: SimulatorControl, keys: Path, tmp_path: Path
) -> None:
    """None twice, none missing, each with its audit row: what is due follows from the inventory alone."""
    chance = random.Random(SEED)
    estate(tmp_path / "keys.jsonl", keys=KEYS)
    moments = sorted(chance.randrange(1, KEYS) for _ in range(KILLS))
    engine = open_database(postgresql, pool_size=2)
    async with parts_of(tmp_path, postgresql, simulator.address, keys) as parts:
        async with asyncio.timeout(120 + KEYS / 5):
            for number, moment in enumerate(moments):
                while await asked(engine) < moment:
                    await parts.revive()
                    await asyncio.sleep(0.2)
                await parts.kill(("worker", "server", "starter")[number % 3])
            while True:
                await parts.revive()
                async with engine.connect() as connection:
                    if (await connection.execute(select(bulk_runs.c.ended))).scalar_one_or_none() == "done":
                        break
                await asyncio.sleep(0.5)
    async with engine.connect() as connection:
        accounts = list((await connection.execute(select(rotation_jobs.c.account_id))).scalars())
        created = select(job_audit.c.job_id).where(job_audit.c.event == "created")
        audited = list((await connection.execute(created)).scalars())
        ids = list((await connection.execute(select(rotation_jobs.c.job_id))).scalars())
        open_items = select(func.count()).select_from(bulk_items).where(bulk_items.c.outcome.is_(None))
        assert (await connection.execute(open_items)).scalar_one() == 0
    await engine.dispose()
    assert sorted(accounts) == [f"acct_{number:06}" for number in range(0, KEYS, 10)]
    assert sorted(audited) == sorted(ids)
