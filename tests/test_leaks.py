"""After every end that a rotation can come to: everything that is stored or sent is searched for what is private."""

import asyncio
import itertools
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL
from temporalio.client import Client

from keyturn.application.answers import answer
from keyturn.application.rotation_status import Handle, outcome_of
from keyturn.application.rotations import rotate, start_or_attach
from keyturn.contracts import CredentialFacts, PolicyRef
from keyturn.database import open_database
from keyturn.jobs.store import JobStore
from keyturn.keyring import Keyring
from keyturn.lab.proof.plan import WRONG_NO
from keyturn.lab.stack.embedded import worker_environment
from keyturn.lab.stack.loopback import loopback_client
from keyturn.lab.stack.processes import child
from keyturn.lab.stack.temporal import dev_server
from keyturn.labels.sources import LabelSources
from keyturn.labels.store import LabelStore
from keyturn.rotations.contracts import Abandonment, Approval, Denial, Resumption, RotationRequest
from keyturn.rotations.outcomes import RotationOutcome
from keyturn.web.ports import free_loopback_port
from keyturn.workers.labels import LabelCollector
from keyturn.workers.settings_faults import PLACEHOLDER_KEY
from tests.support.cases import NOW, P7
from tests.support.keys import KEYS_TEXT, NEWER, ring
from tests.support.privacy import stored_by_temporal
from tests.support.record_histories import Place
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on

NOTES = "Planted notes 2342: Luna left the company"
QUESTION, REASON = "Planted question 0815: may Luna's key be rotated?", "Planted reason 4711: Luna is on leave"
ACCOUNT, KEY, USER, APPROVER = "planted-account-0815", "planted-key-4711", "planted.user", "planted.approver"
WORDS = (QUESTION, REASON, "Planted question", "Planted reason", "Luna's key", NOTES, "Planted notes")
BEARER = "planted_bearer_4711_0815"  # of a request that is malformed
NAMES = (ACCOUNT, KEY, USER, APPROVER)
ANSWER = "source_line_ids"  # of every answer that the simulator gives
APPROVAL_LINE = f"""
[[line]]
id = "P-9"
version = 1
wording = "Stale service-account keys must rotate within 30 days, when an approver agrees."
applies_to = ["service_account_key"]
window_days = 30
approval = "required"
approvers = ["{APPROVER}"]
rule = {{ when = "stale" }}
source = {{ benchmark = "tests", release = "1", id = "P-9" }}
"""
AGES = itertools.count(1)
P9 = PolicyRef(id="P-9", version=1)


@dataclass(frozen=True)
class Traces:
    """Everything that was stored or sent, by where."""

    temporal: str
    log: str
    metrics: str
    ledger: str
    kept: str
    labels: str
    rows: str  # of every table: whose reasons they are is there, and no question, no evidence in words, no answer


def asked(line: PolicyRef = P7, *, stale: bool | None = True, suffix: str = "") -> RotationRequest:
    """A request with unique evidence: a cached response would not come to the simulator's faults."""
    credential = CredentialFacts(
        key_id=f"{KEY}{suffix or uuid.uuid4().hex[:8]}",
        stale=stale,
        age_days=next(AGES),
        observed_at=NOW,
        notes=NOTES,
    )
    return RotationRequest(
        account_id=ACCOUNT,
        user_id=USER,
        question=QUESTION,
        policy_lines=(line,),
        credential=credential,
        trace_id="trace_1",
        max_retries=0,
        timeout_seconds=2,
    )


@asynccontextmanager
async def world(
    folder: Path, database: URL, simulator: SimulatorControl, keyring: Keyring
) -> AsyncIterator[tuple[Client, str, Path]]:
    """Yield a client of a new server, with a real worker on it; its monitoring address, and its log."""
    policy, keys, log = folder / "policy", folder / "keys", folder / "leaks.worker.log"
    policy.mkdir()
    (policy / "approval.toml").write_text(APPROVAL_LINE)
    keys.write_text(KEYS_TEXT)
    keys.chmod(0o600)
    monitoring = f"127.0.0.1:{free_loopback_port()}"
    async with dev_server(keyring=keyring) as client:
        url = database.render_as_string(hide_password=False)
        address = client.service_client.config.target_host
        environment = worker_environment(address, url, simulator.address, keys=keys) | {
            "KEYTURN_ROUTES": "openai:simulator-1",
            "KEYTURN_POLICY_DIR": str(policy),
            "KEYTURN_MONITORING_ADDRESS": monitoring,
        }
        async with child([sys.executable, "-m", "keyturn.workers"], environment=environment, log=log):
            yield client, monitoring, log


async def every_end(client: Client, simulator: SimulatorControl) -> set[str]:
    """Bring rotations to all their ends, persons' responses included; returns the ends."""
    ends: set[str] = set()

    async def plainly(request: RotationRequest, fault: str | None = None) -> None:
        if fault:
            await simulator.fail(fault, times=None, seconds=4) if fault == "slow" else await simulator.fail(fault)
        _, outcome = await rotate(client, request, task_queue="keyturn", wait_seconds=60)
        await simulator.reset()
        _note(ends, outcome)

    for fault in (None, "wrong_window", "malformed_json", "refusal", "unavailable", "slow"):
        await plainly(asked(), fault)
    await plainly(asked(stale=False))
    await plainly(asked(stale=None))

    async def waiting(request: RotationRequest, phase: str, fault: str | None = None) -> tuple[Handle, str]:
        if fault:
            await simulator.fail(fault)
        handle = (await start_or_attach(client, request, task_queue="keyturn")).handle
        return handle, await Place(client, handle, request.credential.key_id, "keyturn").digest_at(phase)

    for fault in ("quota", "unauthorized"):
        handle, _ = await waiting(asked(), "parked", fault)
        await answer(handle, "resume", Resumption(operator=USER))
        _note(ends, await outcome_of(handle))
    handle, _ = await waiting(asked(), "parked", "quota")
    await answer(handle, "abandon", Abandonment(operator=USER, reason=REASON))
    _note(ends, await outcome_of(handle))
    handle, _ = await waiting(asked(suffix="restated"), "parked", "quota")
    await plainly(asked(suffix="restated"))
    handle, digest = await waiting(asked(P9), "awaiting_approval")
    await answer(handle, "approve", Approval(approver=APPROVER, digest=digest))
    _note(ends, await outcome_of(handle))
    handle, digest = await waiting(asked(P9), "awaiting_approval")
    await answer(handle, "deny", Denial(approver=APPROVER, digest=digest, reason=REASON))
    _note(ends, await outcome_of(handle))
    await simulator.fail("says", content=WRONG_NO, times=2)
    handle, digest = await waiting(asked(), "disagreement")
    await simulator.reset()
    await answer(handle, "approve", Approval(approver=APPROVER, digest=digest))
    _note(ends, await outcome_of(handle))
    await waiting(asked().model_copy(update={"policy_digest": f"v1:{'0' * 64}"}), "parked")  # other wording
    await waiting(asked(), "parked", "quota")  # and one that still waits
    return ends


async def collect_labels(client: Client, database: URL, keyring: Keyring) -> None:
    """Store what people decided as labelled cases, as the worker does every ten minutes."""
    engine = open_database(database)
    try:
        await LabelCollector(client, LabelSources(engine), LabelStore(engine, keyring), days=None).collect()
    finally:
        await engine.dispose()


def _note(ends: set[str], outcome: RotationOutcome) -> None:
    ends.add(getattr(outcome, "reason", None) or getattr(outcome, "kind", None) or outcome.status)


async def all_traces(client: Client, monitoring: str, log: Path, database: URL) -> Traces:
    reader, writer = await asyncio.open_connection(*monitoring.split(":"))
    writer.write(f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {BEARER}\rx\r\n\r\n".encode())
    refused = (await reader.read()).decode()
    writer.close()
    async with loopback_client() as http:
        metrics = refused + "".join(
            [(await http.get(f"http://{monitoring}/{page}")).text for page in ("metrics", "status")]
        )
    return Traces(
        temporal=await stored_by_temporal(client),
        log=log.read_text(errors="replace"),
        metrics=metrics,
        ledger=_rows(database, "call_records"),
        kept=_rows(database, "response_cache"),
        labels=_rows(database, "labelled_cases"),
        rows=_rows(database),
    )


def _rows(database: URL, *tables: str) -> str:
    """The rows of these tables, or of all."""
    engine = create_engine(database.set(drivername=database.drivername.replace("+aiosqlite", "")))
    try:
        with engine.connect() as connection:
            present = inspect(connection).get_table_names()
            assert set(tables) <= set(present)
            found = [connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables or present]
            return "\n".join(str(row) for rows in found for row in rows)
    finally:
        engine.dispose()


def leaks(traces: Traces) -> list[str]:
    """Return what is readable and must not be, by its place."""
    nowhere = (*WORDS, PLACEHOLDER_KEY, ANSWER, BEARER)
    reasons = (REASON, "Planted reason")  # a reader of the audit must know them
    return [
        f"{place}: {secret}"
        for place, content in vars(traces).items()
        for secret in ((*nowhere, *NAMES) if place in {"temporal", "metrics", "labels"} else nowhere)
        if secret in content and not (place == "rows" and secret in reasons)
    ]


async def test_after_every_end_only_ciphertext_is_left(
    database: URL, simulator: SimulatorControl, tmp_path: Path
) -> None:
    """No question, answer, reason, name or key is in what is stored, listed, logged or counted."""
    keyring = ring(NEWER, account_names="pseudonym")
    async with world(tmp_path, database, simulator, keyring) as (client, monitoring, log):
        ends = await every_end(client, simulator)
        await collect_labels(client, database, keyring)
        traces = await all_traces(client, monitoring, log, database)
    assert ends >= {
        "job_created",
        "unsupported_window",
        "malformed_answer",
        "model_refused",
        "provider_unavailable",
        "timeout",
        "not_eligible",
        "not_specified",
        "abandoned",
        "approval_denied",
    }
    # What was searched is really what was stored: the readable parts of it are there.
    for part in ("RotationWorkflow", "quota_exhausted", "KeyturnParked", "P-9@1", "create_rotation_job", "~"):
        assert part in traces.temporal
    assert traces.log.count('"model_call"') >= 12
    assert "keyturn_call_duration_seconds_count" in traces.metrics
    assert traces.ledger.count("\n") >= 12
    assert traces.kept
    assert traces.labels.count("P-9@1") == 2
    assert "disagreement" in traces.labels
    assert "malformed_request" in traces.metrics
    assert REASON in traces.rows
    assert "disagreement" in traces.rows
    assert "disagreement" in traces.temporal
    assert leaks(traces) == []


async def test_the_search_finds_what_is_not_encrypted(sqlite_store: JobStore) -> None:
    """The same without encryption: the search would be worth nothing if it found nothing there."""
    async with dev_server() as client, worker_on(client, "keyturn", Script(ELIGIBLE), sqlite_store):
        _, outcome = await rotate(client, asked(), task_queue="keyturn", wait_seconds=60)
        assert outcome.status == "job_created"
        temporal = await stored_by_temporal(client)
    found = leaks(Traces(temporal, "", "", "", "", "", ""))
    assert {f"temporal: {secret}" for secret in (QUESTION, ANSWER, ACCOUNT, KEY, USER)} <= set(found)


@pytest.mark.parametrize("place", ["temporal", "log", "metrics", "ledger", "kept", "labels", "rows"])
def test_a_leak_is_reported_with_its_place(place: str) -> None:
    """Wherever it is."""
    sound = dict.fromkeys(("temporal", "log", "metrics", "ledger", "kept", "labels", "rows"), "nothing")
    assert leaks(Traces(**sound)) == []
    assert f"{place}: {QUESTION}" in leaks(Traces(**sound | {place: f"before {QUESTION} after"}))
