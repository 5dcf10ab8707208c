"""What the workflows' tests share."""

import uuid

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from tests.support.estates import BulkPlace, Judge, bulk_place


@pytest.fixture(autouse=True)
def _lookups_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls are counted, an answer that a busy machine finds too late would be asked for again, as it should."""
    monkeypatch.setattr("keyturn.cache.sql.LOOKUP_SECONDS", 20.0)
    monkeypatch.setattr("keyturn.ledger.store.LOOKUP_SECONDS", 20.0)


@pytest.fixture
def queue() -> str:
    """A task queue of this test's own."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def run_id() -> str:
    """A bulk run of this test's own."""
    return f"run-{uuid.uuid4().hex[:16]}"


@pytest.fixture
def sqlite_place(temporal: Client, queue: str, sqlite_engine: AsyncEngine) -> BulkPlace:
    """Where the database makes no difference."""
    return bulk_place(temporal, queue, sqlite_engine, Judge())
