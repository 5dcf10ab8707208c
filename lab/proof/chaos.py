"""What befalls the whole stack, beside what each operation meets: one thing after the other, as a seed gives it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from keyturn.lab.proof.database import fill_disk
from keyturn.lab.proof.operation_record import Incident
from keyturn.lab.proof.world import WORKERS, World

BETWEEN = (3.0, 8.0)  # seconds between two: time to recover from one, and not always


def _worker(chance: random.Random) -> str:
    return f"worker_{chance.randrange(WORKERS)}"


async def _kill_worker(here: World, chance: random.Random) -> None:
    here.kill(_worker(chance))


async def _stop_worker(here: World, chance: random.Random) -> None:
    # Some are past start-to-close, and wake up as zombies.
    await here.freeze(_worker(chance), chance.uniform(1, 12))


async def _move_clock(here: World, chance: random.Random) -> None:
    here.move_clock(_worker(chance))


async def _kill_server(here: World, _chance: random.Random) -> None:
    here.kill("temporal")


async def _stop_server(here: World, chance: random.Random) -> None:
    await here.freeze("temporal", chance.uniform(1, 5))


async def _pull_temporal(here: World, _chance: random.Random) -> None:
    here.cables["temporal"].pull()


async def _cut_off_host(here: World, chance: random.Random) -> None:
    await here.cut_off(chance.choice(here.hosts), chance.uniform(3, 15))


async def _fill_disk(here: World, chance: random.Random) -> None:
    if here.disk is not None:
        await fill_disk(here.disk, chance.uniform(1, 4))
        await here.heal()  # PostgreSQL stops by itself when it cannot write its log


async def _pull_database(here: World, _chance: random.Random) -> None:
    here.cables["database"].pull()


async def _mute_database(here: World, chance: random.Random) -> None:
    await here.cables["database"].mute(chance.uniform(3, 15))


async def _strand_database(here: World, _chance: random.Random) -> None:
    here.cables["database"].strand()


async def _kill_postgresql(here: World, _chance: random.Random) -> None:
    if here.postgresql is not None:
        await here.postgresql.kill()


Befall = Callable[[World, random.Random], Awaitable[None]]
ANYWHERE: Mapping[str, Befall] = {
    "kill_worker": _kill_worker,
    "stop_worker": _stop_worker,
    "move_clock": _move_clock,
    "kill_server": _kill_server,
    "stop_server": _stop_server,
    "pull_temporal": _pull_temporal,
}
WITH_A_DISK: Mapping[str, Befall] = {"fill_disk": _fill_disk}
WITH_HOSTS: Mapping[str, Befall] = {"cut_off_host": _cut_off_host}
WITH_CABLE: Mapping[str, Befall] = {
    "pull_database": _pull_database,
    "mute_database": _mute_database,
    "strand_database": _strand_database,
}
WITH_POSTGRESQL: Mapping[str, Befall] = {"kill_postgresql": _kill_postgresql}


async def chaos(here: World, more: Mapping[str, Befall] | None = None) -> None:
    """Let things happen until cancelled; what could not be brought about is written down, and the next one comes.

    `more` is what befalls a cluster, in place of what befalls the development server.
    """
    may = dict(ANYWHERE)
    if more is not None:
        may = {name: fault for name, fault in may.items() if not name.endswith("_server")} | dict(more)
    may |= WITH_CABLE if "database" in here.cables else {}
    may |= WITH_A_DISK if here.disk is not None else {}
    may |= WITH_HOSTS if here.hosts else {}
    may |= WITH_POSTGRESQL if here.postgresql is not None else {}
    while True:
        await asyncio.sleep(here.chance.uniform(*BETWEEN))
        name = here.chance.choice(list(may))
        here.befell.append(Incident(name, time.time()))
        try:
            await may[name](here, here.chance)
        except Exception as error:  # else all that follows would be proved with nothing beside it
            here.failed.append(f"{name}: {error!r}")
