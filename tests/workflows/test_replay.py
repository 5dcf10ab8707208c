"""Histories of every outcome, recorded from real runs, still replay with the workflow code of today."""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from keyturn.workflows.registry import WORKFLOWS
from tests.support.other_histories import CASES as OTHER_CASES
from tests.support.record_histories import (
    CASES,
    COMMANDS,
    FOLDER,
    OTHER,
    commands_of,
    run,
    scratch_store,
    server_of,
    servers,
    skipping_server,
)

TEACH = """
The workflow gives Temporal other commands than it did in this case:

  recorded: {recorded}
  now:      {now}

Rotations that are under way, some of them parked for days, replay their history with the code that is deployed. A
worker of another build does not take them (they are pinned to theirs), but a reset, a rollback or a moved rotation
would end in a non-determinism error. So keep the old way beside the new one, until no run of it is left:

  if workflow.patched("what-changes"):   # new runs take this way, and remember it in their history
      ...
  else:                                  # runs from before go on as they began
      ...

Only if no rotation of the old code can be running any more (a case that is new, or nothing released yet), delete the
case's file in tests/histories and its entry in commands.json, and run `make histories`.
docs/how-to/run-in-production.md says more.
"""


@pytest.mark.parametrize(
    "file",
    # `before`: of ways that new rotations do not take any more, and older ones may be on.
    sorted([*FOLDER.glob("*.json"), *FOLDER.glob("others/*.json"), *FOLDER.glob("before/*.json")]),
    ids=lambda file: file.stem,
)
async def test_a_recorded_history_replays_in_the_sandbox(file: Path) -> None:
    """A running workflow continues with newly deployed code. If this fails, guard the change by patched()."""
    replayer = Replayer(
        workflows=WORKFLOWS,
        workflow_runner=SandboxedWorkflowRunner(),
        data_converter=pydantic_data_converter,
    )
    result = await replayer.replay_workflow(WorkflowHistory.from_json(f"recorded-{file.stem}", file.read_text()))
    assert result.replay_failure is None


def test_every_outcome_has_a_recorded_history() -> None:
    """None is forgotten."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(CASES)
    assert {file.stem for file in (FOLDER / OTHER).glob("*.json")} == set(OTHER_CASES)
    assert {case.ends for case in CASES.values()} == {
        "job_created",
        "not_eligible",
        "not_specified",
        "rejected",
        "timeout",
        "failed",
    }


async def test_each_case_gives_temporal_the_commands_that_it_gave_when_it_was_recorded() -> None:
    """A change of the workflow's steps is seen before it is deployed, and the failure says how to make it."""
    recorded = json.loads(COMMANDS.read_text())
    async with servers() as client, scratch_store() as store:
        for name, case in CASES.items():
            async with server_of(case.waits_long, client) as place:
                now = commands_of(await run(name, case, place, store))
            assert now == recorded[name], TEACH.format(recorded=recorded[name], now=now)
        for name, bring in OTHER_CASES.items():
            async with skipping_server() as place:
                now = commands_of(await bring(place))
            assert now == recorded[name], TEACH.format(recorded=recorded[name], now=now)
