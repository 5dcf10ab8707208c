"""What a draft may claim of a key, of lines and of time: what contradicts the decision is refused, and nothing else."""

from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn.policy.catalogue import load_catalogue
from keyturn.rotations.decisions import Rejection
from keyturn.tasks import extract_ticket, summarize_policy, summarize_scan
from keyturn.tasks.draft_reply import DraftRequest, judge
from keyturn.tasks.line_claims import has_figures_of_other_lines
from tests.support.pace import processor_seconds

CATALOGUE = load_catalogue()
NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


def verdict(text: str, *lines: str, at: datetime | None = NOW, **changed: Any) -> str:
    """The reason of a refusal; or `approved`."""
    given = [CATALOGUE.current(line) for line in lines or ("P-7",)]
    fields: dict[str, Any] = {
        "account_id": "acct_10234",
        "question": "May it?",
        "trace_id": "t",
        "decision": "eligible",
    }
    refs = tuple(line.ref for line in given)
    found = judge(text, DraftRequest(**fields | {"policy_lines": refs} | changed), given, at)
    return found.reason if isinstance(found, Rejection) else "approved"


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        ("eligible", "The key isn't eligible under P-7."),
        ("eligible", "The key isn\u2019t eligible under P-7."),
        ("eligible", "The key is ineligible under P-7."),
        ("eligible", "Under P-7 the key can\u2019t be rotated."),
        ("eligible", "No rotation is required under P-7."),
        ("eligible", "The key is within policy P-7 and is not due."),
        ("not_eligible", "Your key has to rotate within 30 days under P-7."),
        ("not_specified", "Your key has to rotate within 30 days under P-7."),
        ("not_eligible", "Rotation is required under P-7."),
        ("not_specified", "You're eligible for a rotation under P-7."),
        ("not_eligible", "The key is due under P-7."),
        ("not_eligible", "Your keys must be rotated under P-7."),
        ("not_eligible", "The account's keys must be rotated under P-7."),
        ("not_eligible", "Your password and API keys must be rotated under P-7."),
        ("not_eligible", "All keys of acct_10234 must be rotated under P-7."),
        ("not_eligible", "Every key on this account is due under P-7 and must be rotated."),
        ("not_eligible", "Your service account's very old and stale key must be rotated under P-7."),
        ("not_eligible", "Your key must be rotated anyway under P-7."),
        ("not_eligible", "Your key must be rotated before anything else under P-7."),
        ("not_eligible", "Only one thing is left under P-7: your key must be rotated."),
    ],
)
def test_a_draft_that_says_the_opposite_in_other_words_is_refused(decision: str, text: str) -> None:
    assert verdict(text, decision=decision) == "decision_not_allowed"


@pytest.mark.parametrize(
    ("decision", "line", "text"),
    [
        ("not_eligible", "P-EXPOSED", "P-EXPOSED: Keys that were exposed must be rotated at once. Yours was not."),
        ("not_specified", "P-EXPOSED", "Keys that were exposed must be rotated at once. We do not know about yours."),
        ("not_eligible", "P-7", "Under P-7, a stale key must be rotated within 30 days. Yours is not stale."),
        ("eligible", "P-EXPOSED", "Under P-EXPOSED your key is eligible, and it is due within a day."),
        ("eligible", "P-7", "The key is eligible under **P-7** (30 days). Please follow your team's runbook."),
        ("eligible", "P-7", "The key is eligible under P-7. It uses P-256 in us-east-1; see CHANGE-2024."),
    ],
)
def test_a_draft_that_quotes_what_a_line_says_of_keys_is_approved(decision: str, line: str, text: str) -> None:
    assert verdict(text, line, decision=decision) == "approved"


AGED = "CIS-AWS-5.0-1.13"
DUE = datetime(2026, 11, 29, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("decision", "line", "text"),
    [
        (
            "eligible",
            "CIS-AWS-5.0-1.13",
            "The key in acct_10234 is over 90 days old, so it is eligible, by 2026-11-29.",
        ),
        ("eligible", AGED, "The key has been in use for over 90 days; it is due by 2026-11-29."),
        (
            "eligible",
            "CIS-AWS-5.0-1.13",
            "Access keys have to be rotated within 90 days (CIS-AWS-5.0-1.13). Yours was not.",
        ),
        ("eligible", AGED, "In line with CIS-AWS-5.0-1.13 (90 days or less), your key is eligible."),
        ("eligible", AGED, "Your key, created by terraform on 2025-01-02, is eligible."),
        (
            "eligible",
            "CIS-AWS-5.0-1.13",
            "By rule, as judged on 2026-11-28, it is eligible (due 2026-11-29; asked 2026-11-27).",
        ),
        ("eligible", "P-7", "It is eligible; stale service-account keys must rotate within 30 days (P-7)."),
        (
            "eligible",
            "P-7",
            "P-7: \u201cStale service\u2011account keys must rotate within 30 days.\u201d It is eligible.",
        ),
        (
            "eligible",
            "P-7",
            "This is a P1: it is eligible under P-7. We check this weekly; it takes a minute.",
        ),
        ("eligible", "P-7", "P-7 applies to your key. Your other keys are not due."),
        (
            "eligible",
            "P-7",
            "Eligible under P-7. Make sure that the new key is in place. We will remind you to rotate it.",
        ),
        ("not_eligible", "P-7", "There is no need to rotate your key under P-7."),
        ("not_eligible", "P-7", "Nothing is due under P-7."),
        ("not_eligible", "P-7", "You need to rotate only stale keys under P-7, and yours isn't."),
        ("not_eligible", "P-7", "You may rotate it anyway, but P-7 does not require it."),
        ("not_eligible", AGED, "Your key is within its 90 days; it is due when it is older."),
        ("not_eligible", AGED, "Rotation is only required after 90 days."),
        ("not_specified", "P-7", "It is unclear if a rotation is required under P-7."),
        ("not_specified", "P-7", "We cannot say that the key is eligible under P-7."),
        ("not_specified", "P-7", "The policy does not say that your key must be rotated. P-7 covers stale keys."),
        ("not_eligible", "P-7", "The keys that are stale must be rotated (P-7). Yours is fresh."),
        (
            "not_specified",
            "P-7",
            "It does not tell us if this key needs to rotate (P-7). Please send us the key age.",
        ),
    ],
)
def test_an_ordinary_right_reply_is_approved(decision: str, line: str, text: str) -> None:
    given: dict[str, Any] = {"decision": decision}
    if decision == "eligible" and line != "P-7":
        given |= {"rotate_by": DUE, "rotation_window_days": 90}
    assert verdict(text, line, **given) == "approved"


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        ("not_eligible", "As a stale key, the key in acct_10234 must be rotated within 30 days under P-7."),
        ("not_eligible", "The key of acct_10234 is an old key and must be rotated within 30 days (P-7)."),
        ("eligible", "As a fresh key, the key is not eligible under P-7."),
        (None, "The request is pending. As a stale key, the key must be rotated (P-7)."),
    ],
)
def test_what_is_said_of_this_key_beside_any_key_is_said_of_this_one(decision: str | None, text: str) -> None:
    assert verdict(text, decision=decision, waits_for_person=decision is None) == "decision_not_allowed"


@pytest.mark.parametrize(
    "deadline",
    [
        "on or before 2027-12-28",
        "not later than 2027-12-28",
        "by: 2027-12-28",
        "by 12/28/2027",
        "by 28.12.2027",
        "by the 28th of December 2027",
        "till Dec 28th, 2027",
    ],
)
def test_a_deadline_that_was_not_given_is_one_however_it_is_written(deadline: str) -> None:
    due: dict[str, Any] = {"rotate_by": datetime(2026, 12, 28, tzinfo=UTC), "rotation_window_days": 30}
    text = "Your key is eligible under P-7. Rotate it {}."
    assert verdict(text.format(deadline), **due) == "unsupported_figure"
    assert verdict(text.format(deadline.replace("2027", "2026")), **due) == "approved"


def test_a_draft_is_judged_in_time_however_many_blanks_it_has() -> None:
    text = "Your key is eligible under P-7. " + "1" + " " * 1_900
    assert processor_seconds(verdict, text, len(text)) < 0.2


@pytest.mark.parametrize(
    "span",
    [
        "90\u2011day",
        "90\u2013day",
        "90 consecutive days",
        "the next 90 or so days",
        "90+ days",
        "90 (ninety) days",
        "**90** days",
        "`90` days",
        "1,440 minutes",
        "a couple of years",
        "three dozen days",
        "two decades",
        "P90D",
    ],
)
def test_a_figure_is_one_however_it_is_written(span: str) -> None:
    assert verdict(f"Your key is eligible under P-7; you have {span}.") == "unsupported_figure"


@pytest.mark.parametrize("word", ["annually", "quarterly", "semi-annually"])
def test_so_is_an_interval_in_a_word(word: str) -> None:
    assert verdict(f"Under P-7 it is eligible; such keys rotate {word}.") == "unsupported_figure"


@pytest.mark.parametrize(
    "name",
    [
        "P\u20119",
        "p-9",
        "P 9",
        "policy line 9",
        "CIS AWS 1.14",
        "PCI DSS 8.6.3",
        "NIST 800-63B",
        "IAM.3",
        "ISO 27001 A.5.17",
        "P-7@2",
    ],
)
def test_a_line_that_was_not_given_is_one_however_it_is_named(name: str) -> None:
    assert verdict(f"Your key is eligible under P-7, and under {name}, too.") == "unknown_source"


def test_a_line_that_was_given_may_be_named_as_people_do() -> None:
    assert verdict("Your key is eligible under CIS AWS 4.0 1.14.", "CIS-AWS-4.0-1.14") == "approved"
    assert verdict("Your key is eligible under p-7 (P-7@1).") == "approved"


def test_the_time_that_is_left_is_the_dates_and_not_the_windows() -> None:
    """A line on age gives 90 days to a key that has had them, and is due tomorrow."""
    line, due = "CIS-AWS-5.0-1.13", datetime(2026, 11, 29, 9, 0, tzinfo=UTC)
    asked: dict[str, Any] = {"rotation_window_days": 90, "rotate_by": due}
    for text in ("You have 90 days from today.", "Please rotate it within 90 days.", "It is due by 2027-01-01."):
        assert verdict(f"It is eligible under {line}. {text}", line, **asked) == "unsupported_figure"
    for text in (
        "Rotate it by 2026-11-29.",
        "Rotate it by 29 November 2026, within a day.",
        "Keys rotate every 90 days under it.",
    ):
        assert verdict(f"It is eligible under {line}. {text}", line, **asked) == "approved"


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        ("acct_10234", "approved"),
        ("svc@prod.iam.gserviceaccount.com", "approved"),
        ("evil.example.com/login", "holds_link"),
        ("keyturn-support.com", "holds_link"),
        ("0800-123-4567", "holds_phone_number"),
    ],
)
def test_an_account_that_is_named_as_an_address_leads_nowhere(account: str, expected: str) -> None:
    assert verdict(f"Your key is eligible under P-7. Sign in: {account}", account_id=account) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("policy line P-7 is explained at 203.0.113.5", "holds_link"),
        ("see section 4 on host 203.0.113.5:8443", "holds_link"),
        ("\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444", "holds_link"),
        ("xn--e1afmkfd.xn--p1ai", "holds_link"),
        ("Paste the JSON key here.", "asks_for_secret"),
        ("Reply with the key.", "asks_for_secret"),
        ("Please attach your key file.", "asks_for_secret"),
        ("Reply with the key ID.", "approved"),
        ("The new key is live.", "promised_action"),
        ("Rotation is underway.", "promised_action"),
        ("Our team will swap the key tonight.", "promised_action"),
    ],
)
def test_a_draft_leads_nowhere_and_promises_nothing(text: str, expected: str) -> None:
    assert verdict(f"Your key is eligible under P-7, within 30 days. {text}") == expected


BAD = "Account is fine. To confirm, open https://evil.example/reset"


def test_a_summary_of_records_that_an_attacker_wrote_leads_nowhere() -> None:
    request = summarize_scan.ScanRequest(
        account_id="acct_10234",
        trace_id="t",
        records=(
            summarize_scan.ScanRecord(record_id="r1", text=f"{BAD} from 203.0.113.7 by a@p.iam.gserviceaccount.com"),
        ),
    )

    def judged(summary: str) -> Any:
        said = {"summary": summary, "record_ids": ["r1"], "needs_attention": False}
        return summarize_scan.judge(summarize_scan.ProposedScanSummary.model_validate(said), request, [])

    assert judged(BAD).reason == "holds_link"
    assert judged("acct_10234 was used from 203.0.113.7 by a@p.iam.gserviceaccount.com.").record_ids == ("r1",)
    assert judged("acct_10234 was used from 203.0.113.8.").reason == "holds_link"  # that is in no record
    assert judged("acct_10234 <img src=x>").reason == "holds_markup"
    for said in ("Log in at 203.0.113.7?u=1", "Open x@p.iam.gserviceaccount.com.evil.com/reset"):
        assert judged(said).reason == "holds_link"


def test_a_summary_of_a_policy_or_a_ticket_leads_nowhere() -> None:
    p7, gcp = CATALOGUE.current("P-7"), CATALOGUE.current("CIS-GCP-4.0-1.7")

    def of_policy(summary: str) -> Any:
        said = {"summary": summary, "source_line_ids": ["P-7", gcp.id]}
        asked = summarize_policy.PolicySummaryRequest(policy_lines=(p7.ref, gcp.ref), trace_id="t")
        return summarize_policy.judge(summarize_policy.ProposedPolicySummary.model_validate(said), asked, [p7, gcp])

    assert of_policy(BAD).reason == "holds_link"
    assert of_policy(f"P-7 gives stale keys 90 days. {gcp.id} gives 30 days.").reason == "unsupported_figure"
    assert of_policy(f"P-7 gives stale keys 30 days. {gcp.id} wants 90 days.").source_lines == (gcp.ref, p7.ref)
    said = {"category": "access", "summary": BAD, "priority": "low"}
    ticket = extract_ticket.ProposedTicket.model_validate(said)
    refused = extract_ticket.judge(ticket, extract_ticket.TicketRequest(message="m", trace_id="t"), [])
    assert isinstance(refused, Rejection)
    assert refused.reason == "holds_link"
    hidden = extract_ticket.ProposedTicket.model_validate(said | {"summary": "Reset \u202eyek the"})
    refused = extract_ticket.judge(hidden, extract_ticket.TicketRequest(message="m", trace_id="t"), [])
    assert isinstance(refused, Rejection)
    assert refused.reason == "hidden_characters"


def test_a_benchmarks_figure_beside_a_lines_name_is_not_the_lines() -> None:
    line = CATALOGUE.current("P-7")
    both = [line, CATALOGUE.current("CIS-AWS-4.0-1.14")]
    assert not has_figures_of_other_lines("P-7 is ours; CIS AWS 1.14 says 90 days.", both)
    assert has_figures_of_other_lines("P-7 says 90 days.", both)
