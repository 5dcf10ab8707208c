"""`keyturn policy`, as an author of policies types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyturn.policy.line import PolicyLine
from keyturn.starter.cli import cli
from tests.keyturn.test_policy_files import GOOD, SECOND
from tests.support.record_schemas import POLICY_PAGE, rewritten


def keyturn(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["policy", *map(str, arguments)])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "ours.toml").write_text(GOOD + SECOND)
    return folder


def test_the_lines_of_this_machine_are_listed_with_their_digest(own: Path) -> None:
    printed = keyturn("list", "--policy-dir", own)
    assert printed.exit_code == 0
    assert "OWN-1@1" in printed.output
    assert "P-7@1" in printed.output
    assert "age > 60 whole days" in printed.output
    assert printed.output.splitlines()[-1].startswith("digest v1:")
    alone = json.loads(keyturn("list", "--policy-dir", own, "--shipped-lines", "off", "--json").output)
    assert [line["id"] for line in alone["lines"]] == ["OWN-1", "OWN-2"]


def test_one_line_is_shown_with_all_that_code_reads_in_it() -> None:
    printed = keyturn("show", "P-7").output
    assert "Stale service-account keys must rotate within 30 days." in printed
    assert "window 30 days" in printed


def test_files_are_checked_by_line_number_and_remarks_are_reported(own: Path) -> None:
    sound = keyturn("check", own)
    assert sound.exit_code == 0
    assert "OWN-1, OWN-2: redundant" in sound.output
    assert "2 policy lines can be used; 1 remark" in sound.output
    (own / "ours.toml").write_text(GOOD.replace("window_days = 14", "window_days = 0"))
    faulty = keyturn("check", own / "ours.toml")
    assert faulty.exit_code == 1
    assert "ours.toml:7: OWN-1" in faulty.output
    assert json.loads(keyturn("check", own, "--json").stdout)["faults"][0]["line_number"] == 7


def test_a_change_is_reported_line_by_line_and_counted_on_an_inventory(own: Path, tmp_path: Path) -> None:
    """How many keys of the estate change, in what, and which."""
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "ours.toml").write_text(GOOD.replace("days = 60", "days = 90"))
    inventory = tmp_path / "keys.csv"
    rows = [f"acct_{age},key_{age},access_key,{age}" for age in (10, 61, 75, 90, 91, 400)]
    inventory.write_text("account_id,key_id,kind,age_days\n" + "\n".join(rows) + "\n")
    printed = json.loads(keyturn("diff", own, newer, "--inventory", inventory, "--json").output)["changes"]
    by_name = {change["lines"]: change for change in printed}
    assert set(by_name) == {"OWN-1 changed", "OWN-2 removed"}
    counted = by_name["OWN-1 changed"]["inventory"]
    assert (counted["keys"], counted["by_aspect"]["decision"]) == (6, 3)
    assert {key["account_id"] for key in counted["named"]} >= {"acct_61", "acct_75", "acct_90"}
    shown = keyturn("diff", own, newer).output
    assert "decision: eligible -> not_eligible, for example: access_key, age 61 days" in shown
    assert keyturn("diff", own, own).output == "nothing changes for any key\n"
    together = keyturn("diff", own, newer, "--policy", "OWN-1", "--policy", "OWN-2").output
    assert together.startswith("OWN-1 + OWN-2\n")


def test_the_schema_is_the_published_one() -> None:
    published = Path(__file__).parents[2] / "docs" / "schemas" / "policy.json"
    assert json.loads(keyturn("schema").output) == json.loads(published.read_text())


@pytest.mark.parametrize("arguments", [("show", "P-8"), ("check", "."), ("diff", ".", ".")])
def test_a_users_mistake_ends_in_one_message(arguments: tuple[str, ...], tmp_path: Path) -> None:
    printed = CliRunner().invoke(cli, ["policy", *(str(tmp_path) if one == "." else one for one in arguments)])
    assert printed.exit_code != 0
    assert "Traceback" not in printed.output


def test_the_page_of_the_format_has_the_fields_of_the_code() -> None:
    """`make schemas` writes its tables."""
    page = POLICY_PAGE.read_text()
    assert rewritten(page) == page
    assert all(f"`{name}`" in page for name in PolicyLine.model_fields)
