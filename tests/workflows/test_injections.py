"""Hostile questions, account names and scans, against a model that obeys them: no job, each rejection by name."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.client import Client

from keyturn.application.rotations import rotate
from keyturn.contracts import PolicyRef
from keyturn.jobs.store import JobStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.http import http_client
from keyturn.policy.catalogue import Catalogue
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Rejection
from keyturn.rotations.outcomes import Rejected, WaitingForPerson
from keyturn.tasks.summarize_scan import ScanRecord, ScanRequest
from tests.support.boundaries import WIRES, guarded, on_simulator
from tests.support.cases import P7, facts, request
from tests.support.simulated import SimulatorControl
from tests.support.workers_for_tests import worker_on

CORPUS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "corpora" / "injections.jsonl").read_text().splitlines()
]


def asked(case: dict[str, Any]) -> RotationRequest:
    changed = {"question": case["text"]} if case["where"] == "question" else {"account_id": case["text"]}
    known = {"stale": None, "age_days": None} | case["facts"]
    if "lines" in case:
        changed["policy_lines"] = tuple(PolicyRef(id=name, version=1) for name in case["lines"])
    return request(credential=facts(**known), **changed)


async def test_a_model_that_obeys_every_hostile_text_makes_no_job(
    temporal: Client, sqlite_store: JobStore, simulator: SimulatorControl
) -> None:
    """Each case through the whole workflow, over HTTP: the simulator says exactly what the attacker wants."""
    queue = f"test-{uuid.uuid4().hex}"
    wires = sorted(WIRES)
    async with http_client(8) as http:
        for place, case in enumerate(case for case in CORPUS if case["where"] != "scan"):
            if case["reason"] == "invalid_request":
                with pytest.raises(ValidationError):
                    asked(case)
                continue
            provider = on_simulator(http, simulator, wires[place % len(wires)])
            await simulator.reset()
            await simulator.fail("says", content=case["obeyed"], times=None)
            async with worker_on(temporal, queue, provider, sqlite_store):
                _, outcome = await rotate(temporal, asked(case), task_queue=queue, wait_seconds=30)
            if case["reason"] == "disagreement":  # a due key is not lost to it either: a person decides
                assert isinstance(outcome, WaitingForPerson), case["id"]
                assert outcome.status == "disagreement", case["id"]
                continue
            assert isinstance(outcome, Rejected), case["id"]
            assert outcome.reason == case["reason"], case["id"]
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_a_model_that_obeys_hostile_scan_records_gets_no_summary_accepted(
    simulator: SimulatorControl, catalogue: Catalogue
) -> None:
    """Nor a secret through, nor the claim that something was done."""
    async with http_client(8) as http:
        boundary = ModelBoundary(
            {"*": [on_simulator(http, simulator)]}, catalogue, guard=guarded(), record=lambda _: None
        )
        for case in (case for case in CORPUS if case["where"] == "scan"):
            await simulator.reset()
            await simulator.fail("says", content=case["obeyed"])
            records = (ScanRecord(record_id="r1", text=case["text"]),)
            judged = await boundary.answer(
                ScanRequest(account_id="acct_1", policy_lines=(P7,), records=records, trace_id="t")
            )
            assert isinstance(judged.verdict, Rejection), case["id"]
            assert judged.verdict.reason == case["reason"], case["id"]


def test_the_corpus_is_large_and_varied() -> None:
    """Instruction override, fake policy, fake JSON, encodings, other languages, in every field that others fill."""
    kinds = {case["id"].split("-")[0] for case in CORPUS}
    assert {"no", "laxer", "override", "facts", "policy", "json", "encoded", "language", "account", "scan"} <= kinds
    assert len(CORPUS) >= 60
    assert len({case["id"] for case in CORPUS}) == len(CORPUS)
