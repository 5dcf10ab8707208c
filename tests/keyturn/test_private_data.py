"""Secrets and card numbers in the forms in which issuers hand them out, and as users paste and disguise them."""

import random
import string

import pytest
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings
from pydantic import ValidationError

from keyturn.contracts import CredentialFacts
from keyturn.private_data import holds_private_data, holds_secret
from keyturn.rotations.contracts import Denial
from tests.support.cases import NOW, request
from tests.support.pace import processor_seconds

_random = random.Random(20_261_126)


def drawn(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    """What an issuer draws; never a real one."""
    return "".join(_random.choice(letters) for _ in range(length))


AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # AWS's own example
FORMS = {
    "an AWS access key id": "AKIAIOSFODNN7EXAMPLE",
    "an AWS temporary key id": "ASIAIOSFODNN7EXAMPLE",
    "an AWS secret access key": AWS_SECRET,
    "a GitHub token": f"ghp_{drawn(36)}",
    "a GitHub fine-grained token": f"github_pat_{drawn(22)}_{drawn(59)}",
    "a GitLab token": f"glpat-{drawn(20)}",
    "a Slack bot token": f"xoxb-{drawn(12, string.digits)}-{drawn(12, string.digits)}-{drawn(24)}",
    "a Slack webhook": f"https://hooks.slack.com/services/T{drawn(8)}/B{drawn(8)}/{drawn(24)}",
    "a Google API key": f"AIza{drawn(35)}",
    "a Google access token": f"ya29.{drawn(60)}",
    "a Google OAuth client secret": f"GOCSPX-{drawn(28)}",
    "a service account's key file": '{"type": "service_account", "private_key": "x"}',
    "an Entra client secret": f"{drawn(3)}8Q~{drawn(34)}",
    "an Azure storage connection": f"AccountName=x;AccountKey={drawn(86)}==",
    "a bare Azure storage key": f"{drawn(86)}==",
    "an Azure shared access signature": f"https://x.example/c?sv=2024&sig={drawn(43)}%3D",
    "an OpenAI key": f"sk-proj-{drawn(48)}",
    "an Anthropic key": f"sk-ant-api03-{drawn(90)}",
    "a JSON web token": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{drawn(43)}",
    "a Stripe key": f"sk_live_{drawn(24)}",
    "a PEM key": "-----BEGIN RSA PRIVATE KEY-----",
    "an OpenSSH key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "a PuTTY key": "PuTTY-User-Key-File-3: ssh-ed25519",
    "a URL with a password": "postgresql://keyturn:hunter22@db.example/keyturn",
    "an assignment": "password=hunter2hunter2",
    "a header": f"Authorization: Bearer {drawn(32)}7",
    "an environment variable of AWS": f"AWS_SECRET_ACCESS_KEY={AWS_SECRET}",
    "an environment variable": "DB_PASSWORD=hunter2hunter2",
    "another environment variable": "PGPASSWORD=correcthorse",
    "a setting": "clientSecret: 9f8e7d6c5bAA",
    "a form field": "client_secret=abc8Qxyz123",
    "a provider's variable": f"OPENAI_API_KEY=sk-{drawn(32, string.hexdigits.lower())}",
    "a flag": f"--password {drawn(20)}7",
    "a sentence": "the password is Winter2026!",
    "a German one": "Passwort: Geheim2026",
    "a passphrase": "passphrase=correct horse battery",
    "a URL with a password alone": "redis://:s3cretpass@h/0",
    "a basic header": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "a basic header without a digit": "Basic YWxhZGRpbjpvcGVuc2VzYW1l",
    "an AWS session token": f"IQoJb3JpZ2luX2Vj{drawn(300)}",
    "a Docker token": f"dckr_pat_{drawn(27)}",
    "a GitLab runner's token": f"glrt-{drawn(20)}",
    "a Databricks token": f"dapi{drawn(32, '0123456789abcdef')}",
    "an API key's header": f"x-api-key: {drawn(24)}7",
    "a lower-case PEM key": "-----begin private key-----",
    "a secret behind a mark": f"key_{AWS_SECRET}",
    "a card number": "4111 1111 1111 1111",
    "a card number with its date": "4111 1111 1111 1111 12/27",
    "an unbroken card number": "4111111111111111",
    "an American Express number": "3782 822463 10005",
    "a Diners number": "3056 930902 5904",
}


@pytest.mark.parametrize("secret", FORMS.values(), ids=FORMS.keys())
def test_a_secret_is_known_by_its_form_anywhere_in_a_text(secret: str) -> None:
    assert holds_private_data(f"May it be rotated? {secret} is what we have.")
    assert holds_private_data(secret)


@pytest.mark.parametrize(
    "name", ["an AWS access key id", "an AWS secret access key", "a GitHub token", "a card number"]
)
@pytest.mark.parametrize(
    "disguise",
    [
        lambda secret: " ".join(secret.replace(" ", "")),
        "\u200b".join,
        "\u2060\u00ad".join,
        lambda secret: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in secret),
        lambda secret: " ".join(secret.replace(" ", "")[i : i + 4] for i in range(0, len(secret), 4)),
        lambda secret: ".".join(secret.replace(" ", "").replace("_", "")) if "_" not in secret else secret,
        lambda secret: "\n".join(secret.replace(" ", "")),
    ],
    ids=["spaced", "zero-width", "soft hyphens", "full width", "in fours", "dotted", "in a column"],
)
def test_a_disguise_that_a_person_reads_through_is_read_through(name: str, disguise: object) -> None:
    assert callable(disguise)
    assert holds_private_data(f"see {disguise(FORMS[name])} there")


def test_a_bare_aws_secret_is_known_by_its_randomness_alone() -> None:
    """Ten thousand drawn ones: the few without a digit, or with a rare lack of variety, are missed."""
    letters = string.ascii_letters + string.digits + "/+"
    missed = sum(not holds_private_data(f"it is {drawn(40, letters)} now") for _ in range(10_000))
    assert missed < 60


@pytest.mark.parametrize(
    "text",
    [
        "May acct_10234 be rotated under P-7?",
        "The key 3f786850e387550fdab836ed7e6dc881de23001b is stale.",  # GCP's key ids, and commits
        "projects/pay-prod-1/serviceAccounts/Deploy@pay-prod-1.iam.gserviceaccount.com",
        "arn:aws:iam::123456789012:user/teams/payments/Svc-Deploy-2024",
        "11111111-2222-3333-4444-555555555555",
        "Is a password rotation needed? The token: see the ticket OPS-12345.",
        "2026-11-21T09:00:00Z to 2026-11-22T09:00:00Z",
        "It is a risk-based-decision-for-the-owner, and the task-force-of-2024 agrees to that.",
        "May we do it now or at the end of the week so that no one of us has to be up at 3?",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "password: 2026-11-21",
        "The password is 400 days old, the access key is older than 90days.",
        "secret: projects/x/secrets/y/versions/3",
        "secret: arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf",
        "token: ***, password=${DB_PASSWORD}, api_key = {{ key }}, secret=<redacted>",
        "secret: prod-db-2024, token: needs-rotation-within-30-days",
        "The token is rotated daily by OPS-12345.",
        "sk-based-decision-2024-for-owner",
        "password: required, secret: missing, token: expired",
        "token: 90-days, secret: 12 months",
        "Basic authentication is off.",
        "hosts 10.12.13.14, 10.22.33.44, 192.168.1.100 and 172.16.254.1",
        "events 1767225600000000 and 1299384710293847561 at 1767225600000",
        "Between 2025-03-04 and 2025-09-12, then 2024-11-11 11:12:13",
    ],
)
def test_what_people_ask_about_keys_holds_nothing_private(text: str) -> None:
    assert not holds_private_data(text)
    assert not holds_secret(text)


def test_dates_and_addresses_are_no_card_numbers() -> None:
    """Their digits pass the check one time in ten; many of them together passed it nearly always."""
    days = [f"{2019 + n % 8}-{1 + n % 12:02}-{1 + n % 28:02}" for n in range(400)]
    hosts = [f"{n % 223 + 1}.{n * 7 % 256}.{n * 13 % 256}.{n * 31 % 256}" for n in range(400)]
    for many in (days, hosts):
        assert not holds_private_data(" ".join(many))
        assert not holds_private_data(", ".join(many))


@pytest.mark.parametrize(
    "unit",
    ["1 ", "a.", "1234 ", "password=", "://a:", "bearer ", "eyJ-", "-----BEGIN ", "sk-", "xoxb-", "A1b/", "a b c "],
)
def test_the_check_takes_time_in_proportion_to_the_text(unit: str) -> None:
    """No question can stop a worker by its length: 16 times the text in at most 64 times the time."""
    long, short = (processor_seconds(holds_private_data, unit, length) for length in (32_000, 2_000))
    assert long < max(64 * short, 0.25)  # quadratic, it was seconds


def test_an_id_that_may_stand_in_a_text_stands_there_whole_and_is_no_piece_of_a_secret() -> None:
    assert not holds_private_data("is AKIAIOSFODNN7EXAMPLE old?", about=("AKIAIOSFODNN7EXAMPLE",))
    assert holds_private_data(f"see {AWS_SECRET}", about=(AWS_SECRET[10:20],))
    assert holds_private_data("see 4111 1111 1111 1111", about=("1",))


@pytest.mark.parametrize("secret", ["4111111111111111", f"sk-{drawn(40)}7a", f"{drawn(86)}==", "password=hunter22"])
def test_no_id_is_a_secret_or_a_card_number(secret: str) -> None:
    assert holds_secret(secret)
    assert not holds_secret("AKIAIOSFODNN7EXAMPLE")  # the id of a key is what a request is about


@pytest.mark.parametrize("name", sorted(FORMS))
def test_what_detect_secrets_finds_is_found_here(name: str) -> None:
    """A second opinion on our own forms: its plugins for issuers' marks."""
    plugins = ["AWSKeyDetector", "GitHubTokenDetector", "SlackDetector", "JwtTokenDetector", "StripeDetector"]
    plugins += ["AzureStorageKeyDetector", "PrivateKeyDetector", "GitLabTokenDetector", "BasicAuthDetector"]
    with transient_settings({"plugins_used": [{"name": plugin} for plugin in plugins]}):
        if list(scan_line(FORMS[name])):
            assert holds_private_data(FORMS[name])


def test_a_question_with_a_secret_is_refused_without_repeating_it_and_may_name_its_own_key() -> None:
    asked = request()
    for words in (AWS_SECRET, "AKIAIOSFODNN7EXAMPLE", "4111 1111 1111 1111"):
        with pytest.raises(ValidationError) as refused:
            type(asked).model_validate(asked.model_dump() | {"question": f"May it? {words}"})
        assert "looks like a secret" in str(refused.value)
        assert words not in str(refused.value)
    own = asked.credential.model_copy(update={"key_id": "AKIAIOSFODNN7EXAMPLE"})
    named = asked.model_dump() | {"credential": own, "question": "May AKIAIOSFODNN7EXAMPLE be rotated?"}
    assert type(asked).model_validate(named).question.startswith("May AKIA")


def test_a_reason_names_keys_by_their_ids() -> None:
    reason = "AKIAIOSFODNN7EXAMPLE is still used by the backup"
    assert Denial(workflow_id="rotate:x", approver="luna", digest=f"v1:{'0' * 64}", reason=reason).reason == reason


def test_a_secret_in_the_place_of_an_id_in_notes_or_in_a_reason_is_refused() -> None:
    with pytest.raises(ValidationError, match="is a secret, not an ID"):
        CredentialFacts(key_id=AWS_SECRET, observed_at=NOW)
    with pytest.raises(ValidationError, match="looks like a secret"):
        CredentialFacts(key_id="k", observed_at=NOW, notes=f"found in a log: {AWS_SECRET}")
    with pytest.raises(ValidationError, match="looks like a secret"):
        Denial(workflow_id="rotate:x", approver="luna", digest=f"v1:{'0' * 64}", reason=f"it leaked: {AWS_SECRET}")
