"""Whatever the whole suite logs, records or prints is searched for the questions and keys that its tests plant."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.workers.settings_faults import PLACEHOLDER_KEY
from tests.support.cases import QUESTION

PLANTED = (
    QUESTION,
    "May it be rotated?",
    "Luna's private words",
    "key_for_tests",
    PLACEHOLDER_KEY,
    "key_before_4711",
    "key_after_4712",
    "sk-very-secret-4711",
    "hunter2",
    "a_fingerprint_key_of_tests",
)


def planted_in(texts: str) -> list[str]:
    """Return what was planted and is in `texts`."""
    return [secret for secret in PLANTED if secret in texts]


async def stored_by_temporal(client: Client) -> str:
    """Return everything that the server stores of the namespace's workflows, as any reader with access has it.

    Payloads are taken as bytes and as text, so that neither form can hide in the other.
    """
    raw = await Client.connect(client.service_client.config.target_host, namespace=client.namespace)
    texts: list[str] = []
    async for row in raw.list_workflows():
        texts.append(str(row.raw_info) + row.raw_info.SerializeToString().decode("latin-1"))
        handle = raw.get_workflow_handle(row.id, run_id=row.run_id)
        described = (await handle.describe()).raw_description
        texts.append(str(described) + described.SerializeToString().decode("latin-1"))
        history = await handle.fetch_history()
        texts.extend(str(event) + event.SerializeToString().decode("latin-1") for event in history.events)
    return "\n".join(texts)


def leaks_of(folder: Path) -> Iterator[str]:
    """Yield each log file and ledger below `folder` that holds what was planted."""
    for log in folder.rglob("*.log"):
        for secret in planted_in(log.read_text(errors="replace")):
            yield f"{log}: {secret}"
    for database in folder.rglob("keyturn.db"):
        yield from leaks_of_ledger(URL.create("sqlite", database=str(database)))


def leaks_of_ledger(url: URL) -> Iterator[str]:
    """Yield each call record and labelled case that holds what was planted."""
    engine = create_engine(url.set(drivername="sqlite" if "sqlite" in url.drivername else "postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            for table in {"call_records", "labelled_cases"} & {*inspect(connection).get_table_names()}:
                for row in connection.execute(text(f"SELECT * FROM {table}")):
                    for secret in planted_in(str(row)):
                        yield f"{url.database}, {table}: {secret}"
    finally:
        engine.dispose()
