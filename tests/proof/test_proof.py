"""The proof in short: real processes under faults, and the controls that it must catch."""

import asyncio
import json
import sys
from pathlib import Path

from proof.plan import KINDS, fault_of, plan


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


async def test_each_fault_is_survived_with_exactly_one_job(tmp_path: Path) -> None:
    """Every kind of fault, with whole processes killed, stopped and cut off beside them."""
    options = ("--faults", "40", "--database", "postgresql", "--no-controls")
    status, told, rows = await proved(tmp_path / "proof.json", *options)
    assert status == 0, told
    assert {str(row["name"]).removesuffix(" on postgresql") for row in rows} >= set(KINDS)


async def test_a_naive_way_is_caught(tmp_path: Path) -> None:
    """The one that is caught soonest; `make prove` has all of them."""
    status, told, (row,) = await proved(tmp_path / "proof.json", "--only", "trusting_gate")
    assert (status, row["holds"]) == (0, True), told
