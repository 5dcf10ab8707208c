"""Settings: all faults at once, no secret shown."""

from decimal import Decimal
from pathlib import Path

import pytest

from keyturn.errors import SettingsInvalid
from workers.settings import load_settings, read_rate_card

SECRET = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a developer's own .env must not reach the test


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in ({"OPENAI_API_KEY": SECRET, "KEYTURN_MODEL": "m-1"} | variables).items():
        monkeypatch.setenv(name, value)


def test_a_key_and_a_model_are_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else has a default that works."""
    given(monkeypatch)
    settings = load_settings()
    assert settings.openai_base_url == "https://api.openai.com/v1"
    assert settings.database_url.drivername == "sqlite+aiosqlite"
    assert settings.rates == {}


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by repr nor by a fault of its own or of another setting."""
    given(monkeypatch)
    assert SECRET not in repr(load_settings())
    given(monkeypatch, OPENAI_API_KEY=f" {SECRET}", OPENAI_BASE_URL=f"ftp://{SECRET}")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_every_fault_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start, one message, a line a fault."""
    monkeypatch.setenv("OPENAI_BASE_URL", "api.openai.com")
    monkeypatch.setenv("KEYTURN_LOG_FORMAT", "loud")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    names = [line.split(":")[0].split(" ")[0] for line in str(caught.value).splitlines()]
    assert sorted(names) == ["KEYTURN_LOG_FORMAT", "KEYTURN_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"]


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
    """People paste the URL that their platform gives them."""
    given(monkeypatch, DATABASE_URL=url)
    assert load_settings().database_url.drivername == "postgresql+psycopg"


def test_a_rate_card_overrides_public_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decimal figures, a table a model."""
    card = tmp_path / "rates.toml"
    card.write_text('[rates."m-1"]\ninput = 2.10\noutput = "6"\n')
    given(monkeypatch, KEYTURN_RATE_CARD=str(card))
    assert load_settings().rates == {"m-1": (Decimal("2.10"), Decimal("6"))}


@pytest.mark.parametrize("text", ["rates = 7", '[rates."m"]\ninput = -1\noutput = 2', '[rates."m"]\ninput = 1', "["])
def test_a_faulty_rate_card_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """A wrong price is worse than none."""
    card = tmp_path / "rates.toml"
    card.write_text(text)
    with pytest.raises(SettingsInvalid, match=r"rates\.toml is not a rate card"):
        read_rate_card(card)
