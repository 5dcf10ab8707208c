"""A waived key is judged all the same, recorded as waived, and gets no job while its waiver holds."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from keyturn.application.encryption import names_of
from keyturn.application.outcomes import EXIT_DONE, as_lines, as_object, exit_status
from keyturn.application.requests import id_of
from keyturn.application.rotations import rotate
from keyturn.jobs.store import JobStore
from keyturn.owners import Owners
from keyturn.policy.catalogue import load_catalogue
from keyturn.progress import summary_of
from keyturn.rotations.contracts import JobOrder, RotationRequest
from keyturn.rotations.decisions import GroundedDecision
from keyturn.rotations.outcomes import JobCreated, Waived
from keyturn.waivers.contracts import AppliedWaiver
from keyturn.waivers.granting import new_waiver
from keyturn.waivers.store import WaiverBook, WaiverStore
from keyturn.workers.wiring import look_up_owners, look_up_waivers
from tests.support.cases import facts, order, request
from tests.support.estates import BulkPlace, estate, started
from tests.support.workers_for_tests import ELIGIBLE, Script, worker_on

CATALOGUE = load_catalogue()


async def granted(engine: AsyncEngine, **changed: object) -> str:
    given: dict[str, object] = {
        "tenant_id": "default",
        "account": "acct_*",
        "reason": "the vendor replaces it",
        "granted_by": "omar",
    }
    given |= {"until": datetime.now(UTC) + timedelta(days=5), **changed}
    waiver = new_waiver(CATALOGUE, given)
    await WaiverStore(engine).add(waiver)
    return waiver.waiver_id


async def test_a_waived_key_is_decided_and_gets_its_job_when_the_waiver_has_ended(
    temporal: Client, sqlite_store: JobStore, sqlite_engine: AsyncEngine
) -> None:
    queue, asked = f"test-{uuid.uuid4().hex}", request()
    waiver_id = await granted(sqlite_engine)
    waivers = WaiverStore(sqlite_engine)
    fresh = look_up_waivers(WaiverBook(waivers, Owners()), CATALOGUE, look_up_owners(sqlite_engine, Owners()))
    script = Script(ELIGIBLE)
    async with worker_on(temporal, queue, script, sqlite_store, waiver_of=fresh):
        _, outcome = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, Waived)
    assert (outcome.waiver.waiver_id, outcome.waiver.granted_by, script.calls) == (waiver_id, "omar", 1)
    assert outcome.decision.decision == "eligible"
    assert exit_status(outcome) == EXIT_DONE
    shown = "\n".join(as_lines("w", outcome))
    assert "by omar; no job" in shown
    assert "the vendor replaces it" in shown
    assert as_object("w", outcome)["waiver"]["waiver_id"] == waiver_id
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []
    events = await sqlite_store.events(tenant_id="default", workflow_id=id_of(asked, names_of(temporal)))
    assert [(row["event"], row["actor"]) for row in events] == [("waived", "omar")]
    await waivers.end(waiver_id, tenant_id="default", by="omar")
    fresh = look_up_waivers(WaiverBook(waivers, Owners()), CATALOGUE, look_up_owners(sqlite_engine, Owners()))
    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store, waiver_of=fresh):
        _, after = await rotate(temporal, asked, task_queue=queue, wait_seconds=30)
    assert isinstance(after, JobCreated)
    assert len(await sqlite_store.jobs(tenant_id="default", limit=10)) == 1


async def test_a_waiver_that_is_granted_after_the_decision_still_prevents_the_job(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """The action's own boundary looks once more; then the key is decided anew, and is waived."""
    queue, looks = f"test-{uuid.uuid4().hex}", list[str]()

    async def waiver_of(subject: RotationRequest | JobOrder, _decision: GroundedDecision) -> AppliedWaiver | None:
        looks.append(type(subject).__name__)
        if len(looks) == 1:
            return None
        until = datetime.now(UTC) + timedelta(days=5)
        return AppliedWaiver(waiver_id="waiver_1", granted_by="omar", reason="a freeze", until=until)

    async with worker_on(temporal, queue, Script(ELIGIBLE), sqlite_store, waiver_of=waiver_of):
        _, outcome = await rotate(temporal, request(), task_queue=queue, wait_seconds=30)
    assert isinstance(outcome, Waived)
    assert looks == ["RotationRequest", "JobOrder", "RotationRequest"]
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_the_owner_of_an_inventory_is_waived_for_questions_by_hand_too(
    sqlite_place: BulkPlace, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """A person's question names no owner: the newest run that knows one does."""
    place = sqlite_place
    line = json.loads(estate(tmp_path / "keys.jsonl", keys=1).read_text())
    (tmp_path / "owned.jsonl").write_text(json.dumps(line | {"owner": "payments"}) + "\n")
    await granted(sqlite_engine, tenant_id=place.tenant, account=None, owner="payments")
    await place.load(tmp_path / "owned.jsonl", run_id)
    waiver_of = look_up_waivers(
        WaiverBook(WaiverStore(sqlite_engine), Owners()), CATALOGUE, look_up_owners(sqlite_engine, Owners())
    )
    asked = order(
        tenant_id=place.tenant, account_id=line["account_id"], credential=facts(key_id=line["key_id"], stale=True)
    )
    assert (await waiver_of(asked, asked.decision)) is not None
    another = order(tenant_id=place.tenant, account_id="another")
    assert (await waiver_of(another, another.decision)) is None


async def test_a_run_counts_waived_keys_and_says_until_when(
    sqlite_place: BulkPlace, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Ten keys, one of them due and exempt."""
    place = sqlite_place
    await granted(sqlite_engine, tenant_id=place.tenant)
    await place.load(estate(tmp_path / "keys.jsonl", keys=10), run_id)
    async with place.working():
        outcome = await (await started(place, run_id)).result()
    assert outcome.progress.outcomes == {"waived": 1, "not_specified": 9}
    assert "1 waived" in summary_of(outcome.progress)
    (item, *_) = await place.store.items(run_id, after=0, limit=1)
    assert item["outcome"] == "waived"
    assert item["explanation"].endswith("by omar: the vendor replaces it")
    assert item["policy_lines"] == ["CIS-AWS-4.0-1.14@1"]
