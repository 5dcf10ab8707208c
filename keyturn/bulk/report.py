"""The report of a run: its items and its figures."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from keyturn.bulk.store import PICO, BulkStore, Run
from keyturn.contracts import CredentialFacts
from keyturn.tasks.summarize_scan import ScanSummary

PAGE_OF_ITEMS = 1_000
COLUMNS = (
    "line",
    "account_id",
    "key_id",
    "kind",
    "age_days",
    "decided_by",
    "outcome",
    "reason",
    "explanation",
    "policy_lines",
    "window_days",
    "rotate_by",
    "workflow_id",
    "job_id",
    "model",
    "cost_usd",
    "judged_at",
    "observed_at",
    "source",
    "trace_id",
    "record_ids",
)
_SUMMARISED = {"attention", "summarized"}


@dataclass
class Figures:
    """The figures of a run as a whole; filled item by item, so that memory does not grow with the run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    decided_by: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_line: dict[str, Counter[str]] = field(default_factory=dict)
    ages: Counter[int] = field(default_factory=Counter)  # whole days
    ages_with_job: Counter[int] = field(default_factory=Counter)
    cost_usd: Decimal = Decimal(0)

    def add(self, item: Mapping[str, Any]) -> None:
        """Count one item, as `items_of_run` yields it."""
        outcome = item["outcome"] or "not_asked"
        self.outcomes[outcome] += 1
        self.decided_by[item["decided_by"] or "nobody"] += 1
        if item["reason"] or outcome == "bad_row":
            self.reasons[outcome, in_words(item["reason"]) if item["reason"] else item["explanation"] or ""] += 1
        for line in item["policy_lines"] or ():
            self.by_line.setdefault(line, Counter())[outcome] += 1
        if item["age_days"] is not None:
            self.ages[item["age_days"]] += 1
            if item["job_id"]:
                self.ages_with_job[item["age_days"]] += 1
        self.cost_usd += item["cost_usd"] or Decimal(0)


async def items_of_run(store: BulkStore, run: Run, decrypt: Callable[[str, str], str]) -> AsyncIterator[dict[str, Any]]:
    """Yield each item of a run under the names of COLUMNS.

    Args:
        store: of the runs.
        run: which.
        decrypt: opens a run's encrypted text: the summaries of a scan.

    Raises:
        JobStoreUnavailable: the database did not answer.
        PayloadError: a summary cannot be decrypted with the keys of this process.
    """
    after = 0
    while items := await store.items(run.run_id, after=after, limit=PAGE_OF_ITEMS):
        after = items[-1]["ordinal"]
        for item in items:
            facts = None if item["facts"] is None else CredentialFacts.model_validate(item["facts"])
            cost = item["cost_picodollars"]
            yield {name: item.get(name) for name in COLUMNS} | {
                "kind": None if facts is None else facts.kind,
                "age_days": None if facts is None or facts.age is None else facts.age.days,
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
