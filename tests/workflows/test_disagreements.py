"""A key that is due never ends quietly: a model's no against the evidence is asked again, and then a person decides."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from keyturn.application.answers import AnswerRefused, answer
from keyturn.application.outcomes import as_lines, as_object, exit_status
from keyturn.application.requests import id_of
from keyturn.application.rotation_status import outcome_of
from keyturn.application.rotations import rotate
from keyturn.bulk.findings import Findings
from keyturn.bulk.report import items_of_run
from keyturn.contracts import CredentialFacts
from keyturn.jobs.listing import JobListing
from keyturn.jobs.store import JobStore
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.rotations.contracts import Approval, Denial
from keyturn.rotations.outcomes import Failed, JobCreated, Rejected, WaitingForPerson
from tests.support.cases import facts
from tests.support.estates import LINE, Judge, bulk_place, due, estate, jobs_of, started
from tests.support.workers_for_tests import ELIGIBLE, Script, with_approval
from tests.workflows.test_people import desk, trail

NO = '{"decision":"not_eligible","rotation_window_days":null,"source_line_ids":["P-7"]}'
UNSURE = '{"decision":"not_specified","rotation_window_days":null,"source_line_ids":[]}'


def lost() -> CredentialFacts:
    """A key that no answer may lose."""
    return facts(age_days=900, compromised=True)


async def test_a_wrong_no_is_asked_once_more_and_a_right_second_answer_makes_the_job(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Two calls, and no person is asked for what the second answer decides."""
    async with desk(temporal, Script(NO, ELIGIBLE), sqlite_store, credential=lost()) as here:
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
        assert here.script.calls == 2
        assert await trail(sqlite_store, here) == [("created", "luna")]


async def test_a_model_that_insists_waits_for_a_person_with_both_readings(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """Named, with what each model said; the requester may neither approve nor deny; another operator approves."""
    async with desk(temporal, Script(NO, UNSURE), sqlite_store, credential=lost()) as here:
        status = await here.at("disagreement")
        assert [one.decision for one in status.readings] == ["not_eligible", "not_specified"]
        assert status.decision is not None
        assert (status.decision.decision, status.decision.any_operator) == ("eligible", True)
        assert status.credential == here.asked.credential
        digest = status.decision.digest
        assert await here.refused("approve", Approval(approver="luna", digest=digest)) == "own_request"
        denial = Denial(approver="luna", digest=digest, reason="It is fine.")
        assert await here.refused("deny", denial) == "own_request"
        assert await here.refused("approve", Approval(approver="omar", digest=f"v1:{'0' * 64}")) == "stale_digest"
        await answer(here.handle, "approve", Approval(approver="omar", digest=digest))
        outcome = await outcome_of(here.handle)
        assert isinstance(outcome, JobCreated)
        assert (outcome.approved_by, outcome.decision.basis) == ("omar", "disagreement")
        events = [event for event, _ in await trail(sqlite_store, here)]
        assert sorted(events) == ["approval_requested", "approved", "created", "disagreement"]


async def test_the_screen_says_at_once_that_rule_and_model_disagree(temporal: Client, sqlite_store: JobStore) -> None:
    """With both readings, a separate status, and the exit status of what waits for a person."""
    async with desk(temporal, Script(NO), sqlite_store, credential=lost()) as here:
        _, outcome = await rotate(temporal, here.asked, task_queue=here.queue, wait_seconds=30)
        assert isinstance(outcome, WaitingForPerson)
        assert (outcome.status, exit_status(outcome)) == ("disagreement", 5)
        printed, lines = as_object("id", outcome), "\n".join(as_lines("id", outcome))
        assert [one["decision"] for one in printed["readings"]] == ["not_eligible", "not_eligible"]
        assert "by rule: eligible under P-7@1" in lines
        assert "by model: scripted m-1 said not eligible (contradicts_evidence)" in lines
        digest = str(printed["digest"])
        await answer(here.handle, "deny", Denial(approver="omar", digest=digest, reason="retired already"))
        ended = await outcome_of(here.handle)
        assert isinstance(ended, Rejected)
        assert ended.reason == "approval_denied"
        events = await sqlite_store.events(tenant_id="default", workflow_id=id_of(here.asked))
        assert events[-1]["detail"]["reason"] == "retired already"
    assert await sqlite_store.jobs(tenant_id="default", limit=10) == []


async def test_where_the_lines_name_approvers_only_they_settle_it(temporal: Client, sqlite_store: JobStore) -> None:
    """A disagreement does not widen who may approve."""
    async with desk(temporal, Script(NO), sqlite_store, catalogue=with_approval(), credential=lost()) as here:
        status = await here.at("disagreement")
        assert status.decision is not None
        assert status.decision.approvers == ("omar", "priya")
        digest = status.decision.digest
        with pytest.raises(AnswerRefused, match="not_an_approver"):
            await answer(here.handle, "approve", Approval(approver="mallory", digest=digest))
        await answer(here.handle, "approve", Approval(approver="priya", digest=digest))
        assert isinstance(await outcome_of(here.handle), JobCreated)


async def test_a_disagreement_that_nobody_settles_ends_by_its_name(
    skipping: WorkflowEnvironment, sqlite_store: JobStore
) -> None:
    """After a week, as a failure: never as an answer."""
    async with desk(skipping.client, Script(NO), sqlite_store, credential=lost()) as here:
        outcome = await outcome_of(here.handle)
        description = await here.handle.describe()
    assert isinstance(outcome, Failed)
    assert outcome.kind == "disagreement_expired"
    assert description.close_time is not None
    assert description.close_time - description.start_time >= timedelta(days=7)


async def test_a_line_that_wants_a_person_waits_although_rule_and_model_agree(
    temporal: Client, sqlite_store: JobStore
) -> None:
    """`decide = "person"`: any operator who did not ask."""
    changed = {"decide": "person"}
    catalogue = Catalogue(line.model_copy(update=changed) if line.id == "P-7" else line for line in load_catalogue())
    async with desk(temporal, Script(ELIGIBLE), sqlite_store, catalogue=catalogue) as here:
        status = await here.at("awaiting_approval")
        assert status.decision is not None
        await answer(here.handle, "approve", Approval(approver="omar", digest=status.decision.digest))
        assert isinstance(await outcome_of(here.handle), JobCreated)


class WrongNo(Judge):
    """Says no to every third key that is due, for any caller."""

    async def complete(self, prompt: Any, **given: Any) -> Any:
        completion = await super().complete(prompt, **given)
        if '"acct_000000"' in prompt.user or '"acct_000010"' in prompt.user:
            return type(completion)(NO.replace("P-7", LINE), *list(vars(completion).values())[1:])
        return completion


async def test_in_a_run_such_keys_are_an_outcome_of_their_own_and_come_first_in_its_report(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Counted, never in not eligible; decided by a person, they get their one job like any other."""
    place = bulk_place(temporal, queue, sqlite_engine, WrongNo())
    await place.load(estate(tmp_path / "keys.jsonl", keys=40), run_id)
    async with place.working():
        outcome = await (await started(place, run_id)).result()
        assert outcome.progress.outcomes == {"disagreement": 2, "job_created": 2, "not_specified": 36}
        run = await place.store.run(run_id, tenant_id=place.tenant)
        findings = Findings([place.catalogue.current(LINE)], datetime.now(UTC), most=100)
        jobs = JobListing(sqlite_engine)
        async for item in items_of_run(place.store, run, place.encryption.decrypt, jobs=jobs):
            findings.add(item)
        assert [one.severity for one in findings.worst[:3]] == ["disagreement", "disagreement", "due"]
        waiting = await place.store.started_items(run_id, "disagreement", after=0, limit=10)
        for row in waiting:
            handle = temporal.get_workflow_handle(row["workflow_id"])
            async with asyncio.timeout(20):
                status = await handle.query("status")
            digest = status["decision"]["digest"]
            await answer(handle, "approve", Approval(approver="omar", digest=digest))
            await handle.result()
        again = await (await started(place, run_id)).result()
    assert again.progress.outcomes == {"job_created": 4, "not_specified": 36}
    assert await jobs_of(sqlite_engine) == due(40)


async def test_a_run_by_rule_asks_no_model_costs_nothing_and_says_so(
    temporal: Client, queue: str, sqlite_engine: AsyncEngine, run_id: str, tmp_path: Path
) -> None:
    """Each due key gets its one job, marked as decided by rule in the run, in the record and in the decision."""
    judge = Judge()
    place = bulk_place(temporal, queue, sqlite_engine, judge)
    await place.load(estate(tmp_path / "keys.jsonl", keys=40), run_id, by_rule=True)
    async with place.working():
        outcome = await (await started(place, run_id)).result()
    assert outcome.progress.outcomes == {"job_created": 4, "not_specified": 36}
    assert judge.calls == 0
    assert outcome.progress.cost_usd == Decimal(0)
    assert {(call.provider, call.cost_usd) for call in place.records} == {("rule", Decimal(0))}
    items = await place.store.items(run_id, after=0, limit=100)
    assert {item["decided_by"] for item in items} == {"rule"}
    assert await jobs_of(sqlite_engine) == due(40)
