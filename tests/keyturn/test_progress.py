"""The line that a bulk run's progress is shown by."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.runs import NO_SERVER, NO_WORKER, follow
from keyturn.bulk.contracts import BulkStatus, RunProgress
from keyturn.progress import line_of, show_progress

PROGRESS = RunProgress(
    total=50_000,
    asks=20_000,
    asked=12_345,
    outcomes={"job_created": 9_876, "nothing_due": 30_000, "rejected": 3, "disagreement": 2, "bad_row": 14},
    cost_usd=Decimal("123.4567"),
)


def status(**changed: Any) -> BulkStatus:
    fields = {"phase": "judging", "progress": PROGRESS, "since": datetime.now(UTC)} | changed
    return BulkStatus.model_validate(fields)


def test_it_has_all_figures_where_there_is_room() -> None:
    line = line_of(status(), 850.0)
    assert line == (
        "[###############.........]  12,345/20,000 asked  850/s  0:00:09 left  $123.4567  "
        "30,000 nothing due, 9,876 jobs created, 14 bad rows, 3 rejected, 2 disagreements"
    )


@pytest.mark.parametrize("width", [200, 120, 79, 60, 40, 24, 10])
def test_it_never_wraps_and_leaves_out_what_matters_least(width: int) -> None:
    """A line that wraps cannot be written anew: a terminal would fill with it."""
    line = line_of(status(), 850.0, width=width)
    assert len(line) <= width
    if width >= 40:
        assert "12,345/20,000 asked" in line
    if width == 79:
        assert ("0:00:09 left" in line, "$123.4567" in line, "nothing due" in line) == (True, True, False)


@pytest.mark.parametrize("said", [NO_SERVER, NO_WORKER])
async def test_what_is_said_while_nobody_answers_fits_a_terminal(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, written anew: whole in 80 columns, cut in fewer."""
    for columns in (80, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = [line for line in (await shown([said, said], live=True)).split("\r\x1b[2K") if line.strip()]
        assert [line.rstrip("\n") for line in lines] == [said[: columns - 1]] * 2
    assert len(said) < 80


def test_a_run_that_reads_its_inventory_has_asked_nothing_yet() -> None:
    loading = status(phase="loading", progress=RunProgress())
    assert line_of(loading, None).startswith("[........................]  0/0 asked")
    assert line_of(status(phase="ended", progress=RunProgress()), None).startswith("[########################]")


def test_a_run_that_is_cancelled_says_so_until_it_has_ended() -> None:
    assert "cancelling" in line_of(status(phase="settling", cancelled=True), None)
    assert "cancel" not in line_of(status(phase="ended", cancelled=True), None)


def test_why_a_run_is_paused_is_left_out_last() -> None:
    assert "paused: max usd reached" in line_of(status(phase="paused", paused="max_usd_reached"), None, width=60)


async def shown(statuses: list[BulkStatus | str], *, live: bool) -> str:
    async def coming() -> AsyncIterator[BulkStatus | str]:
        for one in statuses:
            yield one

    printed: list[str] = []
    await show_progress(coming(), show=lambda text, newline: printed.append(text + "\n" * newline), live=live)
    return "".join(printed)


async def test_a_terminal_has_one_line_and_a_pause_stays_to_be_read() -> None:
    """The reason with what to do, once, however long the pause is."""
    paused = status(phase="paused", paused="max_usd_reached", hint="Resume the run, or cancel it.")
    printed = await shown([status(), paused, paused, NO_SERVER, status(phase="ended")], live=True)
    assert printed.count("\n") == 2
    assert printed.count("paused: max usd reached. Resume the run, or cancel it.\n") == 1
    assert f"\x1b[2K{NO_SERVER}" in printed
    assert re.fullmatch(r".*\$123\.4567.*\n", printed.rpartition("\x1b[2K")[2])


async def test_a_log_has_a_line_now_and_then_and_the_last_one() -> None:
    printed = await shown([status(), status(), status(phase="ended")], live=False)
    assert (printed.count("\n"), "\x1b" in printed) == (2, False)


async def test_a_run_is_followed_while_its_worker_and_the_server_restart() -> None:
    """What does not answer now is waited for; nothing of the client's own text is shown."""
    away = [
        RPCError("connection refused at /tmp/secret", code, b"")
        for code in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.FAILED_PRECONDITION)
    ]
    answers: list[Any] = [status(), *away, status(phase="ended")]

    class Handle:
        async def query(self, *_: Any, **__: Any) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, RPCError):
                raise answer
            return answer

        async def describe(self, **_: Any) -> Any:
            class Description:
                from temporalio.client import WorkflowExecutionStatus

                status = WorkflowExecutionStatus.RUNNING

            return Description()

    handle: Any = Handle()
    seen = [one if isinstance(one, str) else one.phase async for one in follow(handle, every=0)]
    assert seen == ["judging", NO_SERVER, NO_WORKER, NO_WORKER, "ended"]
