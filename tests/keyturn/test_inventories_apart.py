"""What a worker reads for others is read by a child: the same rows, and a refusal by name where the child ends."""

import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.isolation import read_apart, read_scans_apart
from keyturn.inventory.read import read
from keyturn.inventory.scans import read_scans
from keyturn.inventory.source import Inventory
from tests.support.cases import NOW

FIELD = Path(__file__).parents[1] / "corpora" / "estates"


def rows_of(reading: Callable[[], Iterator[Any]]) -> list[Any]:
    """All rows, and the refusal behind them if there is one."""
    rows: list[Any] = []
    try:
        rows.extend(reading())
    except InventoryInvalid as error:
        rows.append((str(error), error.without_quotes))
    return rows


@pytest.mark.parametrize("name", ["report-300.json", "paths.csv", "pandas.csv", "nested-secret.json", "not-there.csv"])
def test_a_child_reads_what_this_process_reads(name: str) -> None:
    inventory = Inventory(FIELD / name, observed_at=NOW, account_id="a")
    assert rows_of(lambda: read_apart(inventory)) == rows_of(lambda: read(inventory))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "x;y\n1;2\n",
        '[{"keyId": "a"',
        "[" * 100_000,
        '[{"keyId": ' + "1" * 4_301 + "}]",
        '{"account_id": "a", "key_id": "half \\ud83d of it"}\n{"account_id": "a", "key_id": "k"}\n',
        "\n".join(json.dumps({"account_id": "a", "key_id": f"k{number}"}) for number in range(1_203)),
        "\n".join(json.dumps({"account_id": "a", "key_id": 7, "notes": "x" * 400_000}) for _ in range(9)),
    ],
    ids=["empty", "no key", "no format", "cut off", "deep", "digits", "a surrogate", "batches", "large bad rows"],
)
def test_bad_rows_and_refusals_come_through_as_they_are(content: str, tmp_path: Path) -> None:
    file = tmp_path / "inventory"
    file.write_text(content)
    inventory = Inventory(file, observed_at=NOW)
    assert rows_of(lambda: read_apart(inventory)) == rows_of(lambda: read(inventory))


def test_scans_are_read_apart_too(tmp_path: Path) -> None:
    file = tmp_path / "scans.jsonl"
    record = {"record_id": "r-1", "text": "the key was used from an unknown address"}
    file.write_text(json.dumps({"account_id": "a", "records": [record]}) + "\nnonsense\n")
    assert rows_of(lambda: read_scans_apart(file)) == rows_of(lambda: read_scans(file))


def test_a_child_that_is_killed_is_a_refusal(tmp_path: Path) -> None:
    """As by a parser in C, or by the kernel for want of memory. The file stays open, so that it is at work."""
    file = tmp_path / "inventory"
    os.mkfifo(file)
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(rows_of(lambda: read_apart(Inventory(file)))))
    reader.start()
    with file.open("w"):
        os.kill(_child(), signal.SIGSEGV)
        reader.join()
    assert seen == [(f"{file}: the process that read it stopped (SIGSEGV)",) * 2]


def test_a_child_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "inventory"
    os.mkfifo(file)
    assert rows_of(lambda: read_apart(Inventory(file), silent_seconds=0.5))[0][0].endswith("after 0.5 s without a row")
    assert _children() == []


def test_a_child_has_so_much_memory_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "inventory"
    row = {"account_id": "a", "key_id": 7, "notes": "x" * 900_000}
    file.write_text("\n".join(json.dumps(row) for _ in range(20)))
    *_, (refusal, _) = rows_of(lambda: read_apart(Inventory(file), memory_bytes=1 << 20))
    assert "needs more than 0.0 GB of memory" in refusal or "the process that read it stopped" in refusal
    assert len(rows_of(lambda: read_apart(Inventory(file)))) == 20


def test_rows_that_nobody_wants_any_more_end_the_child() -> None:
    rows = read_apart(Inventory(FIELD / "report-300.json", observed_at=NOW))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert _children() == []


def test_a_child_is_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_PAYLOAD_KEYS", "secret-of-ours")
    file = tmp_path / "inventory"
    os.mkfifo(file)
    reader = threading.Thread(target=lambda: rows_of(lambda: read_apart(Inventory(file), silent_seconds=5)))
    reader.start()
    with file.open("w"):
        child = _child()
        assert b"secret-of-ours" not in Path(f"/proc/{child}/environ").read_bytes()
        os.kill(child, signal.SIGKILL)
        reader.join()


def _children() -> list[int]:
    """Child processes that read an inventory."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            command = (place / "cmdline").read_bytes()
        except (OSError, IndexError, ValueError):
            continue
        if parent == os.getpid() and b"keyturn.inventory.isolation" in command:
            found.append(int(place.name))
    return found


def _child() -> int:
    (child,) = _children()
    return child


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Schl\xfcssel.csv"))
    file.write_text("account_id,key_id\na,k\n")
    with pytest.raises(InventoryInvalid, match="name is not UTF-8"):
        list(read_apart(Inventory(file)))


def test_large_scans_and_many_descriptors_are_no_hindrance(tmp_path: Path) -> None:
    """What one process reads, the other reads, too."""
    file = tmp_path / "scans.jsonl"
    records = [{"record_id": f"r-{number}", "text": 'a "quoted" text ' * 30} for number in range(200)]
    file.write_text("\n".join(json.dumps({"account_id": "a", "records": records}) for _ in range(60)))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)] if most > 1_200 else []
    try:
        assert len(list(read_scans_apart(file))) == 60
    finally:
        for one in held:
            os.close(one)


def test_a_date_beyond_the_calendar_is_a_bad_row(tmp_path: Path) -> None:
    header = "user,arn,access_key_1_active,access_key_1_last_rotated,access_key_2_active,access_key_2_last_rotated\n"
    file = tmp_path / "report.csv"
    good = "b,arn:aws:iam::1:user/b,true,2026-01-01T00:00:00+00:00,false,N/A\n"
    file.write_text(f"{header}a,arn:aws:iam::1:user/a,true,0001-01-01T00:00:00+14:00,false,N/A\n{good}")
    rows = rows_of(lambda: read(Inventory(file, observed_at=NOW)))
    assert [type(row).__name__ for row in rows] == ["BadRow", "InventoryKey"]
