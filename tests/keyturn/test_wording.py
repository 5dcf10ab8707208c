"""What our texts may say: links, requests for secrets, actions and spans of time, as users and models write."""

from collections.abc import Callable

import pytest

from keyturn.policy.spans import days_named
from keyturn.tasks.wording import leads_elsewhere, promises_action
from tests.support.pace import processor_seconds


@pytest.mark.parametrize(
    "text",
    [
        "do not send any password",
        "I can confirm that the access key is eligible.",
        "The key was last rotated 400 days ago.",
        "No job has been created.",
        "keys to be rotated every 90 days",
        "Due on 12.01.2026 or 2026/01/12.",
        "See ticket INC-2024-1234567.",
        "version 1.2.3.4",
        "Requirement 8.3.10.1",
        "Requirements 8.3.9 and 8.3.10.1 ask it.",
        "ASP.NET services",
        "[P-7] (version 1)",
        "line one\r\nline two",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f469\u200d\U0001f4bb",
        "We never ask you to share your password.",
        "The evidence you provide says the access key is stale.",
        "It rotates within 30 days; nobody will ask for your password.",
        "Our policy requires keys to be rotated every 90 days.",
        "We recommend having the key rotated within 30 days.",
        "The window starts when the key is rotated.",
        "The key was rotated 400 days ago.",
        "It must be rotated within 30 days.",
        "The key is due: it may be rotated under P-7.",
        "The request waits for an approver: nothing was done yet.",
        "The key has not been rotated since 2024-01-02.",
        "A key that is rotated every 30 days is fine.",
        "Keyturn can help you: the key is eligible to be rotated.",
        "The job is created only once an approver has approved it.",
        "The secret access key is not needed.",
        "Please contact your platform team; they can rotate it.",
        "The service account acct_10234 has an access key that is 400 days old.",
        "The evidence shows that the password was last changed 40 days ago.",
        "Once it is approved, a job is created.",
        "Rotation of the key is required within 30 days of the day when it becomes stale.",
    ],
)
def test_what_a_reply_about_a_key_says_leads_nowhere_and_promises_nothing(text: str) -> None:
    assert leads_elsewhere(text) is None
    assert not promises_action(text)


@pytest.mark.parametrize(
    "text",
    [
        "bit.ly/x",
        "see evil.xyz/path",
        "example[.]com",
        "example (dot) com",
        "evil\u3002com",
        "type your password here",
        "please write your API key",
        "we need your password to go on",
        "upload your private key",
        "reply with your secret access key",
        "What is your password?",
        "give us the access key of acct_10234",
        "Send us both the old and the new secret.",
        "call 555 0199 22",
        "+49 30 1234567",
        "(030) 1234567",
        "0800 123 4567",
        "1-800-555-0199",
        "http://x",
        "<b>x</b>",
        "&nbsp;x",
        "![x](y)",
        "[x][y]",
        "x\u202ey",
        "pay\u200bload",
        "1.2.3.4",
        "deploy@example.org",
        "Tell me your credentials.",
        "connect to 10.0.0.1:8080",
        "go to portal.corp.intern:443",
        "[x]: evil.example/a",
    ],
)
def test_what_leads_a_reader_elsewhere_is_found_in_any_form(text: str) -> None:
    assert leads_elsewhere(f"Thank you. {text}") is not None


@pytest.mark.parametrize(
    "text",
    [
        "Your key is rotated.",
        "Your key got rotated",
        "We'll rotate it",
        "We have gone ahead and swapped the key",
        "Your key **has been** rotated.",
        "The key was `rotated` today",
        "It is now rotated.",
        "The key is already replaced.",
        "I rotated it",
        "A job was created for you.",
        "We\u2019ve scheduled the rotation.",
        "job job_123",
        "Keyturn will rotate it tonight.",
        "Your key has been successfully rotated.",
        "The key will be rotated tomorrow.",
        "We are rotating it now.",
        "It's done.",
        "The rotation is scheduled.",
        "Rotation complete.",
        "Key rotated.",
        "Key successfully rotated!",
        "We will take care of rotating it.",
        "I have filed a rotation ticket.",
        "We have submitted the rotation.",
        "I've kicked off the rotation.",
    ],
)
def test_what_says_that_something_was_or_will_be_done_is_found(text: str) -> None:
    assert promises_action(f"Thank you. {text}")


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("two hundred days", {200}),
        ("one hundred and eighty days", {180}),
        ("1,000 days", {1000}),
        ("1.5 years", {547.5}),
        ("half a year", {182.5}),
        ("ninety (90) d", {90}),
        ("60d", {60}),
        ("a year", {365}),
        ("thirty-five days", {35}),
        ("in 30 or 60 days", {60}),
        ("two and a half years", {912.5}),
        ("a quarter", {90}),
        ("twenty-four hours", {1}),
        ("P-7 30 days", {30}),
        ("eighteen months", {540}),
        ("hundred days", {100}),
        ("one day", {1}),
        ("a hundred days", {100}),
    ],
)
def test_spans_of_time_are_read_in_figures_and_in_words(text: str, days: set[float]) -> None:
    assert days_named(text) == days


@pytest.mark.parametrize("check", [leads_elsewhere, promises_action, days_named])
@pytest.mark.parametrize("unit", ["a.", "[", "<a", "send the ", "we are ", "one ", "+1 ", "a@", "hundred and ", "//"])
def test_every_check_takes_time_in_proportion_to_the_text(check: Callable[[str], object], unit: str) -> None:
    """A draft is judged on a worker that others wait for: 16 times the text in at most 64 times the time."""
    long, short = (processor_seconds(check, unit, length) for length in (32_000, 2_000))
    assert long < max(64 * short, 0.25)  # quadratic, it was seconds
