"""What a stranger to the command line does: closed streams, options in the wrong place, a misspelt setting."""

import asyncio
import json
import signal
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest

from keyturn.errors import InvalidRequest, SettingsInvalid
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rejects import Rejects
from keyturn.inventory.rows import BadRow
from keyturn.keyring_files import keyring_from_environment, new_key_line, parse_keyring
from tests.starter.test_commands import Terminal, json_of, terminal  # noqa: F401 - terminal is a fixture
from tests.support.simulated import SimulatorControl


async def shell(command: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment or None
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


KEYTURN = f"{sys.executable} -m keyturn.starter"


async def test_an_option_in_front_of_a_subcommand_is_refused(terminal: Terminal, simulated: SimulatorControl) -> None:  # noqa: F811
    """It would count for the list alone: `jobs --tenant other cancel` cancelled a job of this tenant."""
    job_id = json_of(await terminal.rotate("--stale"))["job_id"]
    for words in (f"jobs cancel --reason x {job_id}", "runs pause r", "deliveries resend --all"):
        group, *rest = words.split()
        refused = await terminal.run(group, "--tenant", "other", *rest)
        assert (refused.returncode, "belongs after the subcommand" in refused.stderr) == (2, True), refused.stderr
    assert json_of(await terminal.run("jobs", "show", job_id, "--json"))["job"]["status"] != "cancelled"


async def test_evidence_is_refused_where_some_of_it_would_be_lost(terminal: Terminal) -> None:  # noqa: F811
    twice = await terminal.run("jobs", "complete", "j", "--token", "1", "--evidence", "a=1", "--evidence", "a=2")
    assert (twice.returncode, "given twice" in twice.stderr) == (2, True)


async def test_a_rotation_that_somebody_leaves_goes_on_and_is_reported(terminal: Terminal) -> None:  # noqa: F811
    """Ctrl-C without a worker: one object, the status of a timeout, and no word of an abortion."""
    options = ("--account", "a", "--key-id", f"k{uuid.uuid4().hex[:8]}", "--policy", "P-7", "--question", "May it?")
    queue = ("--task-queue", f"nobody-{uuid.uuid4().hex}", "--wait", "60", "--json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyturn.starter", "rotate", *options, *queue),
        cwd=terminal.folder,
        env=terminal.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A shell that starts the tests in the background lets them ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while "running" not in (await terminal.run("status", f"rotate:default:a:{options[3]}:P-7@1")).stdout:
        await asyncio.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 4, err
    assert json.loads(out)["status"] == "timeout"
    assert b"continues" in err
    assert b"Abort" not in err


async def test_closed_streams_and_unreadable_words_are_no_tracebacks(tmp_path: Path) -> None:
    """What is done is done, whether the output is read or not."""
    status, _, err = await shell(f"{KEYTURN} keys new >&-")
    assert (status, err) == (0, "")
    status, _, err = await shell(f"cd {tmp_path}; {KEYTURN} jobs show $(printf '\\377')")
    assert (status, "not UTF-8" in err) == (2, True), err
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    status, _, err = await shell(f"cd {tmp_path}; {KEYTURN} --help")
    assert (status, ".env cannot be read: it is not UTF-8" in err) == (1, True), err
    for arguments in ("bulk x --max-usd abc", "jobs claim --lease nan"):
        (tmp_path / "x").write_text("")
        (tmp_path / ".env").unlink(missing_ok=True)
        status, _, err = await shell(f"cd {tmp_path}; {KEYTURN} {arguments}")
        assert (status, "Traceback" in err) == (2, False), err


@pytest.mark.parametrize("name", ["prod", "Production", "production "])
def test_a_misspelt_environment_does_not_switch_production_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A reader with it would read payloads that were never encrypted."""
    monkeypatch.setenv("KEYTURN_ENVIRONMENT", name)
    with pytest.raises(SettingsInvalid, match="neither development nor production"):
        keyring_from_environment()


def test_a_key_line_is_one_that_a_keyring_can_hold() -> None:
    for bad in ("prod key 2026", "a:b", "x" * 33):
        with pytest.raises(InvalidRequest, match="the key's id"):
            new_key_line(bad)
    parse_keyring(f"{new_key_line('prod-2026')}\n{new_key_line('pseudonym')}", source="a test")


def test_rejects_keep_every_column_and_overwrite_nothing(tmp_path: Path) -> None:
    """The first may be a short row; and a row that was fixed since is a user's work."""
    file = tmp_path / "keys.rejects.csv"
    rows = [
        BadRow(2, "is short", {"account_id": "a", "key_id": "k"}),
        BadRow(3, "has no such id", {"account_id": "b", "key_id": "bad key!", "compromised": "true"}),
    ]

    def rejected(into: Path = file) -> Path:
        rejects = Rejects(into)
        for row in rows:
            rejects.add(row)
        rejects.close()
        return rejects.file

    assert rejected() == file
    header, _, second = file.read_text().splitlines()
    assert header == "account_id,key_id,compromised,keyturn_line,keyturn_reason"
    assert "true" in second
    assert rejected() == file, "the same once more"
    file.write_text("fixed")
    assert rejected() == tmp_path / "keys.rejects-2.csv"
    assert file.read_text() == "fixed"
    for bad in (tmp_path, tmp_path / "none" / "r.csv"):
        with pytest.raises(InventoryInvalid, match="the file of rejects"):
            rejected(bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.rejects-2.csv", "keys.rejects.csv"]
