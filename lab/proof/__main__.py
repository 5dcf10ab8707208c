"""`keyturn prove`: operations under faults by a seeded plan, judged at the end; and the controls, to be caught."""

import asyncio
import json
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from keyturn.console import run_and_leave
from keyturn.database import database_url
from keyturn.lab.cluster.programs import NEXT_VERSION, build_programs
from keyturn.lab.cluster.servers import cluster as production_cluster
from keyturn.lab.proof.chaos import chaos
from keyturn.lab.proof.checker import Facts, facts_of, strays, violations
from keyturn.lab.proof.cluster import deploy, faults_of, first_build
from keyturn.lab.proof.database import postgresql, small_disk
from keyturn.lab.proof.driver import drive
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.page import rewrite
from keyturn.lab.proof.plan import CALM, FROZEN, KINDS, Database, Operation, plan
from keyturn.lab.proof.report import (
    STORIES,
    Row,
    Survival,
    count_incidents,
    picture_of,
    print_stories,
    print_table,
    record_fault_times,
    row,
    survivals,
)
from keyturn.lab.proof.soak import picture, soak, soak_rows
from keyturn.lab.proof.worker import CONTROLS, FROZEN_SECONDS
from keyturn.lab.proof.world import World, ask_simulator, world
from keyturn.lab.stack.pooler import Mode, pooled

# What each control does wrong is met by this fault, and shows in this claim: few rotations suffice, and must.
CAUGHT_BY = {
    "check_then_insert": ("freeze", "no rotation has two jobs"),
    "do_nothing_returning": ("kill_after_claim", "the reported job exists"),
    "no_fencing": ("freeze_and_stop", "an operation without a job has none"),
    "trusting_gate": ("wrong_window", "each fault has its required outcome"),
    "one_sided_gate": ("wrong_no", "each fault has its required outcome"),
    "cited_lines_only": ("laxer_line", "each fault has its required outcome"),
    "own_retrier": ("server_error", "no call is unrecorded"),
}
CONTROL_ROTATIONS = 6
# Each fault once more when no process is killed or cut off: there every call is recorded, and what froze wakes up.
IN_CALM = tuple(name for name, kind in KINDS.items() if kind.by in {"nobody", "provider"} or name in FROZEN)
CALM_AT_ONCE = 12  # so that no call is late for want of a processor


@click.command()
@click.option(
    "--faults",
    default=1_000,
    show_default=True,
    type=click.IntRange(1),
    help="Number of operations; each has one fault.",
)
@click.option(
    "--seed", default=20261121, show_default=True, help="Seed of the plan; the same seed gives the same plan."
)
@click.option("--only", help=f"One fault, or one control: {', '.join(CONTROLS)}.")
@click.option("--time-limit", type=float, help="Seconds after which no further operation is started.")
@click.option("--database", type=click.Choice(["postgresql", "sqlite", "both"]), default="both", show_default=True)
@click.option(
    "--cluster",
    type=click.Choice(["session", "transaction"]),
    help="Use a cluster of Temporal's production server, behind PgBouncer in this mode (needs Go).",
)
@click.option("--soak", "soak_minutes", type=float, help="Minutes of a steady load instead, to detect drift.")
@click.option("--plot", type=click.Path(path_type=Path), help="File for an SVG picture of the times by fault.")
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Page whose table is updated with this run.")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Whether negative controls run too.")
@click.option("--results", type=click.Path(path_type=Path), help="File for the results, as JSON.")
def prove(
    faults: int,
    seed: int,
    only: str | None,
    time_limit: float | None,
    database: str,
    cluster: Mode | None,
    soak_minutes: float | None,
    plot: Path | None,
    page: Path | None,
    controls: bool,
    results: Path | None,
) -> None:
    """Prove that each rotation creates exactly one job, whatever fails; and that the proof would detect it if not.

    Starts the real stack in temporary folders, asks for rotations, approvals, drafts and runs under faults, and checks
    each result against the database, the ledger and the provider's own log. It needs the servers that a checkout of
    Keyturn installs.

    \b
    Example:
      keyturn prove --faults 100
      keyturn prove --faults 20 --only freeze --seed 7
    """
    # A server that is away is what this is about: the client's own warnings of it would bury the table.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)), error_if_already_set=False)
    # Stopped by a signal, it ends what it started: processes, hosts and the small disk.
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda *_: signal.raise_signal(signal.SIGINT))
    if only is not None and only not in {*KINDS, *CONTROLS}:
        raise click.UsageError(f"--only: one of {', '.join([*KINDS, *CONTROLS])}")
    if cluster is not None and (database == "sqlite" or soak_minutes is not None):
        raise click.UsageError("--cluster: a cluster has PostgreSQL, and no --soak")
    if soak_minutes is not None:
        rows, drawn = asyncio.run(_soak(soak_minutes, seed, "sqlite" if database == "sqlite" else "postgresql"))
    else:
        kinds: Sequence[Any] = ["postgresql", "sqlite"] if database == "both" else [database]
        kinds = kinds if cluster is None else ["postgresql"]
        figures, rows = _prove_on(kinds, faults, seed, time_limit, only, cluster)
        chosen = CONTROLS if controls and only is None else [one for one in CONTROLS if one == only]
        rows = [*(figure.row for figure in figures), *rows, *(asyncio.run(_run_control(one)) for one in chosen)]
        drawn = picture_of(figures)
    failed = [row for row in rows if not row["holds"]]
    click.echo(f"\n{'everything holds' if not failed else f'{len(failed)} do not hold'}")
    for broken in failed:
        click.echo(f"  {broken['name']}: {broken['detail']}")
    if results is not None:
        results.write_text(json.dumps(rows, indent=2) + "\n")
        click.echo(f"written to {results}")
    if page is not None:
        page.write_text(rewrite(page.read_text(), rows))
    if plot is not None:
        plot.write_text(drawn)
    raise click.exceptions.Exit(1 if failed else 0)


def _prove_on(
    kinds: Sequence[Database],
    faults: int,
    seed: int,
    time_limit: float | None,
    only: str | None,
    cluster: Mode | None,
) -> tuple[list[Survival], list[Row]]:
    """Prove on each database in turn, with a share of the faults, the time and the seeds."""
    figures: list[Survival] = []
    rows: list[Row] = []
    for number, kind in enumerate(kinds):
        if only in CONTROLS or (only is not None and KINDS[only].on not in {None, kind}):
            continue
        share = faults // len(kinds) + (faults % len(kinds) if number == 0 else 0)
        limit = None if time_limit is None else time_limit / len(kinds)
        planned = plan(share, seed + number, kind, only=only)
        outcome = asyncio.run(_prove(planned, seed + number, kind, limit, only, cluster))
        figures += outcome[0]
        rows += outcome[1]
    return figures, rows


async def _prove(
    operations: Sequence[Operation],
    seed: int,
    database: Database,
    limit: float | None,
    only: str | None,
    cluster: Mode | None = None,
) -> tuple[list[Survival], list[Row]]:
    began = time.monotonic()
    async with _a_world(database, control=None, chance=random.Random(seed), cluster=cluster) as here:
        befalling = [asyncio.create_task(chaos(here, None if here.cluster is None else faults_of(here.cluster)))]
        if here.cluster is not None:
            await first_build(here)
            befalling.append(asyncio.create_task(deploy(here, here.cluster, operations=len(operations))))
        until = None if limit is None else began + limit
        try:
            seen = await drive(here, operations, until=until, report=partial(_progress, len(operations)))
        finally:
            for one in befalling:
                one.cancel()
            await asyncio.gather(*befalling, return_exceptions=True)
        if only is None:  # one fault alone is soon over
            here.failed += [f"{name}: the operations were over before it" for name in here.to_deploy]
        await here.wait_for_thaw(FROZEN_SECONDS)
        await here.heal()
        faults = [only] if only in IN_CALM else IN_CALM
        calm_ones = range(max(len(faults), len(operations) // 10))
        books = [Operation(CALM + number, faults[number % len(faults)]) for number in calm_ones]
        calm = await drive(here, books, at_once=CALM_AT_ONCE)
        await here.wait_for_thaw(FROZEN_SECONDS)
        facts = await _facts(here, seen + calm)
        record_fault_times(here, seen + calm, facts)
        found = violations(seen + calm, facts, exact=False) + strays(seen + calm, facts)
        off = violations(calm, facts, exact=True)
        if here.disk is None and cluster is None:
            click.echo("a full disk was not tried: mounting a small file system needs root")
        if not here.hosts and cluster is None:
            click.echo("hosts were not cut off: creating network namespaces needs root")
        took = f"{time.monotonic() - began:.0f} s"
        click.echo(f"\n{len(seen):,} operations on {database} in {took}, seed {seed}")
        figures = survivals(here, seen + calm, found, database)
        print_table(figures)
        await print_stories(here, found, seed, database)
        agreed = f"{len(calm)} operations, each under one fault of the provider or frozen; {len(off)} violations"
        click.echo(f"requests and tokens in the ledger are those of the provider: {agreed}")
        await print_stories(here, off, seed, database)
    said = f"{len(seen)} operations in {took}, seed {seed}, and {len(here.befell)} faults beside them"
    not_done = f"{len(here.failed)} failed" + "".join(f"; {one}" for one in here.failed[:STORIES])
    return figures, [
        row(f"all on {database}", not found, f"{said}; {len(found)} violations"),
        row(f"every planned fault struck the stack on {database}", not here.failed, not_done),
        row(f"ledger and provider agree on {database}", not off, agreed),
    ]


def _progress(of: int, ended: int) -> None:
    if ended % max(100, of // 10) == 0:
        click.echo(f"  {ended:,} of {of:,} have ended", err=True)


async def _soak(minutes: float, seed: int, database: Database) -> tuple[list[Row], str]:
    async with _a_world(database, control=None, chance=random.Random(seed)) as here:
        soaked = await soak(here, minutes, random.Random(seed))
        await here.wait_for_thaw(0)
        facts = await _facts(here, soaked.seen)
        found = violations(soaked.seen, facts, exact=True) + strays(soaked.seen, facts)
        rows = soak_rows(soaked, len(found), count_incidents(here.befell))
        for one in rows:
            holds = "yes" if one["holds"] else "NO"
            click.echo(f"{one['name']:16} {one['ratio']:6.3f} {one['reach']:>8}  {holds:4} {one['detail']}")
        await print_stories(here, found, seed, database)
    return rows, picture(soaked)


async def _run_control(control: str) -> Row:
    """A control must be caught: the naive way, under the fault that it cannot bear."""
    fault, claim = CAUGHT_BY[control]
    operations = [Operation(number, fault) for number in range(CONTROL_ROTATIONS)]
    async with _a_world("sqlite", control=control, chance=random.Random(0)) as here:
        if control == "check_then_insert":  # the naive way has no unique index to lean on
            await here.forget_index("uq_rotation_jobs_open_credential")
        seen = await drive(here, operations)
        await here.wait_for_thaw(FROZEN_SECONDS)
        found = violations(seen, await _facts(here, seen), exact=True)
    claims = {one.claim for one in found}
    said = f"caught: {claim}" if claim in claims else f"NOT CAUGHT: {', '.join(sorted(claims)) or 'everything holds'}"
    click.echo(f"control {control:22} under {fault:18} {said}")
    return row(f"control {control}", claim in claims, f"{CONTROL_ROTATIONS} rotations under {fault}: {said}")


async def _facts(here: World, seen: Sequence[OperationRecord]) -> Facts:
    requests: Any = await ask_simulator(here.simulator, "GET", "/control/requests")
    return await facts_of(here.database, requests, here.keyring, await here.client(), seen)


@asynccontextmanager
async def _a_world(
    database: Database, *, control: str | None, chance: random.Random, cluster: Mode | None = None
) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="keyturn-proof-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        async with AsyncExitStack() as parts:
            if cluster is not None:
                # Both versions are there before anything runs: a build in the middle would take the processor.
                await asyncio.to_thread(build_programs, NEXT_VERSION)
                running = await parts.enter_async_context(production_cluster())
                pooler = await parts.enter_async_context(pooled(database_url(running.database), cluster))
                made = world(folder, running.database, control=None, chance=chance, cluster=running, pooler=pooler)
                yield await parts.enter_async_context(made)
                return
            disk = None if control else parts.enter_context(small_disk(folder / "disk"))
            place, server = disk or folder, None
            url = f"sqlite:///{place / 'keyturn.db'}"
            if database == "postgresql":
                server = parts.enter_context(postgresql(place / "data"))
                url = server.url
            here = await parts.enter_async_context(world(folder, url, control=control, chance=chance))
            here.disk, here.postgresql = disk, server
            yield here


def main() -> None:
    """Run it by itself, as `python -m keyturn.lab.proof`."""
    run_and_leave(lambda: prove(prog_name="python -m keyturn.lab.proof"))


if __name__ == "__main__":
    main()
