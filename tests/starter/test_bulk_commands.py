"""The commands of whole estates, as a person types them, on the whole stack."""

import asyncio
import csv
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import jsonschema  # type: ignore[import-untyped]
import pytest

from keyturn.lab.stack.embedded import Stack
from tests.support.estates import LINE
from tests.support.record_schemas import REPORT_FILE
from tests.support.simulated import SimulatorControl
from tests.support.terminal import lunas
from tests.support.warm import run_warm

HEADER = "account_id,key_id,kind,age_days,active\n"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Keyturn = Callable[..., Awaitable[Ended]]


@pytest.fixture
def keyturn(stack: Stack, tmp_path: Path, warm: Path) -> Keyturn:
    environment = lunas(stack)

    async def run(*arguments: str | Path) -> Ended:
        words = [str(argument) for argument in arguments]
        ended = await asyncio.to_thread(run_warm, warm, words, environment=environment, folder=tmp_path)
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Six keys that are due, some for which nothing is, and two rows that are none."""
    rows = [f"acct_{tmp_path.name}_{number},key_{number},access_key,{100 + number}," for number in range(6)]
    rows += [f"acct_{tmp_path.name}_y{number},key_{number},access_key,{number}," for number in range(4)]
    rows += [f"acct_{tmp_path.name}_off,key_1,access_key,400,false", "=cmd(),k,access_key,1,", "a,k,access_key,old,"]
    file = tmp_path / "keys.csv"
    file.write_text(HEADER + "\n".join(rows).replace("[", "_").replace("]", "_") + "\n")
    return file


async def test_an_inventory_is_looked_at_before_anything_is_asked(keyturn: Keyturn, inventory: Path) -> None:
    """What is in it, how much a policy line decides, and which rows cannot be used: those are written beside it."""
    printed = await keyturn("inventory", "check", inventory, "--policy", LINE)
    assert printed.status == 1
    assert "csv, 11 keys" in printed.out
    assert "6  to ask" in printed.out
    assert "4  inside every window" in printed.out
    assert "2 rows cannot be used: " in printed.err
    rejects = list(csv.DictReader((inventory.parent / "keys.rejects.csv").open()))
    assert [row["keyturn_line"] for row in rejects] == ["13", "14"]
    assert [row["keyturn_reason"].split(":")[0] for row in rejects] == ["account_id", "age_days"]
    as_json = await keyturn("inventory", "check", inventory, "--json")
    assert json.loads(as_json.out)["counts"] == {"active": 10, "inactive": 1, "bad_row": 2}
    assert "a run asks a model about 6 keys" in printed.out
    assert "no estimate of the cost: KEYTURN_ROUTES and its keys are not set here" in printed.err


async def test_what_a_run_would_cost_is_said_before_it_is_started(
    stack: Stack, inventory: Path, tmp_path: Path, warm: Path
) -> None:
    """An upper bound, by the first model of the route; what the run then costs is less."""
    environment = lunas(stack) | {"KEYTURN_ROUTES": "openai:gpt-5-mini", "OPENAI_API_KEY": "key_for_tests"}
    words = ["inventory", "check", str(inventory), "--policy", LINE]
    shown = await asyncio.to_thread(run_warm, warm, words, environment=environment, folder=tmp_path)
    found = re.search(r"a run asks a model about 6 keys, at most \$(\d+\.\d\d) with openai:gpt-5-mini", shown.stdout)
    assert found, shown.stdout + shown.stderr
    assert 0 < float(found[1]) < 1


async def test_an_estate_is_judged_watched_and_reported_by_command(
    keyturn: Keyturn, inventory: Path, tmp_path: Path
) -> None:
    """And the same command again asks nothing: it finds that all is done."""
    printed = await keyturn("bulk", inventory, "--policy", LINE)
    assert printed.status == 0, printed.err
    assert "6/6 asked" in printed.err
    *_, end, following = printed.err.splitlines()
    assert end.startswith("done: 6 jobs created, 5 nothing due, 2 bad rows; the calls cost $0.0")
    again = json.loads((await keyturn("bulk", inventory, "--policy", LINE, "--json")).out)
    assert again["outcomes"] == {"job_created": 6, "nothing_due": 5, "bad_row": 2}
    assert following == f"next: keyturn report {again['run']} --html report.html"
    for name in (again["run"], again["workflow_id"]):  # both are printed
        watched = await keyturn("watch", name)
        assert (watched.status, "6/6 asked" in watched.out) == (0, True)
        assert watched.err.splitlines() == [end, following]
        over = await keyturn("cancel", name, "--reason", "too late")
        assert (over.status, "the run has ended already: nothing was cancelled" in over.err) == (1, True)
        looked = await keyturn("status", name)
        assert (looked.status, looked.out.splitlines()[0]) == (0, "run done")
        assert "13 items: 6 jobs created, 5 nothing due, 2 bad rows" in looked.out
    listed = json.loads((await keyturn("runs", "--json")).out)["runs"]
    assert (listed[0]["run_id"], listed[0]["state"], "question" in listed[0]) == (again["run"], "done", False)

    page, table, lines = tmp_path / "r.html", tmp_path / "r.csv", tmp_path / "r.jsonl"
    reported = await keyturn("report", again["run"], "--html", page, "--csv", table, "--json", lines)
    assert reported.status == 0, reported.err
    html = page.read_text()
    for expected in (
        "Of 13 keys in the inventory, 6 must be rotated. ",
        "6 jobs were created. 2 could not be decided or read.",
        "Ensure access keys are rotated every 90 days or less.",
        "<svg",
        "inside every window",
        "job_",
        "It is delivered to its receivers, and an executor claims it.",
        "simulator-1 (6)",
        "rotation_decision@2",
        "Keyturn 0.",
    ):
        assert expected in html, expected
    for foreign in ("<script", "http://", "https://", "src=", "=cmd()"):
        assert foreign not in html
    rows = list(csv.DictReader(table.open()))
    assert (len(rows), len({row["job_id"] for row in rows if row["job_id"]})) == (13, 6)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(written) == 13
    checker = jsonschema.FormatChecker()
    assert "date-time" in checker.checkers, "its library is there"
    for row in written:
        jsonschema.validate(row, json.loads(REPORT_FILE.read_text()), format_checker=checker)
    assert Counter(row["severity"] for row in written) == {"due": 6, "unusable": 2, None: 5}
    assert {row["next"] for row in rows if row["severity"] == "due"} == {
        "It is delivered to its receivers, and an executor claims it."
    }
    compared = await keyturn("report", again["run"], "--since", again["run"], "--json", lines)
    assert (compared.status, compared.err) == (0, f"written to {lines}\n")
    assert Counter(json.loads(line)["since"] for line in lines.read_text().splitlines()) == {"unchanged": 6, None: 7}
    sarif = tmp_path / "r.sarif"
    assert (await keyturn("report", again["run"], "--sarif", sarif)).status == 0
    (analysed,) = json.loads(sarif.read_text())["runs"]
    assert {one["ruleId"] for one in analysed["results"]} <= {one["id"] for one in analysed["tool"]["driver"]["rules"]}
    assert Counter(one["level"] for one in analysed["results"]) == {"warning": 6, "note": 2}
    assert "5 of 13 needed no model" in (await keyturn("report", again["run"])).out


async def test_what_an_inventory_says_is_text_in_the_report_and_never_markup(keyturn: Keyturn, tmp_path: Path) -> None:
    """A reject's reason repeats the name of an unknown column, which the inventory's author chose."""
    hostile = "<img src=x onerror=alert(1)>"
    rows = [{"account_id": f"acct_{tmp_path.name.replace('[', '_')}", "key_id": "k", "age_days": 1}]
    rows.append(rows[0] | {"key_id": "k2", hostile: "x"})
    file = tmp_path / "keys.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    ran = json.loads((await keyturn("bulk", file, "--policy", LINE, "--json")).out)
    assert ran["outcomes"] == {"nothing_due": 1, "bad_row": 1}
    page = tmp_path / "report.html"
    assert (await keyturn("report", ran["run"], "--html", page)).status == 0
    html = page.read_text()
    assert hostile not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "P-99"), "P-99"),
        ((), "--policy: decide_rotation needs policy lines"),
        (("--policy", LINE, "--observed", "yesterday"), "--observed: is not a moment with its time zone"),
        (("--policy", LINE, "--observed", "2036-01-01T00:00:00Z"), "--observed: lies in the future"),
        (("--policy", LINE, "--name", "a run!"), "--name: "),
        (("--policy", LINE, "--name", "r" * 49), "--name: "),
        (("--policy", LINE, "--format", "aws"), "is no credential report: it has no column user"),
        (("--policy", LINE, "--max-usd", "-1"), "--max-usd: "),
    ],
)
async def test_what_cannot_be_run_is_said_before_anything_is_begun(
    keyturn: Keyturn, inventory: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Without a traceback, and no run is left behind."""
    before = (await keyturn("runs", "--json")).out
    printed = await keyturn("bulk", inventory, *arguments)
    status = 1 if "--format" in arguments else 2  # what is wrong with the file is seen when it is read
    assert (printed.status, message in printed.err, "Traceback" in printed.err) == (status, True, False), printed.err
    if "--format" not in arguments:
        assert (await keyturn("runs", "--json")).out == before


async def test_a_name_belongs_to_one_inventory_and_what_is_asked_of_it(keyturn: Keyturn, inventory: Path) -> None:
    """Under the name of another run nothing is started: it would be taken for done, or asked of another inventory."""
    name = f"audit-{inventory.parent.name[-1]}"
    nothing_due = ("bulk", inventory, "--policy", "P-7", "--name", name)
    assert (await keyturn(*nothing_due)).status == 0
    assert (await keyturn(*nothing_due)).status == 0
    for other in (("--always-ask",), ("--policy", LINE)):
        printed = await keyturn(*nothing_due, *other)
        assert (printed.status, f"{name} is a run of another inventory" in printed.err) == (2, True), printed.err
    inventory.write_text(HEADER + "acct_other,key_1,access_key,1,\n")
    printed = await keyturn(*nothing_due)
    assert (printed.status, f"{name} is a run of another inventory" in printed.err) == (2, True), printed.err


async def test_a_run_that_is_not_there_is_reported(keyturn: Keyturn) -> None:
    for arguments in (("report", "run-none"), ("runs", "pause", "run-none"), ("watch", "bulk:default:run-none")):
        printed = await keyturn(*arguments)
        assert (printed.status, "Traceback" in printed.err) == (1, False), printed.err
        assert printed.err.strip()


async def test_a_schedule_judges_the_newest_inventory_when_it_fires(
    keyturn: Keyturn, inventory: Path, tmp_path: Path
) -> None:
    """Created, listed, triggered, paused, resumed and deleted; its run is a run like any other, named for its time."""
    folder = tmp_path / "inventories"
    folder.mkdir()
    inventory.rename(folder / "today.csv")
    name = f"nightly-{tmp_path.name[-1]}"
    create = ("schedule", "create", name, "--inventory", folder, "--cron", "0 3 * * *", "--policy", LINE)
    assert (await keyturn(*create)).out == f"created {name}\n"
    assert f"the schedule {name} exists already" in (await keyturn(*create)).err
    (listed,) = json.loads((await keyturn("schedule", "list", "--json")).out)["schedules"]
    assert (listed["name"], listed["paused"], listed["last"], listed["next"][11:16]) == (name, False, None, "03:00")
    assert (await keyturn("schedule", "trigger", name)).status == 0
    async with asyncio.timeout(60):
        while True:
            (run, *_) = json.loads((await keyturn("runs", "--json")).out)["runs"] or [{}]
            if str(run.get("run_id", "")).startswith(f"{name}-20") and run["ended"]:
                break
    assert (run["ended"], run["source"].endswith("today.csv")) == ("done", True)
    assert "6 jobs were created" in (await keyturn("report", run["run_id"])).out
    assert (await keyturn("watch", run["workflow_id"])).status == 0
    (listed,) = json.loads((await keyturn("schedule", "list", "--json")).out)["schedules"]
    assert (listed["last_workflow_id"], listed["last_ended"]) == (run["workflow_id"], "done")
    for step in ("pause", "resume", "pause"):
        assert (await keyturn("schedule", step, name)).status == 0
    paused = (await keyturn("schedule", "list")).out
    assert f"{folder}, {LINE}" in paused, "what it is about stays"
    assert "paused by luna" in paused
    assert (await keyturn("schedule", "delete", name)).status == 0
    gone = await keyturn("schedule", "delete", name)
    assert (gone.status, "there is no schedule" in gone.err) == (1, True)


async def test_a_scheduled_run_that_failed_is_reported_by_its_schedule(keyturn: Keyturn, tmp_path: Path) -> None:
    """It is no run of `keyturn runs`: its inventory could not be read."""
    (tmp_path / "inventories").mkdir()
    create = ("schedule", "create", "empty", "--inventory", tmp_path / "inventories", "--cron", "0 3 * * *")
    assert (await keyturn(*create, "--policy", LINE)).status == 0
    assert (await keyturn("schedule", "trigger", "empty")).status == 0
    async with asyncio.timeout(60):
        while True:
            (listed,) = json.loads((await keyturn("schedule", "list", "--json")).out)["schedules"]
            if listed["last_ended"]:
                break
    assert listed["last_ended"] == "inventory_invalid"
    shown = (await keyturn("schedule", "list")).out
    assert f"follow it: keyturn watch {listed['last_workflow_id']}" in shown
    watched = await keyturn("watch", listed["last_workflow_id"])
    assert (watched.status, "Traceback" in watched.err) == (1, False), watched.err
    assert (await keyturn("schedule", "delete", "empty")).status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bad name", "--cron", "0 3 * * *", "--policy", LINE), "may hold letters, digits and . _ @ + = - only"),
        (("n" * 32, "--cron", "0 3 * * *", "--policy", LINE), "more than 31 characters"),
        (("nightly", "--cron", "every night", "--policy", LINE), "--cron or --time-zone"),
        (("nightly", "--cron", "0 3 * * *", "--policy", "P-99"), "P-99"),
        (("nightly", "--cron", "0 3 * * *"), "decide_rotation needs policy lines"),
        (("nightly", "--cron", "0 3 * * *", "--policy", LINE, "--time-zone", "Mars"), "--cron or --time-zone"),
    ],
)
async def test_a_schedule_that_could_not_run_is_refused(
    keyturn: Keyturn, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    name, *rest = arguments
    printed = await keyturn("schedule", "create", name, "--inventory", tmp_path, *rest)
    assert (printed.status, message in printed.err, "Traceback" in printed.err) == (2, True, False), printed.err


async def test_the_summaries_of_a_scan_are_read_by_the_report(keyturn: Keyturn, tmp_path: Path) -> None:
    """They are encrypted in the database, and shown to a user who has the keys."""
    rows = [
        {"account_id": f"acct_{tmp_path.name[-1]}_{number}", "records": [{"record_id": "r1", "text": "login denied"}]}
        for number in range(3)
    ]
    file = tmp_path / "scan.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    printed = await keyturn("bulk", file, "--task", "summarize_scan", "--name", f"scan-{tmp_path.name[-1]}", "--json")
    assert printed.status == 0, printed.err
    lines, page, table = tmp_path / "scan_out.jsonl", tmp_path / "scan.html", tmp_path / "scan.csv"
    reported = await keyturn("report", f"scan-{tmp_path.name[-1]}", "--json", lines, "--html", page, "--csv", table)
    assert reported.status == 0, reported.err
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["record_ids"] for row in found] == [["r1"]] * 3
    assert all(row["explanation"] and row["outcome"] in {"attention", "summarized"} for row in found)
    assert "Key rotation report" in page.read_text()
    assert len(list(csv.DictReader(table.open()))) == 3


async def test_a_run_in_which_rule_and_model_disagree_ends_with_a_status_of_its_own(
    keyturn: Keyturn, inventory: Path, simulated: SimulatorControl
) -> None:
    """The keys are named by the commands that decide them, and the report has them first."""
    no = '{"decision": "not_eligible", "rotation_window_days": null, "source_line_ids": []}'
    account = f"acct_{inventory.parent.name}_3".replace("[", "_").replace("]", "_")
    await simulated.fail("says", content=no, times=None, account=account)
    printed = await keyturn("bulk", inventory, "--policy", LINE, "--json")
    assert printed.status == 5, printed.err
    assert json.loads(printed.out)["outcomes"]["disagreement"] == 1
    assert "rule and model disagree on 1 key that is due" in printed.err
    waiting = await keyturn("parked", "--kind", "disagreement", "--json")
    assert len(json.loads(waiting.out)["waiting"]) >= 1
    shown = (await keyturn("report", json.loads(printed.out)["run"])).out.splitlines()
    assert shown[1].split() == ["1", "rule", "and", "model", "disagree"]


async def test_a_run_by_rule_is_marked_so_and_costs_nothing(keyturn: Keyturn, inventory: Path) -> None:
    """No call to any provider, and the ledger says by whom it was decided."""
    printed = await keyturn("bulk", inventory, "--policy", LINE, "--by-rule", "--json")
    assert printed.status == 0, printed.err
    outcome = json.loads(printed.out)
    assert outcome["outcomes"]["job_created"] == 6
    assert float(outcome["cost_usd"]) == 0
    both = await keyturn("bulk", inventory, "--policy", LINE, "--by-rule", "--always-ask")
    assert both.status == 2
    assert "--by-rule asks no model" in both.err
