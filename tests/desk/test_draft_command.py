"""`keyturn draft` as a person at a terminal has it."""

import asyncio
import re
import signal
import uuid
from pathlib import Path

import pytest

from keyturn.lab.stack.embedded import Stack
from keyturn.lab.stack.loopback import loopback_client
from tests.support.terminal import KEYTURN, lunas

ASKED = ("--account", "acct_10234", "--policy", "P-7", "--question", "May it?")


async def begun(stack: Stack, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        KEYTURN, "draft", *arguments, env=lunas(stack), stdout=-1, stderr=-1, stdin=asyncio.subprocess.DEVNULL
    )


def catches(pid: int, one: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; see proc(5)."""
    [caught] = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (one - 1) & 1)


async def pace(stack: Stack, seconds: float) -> None:
    async with loopback_client() as http:
        (await http.put(f"{stack.simulator}/control/pace", content=str(seconds))).raise_for_status()


async def test_a_draft_is_shown_as_it_is_written(stack: Stack) -> None:
    """The text on standard output, what became of it on standard error."""
    process = await begun(stack, *ASKED)
    assert process.stdout is not None
    first = await asyncio.wait_for(process.stdout.read(16), 60)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (first + out).decode().startswith("Thank you for asking about acct_10234.")
    assert (process.returncode, err.decode().strip()) == (0, "approved: a person may read and send it")


async def test_ctrl_c_stops_a_draft_and_closes_the_providers_connection(stack: Stack) -> None:
    await pace(stack, 0.5)
    try:
        process = await begun(stack, *ASKED)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.read(4), 60)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    finally:
        await pace(stack, 0.02)
    assert (process.returncode, err.decode().strip()) == (1, "cancelled")
    assert len(out) < 200
    async with loopback_client() as http:
        assert "closed_at" in (await http.get(f"{stack.simulator}/control/requests")).json()[-1]


async def test_a_draft_that_nobody_writes_is_left_after_a_while(stack: Stack) -> None:
    """No worker is there to end it: the user who stops it does not wait for that for ever."""
    environment = lunas(stack) | {"KEYTURN_TASK_QUEUE": f"nobody-{uuid.uuid4().hex}"}
    process = await asyncio.create_subprocess_exec(
        KEYTURN, "draft", *ASKED, env=environment, stdout=-1, stderr=-1, stdin=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        while not catches(process.pid, signal.SIGTERM):  # as soon as the draft has been started
            await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert (process.returncode, "was asked to stop; whether it did is not known" in err.decode()) == (1, True), err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "give --rotation, or --account, --policy and --question"),
        ((*ASKED[:2], "--policy", "P-99", *ASKED[4:]), 2, "P-99"),
        (("--account", "=cmd()", *ASKED[2:]), 2, "--account: "),
        (("--rotation", "rotate:default:none:none:P-7@1"), 1, "no workflow has the ID"),
    ],
)
async def test_what_cannot_be_drafted_is_said(
    stack: Stack, arguments: tuple[str, ...], status: int, message: str
) -> None:
    process = await begun(stack, *arguments)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, message in err.decode(), "Traceback" in err.decode()) == (status, True, False), err
