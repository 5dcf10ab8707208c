"""The tasks: each has a request, a prompt, a schema and business checks that a model cannot talk its way around."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from keyturn.contracts import Contract, ModelTask
from keyturn.llm.wire import Completion, Usage, parse_answer
from keyturn.policy.catalogue import Catalogue
from keyturn.private_data import holds_private_data
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.errors import UnknownPromptVersion
from keyturn.tasks.registry import load_tasks
from keyturn.tasks.wording import promises_action
from tests.support.cases import P7, request

TASKS = load_tasks()
every_task = pytest.mark.parametrize("name", sorted(TASKS))
CARD = "4111 1111 1111 1111"


def posed(name: str, **changed: Any) -> Any:
    fields: dict[str, dict[str, Any]] = {
        "decide_rotation": request().model_dump(),
        "summarize_scan": {
            "account_id": "acct_1",
            "policy_lines": [P7],
            "records": [{"record_id": "r1", "text": "key used from unknown host"}, {"record_id": "r2", "text": "ok"}],
        },
        "draft_reply": {"account_id": "acct_1", "policy_lines": [P7], "question": "May it be rotated?"},
        "summarize_policy": {"policy_lines": [P7]},
        "extract_ticket": {"message": "I paid twice for order A-102 and want my money back."},
    }
    return TASKS[name].request.model_validate({"trace_id": "t", **fields[name], **changed})


GOOD: dict[str, Any] = {
    "decide_rotation": {"decision": "eligible", "rotation_window_days": 30, "source_line_ids": ["P-7"]},
    "summarize_scan": {
        "summary": "A key was used from an unknown host.",
        "record_ids": ["r1"],
        "needs_attention": True,
    },
    "draft_reply": "The key may be rotated under P-7, which asks for it within 30 days.",
    "summarize_policy": {"summary": "Stale keys: 30 days.", "source_line_ids": ["P-7"]},
    "extract_ticket": {"category": "billing", "summary": "Paid twice for A-102.", "priority": "medium"},
}


def judged(name: str, said: Any, catalogue: Catalogue, **changed: Any) -> Any:
    task, asked = TASKS[name], posed(name, **changed)
    text = said if isinstance(said, str) else json.dumps(said)
    proposed = parse_answer(Completion(text, "complete", "stop", "m", Usage()), task.proposal)
    if isinstance(proposed, Rejection):
        return proposed
    return task.judge(proposed, asked, catalogue.resolve(asked.policy_lines), None)


@every_task
def test_a_sound_answer_is_accepted_as_the_tasks_own_type(name: str, catalogue: Catalogue) -> None:
    """Never as the proposal: what a model said and what we stand for are different types."""
    answer = judged(name, GOOD[name], catalogue)
    assert type(answer) is TASKS[name].answer
    assert TASKS[name].proposal is not TASKS[name].answer


@every_task
def test_the_schema_asks_for_just_the_fields_of_the_proposal(name: str) -> None:
    """What a provider is asked to keep to is what we read."""
    task = TASKS[name]
    if task.proposal is None:
        assert task.schema is None
    else:
        assert task.schema is not None
        assert set(task.schema["required"]) == set(task.proposal.model_fields)  # type: ignore[arg-type]
        assert task.schema["additionalProperties"] is False


@every_task
def test_each_task_has_its_prompt_its_deadline_and_its_caps(name: str, catalogue: Catalogue) -> None:
    """A default prompt that exists, a version that does not is refused, and all that users supply is JSON data."""
    task, asked = TASKS[name], posed(name)
    prompt = task.prompt(asked, catalogue.resolve(asked.policy_lines))
    assert prompt.version == task.default_prompt_version
    assert isinstance(json.loads(prompt.user), dict)
    assert "data" in prompt.system or name == "summarize_policy"
    with pytest.raises(UnknownPromptVersion, match=task.default_prompt_version):
        task.prompt(posed(name, prompt_version="nothing@1"), catalogue.resolve(asked.policy_lines))
    assert 0 < asked.timeout_seconds <= 120
    assert Decimal(0) < task.max_cost_usd < 1


def test_how_long_a_task_may_take_follows_who_waits_for_it() -> None:
    """A form's hidden helper, a support screen, a chat reply, a document's summary, nightly work."""
    order = ("extract_ticket", "decide_rotation", "draft_reply", "summarize_policy", "summarize_scan")
    seconds = [posed(name).timeout_seconds for name in order]
    assert seconds == sorted(set(seconds))


SCAN, POLICY, TICKET = GOOD["summarize_scan"], GOOD["summarize_policy"], GOOD["extract_ticket"]


@pytest.mark.parametrize(
    ("name", "said", "reason"),
    [
        ("summarize_scan", SCAN | {"record_ids": ["r9"]}, "unknown_source"),
        ("summarize_scan", SCAN | {"record_ids": []}, "missing_source"),
        ("summarize_scan", SCAN | {"record_ids": "r1"}, "missing_source"),
        ("summarize_scan", SCAN | {"needs_attention": "yes"}, "malformed_answer"),
        ("summarize_scan", SCAN | {"summary": "x" * 801}, "too_long"),
        ("summarize_scan", SCAN | {"summary": "The key was rotated."}, "promised_action"),
        ("summarize_scan", SCAN | {"summary": "Found AKIAIOSFODNN7EXAMPLE in the log"}, "private_data"),
        ("draft_reply", "  ", "empty_answer"),
        ("draft_reply", "x" * 2_001, "too_long"),
        ("draft_reply", "Good news: the rotation job has been created.", "promised_action"),
        ("draft_reply", "We will rotate your key tomorrow.", "promised_action"),
        ("draft_reply", "Policy P-7 gives you 90 days.", "unsupported_figure"),
        ("draft_reply", "Under P-7 and CIS-AWS-4.0-1.14 it may be rotated.", "unknown_source"),
        ("draft_reply", f"Your card {CARD} is on file.", "private_data"),
        *[
            ("draft_reply", f"Please do it within {span}.", "unsupported_figure")
            for span in (
                "two weeks",
                "2 weeks",
                "48 hours",
                "45 business days",
                "forty-five days",
                "45\u00a0days",
                "two months",
                "ninety days",
                "one year",
            )
        ],
        ("draft_reply", "half a pair: \ud800", "malformed_answer"),
        ("extract_ticket", TICKET | {"summary": "\ud800"}, "malformed_answer"),
        ("summarize_policy", POLICY | {"summary": "\udfff"}, "malformed_answer"),
        ("summarize_scan", SCAN | {"summary": "\ud800"}, "malformed_answer"),
        ("summarize_policy", POLICY | {"source_line_ids": ["P-8"]}, "unknown_source"),
        ("summarize_policy", POLICY | {"source_line_ids": []}, "missing_source"),
        ("summarize_policy", POLICY | {"summary": "Rotate within 90 days."}, "unsupported_figure"),
        ("summarize_policy", POLICY | {"summary": 7}, "malformed_answer"),
        ("extract_ticket", TICKET | {"priority": "urgent"}, "value_not_allowed"),
        ("extract_ticket", TICKET | {"category": "refunds"}, "value_not_allowed"),
        ("extract_ticket", TICKET | {"priority": "high"}, "unsupported_priority"),
        ("extract_ticket", TICKET | {"summary": f"Card {CARD} was charged twice"}, "private_data"),
        ("extract_ticket", TICKET | {"summary": "Card 4111-1111-1111-1111"}, "private_data"),
        ("extract_ticket", TICKET | {"summary": ["x"]}, "malformed_answer"),
        ("extract_ticket", TICKET | {"summary": "x" * 301}, "too_long"),
        ("extract_ticket", "nonsense", "malformed_answer"),
    ],
)
def test_an_answer_that_breaks_a_business_rule_is_rejected_by_name(
    name: str, said: Any, reason: str, catalogue: Catalogue
) -> None:
    """Valid JSON is not yet an answer."""
    rejection = judged(name, said, catalogue)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason


@pytest.mark.parametrize(
    ("decision", "text", "accepted"),
    [
        ("eligible", "The key may be rotated under P-7.", True),
        ("eligible", "The key is not eligible under P-7.", False),
        ("not_eligible", "Your key is eligible under P-7.", False),
        ("not_eligible", "The key does not need to be rotated under P-7.", True),
        ("not_specified", "Good news, it may be rotated.", False),
        (None, "We are looking at it; it may be rotated later.", True),
    ],
)
def test_a_draft_does_not_plainly_say_the_opposite_of_the_decision(
    decision: str | None, text: str, accepted: bool, catalogue: Catalogue
) -> None:
    """The draft reports what was decided, or it is rejected."""
    answer = judged("draft_reply", text, catalogue, decision=decision)
    assert isinstance(answer, Rejection) is not accepted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("P-7 applies. Confirm it at https://keyturn-support.example/verify", "holds_link"),
        ("P-7 applies. Confirm it at hxxp://keyturn.example", "holds_link"),
        ("P-7 applies. See keyturn-support.com for more.", "holds_link"),
        ("P-7 applies. See WWW.keyturn.example", "holds_link"),
        ("P-7 applies. Ask help@keyturn.example", "holds_link"),
        ("P-7 applies. See [the policy](//keyturn.example/p)", "holds_link"),
        ("P-7 applies. See [the policy][1]", "holds_link"),
        ("P-7 applies. ![x](//keyturn.example/?acct_10234)", "holds_link"),
        ("P-7 applies. See \uff48\uff54\uff54\uff50\uff53\uff1a\uff0f\uff0fkeyturn.example", "holds_link"),
        ("P-7 applies. See 198.51.100.7 for more.", "holds_link"),
        ("P-7 applies. javascript:alert(1)", "holds_link"),
        ("P-7 applies. <b>Now</b>", "holds_markup"),
        ("P-7 applies. <img src=x onerror=y>", "holds_markup"),
        ("P-7 applies. &lt;b&gt;", "holds_markup"),
        ("P-7 applies. Call +1 (555) 010-9999.", "holds_phone_number"),
        ("P-7 applies. Call 020 7946 0958.", "holds_phone_number"),
        ("P-7 applies. Reply with your secret access key.", "asks_for_secret"),
        ("P-7 applies. Please send us the private key of the account.", "asks_for_secret"),
        ("P-7 applies. Confirm your password first.", "asks_for_secret"),
        ("P-7 applies. \u202eyek", "hidden_characters"),
        ("P-7 ap\u200bplies.", "hidden_characters"),
        ("P-7 applies. \x1b]52;c;cm0gLXJm\x07", "hidden_characters"),
        ("P-7 applies. We have gone ahead and swapped the key.", "promised_action"),
        ("P-7 applies. Our team has already rotated it.", "promised_action"),
        ("P-7 applies within 60d.", "unsupported_figure"),
        ("P-7 applies within ninety (90) d.", "unsupported_figure"),
        ("P-7 applies within ninety days.", "unsupported_figure"),
        ("P-7 applies within 12 wks.", "unsupported_figure"),
    ],
)
def test_a_draft_that_leads_its_reader_elsewhere_or_promises_is_not_approved(
    text: str, reason: str, catalogue: Catalogue
) -> None:
    """A person sends it, and a reader of it trusts it as ours."""
    rejection = judged("draft_reply", text, catalogue, decision="eligible")
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "The key may be rotated under P-7 within 30 days.",
        "The key of acct_10234 is due by 2026-12-01T09:00:00Z under P-7.",
        "Under P-7 a stale key (last used 2025-01-31) may be rotated; the access key stays in use until then.",
        "The key may be rotated under P-7; tell us if a consumer still needs the old key.",
    ],
)
def test_a_draft_that_says_what_was_decided_is_approved(text: str, catalogue: Catalogue) -> None:
    """Dates, ids and the word key are what such a reply consists of."""
    due = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
    assert not isinstance(judged("draft_reply", text, catalogue, decision="eligible", rotate_by=due), Rejection)


@pytest.mark.parametrize(
    ("known", "accepted"),
    [
        ({}, False),
        ({"refund_usd": "100"}, False),
        ({"refund_usd": "100.01"}, True),
        ({"user_blocked": True}, True),
        ({"message": "I AM BLOCKED and you owe me 5000 dollars, priority high!"}, False),
    ],
)
def test_high_needs_a_fact_of_our_own_systems(known: dict[str, Any], accepted: bool, catalogue: Catalogue) -> None:
    """What the message claims of itself does not count."""
    answer = judged("extract_ticket", TICKET | {"priority": "high"}, catalogue, **known)
    assert isinstance(answer, Rejection) is not accepted


@pytest.mark.parametrize(
    ("text", "private"),
    [
        (CARD, True),
        ("5500.0000.0000.0004", True),
        ("order 1234567812345678", False),
        ("0000 0000 0000 0000", False),
        ("call +49 30 1234567", False),
        (f"{CARD} 12/27", True),
        (f"{CARD} 123", True),
        (f"order 12 {CARD}", True),
        ("4111/1111/1111/1111", True),
        ("4111\u20131111\u20131111\u20131111", True),
        ("4111\u00a01111\u00a01111\u00a01111", True),
        ("2026-11-21 09:00:00 1234567", False),
        ("-----BEGIN PRIVATE KEY-----", True),
        ("sk-abcdefghijklmnop1234", True),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", True),
        ("acct_10234 under P-7", False),
    ],
)
def test_card_numbers_are_recognised_by_their_check_digit_and_secrets_by_their_form(text: str, private: bool) -> None:
    """Neither passes into a stored text; order numbers do."""
    assert holds_private_data(text) is private


@pytest.mark.parametrize(
    ("text", "promised"),
    [
        ("The job was created.", True),
        ("I've rotated the key.", True),
        ("I\u2019ve rotated the key.", True),
        ("We\u2019ll rotate it.", True),
        ("Your key will be rotated today.", True),
        ("We are rotating it now.", True),
        ("Job created.", True),
        ("The key may be rotated under P-7.", False),
        ("Stale keys must rotate within 30 days.", False),
        ("You can ask for a rotation.", False),
    ],
)
def test_a_text_may_say_what_is_allowed_and_not_what_is_done(text: str, promised: bool) -> None:
    """No text acts, so none may say that something was done or will be."""
    assert promises_action(text) is promised


@every_task
@given(
    st.dictionaries(
        st.sampled_from(
            ["summary", "record_ids", "needs_attention", "source_line_ids", "category", "priority", "decision"]
        ),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text() | st.integers(), max_size=3),
    )
)
def test_no_answer_makes_a_check_raise(name: str, catalogue: Catalogue, said: dict[str, Any]) -> None:
    """A model can write anything; it becomes an answer or a named rejection."""
    whole = {**(GOOD[name] if isinstance(GOOD[name], dict) else {}), **said}
    assert isinstance(judged(name, whole, catalogue), Contract)


def test_requests_are_bounded_and_refuse_what_they_do_not_know() -> None:
    """A scan of 201 records, a message of 4,001 characters, an unknown field."""
    for changed in ({"records": [{"record_id": f"r{n}", "text": "x"} for n in range(201)]}, {"approve": True}):
        with pytest.raises(ValidationError):
            posed("summarize_scan", **changed)
    with pytest.raises(ValidationError):
        posed("extract_ticket", message="x" * 4_001)


def test_a_task_is_found_by_its_folder(catalogue: Catalogue) -> None:
    """Five tasks, each a folder with a definition and a versioned prompt."""
    assert set(TASKS) == {"decide_rotation", "summarize_scan", "draft_reply", "summarize_policy", "extract_ticket"}
    for name, task in TASKS.items():
        assert issubclass(task.request, ModelTask)
        assert all("@" in version for version in task.prompts), name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Thank you for asking. Your key waits for a person's decision.", None),
        ("We are reviewing your question about P-7.", None),
        ("Thank you for asking about P-7.", "omits_waiting"),
        ("It waits for a review, and may be rotated under P-7.", "decision_not_allowed"),
        ("It waits for a review; it is not eligible.", "decision_not_allowed"),
    ],
)
def test_a_draft_about_a_key_that_waits_for_a_person_says_so_and_tells_no_decision(
    catalogue: Catalogue, text: str, reason: str | None
) -> None:
    """Rule and model disagree, or an approval is asked for: nothing is decided yet."""
    answer = judged("draft_reply", text, catalogue, waits_for_person=True)
    assert (answer.reason if isinstance(answer, Rejection) else None) == reason


@pytest.mark.parametrize(
    ("account_id", "said", "reason"),
    [
        ("com", "The key may be rotated. Confirm it at evil.com today.", "holds_link"),
        ("password", "The key may be rotated. Please send us your password.", "asks_for_secret"),
        ("1", "The key may be rotated. Call +49 171 1111111 now.", "holds_phone_number"),
        ("svc@prod.example", "The key of svc@prod.example.evil.com may be rotated.", "holds_link"),
    ],
)
def test_a_name_of_an_account_takes_nothing_out_of_what_is_checked(
    catalogue: Catalogue, account_id: str, said: str, reason: str
) -> None:
    """Where it stands alone, an account may look like an address; within a word or a link, it is no account."""
    refused = judged("draft_reply", said, catalogue, account_id=account_id)
    assert isinstance(refused, Rejection)
    assert refused.reason == reason
    own = judged("draft_reply", "The key of svc@prod.example may be rotated.", catalogue, account_id="svc@prod.example")
    assert not isinstance(own, Rejection)
