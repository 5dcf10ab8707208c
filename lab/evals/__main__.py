"""`make eval`: ask every case, compare with the last accepted result, and write lab/evals/results.json.

With KEYTURN_ROUTES set, that route is asked, with the worker's settings; without it, the simulator; with `--local`, the
real 135M model of a wheel. A figure that fell below the accepted one fails the run. `--accept` makes this run's figures
the accepted ones of its route.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from keyturn.calls import CallRecord
from keyturn.console import run_and_leave
from keyturn.errors import KeyturnError
from keyturn.lab.evals.careless import NOES, Careless, wrong_answers
from keyturn.lab.evals.cases import Case, is_right, load_cases
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.processes import child
from keyturn.labels.verdicts import is_wrong_yes, kind_of
from keyturn.ledger.prices import RateCard
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.guard import Guard
from keyturn.llm.providers import price_lists_of_providers
from keyturn.policy.catalogue import Catalogue
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Disagreement, Rejection
from keyturn.tasks.registry import load_tasks
from keyturn.workers.schema import migrate
from keyturn.workers.settings import Settings, load_settings
from keyturn.workers.telemetry import configure_logging
from keyturn.workers.wiring import open_boundary

FOLDER = Path(__file__).parent
COST_GROWTH = 1.25  # a longer prompt or a chattier model; a new price
# Machines and hours differ: three times as slow as accepted is reported, unless it is still under a second.
SLOWER, SLOW_MS = 3.0, 1_000.0
AT_ONCE = 8  # with a provider; calls at once: enough to be done in minutes, few enough for a small account's rate limit


@click.command()
@click.option("--accept", is_flag=True, help="Accept this run's figures for its route.")
@click.option("--task", type=click.Choice(sorted(load_tasks())), help="Filter cases by task.")
@click.option(
    "--results", default=FOLDER / "results.json", type=click.Path(path_type=Path), help="File for the results."
)
@click.option(
    "--accepted",
    default=FOLDER / "accepted.json",
    type=click.Path(path_type=Path),
    help="File of the accepted figures.",
)
@click.option("--local", is_flag=True, help="Ask the 135M model that `make eval-local` installs.")
@click.option("--verbose", is_flag=True, help="Print every case with an unexpected answer.")
def main(accept: bool, task: str | None, results: Path, accepted: Path, local: bool, verbose: bool) -> None:
    """Ask every case of a route and compare with the last accepted result."""
    configure_logging("json", level=40)  # errors only: the table is the output
    route, rows = asyncio.run(_run(task, local=local, verbose=verbose))
    known: dict[str, dict[str, float]] = json.loads(accepted.read_text()) if accepted.exists() else {}
    compared = [_compare(row, known.get(route, {})) for row in rows]
    results.write_text(json.dumps(compared, indent=2) + "\n")
    for row in compared:
        holds = "ok" if row["holds"] else "FAILS"
        click.echo(f"{row['name']:30} {_format_figure(row['ratio']):>9} {row['reach']:>10}  {holds:5}  {row['detail']}")
    if accept:
        figures = {row["name"]: row["ratio"] for row in rows if row["ratio"] is not None and "reach" not in row}
        known[route] = known.get(route, {}) | figures  # a run of one task leaves the others' figures as they are
        accepted.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    if not accept and not all(row["holds"] for row in compared):
        raise click.exceptions.Exit(1)


async def _run(task: str | None, *, local: bool, verbose: bool) -> tuple[str, list[dict[str, Any]]]:
    async with AsyncExitStack() as parts:
        folder = parts.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-eval-"))
        if local:
            os.environ |= {"DATABASE_URL": f"sqlite:///{folder}/keyturn.db", **await _local_model(parts)}
        elif not os.environ.get("KEYTURN_ROUTES"):
            simulator = await parts.enter_async_context(simulator_process())
            os.environ |= worker_environment("", f"sqlite:///{folder}/keyturn.db", simulator, keys=None)
        settings = load_settings()
        await asyncio.to_thread(migrate, settings.database_url)
        # Each case is to be asked: no cached responses, and no user's limit for the one who evaluates.
        settings = settings.model_copy(update={"response_cache": "off", "tokens_per_user_hour": 0})
        return await _evaluate(settings, task, at_once=1 if local else AT_ONCE, verbose=verbose)


async def _local_model(parts: AsyncExitStack) -> dict[str, str]:
    command = [sys.executable, "-m", "keyturn.lab.evals.local_model"]
    process = await parts.enter_async_context(child(command, stdout=asyncio.subprocess.PIPE))
    line = b"" if process.stdout is None else await process.stdout.readline()
    if not line:
        raise click.ClickException("the local model did not start")
    return {"KEYTURN_ROUTES": "compatible:smollm2", "KEYTURN_COMPATIBLE_BASE_URL": line.decode().strip()}


async def _evaluate(
    settings: Settings, task: str | None, *, at_once: int, verbose: bool
) -> tuple[str, list[dict[str, Any]]]:
    async with open_boundary(settings) as wired:
        cases = [case for case in load_cases(wired.catalogue) if task in {None, case.request.task}]
        gate = asyncio.Semaphore(at_once)

        async def ask(case: Case) -> tuple[Case, Any, CallRecord | None]:
            async with gate:
                try:
                    judged = await wired.boundary.answer(case.request, at=_evidence_time(case))
                except KeyturnError as error:
                    return case, error, None
            return case, judged.verdict, judged.call

        ends = await asyncio.gather(*(ask(case) for case in cases))
        rows = [row for name in sorted({case.request.task for case in cases}) for row in _rows(name, ends)]
        decisions = [case for case in cases if isinstance(case.request, RotationRequest)]
        if decisions:
            rows += await _count_caught(decisions, wired.catalogue)
            rows += [_wrong_jobs(ends), _count_missed(ends)]
    if verbose:
        for case, verdict, _ in ends:
            if isinstance(verdict, KeyturnError | Rejection | Disagreement) or not is_right(case, verdict):
                outcome = getattr(verdict, "reason", None) or getattr(verdict, "kind", None) or "another answer"
                click.echo(f"  {case.id}: {outcome}", err=True)
    return settings.routes_text, rows


def _evidence_time(case: Case) -> datetime | None:
    """A case is decided on the day of its evidence, whatever day it is."""
    return case.request.credential.observed_at if isinstance(case.request, RotationRequest) else None


def _rows(task: str, ends: Sequence[tuple[Case, Any, CallRecord | None]]) -> list[dict[str, Any]]:
    mine = [(case, verdict, call) for case, verdict, call in ends if case.request.task == task]
    right = rejected = failed = 0
    for case, verdict, _ in mine:
        if isinstance(verdict, KeyturnError):
            failed += 1
        elif isinstance(verdict, Rejection | Disagreement):
            rejected += 1
        else:
            right += is_right(case, verdict)
    calls = [call for _, _, call in mine if call is not None]
    priced = [call.cost_usd for call in calls if call.cost_usd is not None]
    cost = f"${sum(priced, Decimal(0)):.6f}" if len(priced) == len(calls) else "unknown"
    p50 = statistics.median(call.latency_ms for call in calls) if calls else float("nan")
    wrong = len(mine) - right - rejected - failed
    detail = (
        f"{len(mine)} cases: {right} right, {wrong} accepted and wrong, {rejected} rejected, {failed} unanswered; "
        f"cost {cost}, p50 {p50:.0f} ms"
    )
    a_case = float(sum(priced, Decimal(0)) / len(priced)) if priced and len(priced) == len(calls) else None
    return [
        {"name": f"{task} accuracy", "ratio": round(right / len(mine), 4), "detail": detail},
        {"name": f"{task} cost a case", "ratio": a_case, "detail": "US dollars; None if a price is unknown"},
        {"name": f"{task} p50", "ratio": round(p50, 1) if calls else None, "detail": "milliseconds"},
    ]


async def _count_caught(cases: Sequence[Case], catalogue: Catalogue) -> list[dict[str, Any]]:
    """How many of a careless model's wrong answers are refused, by what they would do: all, or the gate leaks."""
    asked: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    for case in cases:
        if not isinstance(case.request, RotationRequest):
            continue
        windows = {line.id: line.window_days for line in catalogue.resolve(case.request.policy_lines)}
        expected = case.expect
        for harm, answer in wrong_answers(
            case.request, expected["decision"], expected["rotation_window_days"], windows
        ):
            boundary = ModelBoundary(
                {"*": [Careless(answer)]},
                catalogue,
                guard=Guard(RateCard({}, lists=price_lists_of_providers())),
                record=lambda _: None,
                clock=lambda at=case.request.credential.observed_at: at,  # type: ignore[misc]
            )
            verdict = (await boundary.answer(case.request)).verdict
            asked[harm] += 1
            # A due key on which the model insists is a disagreement: it waits for a person.
            caught[harm] += isinstance(verdict, Rejection | Disagreement)
    return [
        {
            "name": name,
            "ratio": round(caught[harm] / asked[harm], 4),
            "reach": ">= 1",
            "holds": caught[harm] == asked[harm] > 0,
            "detail": f"{caught[harm]} of {asked[harm]} answers of a careless model {outcome}",
        }
        for harm, name, outcome in (
            ("yes", "unsupported answers caught", "that would have made a job"),
            ("no", "wrong noes caught", "that say no against the evidence, or to what is not known"),
            ("lines", "omitted lines caught", "that leave out the line that binds"),
        )
    ]


def _wrong_jobs(ends: Sequence[tuple[Case, Any, CallRecord | None]]) -> dict[str, Any]:
    """How many decisions of this route would have created a job that the case does not support: an unsupported yes."""
    wrong = [
        case.id for case, verdict, _ in ends if is_wrong_yes(verdict, due=case.expect.get("decision") == "eligible")
    ]
    return {
        "name": "wrong jobs",
        "ratio": len(wrong),
        "reach": "<= 0",
        "holds": not wrong,
        "detail": ", ".join(wrong) or "unsupported yes: decisions that would have made a job against policy or facts",
    }


def _count_missed(ends: Sequence[tuple[Case, Any, CallRecord | None]]) -> dict[str, Any]:
    """How many keys that are due ended quietly: accepted with a no. One that waits for a person is not missed."""
    due = [(case, verdict) for case, verdict, _ in ends if case.expect.get("decision") == "eligible"]
    missed = [case.id for case, verdict in due if kind_of(verdict) in {*NOES}]
    waiting = sum(isinstance(verdict, Disagreement) for _, verdict in due)
    return {
        "name": "missed due keys",
        "ratio": len(missed),
        "reach": "<= 0",
        "holds": not missed,
        "detail": ", ".join(missed)
        or f"false no: of {len(due)} due keys, {waiting} wait for a person as disagreements",
    }


def _format_figure(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.6g}"


def _compare(row: dict[str, Any], accepted: dict[str, float]) -> dict[str, Any]:
    if "reach" in row:
        return row
    was, now = accepted.get(row["name"]), row["ratio"]
    if was is None or now is None:
        reach, holds = "-", was is None  # what had a figure and has none any more has got worse
    elif row["name"].endswith("accuracy"):
        reach, holds = f">= {was:g}", now >= was
    else:
        most = max(was * COST_GROWTH, 0) if row["name"].endswith("cost a case") else max(was * SLOWER, SLOW_MS)
        reach, holds = f"<= {most:.3g}", now <= most
    return {"name": row["name"], "ratio": row["ratio"], "reach": reach, "holds": holds, "detail": row["detail"]}


if __name__ == "__main__":
    sys.argv[0] = "python -m keyturn.lab.evals"
    run_and_leave(main)
