"""What a proof prints: how each fault was survived, and of a violation the operation's whole story."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from sqlalchemy import Select, select
from temporalio.api.enums.v1 import EventType
from temporalio.service import RPCError

from keyturn.database import open_database
from keyturn.drafts.tables import draft_states
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.lab.proof.checker import Facts, Violation
from keyturn.lab.proof.operation_record import Incident, OperationRecord
from keyturn.lab.proof.page import DATABASES
from keyturn.lab.proof.plan import CALM, FROZEN, KINDS, Database
from keyturn.lab.proof.plots import Range, ranges
from keyturn.lab.proof.world import World, ask_simulator
from keyturn.ledger.tables import call_records

ENOUGH = 3  # of as many that were to meet a fault, one does
STORIES = 5  # printed at length; more have the same cause
Row = dict[str, Any]


@dataclass(frozen=True)
class Survival:
    """How often a fault was met, and what came of it. Times are seconds from the fault to the operation's end."""

    fault: str
    what: str
    database: Database
    times: int
    with_another: int
    jobs: int | None
    seconds: Sequence[float]
    holds: bool
    woke: int | None = None  # of those that froze

    @property
    def p50(self) -> float:
        """The median time; 0 if it never came to that."""
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def most(self) -> float:
        """The longest time; 0 if it never came to that."""
        return max(self.seconds, default=0.0)

    @property
    def row(self) -> Row:
        """As a result."""
        jobs = "" if self.jobs is None else f", {self.jobs} job{'' if self.jobs == 1 else 's'}"
        also = f", {self.with_another} with another" if self.with_another else ""
        also += "" if self.woke is None else f", {self.woke} woke up"
        detail = f"{self.what}: {self.times}{also}{jobs}; p50 {self.p50:.1f} s, max {self.most:.1f} s"
        return row(f"{self.fault} on {self.database}", self.holds, detail)


def row(name: str, holds: bool, detail: str) -> Row:
    """Return a result, as `benchmarks/results.json` has them."""
    return {"name": name, "ratio": float(holds), "reach": ">= 1", "holds": holds, "detail": detail}


def record_fault_times(here: World, seen: Sequence[OperationRecord], facts: Facts) -> None:
    """Write down when each operation met its fault, as the workers' marks and the provider's log have it."""
    marks: dict[str, float] = {}
    for mark in here.marks.iterdir():
        account, at = mark.name.rpartition(".")[0], mark.stat().st_mtime
        marks[account] = min(at, marks.get(account, at))
    for operation in seen:
        of_it = [marks[account] for account in operation.operation.accounts if account in marks]
        if operation.operation.kind.by == "provider":
            of_it += [facts.bent[trace] for trace in operation.operation.traces if trace in facts.bent]
        operation.struck = min([*of_it, operation.struck or float("inf")]) if of_it or operation.struck else None


def survivals(
    here: World, seen: Sequence[OperationRecord], found: Sequence[Violation], database: Database
) -> list[Survival]:
    """Return how each fault was survived: those that operations met, and those of the whole stack beside them.

    A fault that some were to meet and none has met is not survived; nor a frozen claim that never woke up, although its
    worker was not killed.
    """
    by_fault: dict[str, list[OperationRecord]] = defaultdict(list)
    for one in seen:
        by_fault[one.operation.fault].append(one)
    awake = {mark.stem for mark in here.marks.glob("*.woke")}
    broken = {one.operation.operation.fault for one in found if one.operation is not None}
    figures = []
    for fault in (name for name in KINDS if name in by_fault):
        # With nothing that goes wrong there is no moment of it: from the asking, then.
        met = by_fault[fault] if KINDS[fault].by == "nobody" else [one for one in by_fault[fault] if one.struck]
        took = [max(0.0, one.ended - (one.struck or one.began)) for one in met if one.outcome is not None]
        both, jobs = sum(bool(one.operation.also) for one in met), sum(one.jobs for one in by_fault[fault])
        holds = fault not in broken and (bool(met) or len(by_fault[fault]) < ENOUGH)
        woke = None
        if fault in FROZEN:
            woke = sum(one.operation.account in awake for one in met)
            holds &= all(one.operation.account in awake for one in met if one.operation.number >= CALM)
        figures.append(Survival(fault, KINDS[fault].what, database, len(met), both, jobs, took, holds, woke))
    ends = sorted(one.ended for one in seen if one.outcome is not None)
    for name in sorted({one.name for one in here.befell}):
        times = [one for one in here.befell if one.name == name]
        took = [min((end - one.at for end in ends if end > one.at), default=0.0) for one in times]
        what = "beside the others; the time until any operation completed"
        figures.append(Survival(name, what, database, len(times), 0, None, took, True))
    return figures


def print_table(figures: Sequence[Survival]) -> None:
    """Print how each fault was survived."""
    click.echo(f"{'fault':24} {'times':>5}  {'jobs':>5}  {'p50 s':>6} {'max s':>6}  holds; seconds since the fault")
    for one in figures:
        jobs = "" if one.jobs is None else one.jobs
        times = f"{one.p50:6.1f} {one.most:6.1f}"
        click.echo(f"{one.fault:24} {one.times:5}  {jobs:5}  {times}  {'yes' if one.holds else 'NO'}")


def picture_of(figures: Sequence[Survival]) -> str:
    """Return the times by fault, as SVG."""
    databases = list(dict.fromkeys(one.database for one in figures))
    shown: dict[str, dict[str, tuple[float, float]]] = {}
    for one in figures:
        shown.setdefault(one.fault, {})[one.database] = (one.p50, one.most)
    rows = [Range(fault, [of_it.get(one) for one in databases]) for fault, of_it in shown.items()]
    return ranges(rows, [DATABASES[one] for one in databases])


async def print_stories(here: World, found: Sequence[Violation], seed: int, database: Database) -> None:
    """Print the stories of the first violations: what was asked and seen, and what every part wrote down of it."""
    for violation in found[:STORIES]:
        click.echo(f"\nVIOLATION: {violation.claim}: {violation.found}", err=True)
        if violation.operation is None:
            continue
        one = violation.operation
        click.echo(f"  {one.operation.account}, {one.workflow_id}, trace {one.operation.traces[0]}", err=True)
        for teller, steps in (
            ("seen", one.steps),
            ("history", await _history(here, one.workflow_id)),
            ("provider", await _requests(here, one)),
            ("database", await _stored_rows(here, one)),
        ):
            for at, step in steps:
                click.echo(f"  {at - one.began:8.2f} s  {teller:8}  {step}", err=True)
        again = f"keyturn prove --faults 20 --only {one.operation.fault} --database {database} --seed {seed}"
        click.echo(f"  again, just that: {again}", err=True)
    if len(found) > STORIES:
        click.echo(f"\nand {len(found) - STORIES} more", err=True)


Steps = Sequence[tuple[float, str]]


async def _history(here: World, workflow_id: str) -> Steps:
    steps = []
    try:
        handle = (await here.client()).get_workflow_handle(workflow_id)
        async for event in handle.fetch_history_events():
            name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
            scheduled = event.activity_task_scheduled_event_attributes.activity_type.name
            steps.append((event.event_time.ToNanoseconds() / 1e9, f"{name} {scheduled}".rstrip()))
    except RPCError as error:
        steps.append((0.0, f"no history: {error.status.name.lower()}"))
    return steps


async def _requests(here: World, one: OperationRecord) -> Steps:
    requests: Any = await ask_simulator(here.simulator, "GET", "/control/requests")
    mine = [request for request in requests if request["trace_id"] in one.operation.traces]
    return [(request["at"], f"{request['provider']} {request['fault']} {request['status']}") for request in mine]


async def _stored_rows(here: World, one: OperationRecord) -> Steps:
    """Return the rows of its jobs, drafts and calls; each has the time by its writer's clock, which may be far off."""
    jobs = select(job_audit.c.at, "job " + job_audit.c.job_id + " " + job_audit.c.event)
    jobs = jobs.join(rotation_jobs).where(rotation_jobs.c.account_id.in_(one.operation.accounts))
    drafts = select(draft_states.c.at, "draft " + draft_states.c.state)
    drafts = drafts.where(draft_states.c.draft_id == one.workflow_id)
    calls = select(call_records.c.called_at, "call " + call_records.c.provider + " " + call_records.c.status)
    calls = calls.where(call_records.c.trace_id.in_(one.operation.traces))
    engine = open_database(here.database, pool_size=1)
    try:
        async with engine.connect() as connection:
            queries: tuple[Select[Any], ...] = (jobs, drafts, calls)
            return [(at.timestamp(), event) for query in queries for at, event in await connection.execute(query)]
    finally:
        await engine.dispose()


def count_incidents(befell: Sequence[Incident]) -> Mapping[str, int]:
    """Return how often each thing befell the stack."""
    return dict(sorted(Counter(one.name for one in befell).items()))
