"""The proof in short: real processes under faults, and the controls that it must catch."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import make_url

from keyturn.lab.proof.checker import facts_of, strays, violations
from keyturn.lab.proof.driver import drive
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.page import rewrite
from keyturn.lab.proof.plan import CALM, KINDS, Operation, fault_of, plan
from keyturn.lab.proof.report import print_stories, survivals
from keyturn.lab.proof.soak import MAY_GROW, SoakResult, picture, soak_rows
from keyturn.lab.proof.world import World, ask_simulator, world
from keyturn.lab.stack.processes import StackNotStarted
from tests.support.keys import KEYRING


async def proved(results: Path, *options: str) -> tuple[int, str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "keyturn.lab.proof", "--results", str(results), *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=asyncio.subprocess.STDOUT)
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:  # the test was given up: what the proof has started ends with it
            process.terminate()
            await process.wait()
    assert results.exists(), out.decode()[-2_000:]  # it ended before it had any
    return process.returncode or 0, out.decode(), json.loads(results.read_text())


def test_a_seed_plans_the_same_faults_again_and_each_is_met() -> None:
    """And the account carries its fault, so that whichever worker has the step meets it."""
    assert plan(200, 7, "sqlite") == plan(200, 7, "sqlite")
    assert plan(200, 7, "sqlite") != plan(200, 8, "sqlite")
    for database in ("postgresql", "sqlite"):
        here = {name for name, kind in KINDS.items() if kind.on in {None, database}}
        assert {one.fault for one in plan(len(here), 1, database)} == here
    planned = plan(200, 7, "sqlite")
    assert all(fault_of(one.account) == one.fault for one in planned)
    both = [one for one in planned if one.also]
    assert both
    assert all((one.kind.by, KINDS[one.also].by) == ("worker", "provider") for one in both)
    assert any(one.also for one in plan(20, 7, "sqlite", only="answer_lost")), "one alone meets others, too"


async def test_a_part_that_cannot_start_ends_the_proof_by_what_it_printed(tmp_path: Path) -> None:
    """It would be started again for ever."""
    made = World(tmp_path, make_url("sqlite:///x"), "", KEYRING, {}, Random(1))
    command: list[str | Path] = [sys.executable, "-c", "raise SystemExit('no such module')"]
    with pytest.raises(StackNotStarted, match="worker_0 does not start: no such module"):
        await made.supervise("worker_0", lambda: command, None, starts_in_vain=2)


@pytest.mark.timeout(480)  # two minutes; a machine that has other work, too, may take twice as long
async def test_each_fault_is_survived_with_exactly_one_job(tmp_path: Path) -> None:
    """Every kind of fault, with whole processes killed, stopped and cut off beside them.

    On PostgreSQL; `make prove` meets them on SQLite, too.
    """
    picture = tmp_path / "proof.svg"
    options = ("--faults", "60", "--database", "postgresql", "--no-controls", "--plot", str(picture))
    status, printed, rows = await proved(tmp_path / "proof.json", *options)
    assert status == 0, printed
    here = {name for name, kind in KINDS.items() if kind.on in {None, "postgresql"}}
    reported = {str(row["name"]).removesuffix(" on postgresql") for row in rows}
    assert reported >= here | {"all", "ledger and provider agree"}
    assert [row["name"] for row in rows if ": 0" in str(row["detail"])] == [], "each is met"
    assert picture.read_text().count("<rect") == sum("; p50 " in str(row["detail"]) for row in rows)


async def test_a_naive_way_is_caught(tmp_path: Path) -> None:
    """The one that is caught soonest; `make prove` has all of them."""
    status, printed, (row,) = await proved(tmp_path / "proof.json", "--only", "trusting_gate")
    assert (status, row["holds"]) == (0, True), printed


async def test_a_violation_is_reported_with_the_whole_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked and seen, what every part wrote down, and how to run just that again."""
    url = f"sqlite:///{tmp_path / 'keyturn.db'}"
    async with world(tmp_path, url, control="trusting_gate", chance=Random(0)) as here:
        seen = await drive(here, [Operation(1, "wrong_window")])
        requests: Any = await ask_simulator(here.simulator, "GET", "/control/requests")
        facts = await facts_of(here.database, requests, here.keyring, await here.client(), seen)
        found = violations(seen, facts, exact=False)
        assert [one.claim for one in found] == [
            "each fault has its required outcome",
            "it is rejected, and does not just fail",
        ]
        await print_stories(here, found, 7, "sqlite")
        assert strays(seen, facts) == []
        job, running = "acct_nobodys", replace(facts, running={"rotation:1"})
        unknown = replace(running, jobs={**facts.jobs, job: []})
        assert [one.claim for one in strays(seen, unknown)] == [
            "every job was asked for",
            "every workflow closes",
        ]
    printed = capsys.readouterr().err
    for step in (
        "VIOLATION: each fault has its required outcome: job_created, jobs",
        "seen      invoke: start",
        "seen      ok: job_created",
        "history   workflow_execution_started",
        "history   activity_task_scheduled create_rotation_job",
        "provider  openai wrong_window 200",
        "database  job job_",
        "database  call openai ",
        "again, just that: keyturn prove --faults 20 --only wrong_window --database sqlite --seed 7",
    ):
        assert step in printed, printed


def test_a_frozen_claim_that_never_wakes_up_does_not_hold(tmp_path: Path) -> None:
    """Where others' faults kill its worker it cannot; where no worker is killed it has to."""
    here: Any = SimpleNamespace(marks=tmp_path, befell=[])
    killed, quiet = (OperationRecord(Operation(number, "freeze"), began=0.0, struck=1.0) for number in (1, CALM))
    [figure] = survivals(here, [killed, quiet], [], "sqlite")
    assert (figure.holds, figure.woke, figure.times) == (False, 0, 2)
    (tmp_path / f"{quiet.operation.account}.woke").touch()
    [figure] = survivals(here, [killed, quiet], [], "sqlite")
    assert (figure.holds, figure.woke, figure.times) == (True, 1, 2)


def test_a_soak_tells_what_drifts() -> None:
    """The last quarter against the second, each figure by its own limit; and a figure that was never seen is none."""
    soaked = SoakResult(seconds=400)
    for name in MAY_GROW:
        soaked.series[name] = [(at, 1.0) for at in range(0, 400, 10)]
    assert all(row["holds"] for row in soak_rows(soaked, 0, {}))
    soaked.series["memory"] = [(at, 1 + at / 400) for at in range(0, 400, 10)]
    soaked.series["events"] = []
    failed = {row["name"] for row in soak_rows(soaked, 2, {}) if not row["holds"]}
    assert failed == {"soak: memory", "soak: events", "soak: all"}
    assert picture(soaked).count("polyline") == len(MAY_GROW)


def test_the_page_tells_of_the_run_that_is_kept() -> None:
    """Its tables are written by the run and the soak whose results stand beside it."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "proof.md").read_text()
    for results in ("proof.json", "soak.json"):
        assert rewrite(page, json.loads((docs / results).read_text())) == page, results
