"""What was seen, held against the database, the ledger and the simulator's own log, when all has ended.

A claim that does not hold is a violation, with the operation's whole story and how to run just that again.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import URL
from temporalio.client import WorkflowExecutionStatus

from keyturn.contracts import DraftWritten, JobCreated
from keyturn.database import open_database
from keyturn.drafts.store import ENDED, Draft, DraftStore
from keyturn.drafts.tables import draft_states, drafts
from keyturn.jobs.store import WITHDRAWN
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.keyring import Keyring
from keyturn.ledger.tables import call_records
from proof.driver import Seen


@dataclass(frozen=True)
class Violation:
    """A claim that does not hold, of one operation."""

    claim: str
    operation: Seen | None
    found: str


@dataclass(frozen=True)
class Facts:
    """What there is at the end."""

    jobs: Mapping[str, list[Mapping[str, Any]]]  # by account; without withdrawn claims
    audits: Counter[str]  # of "created", by job
    asked: Counter[str]  # requests that the simulator had, by trace
    recorded: Counter[str]  # requests that the ledger tells of, by trace
    said: Counter[str]  # tokens of the simulator's answers, in and out, by trace
    paid: Counter[str]  # tokens that the ledger tells of, by trace
    drafts: Mapping[str, Draft]
    endings: Counter[str]  # of drafts


async def facts_of(database: URL, requests: Sequence[Mapping[str, Any]], keyring: Keyring) -> Facts:
    """Read what there is."""
    engine = open_database(database, pool_size=1)
    store = DraftStore(engine, keyring)
    async with engine.connect() as connection:
        jobs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in (await connection.execute(select(rotation_jobs))).mappings():
            if row["status"] != WITHDRAWN:
                jobs[row["account_id"]].append(dict(row))
        created = select(job_audit.c.job_id).where(job_audit.c.event == "created")
        audits = Counter((await connection.execute(created)).scalars())
        ended = select(draft_states.c.draft_id).where(draft_states.c.state.in_(ENDED))
        endings = Counter((await connection.execute(ended)).scalars())
        known = list((await connection.execute(select(drafts.c.draft_id))).scalars())
        recorded, paid = Counter[str](), Counter[str]()
        for row in (await connection.execute(select(call_records))).mappings():
            if not row["cache_hit"]:
                passed = len(row["passed_over"] or [])
                answered = row["status"] in {"ok", "invalid_output"}
                recorded[row["trace_id"]] += passed + 1 if answered else max(1, passed)
                paid[row["trace_id"]] += (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
    told = {draft_id: await store.find(draft_id, tenant_id="default") for draft_id in known}
    await engine.dispose()
    asked, said = Counter[str](), Counter[str]()
    for one in requests:
        asked[one["trace_id"]] += 1
        said[one["trace_id"]] += one["tokens"]
    return Facts(jobs, audits, asked, recorded, said, paid, told, endings)


def violations(seen: Sequence[Seen], facts: Facts, *, exact: bool) -> list[Violation]:
    """Return every claim that does not hold.

    Args:
        seen: each operation, as its asker saw it.
        facts: what there is.
        exact: whether the ledger must tell of each request and token, no more and no fewer. Where a worker is killed it
            loses what it had not written (docs/adr/0007), and where a host is cut off it tells of requests that never
            arrived: then nothing may be paid for that was not said.
    """
    found: list[Violation] = []
    for one in seen:
        told = _of_calls(one, facts, exact)
        if one.operation.kind.asked == "draft":
            told += _of_draft(one, facts)
        for account in one.operation.accounts:
            told += _of_jobs(one, facts.jobs.get(account, []), facts)
        found += [Violation(claim, one, what) for claim, holds, what in told if not holds]
    known = {account for one in seen for account in one.operation.accounts}
    nobodys = sorted(set(facts.jobs) - known)
    return found + [Violation("a job was asked for by somebody", None, account) for account in nobodys]


Claims = list[tuple[str, bool, str]]


def _of_jobs(one: Seen, jobs: list[Mapping[str, Any]], facts: Facts) -> Claims:
    outcome, ids = one.outcome, [job["job_id"] for job in jobs]
    told: Claims = [
        ("every rotation ends", outcome is not None, "it was under way when the proof ended"),
        ("no rotation has two jobs", len(ids) <= 1, f"jobs {ids}"),
        (
            "each job has one audit row",
            all(facts.audits[job] == 1 for job in ids),
            f"{[facts.audits[job] for job in ids]} rows",
        ),
    ]
    if isinstance(outcome, JobCreated):
        told += [
            ("the job that is told is the one that there is", [outcome.job_id] == ids, f"{outcome.job_id}, not {ids}"),
            (
                "a job has the digest of its grounded verdict",
                all(job["decision_digest"] == outcome.decision.digest for job in jobs),
                "another digest",
            ),
        ]
    elif outcome is not None and one.operation.kind.asked != "bulk":
        told.append(("what ends without a job has none", not ids, f"{one.said}, and jobs {ids}"))
    if outcome is not None:
        expected = one.operation.kind.expected
        if expected != "either":  # a cancellation may come when the job is made: then it stands, and is told
            told.append(("what must come of it has come", bool(ids) == (expected == "job"), f"{one.said}, jobs {ids}"))
    return told


def _of_draft(one: Seen, facts: Facts) -> Claims:
    draft, written = facts.drafts.get(one.workflow_id), one.outcome
    if draft is None or written is None:  # a worker whose clock is 40 days ahead forgets what has ended
        return []
    state = {WorkflowExecutionStatus.CANCELED: "cancelled", WorkflowExecutionStatus.FAILED: "failed"}
    ends = "completed" if isinstance(written, DraftWritten) else state.get(written, "another way")
    same = not isinstance(written, DraftWritten) or (draft.text, draft.approved) == (written.text, written.approved)
    return [
        ("a draft ends once", facts.endings[one.workflow_id] == 1, f"{facts.endings[one.workflow_id]} endings"),
        (
            "a draft's readers are told what its history says",
            draft.state == ends and same,
            f"{draft.state}, not {ends}",
        ),
    ]


def _of_calls(one: Seen, facts: Facts, exact: bool) -> Claims:
    def counted(of: Counter[str]) -> int:
        return sum(of[trace] for trace in one.operation.traces)

    asked, recorded = counted(facts.asked), counted(facts.recorded)
    said, paid = counted(facts.said), counted(facts.paid)
    told = [("nothing is paid for that was not said", paid <= said, f"{paid} tokens in the ledger, {said} said")]
    if exact and not one.operation.fault.startswith("kill"):
        told += [
            ("no call is unrecorded", recorded == asked, f"{recorded} requests in the ledger, {asked} at the provider"),
            ("what was said is paid for", paid == said, f"{paid} tokens in the ledger, {said} said"),
        ]
    return told
