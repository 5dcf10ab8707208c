"""Compares what the callers saw with the database, the ledger and the simulator's own log, when all has ended.

A claim that does not hold is a violation, with the operation's whole story and how to run just that again.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from keyturn.application.rotation_status import outcome_of
from keyturn.database import open_database
from keyturn.drafts.contracts import DraftResult
from keyturn.drafts.store import ENDED, Draft, DraftStore
from keyturn.drafts.tables import draft_states, drafts
from keyturn.jobs.rows import WITHDRAWN
from keyturn.jobs.tables import job_audit, outbox, rotation_events, rotation_jobs
from keyturn.keyring import Keyring
from keyturn.lab.proof.operation_record import OperationRecord
from keyturn.lab.proof.world import APPROVER
from keyturn.ledger.tables import call_records
from keyturn.rotations.outcomes import JobCreated, RotationOutcome
from keyturn.workflows.rotation import RotationWorkflow

# Whatever still runs after the last operation ends within seconds; but what waits to write its event between attempts
# (`record_options`) waits, after a series of outages, for about as long again as that series lasted: up to two minutes.
END_SECONDS = 150.0
OUTCOME_SECONDS = 30.0  # of a workflow that has ended
# A worker writes its calls in batches behind their answers (keyturn/ledger/recorder.py), within seconds if it is busy.
# The rows of a worker that was killed never come, and no proof waits longer for those.
LEDGER_SECONDS = 10.0


@dataclass(frozen=True)
class Violation:
    """A claim that does not hold, of one operation."""

    claim: str
    operation: OperationRecord | None
    found: str


@dataclass(frozen=True)
class Facts:
    """What there is at the end."""

    jobs: Mapping[str, list[Mapping[str, Any]]]  # by account; without withdrawn claims
    audits: Counter[str]  # of "created", by job
    messages: Counter[str]  # in the outbox, by job
    events: Mapping[str, Counter[str]]  # in the audit trail, by workflow
    reported: Mapping[
        str, RotationOutcome | None
    ]  # by the workflows of a run's rotations, by job; None: it did not end
    running: Collection[str]  # workflows that have not ended
    asked: Counter[str]  # requests that the simulator had, by trace
    bent: Mapping[str, float]  # when the first of them met a fault, by trace
    recorded: Counter[str]  # requests that the ledger has, by trace
    said: Counter[str]  # tokens of the simulator's answers, in and out, by trace
    paid: Counter[str]  # tokens that the ledger has, by trace
    drafts: Mapping[str, Draft]
    endings: Counter[str]  # of drafts


async def facts_of(
    database: URL,
    requests: Sequence[Mapping[str, Any]],
    keyring: Keyring,
    client: Client,
    seen: Sequence[OperationRecord],
) -> Facts:
    """Read what there is."""
    engine = open_database(database, pool_size=1)
    store = DraftStore(engine, keyring)
    async with engine.connect() as connection:
        jobs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        created = select(job_audit.c.job_id, job_audit.c.detail).where(job_audit.c.event == "created")
        created_events = (await connection.execute(created)).all()
        audits = Counter(job_id for job_id, _ in created_events)
        approvers = {job_id: detail.get("approved_by") for job_id, detail in created_events}
        for row in (await connection.execute(select(rotation_jobs))).mappings():
            if row["status"] != WITHDRAWN:
                jobs[row["account_id"]].append({**row, "approved_by": approvers.get(row["job_id"])})
        messages = Counter((await connection.execute(select(outbox.c.job_id))).scalars())
        events: dict[str, Counter[str]] = defaultdict(Counter)
        for workflow_id, event in await connection.execute(
            select(rotation_events.c.workflow_id, rotation_events.c.event)
        ):
            events[workflow_id][event] += 1
        ended = select(draft_states.c.draft_id).where(draft_states.c.state.in_(ENDED))
        endings = Counter((await connection.execute(ended)).scalars())
        known = list((await connection.execute(select(drafts.c.draft_id))).scalars())
    written = {draft_id: await store.find(draft_id, tenant_id="default") for draft_id in known}
    asked, said = Counter[str](), Counter[str]()
    bent: dict[str, float] = {}
    for one in requests:  # in their order
        asked[one["trace_id"]] += 1
        said[one["trace_id"]] += one["tokens"]
        if one["fault"] != "none":
            bent.setdefault(one["trace_id"], one["at"])
    recorded, paid = await _ledger(engine, asked)
    await engine.dispose()
    of_runs = {account for one in seen if one.operation.kind.asked == "bulk" for account in one.operation.accounts}
    by_run = [job for account in of_runs for job in jobs.get(account, [])]
    running = await _running(client)
    reported = {job["job_id"]: await _outcome(client, job["idempotency_key"]) for job in by_run}
    return Facts(jobs, audits, messages, events, reported, running, asked, bent, recorded, said, paid, written, endings)


async def _ledger(engine: AsyncEngine, asked: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """Return the requests and the tokens of the ledger, by trace, once it has a row for each request."""
    until = time.monotonic() + LEDGER_SECONDS
    while True:
        recorded, paid = Counter[str](), Counter[str]()
        async with engine.connect() as connection:
            rows = (await connection.execute(select(call_records))).mappings().all()
        for row in rows:
            if not row["cache_hit"]:
                passed = len(row["passed_over"] or [])
                answered = row["status"] in {"ok", "invalid_output"}
                recorded[row["trace_id"]] += passed + 1 if answered else max(1, passed)
                paid[row["trace_id"]] += (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
        if asked <= recorded or time.monotonic() > until:
            return recorded, paid
        await asyncio.sleep(0.1)


async def _outcome(client: Client, workflow_id: str) -> RotationOutcome | None:
    with suppress(TimeoutError, RPCError):
        async with asyncio.timeout(OUTCOME_SECONDS):
            return await outcome_of(client.get_workflow_handle_for(RotationWorkflow.run, workflow_id))
    return None


async def _running(client: Client) -> Collection[str]:
    """Return the workflows that have not ended: visibility follows histories within seconds."""
    until = time.monotonic() + END_SECONDS
    while True:
        found = [one.id async for one in client.list_workflows("ExecutionStatus='Running'")]
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)


def violations(seen: Sequence[OperationRecord], facts: Facts, *, exact: bool) -> list[Violation]:
    """Return every claim that does not hold of some operations.

    Args:
        seen: each operation, as its asker saw it.
        facts: what there is.
        exact: whether no process was killed or cut off. Then the ledger has each request and token, no more and no
            fewer, and a draft is written. Else a worker that is killed loses what it had not written (docs/adr/0007),
            and one that is cut off records requests that never arrived: nothing may be paid for that was not answered.
    """
    found: list[Violation] = []
    for one in seen:
        claims = _of_calls(one, facts, exact)
        if one.operation.kind.asked == "draft":
            claims += _of_draft(one, facts, exact)
        for account in one.operation.accounts:
            claims += _of_jobs(one, facts.jobs.get(account, []), facts)
        found += [Violation(claim, one, what) for claim, holds, what in claims if not holds]
    return found


def strays(seen: Sequence[OperationRecord], facts: Facts) -> list[Violation]:
    """Return what there is that belongs to none of all the operations: jobs, and workflows that did not end."""
    known = {account for one in seen for account in one.operation.accounts}
    nobodys = sorted(set(facts.jobs) - known)
    found = [Violation("every job was asked for", None, account) for account in nobodys]
    return found + [Violation("every workflow closes", None, workflow) for workflow in sorted(facts.running)]


Claims = list[tuple[str, bool, str]]


def _of_jobs(one: OperationRecord, jobs: list[Mapping[str, Any]], facts: Facts) -> Claims:
    kind, outcome, ids = one.operation.kind, one.outcome, [job["job_id"] for job in jobs]
    claims: Claims = [
        ("every rotation closes", outcome is not None, "it was under way when the proof ended"),
        ("no rotation has two jobs", len(ids) <= 1, f"jobs {ids}"),
        ("what fails has no job", not one.contradicted, "it was reported as failed, and the job exists"),
    ]
    for name, rows in (("audit row", facts.audits), ("message to its executor", facts.messages)):
        counts = [rows[job] for job in ids]
        claims.append((f"each job has one {name}", all(count == 1 for count in counts), f"{counts} rows"))
    for job in jobs:
        if kind.asked == "bulk":
            ended = facts.reported[job["job_id"]]
            said = "it did not complete" if ended is None else ended.status
            claims.append(("a run's rotation names its job", isinstance(ended, JobCreated), said))
            claims += _reported_claims(ended, job) if isinstance(ended, JobCreated) else []
    if isinstance(outcome, JobCreated):
        claims.append(("the reported job exists", [outcome.job_id] == ids, f"{outcome.job_id}, not {ids}"))
        claims += [claim for job in jobs for claim in _reported_claims(outcome, job)]
    elif outcome is not None and kind.asked != "bulk":
        claims.append(("an operation without a job has none", not ids, f"{one.said}, and jobs {ids}"))
    if outcome is not None and kind.expected != "either":  # a cancellation may come when the job is made
        claims.append(
            ("each fault has its required outcome", bool(ids) == (kind.expected == "job"), f"{one.said}, jobs {ids}")
        )
    if outcome is not None and kind.asked in {"rotation", "approval"} and kind.expected == "no_job":
        claims.append(("it is rejected, and does not just fail", one.said == "rejected", one.said))
    if outcome is not None and kind.asked == "approval":
        word = "denied" if kind.expected == "no_job" else "approved"
        written = facts.events[one.workflow_id][word] if one.workflow_id in facts.events else 0
        approvers = [job["approved_by"] for job in jobs]
        claims.append(("an approver's decision is recorded once", written == 1, f"{written} times {word}"))
        claims.append(("the job names its approver", all(name == APPROVER for name in approvers), f"{approvers}"))
    return claims


def _reported_claims(outcome: JobCreated, job: Mapping[str, Any]) -> Claims:
    """Return the claims on a job: it is as its workflow reported, and as its grounded verdict says."""
    decision = outcome.decision
    verdict = {
        "job_id": outcome.job_id,
        "decision_digest": decision.digest,
        "policy_lines": [str(line) for line in decision.source_lines],
        "rotation_window_days": decision.rotation_window_days,
        "rotate_by": outcome.due,
        "approved_by": outcome.approved_by,
        "key_id": "key_01",
    }
    other = [name for name, value in verdict.items() if job[name] != value]
    return [("a job equals its grounded verdict", not other, f"another {', '.join(other)}")]


def _of_draft(one: OperationRecord, facts: Facts, exact: bool) -> Claims:
    draft, written = facts.drafts.get(one.workflow_id), one.outcome
    if written is None:
        return []  # it has not ended, which is reported
    if draft is None:
        return [("a draft is stored for a week", False, "there is none")]
    state = {WorkflowExecutionStatus.CANCELED: "cancelled", WorkflowExecutionStatus.FAILED: "failed"}
    ends = "completed" if isinstance(written, DraftResult) else state.get(written, "another way")
    same = not isinstance(written, DraftResult) or (draft.text, draft.approved) == (written.text, written.approved)
    return [
        ("a draft is closed once", facts.endings[one.workflow_id] == 1, f"{facts.endings[one.workflow_id]} endings"),
        (
            "a draft's readers see the result in its history",
            draft.state == ends and same,
            f"{draft.state}, not {ends}",
        ),
        ("undisturbed, a draft is written", not exact or isinstance(written, DraftResult), ends),
        (
            "no draft is cancelled that no user stopped",
            ends != "cancelled" or one.operation.fault == "draft_stopped",
            ends,
        ),
    ]


def _of_calls(one: OperationRecord, facts: Facts, exact: bool) -> Claims:
    def count(of: Counter[str]) -> int:
        return sum(of[trace] for trace in one.operation.traces)

    asked, recorded = count(facts.asked), count(facts.recorded)
    said, paid = count(facts.said), count(facts.paid)
    claims = [
        (
            "nothing is paid for that the provider did not answer",
            paid <= said,
            f"{paid} tokens in the ledger, {said} said",
        )
    ]
    if exact and not one.operation.fault.startswith("kill"):
        claims += [
            ("no call is unrecorded", recorded == asked, f"{recorded} requests in the ledger, {asked} at the provider"),
            ("every answer is paid for", paid == said, f"{paid} tokens in the ledger, {said} said"),
        ]
    return claims
