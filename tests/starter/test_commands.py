"""The command line as a person uses it: real processes, on a real stack."""

import asyncio
import json
import os
import re
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import start_or_attach
from keyturn.database import database_url, open_database
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import job_audit, outbox, rotation_jobs
from keyturn.lab.stack.embedded import Stack
from keyturn.llm.errors import ProviderTimeout
from keyturn.llm.outages import FAILURES_TO_OPEN, Outages
from keyturn.llm.shared_outages import SharedOutages
from keyturn.rotations.outcomes import JobCreated
from keyturn.starter.cli import COMMANDS, GROUPS
from tests.support.cases import request
from tests.support.simulated import SimulatorControl
from tests.support.warm import run_warm
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval, worker_on

RATES = Path(__file__).parents[2] / "lab" / "stack" / "rates.toml"


class Terminal:
    """Runs `keyturn` with the variables of one stack."""

    def __init__(self, environment: dict[str, str], folder: Path, warm: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.warm = warm

    async def run(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            run_warm,
            self.warm,
            [*arguments],
            environment=self.environment | variables,
            folder=self.folder,
            stdin=stdin,
        )

    async def rotate(
        self, *arguments: str, key: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        key = key or f"key_{uuid.uuid4().hex[:12]}"
        base = ("--account", "acct_10234", "--key-id", key, "--policy", "P-7", "--question", "May it be rotated?")
        return await self.run("rotate", *base, "--json", *arguments, **variables)


@pytest.fixture
def terminal(stack: Stack, tmp_path: Path, warm: Path) -> Terminal:
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    environment |= {"TEMPORAL_ADDRESS": stack.address, "DATABASE_URL": stack.database}
    environment["KEYTURN_PAYLOAD_KEYS_FILE"] = str(stack.keys)
    return Terminal(environment, tmp_path, warm)


def json_of(process: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON object on standard output."""
    lines = process.stdout.splitlines()
    assert len(lines) == 1, process
    return json.loads(lines[0])


async def test_rotate_creates_the_job_and_the_same_command_attaches(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """One JSON object each, with the same job; the second says that it attached."""
    first = await terminal.rotate("--stale", key="key_first")
    second = await terminal.rotate("--stale", key="key_first")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    one, two = json_of(first), json_of(second)
    assert re.fullmatch(r"rotate:default:~[0-9a-f]{20}:~[0-9a-f]{20}:P-7@1", one["workflow_id"])
    by_name = await terminal.run("status", "rotate:default:acct_10234:key_first:P-7@1", "--json")
    assert (json_of(by_name)["workflow_id"], json_of(by_name)["job_id"]) == (one["workflow_id"], one["job_id"])
    assert (one["status"], one["decision"], one["created"], one["attached"]) == ("job_created", "eligible", True, False)
    assert (two["job_id"], two["attached"]) == (one["job_id"], True)
    jobs = await terminal.run("jobs", "--json", "--limit", "1000")
    assert [job["job_id"] for job in json_of(jobs)["jobs"]].count(one["job_id"]) == 1


async def test_lines_of_other_kinds_and_a_job_that_was_there_are_said(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """On the terminal and as JSON: a line that was not considered would else count as looked at."""
    key = f"key_{uuid.uuid4().hex[:8]}"
    asked = ["--account", "acct_10234", "--key-id", key, "--policy", "P-7", "--policy", "CIS-AWS-4.0-1.14", "--stale"]
    first = await terminal.run("rotate", *asked, "--question", "May it be rotated?")
    note = "CIS-AWS-4.0-1.14@1 covers no service account key, and was not considered"
    assert note in first.stderr
    assert re.match(r"job job_\w+ \(created\)", first.stdout)
    second = await terminal.run("rotate", *asked, "--question", "May it be rotated?")
    assert re.match(r"job job_\w+ \(there already, open\)", second.stdout), second.stdout
    as_json = json_of(await terminal.run("rotate", *asked, "--question", "May it be rotated?", "--json"))
    assert (as_json["notes"], as_json["attached"]) == ([note], True)


async def test_a_key_whose_job_was_cancelled_gets_another_one_by_again(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """The same command says that nothing rotates the key, and what to do; --again does it."""
    key = f"key_{uuid.uuid4().hex[:8]}"
    first = json_of(await terminal.rotate("--stale", key=key))
    await terminal.run("jobs", "cancel", first["job_id"], "--reason", "wrong week")
    same = await terminal.rotate("--stale", key=key)
    found = json_of(same)
    assert (same.returncode, found["job_id"], found["job_state"]) == (1, first["job_id"], "cancelled")
    status = await terminal.run("status", first["workflow_id"])
    assert (status.returncode, "cancelled: nothing rotates the key any more" in status.stdout) == (1, True)
    elsewhere = await terminal.run("status", first["workflow_id"], "--json", DATABASE_URL="sqlite:///elsewhere.db")
    assert json_of(elsewhere)["job_state"] is None, "what history has is the state of then"
    assert f"keyturn status {first['job_id']}" in elsewhere.stderr
    again = await terminal.rotate("--stale", "--again", key=key)
    new = json_of(again)
    assert (again.returncode, new["created"], new["job_id"] != first["job_id"]) == (0, True, True)
    after = await terminal.rotate("--stale", key=key)
    assert (after.returncode, json_of(after)["job_id"], json_of(after)["job_state"]) == (0, new["job_id"], "open")
    shown = await terminal.run("jobs", "show", new["job_id"])
    assert first["job_id"] in shown.stdout, "what it replaces"


async def test_status_and_watch_tell_how_it_ended(terminal: Terminal, simulated: SimulatorControl) -> None:
    """Later, from another terminal, by the workflow's id."""
    key = f"key_{uuid.uuid4().hex[:8]}"
    made = json_of(await terminal.rotate("--stale", key=key))
    status = await terminal.run("status", made["workflow_id"], "--json")
    watched = await terminal.run("watch", made["workflow_id"])
    assert json_of(status)["job_id"] == made["job_id"]
    over = await terminal.run("cancel", made["workflow_id"], "--reason", "too late")
    assert (over.returncode, "the rotation has ended already: nothing was cancelled" in over.stderr) == (1, True)
    assert status.returncode == watched.returncode == 0
    assert "decide: grounded, eligible" in watched.stdout
    assert f"create_rotation_job: {made['job_id']}, created" in watched.stdout


async def test_rotations_are_listed_by_name_and_filtered(
    terminal: Terminal, simulated: SimulatorControl, tmp_path: Path
) -> None:
    """In aligned columns, as JSON, and with a word where there is more than is shown."""
    account = f"acct_{uuid.uuid4().hex[:8]}"
    asked = ("--account", account, "--policy", "P-7", "--question", "May it be rotated?", "--json")
    owners = {"KEYTURN_KEY_MAP": str(tmp_path / "keys.toml")}
    (tmp_path / "keys.toml").write_text(f'[[key]]\naccount = "{account}"\nkey_id = "key_2"\nowner = "payments"\n')
    for number, facts in enumerate((("--stale",), ("--stale",), ("--not-stale",))):
        await terminal.run("rotate", *asked, "--key-id", f"key_{number}", *facts, **owners)
    listed = await terminal.run("list", "--account", account)
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["STATE", "KEY", "ACCOUNT", "OWNER", "POLICY", "ASKED", "BY", "ASKED", "ID"]
    assert len({row.index(account) for row in [*rows]}) == 1, "aligned"
    assert {row[: header.index("ACCOUNT")].strip() for row in rows} == {
        "job created    key_0".replace("    ", " " * (header.index("KEY") - len("job created"))),
        "job created    key_1".replace("    ", " " * (header.index("KEY") - len("job created"))),
        "not eligible   key_2".replace("   ", " " * (header.index("KEY") - len("not eligible"))),
    }
    some = json_of(await terminal.run("list", "--account", account, "--state", "job_created", "--json"))
    assert ({row["key_id"] for row in some["rotations"]}, some["more"]) == ({"key_0", "key_1"}, False)
    owned = {}
    for owner in ("payments", "@payments", "Payments", "unowned"):
        of_it = json_of(await terminal.run("list", "--account", account, "--owner", owner, "--json", **owners))[
            "rotations"
        ]
        owned[owner] = {row["key_id"]: row["owner"] for row in of_it}
    theirs = {"key_2": "payments"}
    assert owned == {"payments": theirs, "@payments": theirs, "Payments": {}, "unowned": {"key_0": None, "key_1": None}}
    cut = await terminal.run("list", "--account", account, "--limit", "2")
    assert "2 shown, and there are more" in cut.stderr
    none = await terminal.run("list", "--account", "acct_of_nobody")
    assert (none.returncode, none.stdout, "matches" in none.stderr) == (0, "", True)
    wrong = await terminal.run("list", "--key-id", "key_1")
    assert (wrong.returncode, "account" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)


async def test_status_watch_and_cancel_take_every_id_that_is_printed(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """A job's, a draft's, a delivery's; an unknown one of each kind is said to be unknown."""
    made = json_of(await terminal.rotate("--stale"))
    shown = await terminal.run("status", made["job_id"])
    assert (shown.returncode, shown.stdout.split()[0]) == (0, made["job_id"])
    cancelled = await terminal.run("cancel", made["job_id"], "--reason", "asked by mistake")
    assert cancelled.returncode == 0, cancelled.stderr
    watched = await terminal.run("watch", made["job_id"])
    assert (watched.returncode, watched.stdout.splitlines()[-1]) == (0, "job cancelled")
    assert "asked by mistake" in watched.stdout
    await simulated.fail("slow", seconds=30, times=None)
    key = f"key_{uuid.uuid4().hex[:8]}"
    early = json_of(await terminal.rotate("--stale", "--wait", "2", key=key))
    stopped = await terminal.run("cancel", early["workflow_id"], "--reason", "no longer needed")
    assert stopped.returncode == 0, stopped.stderr
    ended = await terminal.run("watch", early["workflow_id"])
    assert (ended.returncode, "failed: workflow_cancelled" in ended.stdout) == (1, True)
    for unknown in ("rotate:default:a:b:P-7@1", "run-none", "bulk:default:none", "execute:job_none", "draft:x:y"):
        for command in (("status",), ("watch",), ("cancel", "--reason", "x")):
            said = await terminal.run(command[0], unknown, *command[1:])
            assert said.returncode != 0
            assert ("Traceback" in said.stderr, bool(said.stderr.strip())) == (False, True), said
    for job in ("status", "watch"):
        said = await terminal.run(job, "job_none")
        assert (said.returncode, "no job job_none" in said.stderr) == (1, True)


async def test_a_deadline_that_passes_is_a_named_state(terminal: Terminal, simulated: SimulatorControl) -> None:
    """--wait 2 returns in time with the workflow's id; the same command later attaches and gets the job."""
    account = f"acct_{uuid.uuid4().hex[:8]}"  # so that no other rotation's call meets the fault
    await simulated.fail("slow", seconds=10, account=account)
    early = await terminal.rotate("--stale", "--account", account, "--wait", "2", key="key_1")
    assert early.returncode == 4
    assert json_of(early) == {
        "workflow_id": json_of(early)["workflow_id"],
        "status": "timeout",
        "attached": False,
        "next_step": "show_retry_option",
    }
    running = await terminal.run("status", json_of(early)["workflow_id"], "--json")
    late = await terminal.rotate("--stale", "--account", account, "--wait", "30", key="key_1")
    assert json_of(running)["status"] == "running"
    assert "decide: attempt 1" in json_of(running)["progress"]
    assert (json_of(late)["status"], json_of(late)["attached"]) == ("job_created", True)


@pytest.mark.parametrize(
    ("fault", "status", "reason", "next_step", "code"),
    [
        ("wrong_window", "rejected", "unsupported_window", "ask_again_or_inspect", 3),
        ("quota", "parked", "quota_exhausted", "fail_and_fix_quota", 5),
        ("unauthorized", "parked", "authentication_failed", "fail_and_fix_request", 5),
    ],
)
async def test_each_end_has_its_status_its_reason_and_its_exit_status(
    terminal: Terminal, simulated: SimulatorControl, fault: str, status: str, reason: str, next_step: str, code: int
) -> None:
    """Scripts branch on them."""
    await simulated.fail(fault)
    ended = await terminal.rotate("--stale")
    assert ended.returncode == code
    outcome = json_of(ended)
    assert (outcome["status"], outcome["reason"], outcome["next_step"]) == (status, reason, next_step)
    assert outcome["explanation"]


async def test_a_parked_rotation_is_listed_resumed_and_gets_its_job(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """The quota is raised, one command resumes, and the same `rotate` finds the job."""
    key = f"key_{uuid.uuid4().hex[:8]}"
    await simulated.fail("quota")
    parked = json_of(await terminal.rotate("--stale", key=key))
    second = await terminal.run("status", parked["workflow_id"])
    assert second.returncode == 5
    assert "parked: quota_exhausted, until" in second.stdout
    async with asyncio.timeout(20):
        while parked["workflow_id"] not in (listed := (await terminal.run("parked")).stdout):
            await asyncio.sleep(0.1)
    assert f"quota_exhausted  {key} of acct_10234 under P-7@1, asked by " in listed
    # By the names of account and key, as a person knows it.
    resumed = await terminal.run("resume", f"rotate:default:acct_10234:{key}:P-7@1", "--user", "omar")
    assert resumed.returncode == 0, resumed.stderr
    job = json_of(await terminal.rotate("--stale", key=key))
    assert (job["status"], job["attached"]) == ("job_created", True)
    twice = await terminal.run("resume", parked["workflow_id"])
    assert (twice.returncode, "closed already" in twice.stderr) == (1, True)
    shown = (await terminal.run("audit", parked["workflow_id"])).stdout
    for line in ("parked", "resumed", "omar", "created"):
        assert line in shown


async def test_a_job_is_claimed_completed_failed_and_shown_by_command(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """What the HTTP interface does, a shell script does too; and its story is shown."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    of_tenant = ("--tenant", tenant)
    for number in range(3):
        await terminal.rotate("--stale", *of_tenant, key=f"key_{number}")
    claimed = [json_of(await terminal.run("jobs", "claim", *of_tenant, "--user", "rotator")) for _ in range(3)]
    none = await terminal.run("jobs", "claim", *of_tenant)
    assert (none.returncode, "no free job" in none.stderr) == (1, True)
    first, second, third = (job["job_id"] for job in claimed)
    done = await terminal.run("jobs", "complete", first, *of_tenant, "--token", "1", "--evidence", "new_key_id=AKIA1")
    assert (done.returncode, "done" in done.stdout) == (0, True), done.stderr
    for hostile in ("a=\x1b[2J", "a b=c", "nothing", f"a={'x' * 501}"):
        refused = await terminal.run("jobs", "complete", second, *of_tenant, "--token", "1", "--evidence", hostile)
        assert (refused.returncode, "--evidence" in refused.stderr) == (2, True)
        assert "\x1b" not in refused.stderr
    lines = await terminal.run("jobs", "fail", second, *of_tenant, "--token", "1", "--reason", "two\nlines")
    assert (lines.returncode, "--reason" in lines.stderr) == (2, True)
    stale = await terminal.run("jobs", "complete", second, *of_tenant, "--token", "7")
    assert (stale.returncode, "the claim 7" in stale.stderr) == (1, True)
    assert (
        await terminal.run("jobs", "fail", second, *of_tenant, "--token", "1", "--reason", "no access")
    ).returncode == 0
    cancelled = await terminal.run("jobs", "cancel", third, *of_tenant, "--reason", "not needed", "--user", "omar")
    assert cancelled.returncode == 0, cancelled.stderr
    story = (await terminal.run("jobs", "show", first, *of_tenant)).stdout
    for line in ("done", "rotate key_", "claimed", "rotator", "new_key_id=AKIA1"):
        assert line in story
    listed = json_of(await terminal.run("jobs", *of_tenant, "--json"))["jobs"]
    assert sorted(job["status"] for job in listed) == ["cancelled", "done", "failed"]
    assert json_of(await terminal.run("jobs", *of_tenant, "--overdue", "--json")) == {"jobs": []}
    unknown = await terminal.run("jobs", "show", first)  # of another tenant
    assert (unknown.returncode, "there is no job" in unknown.stderr) == (1, True)


async def test_dead_letters_are_listed_and_sent_again_by_command(
    terminal: Terminal, simulated: SimulatorControl, stack: Stack
) -> None:
    """Abandoned while its receiver refused; sent again, its workflow starts."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    made = json_of(await terminal.rotate("--stale", "--tenant", tenant))
    assert "no dead letter" in (await terminal.run("deliveries", "--tenant", tenant)).stderr
    engine = open_database(database_url(stack.database))
    await Outbox(engine).mark_dead(made["job_id"], failure="receiver_refused")
    await engine.dispose()
    [dead] = json_of(await terminal.run("deliveries", "--tenant", tenant, "--json"))["dead_letters"]
    assert (dead["job_id"], dead["failure"]) == (made["job_id"], "receiver_refused")
    unknown = await terminal.run("deliveries", "resend", "job_none", "--tenant", tenant)
    assert (unknown.returncode, "no dead letter with the ID job_none" in unknown.stderr) == (1, True)
    # On a queue without workers: this stack's worker delivers nowhere.
    again = await terminal.run("deliveries", "resend", "--all", "--tenant", tenant, KEYTURN_TASK_QUEUE="nobody")
    assert (again.returncode, again.stdout) == (0, "resending 1 message\n"), again.stderr
    handle = stack.client.get_workflow_handle(f"deliver:{made['job_id']}")
    assert (await handle.describe()).workflow_type == "DeliveryWorkflow"
    await handle.terminate()


async def test_a_whole_outage_is_resumed_by_one_command(terminal: Terminal, simulated: SimulatorControl) -> None:
    """By kind; what it does not fix stays parked, and can be abandoned with a reason."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    await simulated.fail("quota", times=2)
    keys = [f"key_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    ids = [json_of(await terminal.rotate("--stale", "--tenant", tenant, key=key))["workflow_id"] for key in keys]
    async with asyncio.timeout(20):
        while len(json_of(await terminal.run("parked", "--tenant", tenant, "--json"))["waiting"]) < 2:
            await asyncio.sleep(0.1)
    wrong = await terminal.run("resume", "--all")
    assert (wrong.returncode, "--kind" in wrong.stderr) == (2, True)
    await simulated.fail("quota")
    one_left = await terminal.run("resume", "--all", "--kind", "quota_exhausted", "--tenant", tenant)
    assert "resumed 2 of 2" in one_left.stdout
    ends = [json_of(await terminal.rotate("--stale", "--tenant", tenant, key=key)) for key in keys]
    assert sorted(end["status"] for end in ends) == ["job_created", "parked"]
    still = ids[[end["status"] for end in ends].index("parked")]
    ended = await terminal.run("abandon", still, "--reason", "not this week", "--user", "omar")
    assert ended.returncode == 0, ended.stderr
    assert json_of(await terminal.run("status", still, "--json"))["reason"] == "abandoned"
    assert "not this week" in (await terminal.run("audit", still, "--tenant", tenant)).stdout


async def test_an_approval_is_given_for_what_was_shown(
    terminal: Terminal, stack: Stack, sqlite_store: JobStore
) -> None:
    """Shown first; then by its digest, and not by the requester."""
    queue, asked = f"test-{uuid.uuid4().hex}", request(user_id="luna")
    async with worker_on(stack.client, queue, Script(ELIGIBLE), sqlite_store, catalogue=with_approval()):
        rotation = await start_or_attach(stack.client, asked, task_queue=queue)
        workflow_id = id_of(asked)
        async with asyncio.timeout(20):
            while (shown := await terminal.run("approve", workflow_id, "--user", "omar")).stdout.count("\n") < 5:
                await asyncio.sleep(0.1)
        assert shown.returncode == 2  # no terminal, no digest
        assert f"rotate     {asked.credential.key_id} of acct_10234" in shown.stdout
        digest = shown.stdout.split()[-1]
        own = await terminal.run("approve", workflow_id, "--digest", digest, "--user", "luna")
        assert (own.returncode, "own_request" in own.stderr) == (1, True)
        stale = await terminal.run("approve", workflow_id, "--digest", f"v1:{'0' * 64}", "--user", "omar")
        assert "stale_digest" in stale.stderr
        bad = await terminal.run("approve", workflow_id, "--digest", "v1:x", "--user", "omar")
        assert "--digest" in bad.stderr
        assert "Traceback" not in bad.stderr
        waiting = await terminal.run("status", workflow_id, "--json")
        assert json_of(waiting)["approvers"] == ["omar", "priya"]
        approved = await terminal.run("approve", workflow_id, "--digest", digest, "--user", "omar")
        assert approved.returncode == 0, approved.stderr
        assert isinstance(await outcome_of(rotation.handle), JobCreated)
        for late in (("approve",), ("deny", "--reason", "too late")):
            refused = await terminal.run(*late, workflow_id, "--user", "omar")
            assert (refused.returncode, "not_waiting" in refused.stderr) == (1, True), refused.stderr


async def test_a_no_is_an_accomplished_outcome(terminal: Terminal, simulated: SimulatorControl) -> None:
    """Status 0: the question was answered. What to do about it stands in next_step."""
    no = await terminal.rotate("--not-stale")
    silence = await terminal.rotate()
    assert (no.returncode, json_of(no)["status"]) == (0, "not_eligible")
    assert (silence.returncode, json_of(silence)["status"]) == (0, "not_specified")
    assert json_of(silence)["next_step"] == "add_evidence_or_policy"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--account", "a b"), "--account"),
        (("--account", ""), "--account"),
        (("--account", "'; DROP TABLE rotation_jobs; --"), "--account"),
        (("--policy", "P-8"), "there is no policy line 'P-8'"),
        (("--last-rotated", "yesterday"), "--last-rotated"),
        (("--last-rotated", "2026-01-01T00:00:00"), "--last-rotated: needs a time zone"),
        (("--last-used", "2150-01-01T00:00:00Z"), "--last-used is later than --observed"),
        (("--age-days", "3", "--last-rotated", "2026-01-01T00:00:00Z"), "give --age-days or --last-rotated, not both"),
        (("--timeout", "1000"), "--timeout"),
        (("--timeout", "nan"), "--timeout"),
        (("--retries", "99"), "--retries"),
        (("--age-days", "many"), "--age-days"),
        (("--wait", "0"), "--wait"),
        (("--wait", "nan"), "--wait"),
        (("--last-rotated", "2026"), "--last-rotated: write it as 2026-08-01T00:00:00Z"),
        (("--last-rotated", "20261101"), "--last-rotated: write it as"),
        (("--observed", "1767225600"), "--observed: write it as"),
        (("--observed", "2150-01-01T00:00:00Z"), "--observed: lies in the future"),
        (("--observed", "9999-12-31T00:00:00Z"), "--observed: lies outside the years"),
    ],
)
async def test_bad_input_is_reported_in_one_line_and_starts_nothing(
    terminal: Terminal, simulated: SimulatorControl, arguments: tuple[str, ...], fault: str
) -> None:
    """Status 2, the option by name, what it may be, and no traceback."""
    ended = await terminal.rotate(*arguments)
    assert ended.returncode == 2
    assert fault in ended.stderr
    assert "Traceback" not in ended.stderr
    assert json_of(ended)["status"] == "failed"
    assert await simulated.requests() == []


async def test_a_question_of_a_megabyte_is_refused_at_the_edge(terminal: Terminal) -> None:
    """With its length and the limit, and without repeating it."""
    ended = await terminal.run(
        "rotate", "--account", "a", "--key-id", "k", "--policy", "P-7", "--question", "-", stdin="x" * 1_000_000
    )
    assert ended.returncode == 2
    assert "1,000,000 characters, and the limit is 4,000" in ended.stderr
    assert len(ended.stderr) < 500


async def test_without_temporal_the_command_says_what_to_start(terminal: Terminal) -> None:
    """Refused, unknown and silent addresses are reported alike, within the user's deadline."""
    silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for address, reason in (
        ("127.0.0.1:9", "Connection refused"),
        ("nowhere.invalid:7233", "failed to lookup address"),
        (f"127.0.0.1:{port}", "no answer within 2 s"),
    ):
        ended = await terminal.rotate("--stale", "--wait", "2", TEMPORAL_ADDRESS=address)
        assert ended.returncode == 1
        assert json_of(ended)["reason"] == "temporal_unreachable"
        assert f"no Temporal server reached at {address}: {reason}" in ended.stderr
        assert "make dev" in ended.stderr
    silent.close()


async def test_an_unknown_namespace_is_reported_by_every_command(terminal: Terminal) -> None:
    """The server's own no, with what to check; also by a worker, which does not continue polling for nothing."""
    elsewhere = {"TEMPORAL_NAMESPACE": "nowhere"}
    settings = {"OPENAI_API_KEY": "key_for_tests", "KEYTURN_ROUTES": "openai:gpt-5-mini"}
    for ended in (
        await terminal.rotate("--stale", **elsewhere),
        await terminal.run("status", "rotate:default:none:none:P-7@1", **elsewhere),
        await terminal.run("watch", "rotate:default:none:none:P-7@1", **elsewhere),
        await terminal.run("worker", **elsewhere, **settings),
    ):
        assert ended.returncode == 1, ended
        assert "TEMPORAL_NAMESPACE" in ended.stderr
        assert "Traceback" not in ended.stderr
    deployment = await terminal.run("deployment", "show", **elsewhere)
    assert (deployment.returncode, "nowhere is not found" in deployment.stderr) == (1, True), deployment.stderr
    doctor = await terminal.run("doctor", **elsewhere, **settings)
    assert doctor.returncode == 1
    assert "Namespace nowhere is not found" in doctor.stdout


async def test_an_unknown_workflow_is_reported_without_a_traceback(terminal: Terminal) -> None:
    """For status and watch."""
    for command in ("status", "watch"):
        ended = await terminal.run(command, "rotate:default:none:none:P-7@1")
        assert ended.returncode == 1
        assert "no workflow has the ID" in ended.stderr
        assert "Traceback" not in ended.stderr


async def test_jobs_that_a_restored_database_lacks_are_found_and_created_once_more(
    terminal: Terminal, stack: Stack, simulated: SimulatorControl
) -> None:
    """Asking again finds the completed rotation and creates nothing: it is reset to the step that creates the job."""
    tenant = f"lost-{uuid.uuid4().hex[:8]}"
    made = json_of(await terminal.rotate("--stale", KEYTURN_TENANT=tenant))
    kept = json_of(await terminal.rotate("--stale", KEYTURN_TENANT=tenant))
    whole = await terminal.run("jobs", "lost", "--tenant", tenant)
    assert (whole.returncode, "that created a job has it" in whole.stderr) == (0, True), whole
    await forget_job(stack, made["job_id"])
    missing = await terminal.run("jobs", "lost", "--tenant", tenant)
    assert (missing.returncode, made["workflow_id"] in missing.stdout) == (1, True), missing
    assert kept["workflow_id"] not in missing.stdout
    assert "keyturn jobs lost --recreate" in missing.stderr
    reset = json_of(await terminal.run("jobs", "lost", "--tenant", tenant, "--recreate", "--json"))
    assert [row["workflow_id"] for row in reset["lost"]] == [made["workflow_id"]]
    async with asyncio.timeout(30):
        while (await terminal.run("jobs", "lost", "--tenant", tenant)).returncode:
            await asyncio.sleep(0.2)
    rows = json_of(await terminal.run("jobs", "--tenant", tenant, "--json"))["jobs"]
    assert sorted(row["idempotency_key"] for row in rows) == sorted([made["workflow_id"], kept["workflow_id"]])


async def forget_job(stack: Stack, job_id: str) -> None:
    """Have the database be what it was before a job."""
    engine = open_database(database_url(stack.database))
    async with engine.begin() as connection:
        for table in (job_audit, outbox, rotation_jobs):
            await connection.execute(delete(table).where(table.c.job_id == job_id))
    await engine.dispose()


async def test_doctor_says_line_by_line_what_is_missing(terminal: Terminal, simulated: SimulatorControl) -> None:
    """All well: status 0. A fault: its line says what fixes it, and the others are still looked at."""
    await terminal.rotate("--stale")  # the worker polls, from then on
    well = await terminal.run("doctor", OPENAI_API_KEY="key_for_tests", KEYTURN_ROUTES="openai:gpt-5-mini")
    assert well.returncode == 0, well.stdout
    assert all(line.startswith("ok") for line in well.stdout.splitlines())
    assert "1 worker with the same payload keys and policy lines" in well.stdout
    assert "key_for_tests" not in well.stdout
    as_worker = ("doctor", "--for", "worker")
    ill = await terminal.run(*as_worker, DATABASE_URL="sqlite:///absent.db", TEMPORAL_ADDRESS="127.0.0.1:9")
    assert ill.returncode == 1
    for fault in ("KEYTURN_ROUTES is not set", "keyturn migrate", "127.0.0.1:9"):
        assert fault in ill.stdout
    assert "ok    policy" in ill.stdout
    elsewhere = await terminal.run("doctor", KEYTURN_POLICY_DIR="/absent", KEYTURN_TASK_QUEUE="nobody-polls-this")
    assert "no policy files (*.toml) in /absent" in elsewhere.stdout
    assert "0 workers polled nobody-polls-this" in elsewhere.stdout
    assert "FAIL  task queue" in elsewhere.stdout
    first = await terminal.run(
        *as_worker, OPENAI_API_KEY="k", KEYTURN_ROUTES="openai:gpt-5-mini", KEYTURN_TASK_QUEUE="nobody-polls-this"
    )
    assert (first.returncode, "0 workers polled nobody-polls-this" in first.stdout) == (0, True), first.stdout


async def test_doctor_looks_at_what_each_role_needs(terminal: Terminal, simulated: SimulatorControl) -> None:
    """A starter beside `make dev` needs no provider, a desk its tokens, an executor its cloud; each says so."""
    await terminal.rotate("--stale")
    starter = await terminal.run("doctor")
    assert (starter.returncode, "FAIL" in starter.stdout) == (0, False), starter.stdout
    assert "checked as a starter: KEYTURN_ROUTES is not set" in starter.stderr
    desk = await terminal.run("doctor", "--for", "desk", KEYTURN_DESK_ADDRESS="10.1.2.3:80")
    assert (desk.returncode, "no user would have to sign in" in desk.stdout) == (1, True)
    executor = await terminal.run("doctor", "--for", "executor", KEYTURN_EXECUTOR_TARGETS="nowhere:{user}")
    assert (executor.returncode, "KEYTURN_EXECUTOR_TARGETS: is none of" in executor.stdout) == (1, True)
    well = await terminal.run("doctor", "--for", "executor")
    assert (well.returncode, "aws, secrets to secretsmanager:keyturn/{user}" in well.stdout) == (0, True)


async def test_doctor_sees_what_keeps_this_machine_and_the_workers_apart(
    terminal: Terminal, simulated: SimulatorControl, tmp_path: Path
) -> None:
    """Other payload keys or policy lines than the running worker's: by check values, and without a secret."""
    await terminal.rotate("--stale")
    made = await terminal.run("keys", "new")
    keys = tmp_path / "other_keys"
    keys.write_text(made.stdout)
    keys.chmod(0o600)
    others = await terminal.run("doctor", KEYTURN_PAYLOAD_KEYS_FILE=str(keys))
    assert others.returncode == 1
    assert "a worker does not have the payload key that encrypts here" in others.stdout
    assert "a worker writes account and key names otherwise" in others.stdout
    assert made.stdout.split(":")[1].strip() not in others.stdout
    executor = await terminal.run("doctor", "--for", "executor", KEYTURN_PAYLOAD_KEYS_FILE=str(keys))
    assert (executor.returncode, "a worker does not have the payload key" in executor.stdout) == (1, True)
    lines = await terminal.run("doctor", KEYTURN_POLICY_SHIPPED="off", KEYTURN_POLICY_DIR=str(own_policies(tmp_path)))
    assert (lines.returncode, "a worker has other policy lines" in lines.stdout) == (1, True), lines.stdout


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"KEYTURN_PAYLOAD_KEY_FILE": "x"},
            "KEYTURN_PAYLOAD_KEY_FILE is read by nothing; KEYTURN_PAYLOAD_KEYS_FILE is",
        ),
        ({"KEYTURN_POLICYDIR": "/p"}, "KEYTURN_POLICYDIR is read by nothing; KEYTURN_POLICY_DIR is"),
        ({"KEYTURN_ENVIRONMENT": "production"}, "set DATABASE_URL to a PostgreSQL"),
    ],
)
async def test_doctor_names_what_an_operator_overlooks(
    terminal: Terminal, variables: dict[str, str], said: str
) -> None:
    """A name that nothing reads, SQLite in production: neither raises an error by itself."""
    looked = await terminal.run("doctor", "--for", "desk", **variables)
    assert (looked.returncode, said.lower() in looked.stdout.lower()) == (1, True), looked.stdout


async def test_doctor_finds_a_file_of_secrets_that_others_can_read(terminal: Terminal) -> None:
    """Keys and `.env` alike."""
    (terminal.folder / ".env").write_text("OPENAI_API_KEY=key_for_tests\n")
    (terminal.folder / ".env").chmod(0o644)
    looked = await terminal.run("doctor")
    assert (looked.returncode, "others can read the file of .env -> Run `chmod 600` on it." in looked.stdout) == (
        1,
        True,
    )
    assert "key_for_tests" not in looked.stdout


async def test_doctor_never_prints_a_secret_that_was_pasted_where_a_path_belongs(terminal: Terminal) -> None:
    """The variable is named, and its value is not: it may be the key itself."""
    pasted = "key_" + "4f" * 3000  # longer than a path may be
    looked = await terminal.run("doctor", KEYTURN_DESK_TOKENS_FILE=pasted)
    assert "KEYTURN_DESK_TOKENS_FILE does not name a file" in " ".join(looked.stdout.split()), looked.stdout
    assert pasted[:40] not in looked.stdout + looked.stderr


def own_policies(folder: Path) -> Path:
    """A folder with one policy line."""
    (folder / "policies").mkdir()
    (folder / "policies" / "own.toml").write_text(
        '[[line]]\nid = "OWN-1"\nversion = 1\nwording = "Stale keys must rotate within 20 days."\n'
        'applies_to = ["service_account_key"]\nwindow_days = 20\nrule = { when = "stale" }\n'
        'source = { benchmark = "Ours", release = "1", id = "1" }\n'
    )
    return folder / "policies"


async def test_doctor_asks_each_endpoint_once_and_says_which_the_fleet_passes_over(
    terminal: Terminal, stack: Stack, redis: str
) -> None:
    """Live, with what it cost; and from Redis, who is down as far as any worker knows."""
    settings = {
        "KEYTURN_ROUTES": "openai:simulator-1, anthropic:simulator-1",
        **{"OPENAI_API_KEY": "key_for_tests", "OPENAI_BASE_URL": f"{stack.simulator}/v1"},
        **{"ANTHROPIC_API_KEY": "key_for_tests", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
        **{"KEYTURN_RATE_CARD": str(RATES), "KEYTURN_REDIS_URL": redis},
    }
    looked = await terminal.run("doctor", "--live", **settings)
    assert looked.returncode == 1
    assert re.search(r"ok    endpoint openai:simulator-1: simulator-1 answers in .* tokens, \$0\.0", looked.stdout)
    assert "FAIL  endpoint anthropic:simulator-1: there is no answer" in looked.stdout
    assert "ok    providers: no worker reports one as down" in looked.stdout
    outages = Outages()
    shared = SharedOutages(outages, redis, [("anthropic", "simulator-1")])
    for _ in range(FAILURES_TO_OPEN):
        outages.record_failure(("anthropic", "simulator-1"), ProviderTimeout("silent"))
    await shared.exchange()
    await shared.close()
    looked = await terminal.run("doctor", **settings)
    assert "FAIL  providers: down, and therefore asked last: anthropic:simulator-1" in looked.stdout


async def test_every_command_reads_the_same_dotenv_file(terminal: Terminal, tmp_path: Path) -> None:
    """`rotate` and `doctor` read the same .env as a worker; the environment comes before it."""
    (tmp_path / ".env").write_text("KEYTURN_TASK_QUEUE=nobody-polls-this\nKEYTURN_TENANT=acme\n")
    waiting = await terminal.rotate("--stale", "--wait", "2")
    assert waiting.returncode == 4
    assert json_of(waiting)["workflow_id"].startswith("rotate:acme:")
    assert "nobody-polls-this" in (await terminal.run("doctor")).stdout
    assert (await terminal.rotate("--stale", KEYTURN_TASK_QUEUE="keyturn")).returncode == 0


async def test_the_key_in_a_faulty_temporal_file_is_not_shown(terminal: Terminal, tmp_path: Path) -> None:
    """A slip in temporal.toml is reported by line and column, without the line."""
    (tmp_path / "temporal.toml").write_text('[profile.default]\naddress = "x"\napi_key = sk-SECRET-KEY\n')
    ended = await terminal.rotate("--stale", TEMPORAL_CONFIG_FILE=str(tmp_path / "temporal.toml"))
    assert ended.returncode == 1
    assert "configuration cannot be read" in ended.stderr
    assert "SECRET" not in ended.stderr + ended.stdout


async def test_json_is_printed_for_every_foreseen_failure(terminal: Terminal) -> None:
    """Also by `jobs`, whose database may be away."""
    ended = await terminal.run("jobs", "--json", DATABASE_URL="sqlite:///absent.db")
    assert ended.returncode == 1
    assert json_of(ended)["reason"] == "schema_not_current"


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({}, "KEYTURN_ROUTES is not set"),
        ({"KEYTURN_ROUTES": "openai:gpt-5-mini"}, "OPENAI_API_KEY is not set"),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "DATABASE_URL": "sqlite:///absent.db"},
            "keyturn migrate",
        ),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "DATABASE_URL": "mysql://h/d"},
            "DATABASE_URL names 'mysql'",
        ),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "TEMPORAL_ADDRESS": "127.0.0.1:9"},
            "no Temporal server",
        ),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "KEYTURN_POLICY_DIR": "/absent"},
            "no policy files",
        ),
        ({"OPENAI_API_KEY": "k\n", "KEYTURN_ROUTES": "openai:gpt-5-mini"}, "OPENAI_API_KEY: must be the key alone"),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "OPENAI_BASE_URL": "http://h:port/v1"},
            "OPENAI_BASE_URL",
        ),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "DATABASE_URL": "postgresql://h:port/d"},
            "DATABASE_URL",
        ),
        (
            {"OPENAI_API_KEY": "k", "KEYTURN_ROUTES": "openai:gpt-5-mini", "TEMPORAL_TLS_CLIENT_CERT_PATH": "/absent"},
            "No such file",
        ),
    ],
)
async def test_a_worker_that_cannot_work_says_why_and_ends(
    terminal: Terminal, variables: dict[str, str], fault: str
) -> None:
    """At start, with what fixes it; never in the middle of a rotation."""
    ended = await terminal.run("worker", **variables)
    assert ended.returncode == 1
    assert fault in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_wrong_command_is_answered_with_the_nearest_and_all_that_is_missing_at_once(terminal: Terminal) -> None:
    """At every level; what nothing is near to is answered with where to look."""
    for words, hint in (
        (("rotat",), "No such command 'rotat'. Did you mean 'rotate'?"),
        (("jobs", "shwo"), "No such command 'shwo'. Did you mean 'show'?"),
        (("frobnicate",), "`keyturn --help` lists the commands."),
        (("rotate",), "Missing: '--account', '--key-id', '--policy', '--question'."),
        (("rotate", "--account", "a", "--policy", "P-7"), "Missing: '--key-id', '--question'."),
        (("jobs", "complete"), "Missing: 'JOB_ID', '--token'."),
    ):
        wrong = await terminal.run(*words)
        assert (wrong.returncode, hint in wrong.stderr) == (2, True), wrong.stderr


async def test_the_help_has_each_command_in_a_group_within_80_columns(terminal: Terminal) -> None:
    overall = (await terminal.run("--help")).stdout
    assert [group for group in GROUPS if f"\n{group}:\n" in overall] == list(GROUPS)
    assert [name for name in COMMANDS if f"\n  {name} " in overall] == list(COMMANDS)
    assert max(map(len, overall.splitlines())) <= 80


async def test_help_explains_every_command_with_an_example(terminal: Terminal) -> None:
    """And the exit statuses."""
    overall = await terminal.run("--help")
    assert "Exit status:" in overall.stdout
    for name in ("rotate", "status", "watch", "jobs", "doctor", "worker", "migrate", "demo", "dev"):
        assert name in overall.stdout
        one = await terminal.run(name, "--help")
        assert one.returncode == 0
        assert "Example:" in one.stdout


async def test_no_question_and_no_key_reaches_the_workers_log(
    terminal: Terminal, simulated: SimulatorControl, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not on success, not on failure, not on rejection; the call records do reach it."""
    planted = "planted words 0815"
    for fault in (None, "quota", "unauthorized", "malformed_json", "half_body"):
        if fault:
            await simulated.fail(fault, times=None)
        await terminal.rotate("--stale", "--question", planted, "--retries", "1")
        await simulated.reset()
    # Of an attempt that ends after its rotation was cancelled, the SDK's core logs by itself.
    account = f"acct_{uuid.uuid4().hex[:8]}"
    await simulated.fail("slow", seconds=3, account=account)
    slow = json_of(await terminal.rotate("--stale", "--account", account, "--question", planted, "--wait", "1"))
    assert (await terminal.run("cancel", slow["workflow_id"], "--reason", "no longer needed")).returncode == 0
    assert (await terminal.run("watch", slow["workflow_id"])).returncode == 1
    log = Path(stack.database.removeprefix("sqlite:///")).parent / "worker.log"
    async with asyncio.timeout(30):
        while "Activity not found on completion" not in log.read_text():
            await asyncio.sleep(0.1)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    calls = [line for line in lines if line["event"] == "model_call"]
    assert {call["status"] for call in calls} >= {"ok", "failed", "invalid_output"}
    assert {"trace_id", "task", "model", "prompt_version", "latency_ms", "input_tokens", "cost_usd"} <= set(calls[0])
    assert "planted" not in log.read_text()  # its number alone may stand in a random id
    assert "dev_key_not_a_real_secret" not in log.read_text()


async def test_calls_and_costs_are_read_from_the_ledger(terminal: Terminal, simulated: SimulatorControl) -> None:
    """Each call as a line or as JSON, and sums by task, model, user and day."""
    trace = f"trace_{uuid.uuid4().hex}"
    await simulated.fail("unavailable", provider="openai")
    assert (await terminal.rotate("--stale", "--trace-id", trace, "--user", "luna")).returncode == 0
    async with asyncio.timeout(10):
        while True:
            found = json_of(await terminal.run("calls", "--trace-id", trace, "--json"))["calls"]
            if found:
                break
    [call] = found
    assert (call["provider"], call["status"], call["user_id"]) == ("anthropic", "ok", "luna")
    assert call["passed_over"] == [{"provider": "openai", "model": "simulator-1", "failure": "provider_unavailable"}]
    line = (await terminal.run("calls", "--trace-id", trace)).stdout
    assert "decide_rotation  anthropic:simulator-1  ok" in line
    assert "$0.00" in line
    for by in ("task", "model", "user", "day"):
        summed = json_of(await terminal.run("costs", "--by", by, "--json"))
        assert float(summed["total_usd"]) > 0
        assert sum(row["calls"] for row in summed["costs"]) >= 1
    assert "luna" in (await terminal.run("costs", "--by", "user")).stdout
    assert (await terminal.run("costs", "--by", "colour")).returncode == 2


async def test_cached_responses_are_cleared_by_command(terminal: Terminal) -> None:
    """Those of one task, or all."""
    assert (await terminal.rotate("--stale")).returncode == 0
    none = await terminal.run("cache", "clear", "--task", "no_such_task")
    assert none.stdout == "0 cached responses cleared\n"
    some = await terminal.run("cache", "clear", "--prompt-version", "rotation_decision@2")
    assert int(some.stdout.split()[0]) >= 1
    async with asyncio.timeout(60):  # the workflows that earlier tests left running on this stack may cache some more
        while (await terminal.run("cache", "clear")).stdout != "0 cached responses cleared\n":
            pass


@pytest.mark.parametrize(
    ("task", "request_text", "status", "said"),
    [
        ("summarize_policy", '{"policy_lines": [{"id": "P-7", "version": 1}]}', 0, "30 days"),
        ("extract_ticket", '{"message": "I paid twice"}', 0, "billing"),
        ("extract_ticket", '{"message": ""}', 2, "message: String should have at least 1 character"),
        ("extract_ticket", "nonsense", 2, "the request is not JSON"),
        ("no_such_task", "{}", 1, "there is no task 'no_such_task'; tasks: decide_rotation"),
        ("summarize_policy", '{"policy_lines": [{"id": "P-8", "version": 1}]}', 2, "there is no policy line 'P-8'"),
    ],
)
async def test_any_task_can_be_asked_once_from_a_terminal(
    terminal: Terminal, stack: Stack, simulated: SimulatorControl, task: str, request_text: str, status: int, said: str
) -> None:
    """With a worker's settings; a fault is reported by field, without a traceback and without the text."""
    settings = {"KEYTURN_ROUTES": "openai:simulator-1", "OPENAI_API_KEY": "k", "KEYTURN_LOG_FORMAT": "json"}
    settings |= {"OPENAI_BASE_URL": f"{stack.simulator}/v1", "KEYTURN_RATE_CARD": str(RATES)}
    ended = await terminal.run("ask", task, stdin=request_text, **settings)
    assert ended.returncode == status, ended.stderr
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    if status == 0:
        await simulated.fail("malformed_json")
        changed = (
            request_text.replace("}", ', "user_id": "noor", "trace_id": "t"}', 1)
            if task != "summarize_policy"
            else (request_text[:-1] + ', "audience": "auditor"}')
        )
        rejected = await terminal.run("ask", task, stdin=changed.replace("paid", "payed"), **settings)
        assert rejected.returncode == 3, rejected.stderr
        assert json_of(rejected)["verdict"]["reason"] == "malformed_answer"


async def test_records_are_counted_before_they_are_deleted(terminal: Terminal, simulated: SimulatorControl) -> None:
    """Each kind with its days; nothing goes without being asked for, and a wrong setting is named."""
    await terminal.rotate("--stale")
    counted = await terminal.run("retention", KEYTURN_RETAIN_RUNS_DAYS="0")
    assert counted.returncode == 0, counted.stderr
    assert [line.split()[0] for line in counted.stdout.splitlines()] == [
        *("calls", "events", "jobs", "runs", "notices", "labels", "drafts", "waivers", "freezes"),
    ]
    assert "expire after   400 days" in counted.stdout
    assert "drafts    expire after     7 days          0 expired" in counted.stdout
    assert "runs      never expire" in counted.stdout
    assert json_of(await terminal.run("retention", "--delete", "--json"))["deleted"]["jobs"] == 0
    wrong = await terminal.run("retention", KEYTURN_RETAIN_CALLS_DAYS="-1")
    assert (wrong.returncode, "KEYTURN_RETAIN_CALLS_DAYS" in wrong.stderr) == (1, True)


async def test_the_audit_trail_is_exported_and_verified_by_command(
    terminal: Terminal, simulated: SimulatorControl
) -> None:
    """With a key of its own; a file that was changed is refused, and says where."""
    made = json_of(await terminal.rotate("--stale"))
    printed = (await terminal.run("export", "key")).stdout
    signing = printed.splitlines()[0].partition("=")[2]
    public = printed.splitlines()[1].rpartition(" ")[2]
    unset = await terminal.run("export", "audit", "audit.jsonl")
    assert (unset.returncode, "KEYTURN_EXPORT_KEY is not set" in unset.stderr) == (1, True)
    for wrong, said in (
        (("--since", "2026-12-01", "--until", "2026-11-01"), "--since: it is not before --until"),
        (("--until", "2199-01-01"), "may still be written; see --recent"),
    ):
        refused = await terminal.run("export", "audit", "audit.jsonl", *wrong, KEYTURN_EXPORT_KEY=signing)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    written = await terminal.run("export", "audit", "audit.jsonl", "--recent", KEYTURN_EXPORT_KEY=signing)
    assert written.returncode == 0, written.stderr
    again = await terminal.run("export", "audit", "audit.jsonl", "--recent", KEYTURN_EXPORT_KEY=signing)
    assert (again.returncode, "never written over" in again.stderr) == (2, True)
    file = terminal.folder / "audit.jsonl"
    assert made["job_id"] in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    months = [(f"audit-{month}.jsonl", f"2026-0{month}-01", f"2026-0{month + 1}-01") for month in (1, 2)]
    for number, (name, since, until) in enumerate(months):
        chained = ("--previous", months[0][0]) if number else ("--since", since)
        exported = ("export", "audit", name, "--until", until, *chained)
        assert (await terminal.run(*exported, KEYTURN_EXPORT_KEY=signing)).returncode == 0
    chain = await terminal.run("export", "verify", months[1][0], "--public-key", public, "--previous", months[0][0])
    assert (chain.returncode, "2026-02-01" in chain.stdout) == (0, True), chain.stderr
    assert signing not in file.read_text() + written.stderr
    valid = await terminal.run("export", "verify", "audit.jsonl", "--public-key", public)
    assert (valid.returncode, valid.stdout.startswith("valid: ")) == (0, True)
    file.write_text(file.read_text().replace('"created"', '"approved"', 1))
    changed = await terminal.run("export", "verify", "audit.jsonl")
    assert (changed.returncode, "was changed, left out or moved" in changed.stderr) == (1, True)


async def test_an_execution_that_no_executor_has_started_is_named_as_such(terminal: Terminal) -> None:
    """The ID is right, and there is nothing yet to roll back or to advance."""
    for command in (
        ("status", "execute:job_1"),
        ("rollback", "job_1", "--reason", "x"),
        ("advance", "job_1", "--reason", "x"),
        ("resume", "execute:job_1"),
    ):
        refused = await terminal.run(*command)
        assert refused.returncode == 1
        assert "no executor of ours has started job_1" in refused.stderr
        assert "keyturn jobs show" in refused.stderr


async def test_targets_are_checked_before_a_rotation_needs_them(terminal: Terminal, tmp_path: Path) -> None:
    """Each table of the key map, with what its targets answer; a target that cannot come first is named."""
    secrets = tmp_path / "secrets"
    file = tmp_path / "keys.toml"
    file.write_text(
        f'[[key]]\naccount = "svc-pay"\nowner = "payments"\ntargets = ["file:{secrets}/pay"]\n'
        f'[[key]]\naccount = "ci-*"\ntargets = ["file:{secrets}/{{user}}"]\n'
    )
    sound = await terminal.run("targets", "check", KEYTURN_KEY_MAP=str(file))
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert f"[[key]] 1  svc-pay  owner payments\n  file:{secrets}/pay: holds no secret yet" in sound.stdout
    assert f"file:{secrets}/{{user}}: differs by user or account: asked for open jobs alone" in sound.stdout
    assert "other keys  no target: they are not rotated" in sound.stdout
    assert "[[key]] 1  svc-pay: names no key of a job of this month" in sound.stdout
    file.write_text('[[key]]\naccount = "svc-x"\ntargets = ["github:acme/x/KEY"]\n')
    faulty = await terminal.run("targets", "check", KEYTURN_KEY_MAP=str(file), GITHUB_TOKEN="t" * 40)
    assert (faulty.returncode, "cannot be read back: name a target first that can" in faulty.stdout) == (1, True)
    file.write_text('[[key]]\naccount = "svc-x"\ntarget = "vault:a/b"\n')
    wrong = await terminal.run("targets", "check", KEYTURN_KEY_MAP=str(file))
    assert (wrong.returncode, "[[key]] 1: target" in wrong.stderr) == (1, True)


async def test_an_exposed_key_is_reported_by_command_and_rotated_at_once(terminal: Terminal) -> None:
    """By what jobs know of it; what nothing knows needs its account, and is then rotated, too."""
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    key_id = f"key_{uuid.uuid4().hex[:12]}"
    unknown = await terminal.run("compromised", key_id, KEYTURN_TENANT=tenant)
    assert (unknown.returncode, "--account" in unknown.stderr) == (1, True)
    given = ["--account", "svc-pay", "--kind", "access_key", "--source", "gitleaks", "--by-rule", "--user", "luna"]
    first = await terminal.run("compromised", key_id, *given, KEYTURN_TENANT=tenant)
    assert (first.returncode, first.stdout.startswith("job job_")) == (0, True), first.stderr
    again = json_of(await terminal.run("compromised", key_id, "--by-rule", "--json", KEYTURN_TENANT=tenant))
    assert again["rotations"][0]["job_id"] == first.stdout.split()[1]
    listed = await terminal.run("compromised", KEYTURN_TENANT=tenant)
    assert f"{key_id}  svc-pay  found by gitleaks, reported by luna at 2" in listed.stdout
    shown = json_of(await terminal.run("jobs", "--json", KEYTURN_TENANT=tenant))["jobs"]
    assert [job["priority"] for job in shown] == [1]


async def test_keys_are_exempt_by_command_until_a_day(terminal: Terminal) -> None:
    """What was granted is listed, and ended; a job that is there already is named."""
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    asked = ["--account", "svc-legacy-1", "--key-id", "key_01", "--policy", "P-7", "--stale", "--question", "May it?"]
    job = json_of(await terminal.run("rotate", *asked, "--json", KEYTURN_TENANT=tenant))["job_id"]
    until = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}"
    given = ["--account", "svc-legacy-*", "--until", until, "--reason", "vendor replaces it", "--user", "omar"]
    granted = await terminal.run("waivers", "grant", *given, KEYTURN_TENANT=tenant)
    assert f"account svc-legacy-*, until {until} 23:59:59Z" in granted.stdout
    assert f"closes them: {job}" in granted.stderr
    listed = await terminal.run("waivers", KEYTURN_TENANT=tenant)
    assert "by omar: vendor replaces it  ends in 3 days" in listed.stdout
    waiver_id = granted.stdout.split()[0]
    assert (
        json_of(await terminal.run("waivers", "--json", KEYTURN_TENANT=tenant))["waivers"][0]["waiver_id"] == waiver_id
    )
    assert (await terminal.run("waivers", "end", waiver_id, KEYTURN_TENANT=tenant)).returncode == 0
    assert waiver_id not in (await terminal.run("waivers", KEYTURN_TENANT=tenant)).stdout
    ended = (await terminal.run("waivers", "--all", KEYTURN_TENANT=tenant)).stdout
    assert re.search(rf"{waiver_id}  ended \S+ \S+ \S*.* by ", ended), ended
    none = await terminal.run("waivers", "end", waiver_id, KEYTURN_TENANT=tenant)
    assert (none.returncode, f"there is no waiver {waiver_id} in force" in none.stderr) == (1, True)
    for option, says in (
        ("--until=soon", "2027-01-31"),
        ("--until=2020-01-01", "is in the past"),
        ("--owner=omar", "owns"),
        ("--owner=ghost", "no file, no inventory and no job names the owner ghost"),
    ):
        refused = await terminal.run("waivers", "grant", *given, option, KEYTURN_TENANT=tenant)
        assert (refused.returncode in {1, 2}, says in refused.stderr) == (True, True), refused.stderr


async def test_rotations_are_frozen_and_thawed_by_command(terminal: Terminal) -> None:
    """Those of a tenant of its own: the other tests' executors go on."""
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    one = await terminal.run("freeze", "--reason", "incident 4711", "--hours", "4", KEYTURN_TENANT=tenant)
    assert (one.returncode, f"rotations of tenant {tenant} are frozen until 2" in one.stdout) == (0, True)
    two = await terminal.run("freeze", "--reason", "audit", "--cloud-account", "1" * 12, KEYTURN_TENANT=tenant)
    listed = json_of(await terminal.run("freezes", "--json", KEYTURN_TENANT=tenant))["freezes"]
    assert [row["reason"] for row in listed] == ["incident 4711", "audit"]
    ended = await terminal.run("thaw", two.stdout.split()[0], KEYTURN_TENANT=tenant)
    assert (ended.returncode, ended.stdout) == (0, "1 freeze ended\n")
    assert (await terminal.run("thaw", KEYTURN_TENANT=tenant)).stdout == "1 freeze ended\n"
    none = await terminal.run("thaw", KEYTURN_TENANT=tenant)
    assert (none.returncode, none.stdout) == (1, "0 freezes ended\n")
    for option in (
        ["--reason", "two\nlines"],
        ["--reason", "x", "--cloud-account", ""],
        ["--reason", "x", "--hours", "nan"],
        ["--reason", "x", "--hours", "0"],
    ):
        refused = await terminal.run("freeze", *option, KEYTURN_TENANT=tenant)
        assert (refused.returncode, option[-2] in refused.stderr) == (2, True)
