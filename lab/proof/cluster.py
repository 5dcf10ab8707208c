"""What befalls a cluster of Temporal's production server, beside what each operation meets; and how it is deployed.

A proof on a cluster has the operations, the workers' faults and the checker of every proof. What differs is the server:
its hosts are killed, stopped and frozen one by one, restarted all in turn, and upgraded to the next version; PostgreSQL
is killed, and fails over to its standby; the workers' build is tried on 10 and 50 per cent of the rotations, promoted,
and rolled back.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from keyturn.application.versioning import builds, promote, ramp
from keyturn.lab.cluster.programs import NEXT_VERSION, build_programs
from keyturn.lab.cluster.servers import SERVICES, Cluster
from keyturn.lab.proof.operation_record import Incident
from keyturn.lab.proof.world import BUILDS, World

# Between two deployments: the operations that the one finds under way have time to go on before the next.
BETWEEN_DEPLOYMENTS = 12.0
# A short proof's operations are over sooner: two a second end at the quickest, and seven deployments have to be met.
SECONDS_AN_OPERATION = 0.025
KNOWN_WITHIN = 60.0  # a build is known when its worker polls, which the faults may prevent for a while


async def _kill_host(running: Cluster, chance: random.Random) -> None:
    name = chance.choice(list(SERVICES))
    await running.kill(name)
    await asyncio.sleep(chance.uniform(0, 3))
    await running.start(name)


async def _stop_host(running: Cluster, chance: random.Random) -> None:
    await _restart(running, chance.choice(list(SERVICES)))


async def _cut_off_history(running: Cluster, chance: random.Random) -> None:
    """It answers nothing while its connections stay open: the others take its shards, and it comes back."""
    name = chance.choice([name for name, (service, _) in SERVICES.items() if service == "history"])
    running.freeze(name)
    try:
        await asyncio.sleep(chance.uniform(5, 15))
    finally:
        running.freeze(name, thaw=True)


async def _kill_postgresql(running: Cluster, _chance: random.Random) -> None:
    name = running.primary
    await running.kill(name)
    await running.start_database(name)


OF_A_CLUSTER: Mapping[str, Callable[[Cluster, random.Random], Awaitable[None]]] = {
    "kill_temporal_host": _kill_host,
    "stop_temporal_host": _stop_host,
    "cut_off_history_host": _cut_off_history,
    "kill_postgresql": _kill_postgresql,
}


def faults_of(running: Cluster) -> dict[str, Callable[[World, random.Random], Awaitable[None]]]:
    """Return what may befall a cluster, for `chaos`."""

    def alone(
        fault: Callable[[Cluster, random.Random], Awaitable[None]],
    ) -> Callable[[World, random.Random], Awaitable[None]]:
        async def strike(_here: World, chance: random.Random) -> None:
            await running.change(lambda: fault(running, chance))

        return strike

    return {name: alone(fault) for name, fault in OF_A_CLUSTER.items()}


async def deploy(here: World, running: Cluster, *, operations: int) -> None:
    """Deploy one thing after the other, beside so many operations; what could not be done is written down."""
    steps: Mapping[str, Callable[[], Awaitable[None]]] = {
        "try_build_on_10_percent": lambda: _ramp(here, 10),
        "rolling_restart": lambda: _roll(running, None),
        "try_build_on_50_percent": lambda: _ramp(here, 50),
        "fail_over_postgresql": lambda: _fail_over(running),
        "promote_build": lambda: _promote(here, BUILDS[1]),
        "rolling_upgrade": lambda: _roll(running, NEXT_VERSION),
        "roll_back_build": lambda: _promote(here, BUILDS[0]),
    }
    here.to_deploy = list(steps)
    for name, step in steps.items():
        here.to_deploy.remove(name)
        here.befell.append(Incident(name, time.time()))
        try:
            await step()
        except Exception as error:
            here.failed.append(f"{name}: {error!r}")
        await asyncio.sleep(min(BETWEEN_DEPLOYMENTS, operations * SECONDS_AN_OPERATION))


async def _roll(running: Cluster, version: str | None) -> None:
    programs = None if version is None else await asyncio.to_thread(build_programs, version)
    if programs is not None:
        await running.change(lambda: running.bring_schemas(programs))
        running.programs = programs
    for name in SERVICES:
        await running.change(partial(_restart, running, name))


async def _restart(running: Cluster, name: str) -> None:
    await running.stop(name)
    await running.start(name)


async def _fail_over(running: Cluster) -> None:
    async def step() -> None:
        await running.add_standby()
        await running.fail_over()

    await running.change(step)


async def _ramp(here: World, percentage: float) -> None:
    await _when_known(here, BUILDS[1])
    await _patiently(lambda: _changed(here, lambda client: ramp(client, BUILDS[1], percentage)))


async def _promote(here: World, build: str) -> None:
    await _when_known(here, build)
    await _patiently(lambda: _changed(here, lambda client: promote(client, build)))


async def first_build(here: World) -> None:
    """Let the rotations start on the first build: without one that is current, none would."""
    await _promote(here, BUILDS[0])


async def _changed(here: World, change: Callable[..., Awaitable[None]]) -> None:
    await change(await here.client())


async def _when_known(here: World, build: str) -> None:
    async def expect() -> None:
        if build not in {one.build_id for one in await builds(await here.client())}:
            raise LookupError(f"no worker of {build} has polled")

    await _patiently(expect)


async def _patiently(step: Callable[[], Awaitable[None]]) -> None:
    """Try again while the server is away: an operator would, too."""
    until = time.monotonic() + KNOWN_WITHIN
    while True:
        try:
            return await step()
        except Exception:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.5)
