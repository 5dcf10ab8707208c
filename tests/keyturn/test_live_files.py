"""Files that a long-running process reads again when they are changed."""

import os
from pathlib import Path

import pytest
import structlog

from keyturn.execution.errors import KeyMapInvalid
from keyturn.execution.mapping import load_key_map
from keyturn.live_files import LiveFile


def table(account: str) -> str:
    return f'[[key]]\naccount = "{account}"\nowner = "payments"\n'


@pytest.mark.parametrize("way", ["written", "replaced", "linked"])
def test_what_is_changed_counts_from_then_on_and_what_is_faulty_never(tmp_path: Path, way: str) -> None:
    """By an editor, by a rename, and by a link to another folder, as Kubernetes mounts a ConfigMap."""
    file = tmp_path / "keys.toml"
    if way == "linked":
        for name, account in (("v1", "svc-a"), ("v2", "svc-bc"), ("v3", "")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "keys.toml").write_text(table(account) if account else "[[key]")
        (tmp_path / "data").symlink_to("v1")
        file.symlink_to("data/keys.toml")
    else:
        file.write_text(table("svc-a"))

    def put(version: int, text: str) -> None:
        if way == "written":
            file.write_text(text)
        elif way == "replaced":
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(file)
        else:
            (tmp_path / "next").symlink_to(f"v{version}")
            os.replace(tmp_path / "next", tmp_path / "data")

    live = LiveFile(file, load_key_map)
    with structlog.testing.capture_logs() as events:
        assert [one.account for one in live()] == ["svc-a"]
        assert events == [], "it is read once"
        put(2, table("svc-bc"))
        assert [one.account for one in live()] == ["svc-bc"]
        put(3, "[[key]")
        assert [one.account for one in live()] == [one.account for one in live()] == ["svc-bc"]
        file.unlink()
        assert [one.account for one in live()] == ["svc-bc"], "one that is gone is no empty one"
    assert [one["event"] for one in events] == ["file_read_again", "file_not_read_again", "file_not_read_again"]
    assert "is not TOML" in events[1]["because"]
    assert "cannot be read" in events[2]["because"]


def test_without_a_file_nothing_is_looked_at_and_a_faulty_one_starts_nothing(tmp_path: Path) -> None:
    assert list(LiveFile(None, load_key_map)()) == []
    with pytest.raises(KeyMapInvalid):
        LiveFile(tmp_path / "absent.toml", load_key_map)
