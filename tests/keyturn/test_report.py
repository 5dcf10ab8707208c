"""The report of a run: what comes first, what adds up, and what it weighs."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from keyturn.bulk.comparison import Key, Status, compare, statuses_of
from keyturn.bulk.findings import Finding, Findings, finding_of
from keyturn.bulk.report import COLUMNS, ReportRow
from keyturn.bulk.report_page import ROWS_SHOWN, method_of, render_page, summary_of
from keyturn.bulk.sarif import WITHOUT_LINE, result_of, write_sarif
from keyturn.bulk.store import Run
from keyturn.execution.mapping import KeyMap, KeyMapping
from keyturn.keyless import KEYLESS
from keyturn.owners import Owners
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.line import PolicyLine
from tests.support.record_schemas import REPORT_FILE, report_schema

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LINE = "CIS-AWS-4.0-1.14"


def item(number: int = 1, **changed: Any) -> dict[str, Any]:
    """A row of a report: a key that is due, with its job."""
    row: dict[str, Any] = {}
    row |= dict.fromkeys(COLUMNS)
    row |= {
        "line": number,
        "account_id": f"acct_{number:05d}",
        "key_id": f"AKIA{number:012d}",
        "kind": "access_key",
        "age_days": 120,
        "decided_by": "model",
        "outcome": "job_created",
        "policy_lines": [f"{LINE}@1"],
        "rotate_by": NOW + timedelta(days=1),
        "job_id": f"job_{number:032d}",
        "job_state": "open",
        "observed_at": NOW - timedelta(days=1),
        "source": "aws",
        "model": "simulator-1",
        "cost_usd": Decimal("0.001"),
    }
    return row | changed


def quiet(number: int = 1, **changed: Any) -> dict[str, Any]:
    """A key for which nothing is due."""
    nothing: dict[str, Any] = {
        "outcome": "nothing_due",
        "reason": "inside_every_window",
        "policy_lines": None,
        "rotate_by": None,
    }
    nothing |= {
        "job_id": None,
        "job_state": None,
        "age_days": 10,
        "decided_by": "rule",
        "model": None,
        "cost_usd": None,
    }
    return item(number, **nothing | changed)


@pytest.fixture
def lines(catalogue: Catalogue) -> list[PolicyLine]:
    return [catalogue.current(LINE), catalogue.current("P-7")]


def run_of(lines: list[PolicyLine]) -> Run:
    refs = tuple(line.ref for line in lines)
    return Run(
        "run-1", "default", "decide_rotation", "/estate/keys.csv", "sha256:ab", refs, None, "luna", "rule_and_model",
        "v1:cd", "bulk:default:run-1",
        again=False, loaded=True, asks=6, created_at=NOW, ended_at=NOW + timedelta(minutes=3),
        prompt_version="rotation_decision@2", code_version="0.1.0",
    )  # fmt: skip


def findings_of(
    lines: list[PolicyLine], items: Iterator[dict[str, Any]] | list[dict[str, Any]], *, owners_known: bool = False
) -> Findings:
    findings = Findings(lines, NOW, most=ROWS_SHOWN, owners_known=owners_known)
    for one in items:
        findings.add(one)
    return findings


def test_the_worst_comes_first_whatever_the_order_of_the_file(lines: list[PolicyLine]) -> None:
    """Compromised before overdue, the longest overdue before the others; what is rotated needs no look any more."""
    late = NOW - timedelta(days=40)
    findings = findings_of(
        lines,
        [
            item(1),
            item(2, rotate_by=NOW - timedelta(days=3)),
            quiet(3),
            item(4, rotate_by=late),
            item(5, outcome="disagreement", job_id=None, job_state=None),
            item(6, compromised=True),
            item(7, rotate_by=late, job_state="done"),
            item(8, outcome="bad_row", kind=None, key_id=None, policy_lines=None, rotate_by=None, job_id=None),
            item(9, outcome="rejected", policy_lines=None, rotate_by=None, job_id=None, job_state=None),
        ],
    )
    assert [(one.severity, one.line, one.overdue_days) for one in findings.worst] == [
        ("compromised", 6, None),
        ("overdue", 4, 40),
        ("overdue", 2, 3),
        ("disagreement", 5, None),
        ("due", 1, None),
        ("undecided", 9, None),
        ("unusable", 8, None),
    ]
    assert summary_of(findings, None) == (
        "Of 9 keys in the inventory, 5 must be rotated. 1 is compromised. 2 are past the date, the longest by 40 days. "
        "1 is rotated already. 5 jobs were created. 1 waits for a person's decision. 2 could not be decided or read. "
        "Of no key it is known who owns it."
    )


def test_what_is_rotated_must_not_be_rotated_and_what_was_not_asked_is_not_called_undecidable(
    lines: list[PolicyLine],
) -> None:
    """A compromised key, too, and one whose job another line made; a failed job rotated nothing."""
    rows = [
        item(1, job_state="done", compromised=True),
        item(2, job_state="done", outcome="job_exists"),
        item(3, job_state="purged", rotate_by=NOW - timedelta(days=9)),
        item(4, job_state="failed", outcome="job_failed"),
        item(5, outcome=None, policy_lines=None, rotate_by=None, job_id=None, job_state=None),
    ]
    findings = findings_of(lines, rows)
    assert [(one.severity, one.line) for one in findings.worst] == [("due", 4), ("undecided", 5)]
    counts = findings.by_line[f"{LINE}@1"]
    assert (counts.due, counts.rotated, findings.due_by_owner.total()) == (1, 3, 1)
    said = summary_of(findings, None)
    assert "Of 5 keys in the inventory, 1 must be rotated. 3 are rotated already." in said
    assert "1 was not asked about yet." in said
    assert "could not be decided" not in said
    page = render_page(run_of(lines), findings, facts=[])
    assert "<tr><td>rotated</td><td>3</td></tr>" in page


def test_a_key_without_an_owner_is_a_finding_where_owners_are_known(lines: list[PolicyLine]) -> None:
    """Also one that needs nothing else; what needs more is found by that."""
    rows = [quiet(1), quiet(2, owner="payments"), item(3), quiet(4, outcome="bad_row", key_id=None)]
    findings = findings_of(lines, rows, owners_known=True)
    assert [(one.severity, one.line) for one in findings.worst] == [("due", 3), ("unusable", 4), ("unowned", 1)]
    assert "KEYTURN_OWNERS" in findings.worst[-1].following
    assert findings.quiet.total() + sum(findings.counts.values()) - findings.counts["unowned"] == findings.total
    assert "2 have no owner." in summary_of(findings, None)
    page = render_page(run_of(lines), findings, facts=[])
    assert "Without an owner: 1" in page
    assert [one.severity for one in findings_of(lines, rows).worst] == ["due", "unusable"]


def test_one_day_is_a_day(lines: list[PolicyLine]) -> None:
    found = finding_of(item(1, age_days=1, idle_days=1, rotate_by=NOW - timedelta(days=1)), NOW)
    assert found is not None
    assert found.evidence.startswith("1 day old; unused for 1 day;")
    assert "by 1 day." in result_of(found, run_of(lines))["message"]["text"]


def test_what_a_model_said_of_a_disagreement_is_its_evidence() -> None:
    found = finding_of(item(1, outcome="disagreement", explanation="It is exempt, the model says."), NOW)
    assert found is not None
    assert found.evidence.startswith("It is exempt, the model says.; 120 days old")


def test_findings_name_their_owner_and_what_would_need_no_key(lines: list[PolicyLine]) -> None:
    """By the key map; where it names no one, the page has no column for owners."""
    tables = [{"account": "acct_00001", "owner": "payments"}, {"account": "acct_0000*", "owner": "shipping"}]
    mappings = [KeyMapping.model_validate(table | {"targets": ["vault:secret/{user}"]}) for table in tables]
    owners = Owners(KeyMap(mappings))
    findings = Findings(lines, NOW, most=ROWS_SHOWN, owner_of=owners.owner_of, owners_known=True)
    rows = [item(1), item(2), item(3), item(12345), quiet(4)]
    for row in rows:
        findings.add(row)
    assert [row["owner"] for row in rows] == ["payments", "shipping", "shipping", None, "shipping"]
    page = render_page(run_of(lines), findings, facts=[])
    assert '<td data-label="Owner">payments</td>' in page
    assert "<tr><td>shipping</td><td>2</td></tr>" in page
    assert "<tr><td>unowned</td><td>1</td></tr>" in page
    assert f"<li>4 due: {KEYLESS['access_key']}</li>" in page
    assert "1 has no owner." in page
    assert "Owner" not in render_page(run_of(lines), findings_of(lines, [item(1)]), facts=[])


def test_each_lines_counts_add_up_to_the_inventory(lines: list[PolicyLine]) -> None:
    """Due, not due, not decided and not covered, under each line."""
    findings = findings_of(
        lines,
        [
            item(1),
            quiet(2),
            quiet(3, kind="service_account_key"),
            item(4, outcome="bad_row", kind=None),
            item(5, outcome="rejected", policy_lines=None),
        ],
    )
    totals = {ref: (one.due, one.not_due, one.undecided, one.not_covered) for ref, one in findings.by_line.items()}
    assert totals == {f"{LINE}@1": (1, 1, 1, 2), "P-7@1": (0, 1, 0, 4)}
    assert {sum(counts) for counts in totals.values()} == {findings.total}


@pytest.mark.parametrize(
    ("changed", "done", "following"),
    [
        ({}, "job job_1 open", "an executor claims it"),
        ({"job_state": "grace"}, "job job_1 grace", "The old key is removed"),
        ({"outcome": "waiting", "job_id": None, "job_state": None}, "waiting", "keyturn parked"),
        ({"outcome": "disagreement", "job_id": None, "job_state": None}, "disagreement", "keyturn approve"),
        ({"outcome": None, "job_id": None, "job_state": None}, "not asked", "it asks about what is open"),
    ],
)
def test_each_finding_says_what_was_done_and_what_is_next(changed: dict[str, Any], done: str, following: str) -> None:
    found = finding_of(item(1, job_id="job_1") | changed, NOW)
    assert isinstance(found, Finding)
    assert (found.done, following in found.following) == (done, True)
    assert "120 days old" in found.evidence
    assert "seen by aws on 2026-11-26" in found.evidence


def test_a_page_of_fifty_thousand_keys_is_under_two_megabytes_and_says_what_it_leaves_out(
    lines: list[PolicyLine],
) -> None:
    """The worst are on it; the rest is in the files."""
    items = (item(n, rotate_by=NOW - timedelta(days=n % 97)) if n % 5 else quiet(n) for n in range(1, 50_001))
    findings = findings_of(lines, items, owners_known=False)
    began = time.process_time()
    page = render_page(run_of(lines), findings, facts=[])
    assert len(page.encode()) < 2_000_000
    assert time.process_time() - began < 10
    assert f"{40_000 - 2 * ROWS_SHOWN:,} further findings" in page
    assert page.count("overdue by 96 days") > ROWS_SHOWN - 100, "those of the longest come first"
    assert f"Due: {findings.counts['due']}" in page, "none hides another"
    assert "Of 50,000 keys in the inventory, 40,000 must be rotated." in page


def test_the_page_names_the_method_and_shows_what_each_line_measures(lines: list[PolicyLine]) -> None:
    """Files and policies by digest, model, prompt, code and people; a chart of age for a line on age alone."""
    findings = findings_of(lines, [item(1), quiet(2)])
    facts = method_of(run_of(lines), findings)
    page = unescape(render_page(run_of(lines), findings, facts=facts))
    for shown in ("/estate/keys.csv", "sha256:ab", "v1:cd", "simulator-1 (1)", "rotation_decision@2", "Keyturn 0.1.0"):
        assert shown in page
    assert "luna, tenant default" in page
    assert "Ensure access keys are rotated every 90 days or less." in page
    assert "Age of the keys in days" in page
    assert "Days since the keys were last used" not in page
    assert "90 days</text>" in page, "the limit of the line, and not its window"


def test_what_an_exporter_wrote_is_text(lines: list[PolicyLine]) -> None:
    hostile = '"><script>alert(1)</script>'
    page = render_page(run_of(lines), findings_of(lines, [item(1, account_id=hostile, source=hostile)]), facts=[])
    assert "<script" not in page


def test_a_page_with_googles_names_and_every_severity_is_under_two_megabytes_too(lines: list[PolicyLine]) -> None:
    """Beside a comparison with hundreds of new and gone keys."""
    names: dict[str, Any] = {"source": "gcloud asset search-all-resources", "idle_days": 1_234, "owner": None}
    late, far = NOW - timedelta(days=400), f"svc-{'x' * 24}@a-project-of-thirty-letters-1.iam.gserviceaccount.com"
    kinds: list[dict[str, Any]] = [
        {"compromised": True}, {"rotate_by": late}, {"outcome": "disagreement", "explanation": "e" * 120}, {},
        {"outcome": "waived"}, {"outcome": "rejected", "reason": "unsupported_window"}, {"outcome": "attention"},
        {"outcome": "bad_row", "explanation": "e" * 120}, {"outcome": "nothing_due", "job_id": None},
    ]  # fmt: skip
    made = (
        item(n, **names | kinds[n % len(kinds)] | {"account_id": f"{n}-{far}", "key_id": f"{n:040x}"})
        for n in range(20_000)
    )
    findings = findings_of(lines, made, owners_known=True)
    keys: dict[Key, Status] = {(f"{n}-{far}", f"{n:040x}"): "due" for n in range(2_000)}
    later: dict[Key, Status] = {(f"{n}-{far}", f"{n:040x}"): "due" for n in range(1_000, 4_000)}
    comparison = compare(run_of(lines), keys, run_of(lines), later)
    page = render_page(run_of(lines), findings, facts=[], comparison=comparison)
    assert len(findings.counts) == len(kinds)
    assert len(page.encode()) < 2_000_000


async def test_two_runs_are_compared_by_key(lines: list[PolicyLine]) -> None:
    """Gone is what is rotated, decided as not due, or absent; of what was not decided this time, nothing is known."""

    async def statuses(*items: dict[str, Any]) -> Mapping[Key, Status]:
        async def coming() -> AsyncIterator[dict[str, Any]]:
            for one in items:
                yield one

        return await statuses_of(coming())

    before = await statuses(*(item(number) for number in range(1, 9)), quiet(20), item(21, job_state="done"))
    now = await statuses(
        item(2), quiet(3), item(4, job_state="done"), item(5, outcome="waived"), item(6, outcome="failed"),
        item(7, outcome=None), item(8, outcome="rejected"), item(9), quiet(20),
    )  # fmt: skip
    comparison = compare(run_of(lines), before, run_of(lines), now)
    assert (sorted(key for _, key in comparison.new), len(comparison.still_due)) == ([item(9)["key_id"]], 1)
    assert [key for _, key in comparison.gone] == [item(number)["key_id"] for number in (1, 3, 4)]
    assert (comparison.waived, comparison.undecided, comparison.remarks) == (1, 3, ())
    whole = "Since run run-1, 1 is new, 3 gone, 1 still due, 1 exempt, and 3 not decided this time."
    page = render_page(run_of(lines), findings_of(lines, [item(1)]), facts=[], comparison=comparison)
    assert page.count(whole) == 2
    assert f"<li>{item(9)['key_id']} of acct_00009</li>" in page
    first, second = item(9), item(2)
    assert comparison.since(first["account_id"], first["key_id"]) == "new"
    assert comparison.since(second["account_id"], second["key_id"]) == "unchanged"
    assert comparison.since("acct_00003", item(3)["key_id"]) is None


def test_a_comparison_says_where_two_runs_cannot_be_compared(lines: list[PolicyLine]) -> None:
    """Other inventories or lines; and one that was not read to its end does not say what is absent."""
    due: dict[Key, Status] = {("a", "1"): "due"}
    earlier = replace(run_of(lines), run_id="run-0", source="/estate/others.csv", policy_lines=())
    unfinished = replace(run_of(lines), ended_at=None, loaded=False)
    comparison = compare(earlier, due, unfinished, {})
    assert (comparison.gone, comparison.undecided) == ((), 1)
    said = " ".join(comparison.remarks)
    assert "Run run-0 judged /estate/others.csv, and this one /estate/keys.csv" in said
    assert "other policy lines: none" in said
    assert "Run run-1 has not completed." in said


async def test_findings_are_written_as_sarif_with_stable_fingerprints(lines: list[PolicyLine]) -> None:
    """Severity as level, the policy line as rule, the row as location; the same in a later run."""
    rows = item(1, compromised=True, since="new"), item(2, since="unchanged"), item(3, outcome="bad_row")
    found = [finding_of(one, NOW) for one in rows]

    async def coming() -> AsyncIterator[Finding]:
        for one in found:
            assert one is not None
            yield one

    async def written() -> dict[str, Any]:
        parts: list[str] = []
        await write_sarif(coming(), run_of(lines), lines, parts.append, version="0.1.0")
        read: dict[str, Any] = json.loads("".join(parts))
        return read

    first, second = await written(), await written()
    assert (first["version"], first) == ("2.1.0", second)
    (run,) = first["runs"]
    assert [one["level"] for one in run["results"]] == ["error", "warning", "note"]
    assert [one["ruleId"] for one in run["results"]] == [f"{LINE}@1", f"{LINE}@1", f"{LINE}@1"]
    assert {one["id"] for one in run["tool"]["driver"]["rules"]} == {f"{LINE}@1", "P-7@1", WITHOUT_LINE}
    (place,) = run["results"][1]["locations"]
    assert place["physicalLocation"]["region"] == {"startLine": 2}
    assert [one.get("baselineState") for one in run["results"]] == ["new", "unchanged", None]
    assert len({one["partialFingerprints"]["keyturn/v1"] for one in run["results"]}) == 3


def test_the_published_schema_of_a_row_is_the_codes() -> None:
    """`make schemas` writes it."""
    assert json.loads(REPORT_FILE.read_text()) == report_schema()
    assert set(ReportRow.model_fields) == set(COLUMNS)
    assert Path(REPORT_FILE).name == "report_row.json"
