"""The report of a run: its items and its figures."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field

from keyturn.bulk.store import PICO, BulkStore, Run
from keyturn.contracts import CredentialFacts
from keyturn.jobs.listing import JobListing
from keyturn.tasks.summarize_scan import ScanSummary

PAGE_OF_ITEMS = 1_000


class ReportRow(BaseModel):
    """A row of a run's report: one key, or one row of the inventory that could not be used."""

    line: int = Field(description="Line of the inventory.")
    account_id: str | None
    key_id: str | None
    kind: str | None = Field(description="Kind of the credential.")
    age_days: int | None = Field(description="Whole days since it was created or last rotated, when it was observed.")
    decided_by: str | None = Field(description="`rule` or `model`; null if it was not decided.")
    outcome: str | None = Field(
        description="What became of it, such as job_created, nothing_due, disagreement, bad_row."
    )
    reason: str | None
    explanation: str | None
    policy_lines: list[str] | None = Field(description="The policy lines under which it is due, as ID@VERSION.")
    window_days: int | None
    rotate_by: datetime | None = Field(description="The date by which it must be rotated.")
    workflow_id: str | None = Field(description="Workflow ID of its rotation.")
    job_id: str | None
    model: str | None = Field(description="The model that answered.")
    cost_usd: Decimal | None = Field(description="Cost of its model calls, in US dollars.")
    judged_at: datetime | None
    observed_at: datetime | None = Field(description="When the evidence was observed.")
    source: str | None = Field(description="What observed it.")
    trace_id: str | None = Field(description="By which `keyturn calls --trace` finds its model calls.")
    record_ids: list[str] | None = Field(description="Of a scan: the records that the summary is of.")
    idle_days: int | None = Field(description="Whole days since it was last used, when it was observed.")
    compromised: bool | None
    job_state: str | None = Field(description="State of its job when the report was written.")
    owner: str | None = Field(default=None, description="Who owns the key; null if no one is known to.")
    severity: str | None = Field(default=None, description="Of the finding; null if nothing needs a look.")
    overdue_days: int | None = Field(default=None, description="By how many whole days its date has passed.")
    done: str | None = Field(default=None, description="Of a finding: what was done about it.")
    next: str | None = Field(default=None, description="Of a finding: what comes next, or who must do what.")
    since: str | None = Field(
        default=None, description="With --since, of a key that is due: `new`, or `unchanged` if it was due then, too."
    )


COLUMNS = tuple(ReportRow.model_fields)
_SUMMARISED = {"attention", "summarized"}


@dataclass
class Figures:
    """The figures of a run as a whole; filled item by item, so that memory does not grow with the run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    decided_by: Counter[str] = field(default_factory=Counter)
    cost_usd: Decimal = Decimal(0)

    def add(self, item: Mapping[str, Any]) -> None:
        """Count one item, as `items_of_run` yields it."""
        self.outcomes[item["outcome"] or "not_asked"] += 1
        self.decided_by[item["decided_by"] or "nobody"] += 1
        self.cost_usd += item["cost_usd"] or Decimal(0)


async def items_of_run(
    store: BulkStore, run: Run, decrypt: Callable[[str, str], str], *, jobs: JobListing
) -> AsyncIterator[dict[str, Any]]:
    """Yield each item of a run under the names of COLUMNS.

    Args:
        store: of the runs.
        jobs: of the same database.
        run: which.
        decrypt: opens a run's encrypted text: the summaries of a scan.

    Raises:
        JobStoreUnavailable: the database did not answer.
        PayloadError: a summary cannot be decrypted with the keys of this process.
    """
    after = 0
    while items := await store.items(run.run_id, after=after, limit=PAGE_OF_ITEMS):
        after = items[-1]["ordinal"]
        states = await jobs.states_of([item["job_id"] for item in items if item["job_id"]])
        for item in items:
            facts = None if item["facts"] is None else CredentialFacts.model_validate(item["facts"])
            cost = item["cost_picodollars"]
            yield {name: item.get(name) for name in COLUMNS} | {
                "kind": None if facts is None else facts.kind,
                "age_days": None if facts is None or facts.age is None else facts.age.days,
                "idle_days": None if facts is None or facts.unused_for is None else facts.unused_for.days,
                "compromised": None if facts is None else facts.compromised,
                "job_state": states.get(item["job_id"] or ""),
                "observed_at": None if facts is None else facts.observed_at,
                "source": None if facts is None else facts.source,
                "cost_usd": None if cost is None else Decimal(cost) / PICO,
                # The ledger has the call under this id, and the rotation's history as well.
                "trace_id": f"{run.run_id}-{item['ordinal']}" if item["ask"] is not None else None,
                **_summary(item, run, decrypt),
            }


def _summary(item: Mapping[str, Any], run: Run, decrypt: Callable[[str, str], str]) -> dict[str, Any]:
    """The result of a scan: its summary takes the place of an explanation."""
    if item["outcome"] not in _SUMMARISED:
        return {}
    summary = ScanSummary.model_validate_json(decrypt(run.run_id, item["content"]))
    return {"explanation": summary.summary, "record_ids": list(summary.record_ids)}


def in_words(name: str) -> str:
    """Return the name of an outcome or a reason, as a person reads it."""
    return name.replace("_", " ")
