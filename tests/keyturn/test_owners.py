"""Owners of keys: which source counts, and what a file of them may say."""

from pathlib import Path

import pytest

from keyturn.contracts import UNOWNED
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.inventory.read import read
from keyturn.inventory.rows import BadRow, InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.owners import Owners, OwnersInvalid, read_rules
from tests.keyturn.test_report import findings_of, item, quiet

ARN = "arn:aws:iam::123456789012:user/svc-pay-3"


def owners_of(text: str, folder: Path, *tables: KeyMapping) -> Owners:
    file = folder / "owners"
    file.write_text(text)
    return Owners(KeyMap(tables), read_rules(file))


def test_the_last_line_that_matches_counts(tmp_path: Path) -> None:
    """As in a CODEOWNERS file; a pattern is about the whole name of an account, or its last part."""
    text = "*  platform\nsvc-pay-*  payments  # theirs\narn:aws:iam::999*:user/*  @infra/core\nsvc-sandbox-*\n"
    owners = owners_of(text, tmp_path)
    assert owners.owner_of("acct_10234", "key_01") == "platform"
    assert owners.owner_of("svc-pay-3", "key_01") == owners.owner_of(ARN, "key_01") == "payments"
    assert owners.owner_of("arn:aws:iam::999900000000:user/svc-pay-1", "k") == "infra/core"
    assert owners.owner_of("svc-sandbox-1", "key_01") is None
    assert owners.owner_of("svc-payroll", "key_01") == "platform"


def test_the_key_map_comes_before_the_inventory_and_that_before_the_file(tmp_path: Path) -> None:
    """A table of the key map is written for the key itself."""
    table = KeyMapping(account="svc-pay-3", key_id="key_01", owner="treasury")
    owners = owners_of("svc-pay-* payments", tmp_path, table)
    assert owners.owner_of("svc-pay-3", "key_01", "billing") == "treasury"
    assert owners.owner_of("svc-pay-3", "key_02", "billing") == "billing"
    assert owners.owner_of("svc-pay-3", "key_02") == "payments"
    assert Owners().owner_of("svc-pay-3", "key_02") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("svc-* payments platform", "line 1: names several owners"),
        ("svc-* pay\x00ments", "line 1: an owner has letters"),
        ("# nothing\n\n", "names no owner"),
        ("svc-*,payments\nsvc-x,platform", "names no owner: a line is a pattern"),
        ("ok team\n/src/ payments", "line 2: a pattern is of accounts"),
        ("!svc-* payments", "line 1: a pattern is of accounts"),
        ("^[Section] payments", "line 1: a pattern is of accounts"),
        ("src/** payments", "line 1: a pattern is of accounts"),
        ("svc-[ab]* payments", "line 1: a pattern is of accounts"),
        ("ok team\nsvc-ü payments", "line 2: the pattern holds characters"),
        (f"svc-* {UNOWNED}", "leave the owner out"),
        ("svc-* " + "x" * 65, "64 at most"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    """Nothing is started by half a file."""
    with pytest.raises(OwnersInvalid, match=says):
        owners_of(text, tmp_path)


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    """With a mark before the text, and with its line ends; in UTF-16 it is refused, with what to do."""
    file = tmp_path / "owners"
    file.write_bytes("svc-* payments\r\n".encode("utf-8-sig"))
    assert Owners(None, read_rules(file)).owner_of("svc-1", "k") == "payments"
    file.write_bytes("svc-* payments\r\n".encode("utf-16"))
    with pytest.raises(OwnersInvalid, match="not UTF-8"):
        read_rules(file)
    with pytest.raises(OwnersInvalid, match="cannot be read"):
        read_rules(tmp_path / "absent")


@pytest.mark.parametrize("name", ["keys.csv", "keys.jsonl"])
def test_an_inventory_may_name_owners(name: str, tmp_path: Path) -> None:
    """In a column `owner`; a gap is no owner, and a name that cannot be one makes the row a bad one."""
    file = tmp_path / name
    named = ("payments", "", "@org/team", "a b")
    rows = [(f"acct_{number}", f"key_{number}", owner) for number, owner in enumerate(named)]
    if name.endswith("csv"):
        file.write_text("account_id,key_id,owner\n" + "\n".join(",".join(row) for row in rows) + "\n")
    else:
        form = '{{"account_id": "{}", "key_id": "{}", "owner": "{}"}}\n'
        file.write_text("".join(form.format(*row) for row in rows))
    found = list(read(Inventory(file)))
    assert [row.owner for row in found if isinstance(row, InventoryKey)] == ["payments", None, "org/team"]
    assert [row.reason for row in found if isinstance(row, BadRow)] == [
        "owner: may hold letters, digits and . _ @ + = / - only, 64 at most"
    ]


def test_a_report_counts_keys_that_no_one_owns() -> None:
    """Where owners are known at all: else each key would be a finding, and none a help."""
    some = findings_of([], [item(1, owner="payments"), item(2), quiet(3)], owners_known=True)
    assert some.unowned == 2
    assert dict(some.due_by_owner) == {"payments": 1, UNOWNED: 1}
    assert findings_of([], [item(1), quiet(2)]).unowned == 0, "of no key is an owner known"
