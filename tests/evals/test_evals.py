"""The evaluation runs against the simulator, and a fall below the accepted figures fails it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from keyturn.lab.evals.cases import load_cases
from keyturn.lab.stack.embedded import simulator_process, worker_environment
from keyturn.lab.stack.loopback import loopback_client
from keyturn.policy.catalogue import Catalogue

ROOT = Path(__file__).parents[2]


async def evaluated(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "keyturn.lab.evals", *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_the_simulators_answers_are_as_good_as_those_accepted_last(tmp_path: Path) -> None:
    """Every task, no wrong job, and each unsupported answer of a careless model caught."""
    results = tmp_path / "results.json"
    ended = await evaluated("--results", str(results))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = {row["name"]: row for row in json.loads(results.read_text())}
    assert rows["wrong jobs"]["ratio"] == 0
    assert rows["unsupported answers caught"]["ratio"] == 1
    assert rows["decide_rotation accuracy"]["reach"] == ">= 1"
    assert set(rows["wrong jobs"]) == {"name", "ratio", "reach", "holds", "detail"}


async def test_a_worse_model_fails_the_run_and_makes_no_job(tmp_path: Path) -> None:
    """A provider that says 90 days to everything: accuracy falls, every such answer is rejected."""
    async with simulator_process() as address:
        async with loopback_client(address) as http:
            fault = {"name": "wrong_window", "days": 7, "times": None}
            (await http.post("/control/faults", json=fault)).raise_for_status()
        url = f"sqlite:///{tmp_path}/keyturn.db"
        variables = {
            name: value
            for name, value in worker_environment("", url, address, keys=None).items()
            if name.startswith(("KEYTURN_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "DATABASE_"))
        }
        results = tmp_path / "results.json"
        ended = await evaluated("--task", "decide_rotation", "--verbose", "--results", str(results), **variables)
    assert ended.returncode == 1
    rows = {row["name"]: row for row in json.loads(results.read_text())}
    assert not rows["decide_rotation accuracy"]["holds"]
    assert rows["decide_rotation cost a case"]["holds"]
    assert rows["wrong jobs"]["ratio"] == 0
    assert "decide_rotation/founding-case: unsupported_window" in ended.stderr


def test_the_cases_are_many_and_cover_every_task_and_the_edges(catalogue: Catalogue) -> None:
    """At least 80, over all tasks and most policy lines, each with a unique name."""
    cases = load_cases(catalogue)
    assert len(cases) >= 80
    assert len({case.id for case in cases}) == len(cases)
    assert {case.request.task for case in cases} == {
        "decide_rotation", "summarize_scan", "draft_reply", "summarize_policy", "extract_ticket",
    }  # fmt: skip
    lines = {ref.id for case in cases for ref in case.request.policy_lines}
    assert len(lines) >= 14
    decisions = [case.expect["decision"] for case in cases if case.request.task == "decide_rotation"]
    assert all(decisions.count(said) >= 10 for said in ("eligible", "not_eligible", "not_specified"))
