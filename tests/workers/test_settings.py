"""Settings: all faults at once, no secret shown."""

from decimal import Decimal
from pathlib import Path

import pytest

from keyturn.errors import SettingsInvalid
from keyturn.llm.providers import load_providers
from keyturn.llm.routing import Target, parse_routes, route_of
from keyturn.llm.wire import Usage
from keyturn.notifications.webhook import WebhookSettings
from keyturn.tasks.registry import load_tasks
from keyturn.workers.rate_card import read_rate_card
from keyturn.workers.settings import load_settings
from keyturn.workers.settings_faults import PLACEHOLDER_KEY
from tests.support.keys import KEYS_TEXT

SECRET = "sk-very-secret-4711"

SIGNS = "a:webhook_secret_of_the_tests_0123456789ab"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a developer's own .env must not reach the test


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in ({"OPENAI_API_KEY": SECRET, "KEYTURN_ROUTES": "openai:gpt-5-mini"} | variables).items():
        monkeypatch.setenv(name, value)


def test_a_key_and_a_route_are_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else has a default that works."""
    given(monkeypatch)
    settings = load_settings()
    assert settings.own_endpoints["openai"].url == "https://api.openai.com/v1"
    assert settings.database_url.drivername == "sqlite+aiosqlite"
    assert settings.routes == {"*": (Target("openai", "gpt-5-mini"),)}
    assert settings.environment == "development"


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by repr nor by its own or another setting's fault."""
    given(monkeypatch, DATABASE_URL=f"postgresql://u:{SECRET}@h/d", KEYTURN_REDIS_URL=f"redis://:{SECRET}@h")
    assert SECRET not in repr(load_settings())
    given(monkeypatch, OPENAI_API_KEY=f" {SECRET}", OPENAI_BASE_URL=f"ftp://{SECRET}")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_every_fault_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start, one message, a line a fault."""
    monkeypatch.setenv("OPENAI_BASE_URL", "api.openai.com")
    monkeypatch.setenv("KEYTURN_LOG_FORMAT", "loud")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    names = [line.split(":")[0].split(" ")[0] for line in str(caught.value).splitlines()]
    assert sorted(names) == ["KEYTURN_LOG_FORMAT", "KEYTURN_ROUTES", "OPENAI_BASE_URL"]


@pytest.mark.parametrize(
    ("url", "fault"),
    [("mysql://h/d", "names 'mysql'"), ("nonsense", "not a database URL"), ("sqlite://", "in-memory")],
)
def test_a_database_that_we_do_not_ship_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, fault: str) -> None:
    """Before anything is connected to."""
    given(monkeypatch, DATABASE_URL=url)
    with pytest.raises(SettingsInvalid, match=fault):
        load_settings()


@pytest.mark.parametrize("url", ["postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d", "postgresql+psycopg://h/d"])
def test_every_way_of_naming_postgresql_gets_our_driver(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Users paste the URL that their platform gives them."""
    given(monkeypatch, DATABASE_URL=url)
    assert load_settings().database_url.drivername == "postgresql+psycopg"


def test_faults_between_settings_are_reported_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each route's provider needs its key; production refuses what is for trying out."""
    monkeypatch.setenv("KEYTURN_ENVIRONMENT", "production")
    monkeypatch.setenv(
        "KEYTURN_ROUTES",
        "openai:simulator-1, anthropic:claude-haiku-4-5, compatible:llama3:8b; draft_reply=gemini:gemma",
    )
    monkeypatch.setenv("OPENAI_API_KEY", PLACEHOLDER_KEY)
    monkeypatch.setenv("KEYTURN_LOG_FORMAT", "loud")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    message = str(caught.value)
    for fault in (
        "KEYTURN_LOG_FORMAT: ",
        "ANTHROPIC_API_KEY is not set: KEYTURN_ROUTES asks anthropic",
        "GEMINI_API_KEY is not set",
        "KEYTURN_COMPATIBLE_BASE_URL is not set",
        "OPENAI_API_KEY: is the placeholder",
        "KEYTURN_ROUTES: names the simulator's model",
        "DATABASE_URL: production refuses SQLite",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("url", "keys", "fault"),
    [
        ("http://tickets.example/jobs", SIGNS, "KEYTURN_WEBHOOK_URL: must use https"),
        ("https://u:hunter2@tickets.example/", SIGNS, "KEYTURN_WEBHOOK_URL: must have neither a password"),
        ("tickets.example", SIGNS, "KEYTURN_WEBHOOK_URL: "),
        (
            "https://tickets.example/jobs",
            "",
            "KEYTURN_WEBHOOK_KEYS is not set: messages to KEYTURN_WEBHOOK_URL are signed",
        ),
        ("https://tickets.example/jobs", "a:short", "KEYTURN_WEBHOOK_KEYS: the token of a has fewer than 32"),
        (
            "https://tickets.example/jobs",
            f"{SIGNS},{SIGNS.replace('a:', 'b:')},{SIGNS.replace('a:', 'c:')}",
            "more than two",
        ),
    ],
    ids=["clear text", "a password", "no scheme", "no key", "a short key", "three keys"],  # a name holds no secret
)
def test_a_receiver_that_cannot_be_told_safely_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, url: str, keys: str, fault: str
) -> None:
    """Unsigned, in clear text, with a password in its address; and none of it is repeated."""
    given(monkeypatch, KEYTURN_WEBHOOK_URL=url, KEYTURN_WEBHOOK_KEYS=keys)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert fault in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert SIGNS.partition(":")[2] not in str(caught.value)


def test_a_receiver_on_https_or_loopback_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key, or two while they are exchanged."""
    for url in ("https://tickets.example/jobs", "http://127.0.0.1:9000/", "http://localhost/jobs"):
        given(monkeypatch, KEYTURN_WEBHOOK_URL=url, KEYTURN_WEBHOOK_KEYS=f"{SIGNS},{SIGNS.replace('a:', 'b:')}")
        assert WebhookSettings().url == url


def test_a_sound_production_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own key, a real model, PostgreSQL and payload keys; without those it refuses."""
    given(monkeypatch, KEYTURN_ENVIRONMENT="production", DATABASE_URL="postgresql://u:p@h/d")
    with pytest.raises(SettingsInvalid, match="KEYTURN_PAYLOAD_KEYS is not set: production encrypts payloads"):
        load_settings()
    given(
        monkeypatch,
        KEYTURN_ENVIRONMENT="production",
        DATABASE_URL="postgresql://u:p@h/d",
        KEYTURN_PAYLOAD_KEYS=KEYS_TEXT.replace("\n", ","),
    )
    assert load_settings().environment == "production"


def test_an_unknown_model_is_reported_at_start_and_a_rate_card_makes_it_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt model never fails in mid-request; a new one is one line in a file."""
    given(monkeypatch, KEYTURN_ROUTES="openai:gpt-5-mimi")
    with pytest.raises(SettingsInvalid, match="openai has no known model 'gpt-5-mimi'"):
        load_settings()
    card = tmp_path / "rates.toml"
    card.write_text('[models."gpt-5-mimi"]\n')
    given(monkeypatch, KEYTURN_ROUTES="openai:gpt-5-mimi", KEYTURN_RATE_CARD=str(card))
    assert load_settings().prices.knows("openai", "gpt-5-mimi")


@pytest.mark.parametrize(
    ("routes", "fault"),
    [
        ("gpt-5-mini", "is not ENDPOINT:MODEL"),
        ("azure:gpt-5-mini", "there is no endpoint 'azure'"),
        ("openai:a, openai:a", "names one model twice"),
        ("openai:a, anthropic:b[next-on-quota]", "there is no next one"),
        ("decide=openai:a", "there is no task 'decide'"),
        ("decide_rotation=openai:a", "no route for draft_reply"),
        ("openai:a; *=openai:b", "has two routes"),
        (" , ", "names no model"),
    ],
)
def test_a_route_that_leads_nowhere_is_reported(monkeypatch: pytest.MonkeyPatch, routes: str, fault: str) -> None:
    """Unknown tasks, providers, and what is no route at all."""
    given(monkeypatch, KEYTURN_ROUTES=routes)
    with pytest.raises(SettingsInvalid, match=fault):
        load_settings()


def test_a_task_may_have_a_route_of_its_own() -> None:
    """The others take the default one; a model's name may hold a colon."""
    routes = parse_routes("openai:a, compatible:llama3:8b; draft_reply = anthropic:c", load_tasks(), load_providers())
    assert routes["*"] == (Target("openai", "a"), Target("compatible", "llama3:8b"))
    assert route_of(routes, "draft_reply") == (Target("anthropic", "c"),)
    assert route_of(routes, "extract_ticket") == routes["*"]


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass an unset variable on as an empty text."""
    given(monkeypatch, KEYTURN_USD_PER_CALL="", KEYTURN_REDIS_URL="", KEYTURN_COMPATIBLE_API_KEY="")
    assert load_settings().usd_per_call is None


def test_a_rate_card_overrides_public_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decimal figures, a table a model."""
    card = tmp_path / "rates.toml"
    card.write_text('[models."gpt-5-mini"]\ninput = 2.10\noutput = "6"\n')
    given(monkeypatch, KEYTURN_RATE_CARD=str(card))
    assert load_settings().prices.cost_usd("openai", "gpt-5-mini", Usage(10, 0)) == Decimal("0.000021")


@pytest.mark.parametrize(
    "text",
    [
        "models = 7",
        '[models."m"]\ninput = -1',
        '[models."m"]\nprice = 1',
        '[rates."m"]\ninput = 1',
        "[",
        "models = " + "[" * 10_000,
    ],
    ids=lambda text: text[:16],
)
def test_a_faulty_rate_card_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """A wrong price is worse than none."""
    card = tmp_path / "rates.toml"
    card.write_text(text)
    with pytest.raises(SettingsInvalid, match=r"rates\.toml is not a rate card"):
        read_rate_card(card)


@pytest.mark.parametrize("url", [f"redis://:{SECRET}/x@host:6379", "redis://host:abc", "http://host", f"{SECRET}"])
def test_a_redis_url_that_cannot_be_used_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """At start, by the setting's name."""
    given(monkeypatch, KEYTURN_REDIS_URL=url)
    with pytest.raises(SettingsInvalid, match="KEYTURN_REDIS_URL: is not redis://") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_a_setting_by_its_name_of_before_is_reported_with_its_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be ignored in silence."""
    given(monkeypatch, KEYTURN_ANSWER_CACHE="off")
    with pytest.raises(SettingsInvalid, match="KEYTURN_ANSWER_CACHE is now KEYTURN_RESPONSE_CACHE"):
        load_settings()
