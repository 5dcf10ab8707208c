"""The search for leaks finds one: it would not be worth much if it could not."""

import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.support.cases import QUESTION
from tests.support.privacy import leaks_of


def test_a_leak_in_a_log_or_a_ledger_is_found(tmp_path: Path) -> None:
    """In any file of the suite's folders, by its place."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "worker.log").write_text(f'{{"event": "asked", "question": "{QUESTION}"}}')
    with sqlite3.connect(tmp_path / "keyturn.db") as connection:
        connection.execute("CREATE TABLE call_records (failure TEXT)")
        connection.execute("INSERT INTO call_records VALUES ('key_for_tests')")
    found = sorted(leaks_of(tmp_path))
    assert [leak.rpartition(": ")[2] for leak in found] == [QUESTION, "key_for_tests"]
    for file in ("a/worker.log", "keyturn.db"):
        (tmp_path / file).unlink()


def test_a_test_that_logs_a_question_fails(tmp_path: Path) -> None:
    """Even if everything that it asserts holds."""
    root = Path(__file__).parents[1]
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_makereport  # noqa: F401\n")
    (tmp_path / "test_leaky.py").write_text(f"def test_leaky() -> None:\n    print({QUESTION!r})\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "printed or logged what must never leave the program" in ended.stdout
