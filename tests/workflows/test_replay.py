"""Histories of every outcome, recorded from real runs, still replay with the workflow code of today."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from tests.record_histories import FOLDER, SAID
from workflows.rotation import RotationWorkflow


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
async def test_a_recorded_history_replays_in_the_sandbox(file: Path) -> None:
    """A workflow that runs while we deploy goes on with the new code. If this fails, guard the change by patched()."""
    replayer = Replayer(
        workflows=[RotationWorkflow],
        workflow_runner=SandboxedWorkflowRunner(),
        data_converter=pydantic_data_converter,
    )
    result = await replayer.replay_workflow(WorkflowHistory.from_json(f"recorded-{file.stem}", file.read_text()))
    assert result.replay_failure is None


def test_every_outcome_has_a_recorded_history() -> None:
    """None is forgotten."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(SAID)
    assert {"job_created", "not_eligible", "not_specified", "rejected", "timeout", "failed"} <= set(SAID)
