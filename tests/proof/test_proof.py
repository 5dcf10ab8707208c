"""The proof in short: real processes under faults, and the controls that it must catch."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from proof.plan import KINDS, fault_of, plan
from proof.soak import MAY_GROW, Soaked, picture, rows_of


async def proved(results: Path, *options: str) -> tuple[int, str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "proof", "--results", str(results), *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=asyncio.subprocess.STDOUT)
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode(), json.loads(results.read_text())


def test_a_seed_plans_the_same_faults_again_and_each_is_met() -> None:
    """And the account carries its fault, so that whichever worker has the step meets it."""
    assert plan(200, 7, "sqlite") == plan(200, 7, "sqlite")
    assert plan(200, 7, "sqlite") != plan(200, 8, "sqlite")
    for database in ("postgresql", "sqlite"):
        here = {name for name, kind in KINDS.items() if kind.on in {None, database}}
        assert {one.fault for one in plan(len(here), 1, database)} == here
    assert all(fault_of(one.account) == one.fault for one in plan(200, 7, "sqlite"))


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_each_fault_is_survived_with_exactly_one_job(tmp_path: Path, database: str) -> None:
    """Every kind of fault, with whole processes killed, stopped and cut off beside them."""
    options = ("--faults", "60", "--database", database, "--no-controls")
    status, told, rows = await proved(tmp_path / "proof.json", *options)
    assert status == 0, told
    here = {name for name, kind in KINDS.items() if kind.on in {None, database}}
    assert {str(row["name"]).removesuffix(f" on {database}") for row in rows} == here | {
        "all",
        "ledger and provider agree",
    }


async def test_a_naive_way_is_caught(tmp_path: Path) -> None:
    """The one that is caught soonest; `make prove` has all of them."""
    status, told, (row,) = await proved(tmp_path / "proof.json", "--only", "trusting_gate")
    assert (status, row["holds"]) == (0, True), told


def test_a_soak_tells_what_drifts() -> None:
    """The last quarter against the second, each figure by its own limit; and a figure that was never seen is none."""
    soaked = Soaked(seconds=400)
    for name in MAY_GROW:
        soaked.series[name] = [(at, 1.0) for at in range(0, 400, 10)]
    assert all(row["holds"] for row in rows_of(soaked, 0, {}))
    soaked.series["memory"] = [(at, 1 + at / 400) for at in range(0, 400, 10)]
    soaked.series["events"] = []
    failed = {row["name"] for row in rows_of(soaked, 2, {}) if not row["holds"]}
    assert failed == {"soak: memory", "soak: events", "soak: all"}
    assert picture(soaked).count("polyline") == len(MAY_GROW)
