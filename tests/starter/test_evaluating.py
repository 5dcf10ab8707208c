"""`keyturn labels` and `keyturn eval`, as an operator types them before a release."""

import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyturn.application.answers import answer
from keyturn.application.rotation_status import Handle, outcome_of, status_of
from keyturn.lab.proof.plan import WRONG_NO
from keyturn.lab.stack.embedded import Stack, worker_environment
from keyturn.rotations.contracts import Approval, Denial
from keyturn.workflows.rotation import RotationWorkflow
from tests.starter.test_commands import Terminal, json_of, terminal  # noqa: F401 - terminal is a fixture
from tests.support.simulated import SimulatorControl

PRIVATE = ("May it be rotated?", "acct_10234", "Luna's private words", "key_of_a_label")
P7_IN_A_WEEK = """
[[line]]
id = "P-7"
version = 2
wording = "Stale service-account keys must rotate within 7 days."
applies_to = ["service_account_key"]
window_days = 7
rule = { when = "stale" }
source = { benchmark = "tests", release = "2", id = "P-7" }
"""


@dataclass
class Office:
    """A terminal with a worker's settings, in a tenant of its own."""

    terminal: Terminal
    simulated: SimulatorControl
    stack: Stack
    settings: dict[str, str]

    async def settle(self, said: str) -> str:
        """Bring a due key to a disagreement, and have an approver settle it; returns the workflow's ID."""
        await self.simulated.fail("says", content=WRONG_NO, times=2)
        key = f"key_of_a_label_{uuid.uuid4().hex[:8]}"
        asked = json_of(await self.terminal.rotate("--stale", key=key, **self.settings))
        await self.simulated.reset()
        assert asked["status"] == "disagreement", asked
        handle: Handle = self.stack.client.get_workflow_handle_for(RotationWorkflow.run, asked["workflow_id"])
        status = await status_of(handle)
        assert status is not None
        assert status.decision is not None
        approval = Approval(approver="omar", digest=status.decision.digest)
        denial = Denial(approver="omar", digest=status.decision.digest, reason="Luna's private words")
        await answer(handle, said, approval if said == "approve" else denial)
        await outcome_of(handle)
        return str(asked["workflow_id"])

    async def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        ended = await self.terminal.run(*arguments, **self.settings | variables)
        if arguments[0] not in {"labels", "eval"}:  # others name keys and accounts
            return ended
        assert [private for private in PRIVATE if private in ended.stdout + ended.stderr] == []
        return ended

    async def evaluate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await self.run("eval", "--from-labels", *arguments)


@pytest.fixture
async def office(terminal: Terminal, simulated: SimulatorControl, stack: Stack) -> Office:  # noqa: F811
    settings = worker_environment(stack.address, stack.database, stack.simulator, keys=stack.keys)
    ours = {name: value for name, value in settings.items() if name not in {"PATH", "HOME", "LANG"}}
    return Office(terminal, simulated, stack, ours | {"KEYTURN_TENANT": f"t-{uuid.uuid4().hex[:12]}"})


async def test_a_candidate_is_held_against_what_people_decided(office: Office, tmp_path: Path) -> None:
    """What would change, by pseudonyms; the bounds; the gate both ways; and no job, no rotation, no cached answer."""
    yes, no = await office.settle("approve"), await office.settle("deny")
    collected = json_of(await office.run("labels", "collect", "--json"))
    assert collected == {"collected": {"eligible": 1, "not_eligible": 1}, "gone": [], "unreadable": [], "renewed": 0}
    [first, second] = json_of(await office.run("labels", "--json"))["labels"]
    assert (first["policy_lines"], first["label"], first["source"]) == ("P-7", "eligible", "disagreement")
    assert second["label"] == "not_eligible"
    assert "P-7  eligible, by disagreement  1 case  " in (await office.run("labels")).stdout
    jobs = json_of(await office.run("jobs", "--json"))["jobs"]

    table = await office.evaluate()
    assert table.returncode == 0, table.stderr
    assert "1 of 1 (100.00%)" in table.stdout
    assert "0 of 1 (95.00%)" in table.stdout
    assert f"{yes}  disagreement -> eligible within 30 days  (a person said: eligible)" in table.stdout
    assert f"{no}  disagreement -> eligible within 30 days  (a person said: not eligible)" in table.stdout
    found = json_of(await office.evaluate("--json", "--limit", "5"))
    [_, total] = found["figures"]
    assert (total["lines"], total["cases"], total["right"]) == ("all", 2, 1)
    assert total["wrong_yes"] == {"count": 1, "of": 1, "at_most": 1.0}
    assert total["would_be"] == {"job": 2}
    assert (found["other_policy"], found["unasked"], found["unanswered"]) == (0, 0, {})

    holds = await office.evaluate("--require", "wrong_no<=0.95", "--require", "cost_usd <= 1")
    assert holds.returncode == 0, holds.stderr
    fails = await office.evaluate("--require", "wrong_yes<=0.001")
    assert fails.returncode == 1
    assert "wrong_yes<=0.001 does not hold: 1 of 1 cases, so the rate may be 100.0000%" in fails.stderr
    unread = await office.evaluate("--require", "wrong_yes=0")
    assert (unread.returncode, "is not NAME<=NUMBER" in unread.stderr) == (2, True)

    policy = tmp_path / "proposed"
    policy.mkdir()
    (policy / "ours.toml").write_text(P7_IN_A_WEEK)
    proposed = ("--policy-dir", str(policy), "--shipped-lines", "off")
    other = json_of(await office.evaluate(*proposed, "--json"))
    assert other["other_policy"] == 2
    assert json_of(await office.run("jobs", "--json"))["jobs"] == jobs
    listed = json_of(await office.run("list", "--json", "--tenant", office.settings["KEYTURN_TENANT"]))
    assert len(listed["rotations"]) == 2
    users = json_of(await office.run("costs", "--by", "user", "--json"))["costs"]
    [by_eval] = [row for row in users if row["user"] == "eval"]
    assert by_eval["calls"] == 2 * 5, "two cases, five times"
    assert by_eval["cache_hits"] == 0


async def test_what_is_not_answered_fails_the_gate(office: Office) -> None:
    """A model that is silent on the hard cases is not a better one; nor is a part of the cases all of them."""
    await office.settle("deny")
    await office.run("labels", "collect")
    await office.simulated.fail("unauthorized", times=None)
    silent = await office.evaluate("--require", "wrong_yes<=1")
    await office.simulated.reset()
    assert silent.returncode == 1
    assert "no requirement holds: 1 case without an answer: authentication_failed 1" in silent.stderr
    stopped = await office.evaluate("--max-usd", "0", "--require", "wrong_yes<=1")
    assert (stopped.returncode, "max_usd_reached 1" in stopped.stderr) == (1, True)
    unknown = await office.evaluate("--prompt-version", "rotation_decision@99")
    assert (unknown.returncode, "rotation_decision@2" in unknown.stderr) == (1, True)
    route = await office.evaluate("--route", "nowhere:model")
    assert (route.returncode, "KEYTURN_ROUTES" in route.stderr) == (1, True)


async def test_without_a_label_nothing_passes(office: Office) -> None:
    ended = await office.evaluate("--require", "wrong_yes<=1")
    assert (ended.returncode, "has no labelled case" in ended.stderr) == (1, True)
    empty = await office.run("labels")
    assert (empty.returncode, "has no labelled case" in empty.stderr) == (0, True)
    bare = await office.run("eval")
    assert (bare.returncode, "--from-labels" in bare.stderr) == (2, True)
