"""What was seen, held against the database, the ledger and the simulator's own log, when all has ended.

A claim that does not hold is a violation, with the operation's whole story and how to run just that again.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import URL

from keyturn.contracts import JobCreated
from keyturn.database import open_database
from keyturn.jobs.store import WITHDRAWN
from keyturn.jobs.tables import job_audit, rotation_jobs
from keyturn.ledger.tables import call_records
from proof.driver import Seen

# A worker that is killed loses the records that it had not written yet (docs/adr/0007): only then may calls lack.
_LOSES_RECORDS = ("kill",)


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


async def facts_of(database: URL, requests: Sequence[Mapping[str, Any]]) -> Facts:
    """Read what there is."""
    engine = open_database(database, pool_size=1)
    async with engine.connect() as connection:
        jobs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in (await connection.execute(select(rotation_jobs))).mappings():
            if row["status"] != WITHDRAWN:
                jobs[row["account_id"]].append(dict(row))
        created = select(job_audit.c.job_id).where(job_audit.c.event == "created")
        audits = Counter((await connection.execute(created)).scalars())
        recorded: Counter[str] = Counter()
        for row in (await connection.execute(select(call_records))).mappings():
            if not row["cache_hit"]:
                passed = len(row["passed_over"] or [])
                answered = row["status"] in {"ok", "invalid_output"}
                recorded[row["trace_id"]] += passed + 1 if answered else max(1, passed)
    await engine.dispose()
    return Facts(jobs, audits, Counter(one["trace_id"] for one in requests), recorded)


def violations(seen: Sequence[Seen], facts: Facts, *, workers_killed: bool) -> list[Violation]:
    """Return every claim that does not hold.

    Args:
        seen: each operation, as its asker saw it.
        facts: what there is.
        workers_killed: whether workers were killed beside the operations' own faults: any of them may lack records.
    """
    found: list[Violation] = []
    for one in seen:
        jobs = facts.jobs.get(one.operation.account, [])
        for claim, holds, what in (*_of_jobs(one, jobs, facts), *_of_calls(one, facts, workers_killed)):
            if not holds:
                found.append(Violation(claim, one, what))
    known = {one.operation.account for one in seen}
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
    elif outcome is not None:
        told.append(("what ends without a job has none", not ids, f"{outcome.status}, and jobs {ids}"))
    if outcome is not None:
        expected = one.operation.kind.expected
        made = isinstance(outcome, JobCreated)
        told.append(("what must come of it has come", made == (expected == "job"), f"{outcome.status}"))
    return told


def _of_calls(one: Seen, facts: Facts, workers_killed: bool) -> Claims:
    asked, recorded = facts.asked[one.trace_id], facts.recorded[one.trace_id]
    may_lack = workers_killed or one.operation.fault.startswith(_LOSES_RECORDS)
    holds = recorded <= asked if may_lack else recorded == asked
    return [("no call is unrecorded", holds, f"{asked} requests at the provider, {recorded} in the ledger")]
