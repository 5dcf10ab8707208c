"""What the workflows' tests share."""

import pytest


@pytest.fixture(autouse=True)
def _lookups_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls are counted, an answer that a busy machine finds too late would be asked for again, as it should."""
    monkeypatch.setattr("keyturn.cache.sql.LOOKUP_SECONDS", 20.0)
    monkeypatch.setattr("keyturn.ledger.store.LOOKUP_SECONDS", 20.0)
