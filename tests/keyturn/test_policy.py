"""The catalogue and its edges."""

from datetime import timedelta
from pathlib import Path

import pytest

from keyturn.contracts import CredentialFacts
from keyturn.policy.applicability import applies, due
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.policy.errors import CatalogueInvalid, UnknownPolicyLine
from keyturn.policy.line import WhenOlder, WhenUnused
from tests.support.cases import NOW, facts

SECOND = timedelta(seconds=1)
LINE = """
[[line]]
id = "X-1"
version = 3
wording = "Keys rotate."
applies_to = ["access_key"]
window_days = 30
rule = { when = "stale" }
source = { benchmark = "Ours", release = "1", id = "X-1" }
"""


def test_the_shipped_catalogue_holds_the_founding_policy_and_the_real_ones(catalogue: Catalogue) -> None:
    """P-7 and each benchmark that the documentation names are there, with their windows."""
    windows = {line.id: line.window_days for line in catalogue}
    assert windows["P-7"] == 30
    assert {windows[f"CIS-AWS-{n}"] for n in ("4.0-1.14", "5.0-1.13", "6.0-2.13", "7.0-2.12")} == {90}
    assert {windows[f"CIS-AWS-{n}"] for n in ("4.0-1.12", "5.0-1.11", "6.0-2.11", "7.0-2.11")} == {45}
    assert (windows["AWS-FSBP-IAM.3"], windows["AWS-FSBP-IAM.8"], windows["AWS-FSBP-IAM.22"]) == (90, None, 45)
    assert {windows["CIS-GCP-4.0-1.7"], windows["CIS-GCP-5.0-1.8"]} == {90}
    assert {windows["PCI-DSS-8.6.3"], windows["NIST-800-63B-PASSWORDS"], windows["SOC2-CC6.1"]} == {None}


def edge_cases() -> list[tuple[str, timedelta]]:
    """Each shipped line with a numeric rule, with the elapsed time at which it starts to apply."""
    cases = []
    for line in load_catalogue():
        if isinstance(line.rule, WhenOlder | WhenUnused):
            days, operator = line.rule.days, line.rule.operator
            if operator == ">=":
                first = timedelta(days=days)
            elif line.rule.truncation == "whole_days":
                first = timedelta(days=days + 1)
            else:
                first = timedelta(days=days) + SECOND
            cases.append((line.id, first))
    return cases


@pytest.mark.parametrize(("line_id", "first"), edge_cases())
def test_both_sides_of_every_edge_by_one_second(catalogue: Catalogue, line_id: str, first: timedelta) -> None:
    """A line applies from its edge on, and not one second before it."""
    line = catalogue.current(line_id)

    def seen(elapsed: timedelta) -> CredentialFacts:
        moment = NOW - elapsed
        name = "last_rotated_at" if isinstance(line.rule, WhenOlder) else "last_used_at"
        return CredentialFacts.model_validate(
            {"key_id": "k", "kind": line.applies_to[0], "observed_at": NOW, name: moment}
        )

    assert applies(line, seen(first))
    assert not applies(line, seen(first - SECOND))


def test_a_key_of_exactly_90_days_is_within_90_days_or_less(catalogue: Catalogue) -> None:
    """The edge as the benchmarks word it, for both ways of counting."""
    for line_id in ("CIS-AWS-7.0-2.12", "AWS-FSBP-IAM.3"):
        line = catalogue.current(line_id)
        assert not applies(line, facts(kind="access_key", age_days=90))
        assert applies(line, facts(kind="access_key", age_days=91))


def test_a_never_used_key_counts_from_its_last_rotation(catalogue: Catalogue) -> None:
    """A key that was made and never used is unused, which one scanner overlooks."""
    line = catalogue.current("AWS-FSBP-IAM.22")
    assert applies(line, facts(kind="access_key", age_days=45, never_used=True))
    assert not applies(line, facts(kind="access_key", age_days=44, never_used=True))
    assert not applies(line, facts(kind="access_key", age_days=400))  # when it was used is unknown


def test_a_line_without_a_condition_applies_to_nothing(catalogue: Catalogue) -> None:
    """SOC 2 states no period: by itself it bears no rotation, whatever the key's state."""
    assert not applies(catalogue.current("SOC2-CC6.1"), facts(compromised=True, age_days=4_000))


def test_a_window_counts_from_what_started_it(catalogue: Catalogue) -> None:
    """From the moment at which the line started to apply: for P-7, when the key was seen to be stale."""
    assert due(catalogue.current("P-7"), facts()) == NOW + timedelta(days=30)
    older = catalogue.current("CIS-GCP-5.0-1.8").model_copy(
        update={"due": "within_window", "window_days": 14, "rule": _older_than(60)}
    )
    assert due(older, facts(age_days=61)) == NOW + timedelta(days=14)  # it started to apply today: day 61 is complete
    assert due(older, facts(age_days=65)) == NOW + timedelta(days=10)
    assert due(older, facts(age_days=900)) == NOW - timedelta(days=900 - 61 - 14)


def test_a_limit_on_age_is_due_at_once_and_not_since_last_year(catalogue: Catalogue) -> None:
    """A benchmark's "every 90 days or less" is a limit that has passed when the line applies: a day is left to act."""
    for line_id in ("CIS-GCP-5.0-1.8", "CIS-AWS-7.0-2.12", "AWS-FSBP-IAM.22", "PCI-DSS-8.6.3"):
        line = catalogue.current(line_id)
        assert due(line, facts(age_days=900, never_used=True)) == NOW + timedelta(days=1)
        assert due(line, facts(age_days=900, never_used=True), NOW + timedelta(hours=3)) == NOW + timedelta(hours=27)


def _older_than(days: int) -> WhenOlder:
    return WhenOlder(when="age", operator=">", days=days, truncation="whole_days")


def test_an_unknown_line_names_the_known_ones(catalogue: Catalogue) -> None:
    """A typing error is fixed by reading the message."""
    with pytest.raises(UnknownPolicyLine, match=r"no policy line 'P-8'.*P-7"):
        catalogue.current("P-8")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[line]", "cannot be read as TOML"),
        ("line = " + "[" * 3_000, "cannot be read as TOML"),
        ("", "line: Field required"),
        (LINE.replace("version = 3", "version = 0"), "line.0.version"),
        (LINE.replace("version = 3\n", ""), "line.0.version: Field required"),
        (LINE.replace('"access_key"', '"badge"'), "line.0.applies_to.0"),
        (LINE.replace('when = "stale"', 'when = "old"'), "line.0.rule"),
        (LINE.replace('when = "stale"', 'when = "age", days = 90'), "line.0.rule.age.operator: Field required"),
        (LINE + 'colour = "red"\n', "colour"),
        (LINE + LINE, "X-1 is defined twice"),
    ],
)
def test_a_faulty_policy_file_is_refused_by_name(tmp_path: Path, text: str, fault: str) -> None:
    """A catalogue is checked whole at start, and the message says which file and field to fix."""
    (tmp_path / "ours.toml").write_text(text)
    with pytest.raises(CatalogueInvalid) as caught:
        load_catalogue(tmp_path)
    assert fault in str(caught.value)
    assert "ours.toml" in str(caught.value) or "twice" in fault


def test_an_empty_folder_is_no_catalogue(tmp_path: Path) -> None:
    """No policy at all is a mistake, not a licence."""
    with pytest.raises(CatalogueInvalid, match="KEYTURN_POLICY_DIR"):
        load_catalogue(tmp_path / "absent")


def test_the_catalogue_version_follows_its_content(tmp_path: Path) -> None:
    """Two catalogues have one version only if every line is the same."""
    (tmp_path / "a.toml").write_text(LINE)
    first = load_catalogue(tmp_path).version
    (tmp_path / "a.toml").write_text(LINE.replace("Keys rotate.", "Keys must rotate."))
    assert load_catalogue(tmp_path).version != first
