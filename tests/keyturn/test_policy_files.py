"""Policy files of others: each fault by file and line number, nothing half loaded; and what a change changes."""

from pathlib import Path
from typing import Any

import pytest

from keyturn.contracts import CredentialFacts
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.changes import changes_for, smallest_examples
from keyturn.policy.errors import CatalogueInvalid
from keyturn.policy.files import read_files
from keyturn.policy.line import PolicyLine
from keyturn.policy.review import review
from tests.gate.partition import line, passed
from tests.support.cases import NOW, facts

GOOD = """# Ours.
[[line]]
id = "OWN-1"
version = 1
wording = "Keys older than 60 days rotate within 14 days."
applies_to = ["access_key"]
window_days = 14
rule = { when = "age", operator = ">", days = 60, truncation = "whole_days" }
source = { benchmark = "Ours", release = "1", id = "OWN-1" }
"""
SECOND = GOOD.replace("# Ours.\n", "\n").replace("OWN-1", "OWN-2")


@pytest.mark.parametrize(
    ("text", "place", "named", "said"),
    [
        (GOOD + 'colour = "red"\n', 10, "OWN-1", "no such field"),
        (GOOD.replace("window_days = 14", "window_days = 0"), 7, "OWN-1", "greater than or equal to 1"),
        (GOOD.replace("window_days = 14", "window_days = 2.5"), 7, "OWN-1", "valid integer"),
        (GOOD.replace('"access_key"', '"acces_key"'), 6, "OWN-1", "applies_to"),
        (GOOD.replace('"access_key"', '"access_key", "access_key"'), 2, "OWN-1", "names a kind twice"),
        (GOOD.replace('id = "OWN-1"\nversion', 'id = "ОВН-1"\nversion'), 3, "ОВН-1", "ASCII letters"),  # noqa: RUF001 - Cyrillic
        (GOOD + 'approvers = ["omar"]\n', 2, "OWN-1", 'approval = "required" and a list of approvers'),
        (GOOD + 'approval = "required"\n', 2, "OWN-1", "belong together"),
        (GOOD + 'approval = "required"\napprovers = ["Ольга"]\n', 11, "OWN-1", "approvers"),
        (GOOD + 'approval = "required"\napprovers = ["omar", "omar"]\n', 2, "OWN-1", "names a user twice"),
        (GOOD.replace("version = 1", "version = 0"), 4, "OWN-1", "version"),
        (GOOD.replace("version = 1\n", ""), 2, "OWN-1", "Field required"),
        (GOOD.replace("days = 60, ", ""), 8, "OWN-1", "rule.age.days: Field required"),
        (GOOD.replace('when = "age"', 'when = "older"'), 8, "OWN-1", "rule"),
        (GOOD + SECOND.replace("window_days = 14", "window_days = -1"), 16, "OWN-2", "window_days"),
        (GOOD + SECOND.replace("OWN-2", "OWN-1"), 11, "OWN-1", "defined twice"),
        (GOOD.replace("rule = {", 'decide = "model"\nrule = {'), 8, "OWN-1", "decide"),
        (GOOD.replace("version = 1", "version = 1\nversion = 2"), None, None, "cannot be read as TOML"),
    ],
)
def test_each_fault_is_reported_by_file_line_number_and_name_and_nothing_is_loaded(
    tmp_path: Path, text: str, place: int | None, named: str | None, said: str
) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(text, encoding="utf-8")
    _, [fault, *_] = read_files([file])
    assert (fault.line_number, fault.policy_line) == (place, named), fault
    assert said in fault.message
    with pytest.raises(CatalogueInvalid) as caught:
        load_catalogue(tmp_path)
    assert str(file) in str(caught.value)
    assert place is None or f"ours.toml:{place}:" in str(caught.value)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(GOOD.replace("version = 1", "version = 0") + SECOND.replace("window_days = 14", "window_days = 0"))
    (tmp_path / "second.toml").write_text("[[line]")
    _, faults = read_files(sorted(tmp_path.glob("*.toml")))
    assert [fault.policy_line for fault in faults] == ["OWN-1", "OWN-2", None]


def test_too_many_lines_are_refused_by_name(tmp_path: Path) -> None:
    """A thousand and one: more is a program's output, and no one's policy."""
    file = tmp_path / "ours.toml"
    file.write_text("".join(SECOND.replace("OWN-2", f"OWN-{number}") for number in range(1_001)))
    _, [fault] = read_files([file])
    assert "at most 1000" in fault.message


def test_own_lines_are_added_to_the_shipped_ones_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(GOOD)
    both, alone = load_catalogue(tmp_path), load_catalogue(tmp_path, shipped=False)
    assert {"P-7", "OWN-1"} <= {one.id for one in both}
    assert [one.id for one in alone] == ["OWN-1"]
    assert both.version != load_catalogue().version


def test_a_line_that_is_shipped_already_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(GOOD.replace("OWN-1", "P-7"))
    with pytest.raises(CatalogueInvalid, match=r"P-7 is defined twice.*KEYTURN_POLICY_SHIPPED=off"):
        load_catalogue(tmp_path)


def test_a_file_with_a_mark_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(GOOD.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert "OWN-1" in {one.id for one in load_catalogue(tmp_path)}


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(CatalogueInvalid, match="not a regular file"):
        load_catalogue(tmp_path)


OLDER = passed("age", ">", 60, "whole_days")


@pytest.mark.parametrize(
    ("lines", "kind", "names"),
    [
        ((line("N", {"when": "never"}),), "never_holds", ("N",)),
        ((line("A", OLDER, window_days=30), line("B", OLDER, window_days=14)), "redundant", ("A", "B")),
        (
            (
                line("A", {"when": "stale"}, approval="required", approvers=["omar"]),
                line("B", {"when": "stale"}, approval="required", approvers=["noor"]),
            ),
            "contradiction",
            ("A", "B"),
        ),
        (
            (line("A", OLDER, window_days=90), line("B", passed("age", ">", 90, "whole_days"), window_days=7)),
            "gap",
            ("A", "B"),
        ),
    ],
)
def test_an_author_is_told_what_to_look_at(lines: tuple[PolicyLine, ...], kind: str, names: tuple[str, ...]) -> None:
    assert [(one.kind, one.lines) for one in review(lines)] == [(kind, names)]


def test_lines_that_need_each_other_are_not_remarked_on() -> None:
    lines = (
        line("A", OLDER, window_days=14),
        line("B", passed("unused", ">=", 45, "whole_days"), window_days=14),
        line("C", {"when": "compromised"}, window_days=1, approval="required", approvers=["omar"]),
        line("D", OLDER, window_days=7, applies_to=["user_password"]),
    )
    assert review(lines) == []


def test_a_change_is_shown_by_the_simplest_key_for_which_it_matters() -> None:
    """Of an edge that moved: one day of age, at its own edge, and no other fact."""
    before, after = line("A", OLDER, window_days=14), line("A", passed("age", ">", 90, "whole_days"), window_days=14)
    [decision, *others] = smallest_examples([before], [after])
    assert (decision.aspect, decision.before, decision.after) == ("decision", "eligible", "not_eligible")
    assert decision.facts.age is not None
    assert decision.facts.age.days == 61
    assert {one.aspect for one in others} <= {"date", "window"}


@pytest.mark.parametrize(
    ("changed", "aspect", "before", "after"),
    [
        ({"window_days": 7}, "window", "14 days", "7 days"),
        ({"approval": "required", "approvers": ["omar"]}, "approvers", "none", "omar"),
        ({"decide": "person"}, "approvers", "none", "any operator"),
    ],
)
def test_a_change_of_window_or_approvers_is_shown(
    changed: dict[str, object], aspect: str, before: str, after: str
) -> None:
    old, new = line("A", OLDER, window_days=14), line("A", OLDER, **{"window_days": 14} | changed)
    examples = {(one.aspect, one.before, one.after) for one in smallest_examples([old], [new])}
    assert (aspect, before, after) in examples


def test_what_changes_nothing_has_no_example() -> None:
    """Another wording, another version: every key is decided as before."""
    old, new = line("A", OLDER), line("A", OLDER, wording="Otherwise worded.", version=2)
    assert smallest_examples([old], [new]) == []


def test_a_key_is_compared_under_both() -> None:
    key: CredentialFacts = facts(kind="access_key", age_days=70, stale=None)
    before, after = line("A", OLDER, window_days=14), line("A", OLDER, window_days=7)
    assert {one.aspect for one in changes_for([before], [after], key, NOW)} == {"window", "date"}


@pytest.mark.parametrize(
    ("wording", "rule", "window", "said"),
    [
        (
            "Keys must be rotated at least annually.",
            passed("age", ">", 3650, "exact"),
            365,
            "rule has 3650",
        ),
        (
            "Keys are rotated within ninety (90) days.",
            passed("age", ">=", 900, "exact"),
            90,
            "rule has 900",
        ),
        ("Keys unused for 45 days must go.", passed("unused", ">", 54, "exact"), 45, "rule has 54"),
        ("Keys unused for 45 days must go.", passed("age", ">", 45, "exact"), 45, "its rule is on age"),
        ("Keys older than 45 days rotate.", passed("unused", ">", 45, "exact"), 45, "its rule is on disuse"),
        ("Rotate within 24 hours of a compromise.", {"when": "compromised"}, 24, "wording names 1"),
        ("Keys of 90 days rotate, unless they are break-glass keys.", passed("age", ">", 90, "exact"), 90, "exception"),
        ("Keys of fewer than 90 days must not be rotated.", passed("age", ">=", 90, "exact"), 90, "no rotation"),
        ("Keys need not be rotated periodically.", {"when": "stale"}, 30, "no rotation"),
        ("Keys older than 90 days rotate within 14 days.", passed("age", ">", 90, "exact"), 14, None),
        ("Keys rotate every quarter.", passed("age", ">", 90, "exact"), None, None),
        ("Stale keys rotate within a month.", {"when": "stale"}, 30, None),
        ("Keys rotate except those of the lab.", {"when": "prose"}, 30, None),
    ],
)
def test_a_rule_that_is_unlike_its_wording_is_remarked_on(
    wording: str, rule: dict[str, Any], window: int | None, said: str | None
) -> None:
    decide = {"decide": "person"} if rule["when"] == "prose" else {}
    found = review([line("L-1", rule, wording=wording, window_days=window, **decide)])
    assert {one.kind for one in found} == (set() if said is None else {"wording"})
    assert said is None or any(said in one.message for one in found)


def test_no_shipped_line_is_unlike_its_wording() -> None:
    assert [remark for one in load_catalogue() for remark in review([one]) if remark.kind == "wording"] == []
