"""What a run has found, by severity: what a report shows first, and what other tools are given."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from keyturn.bulk.report import Figures
from keyturn.console import counted
from keyturn.contracts import UNOWNED, CredentialKind
from keyturn.jobs.states import NEXT
from keyturn.policy.line import PolicyLine, WhenOlder, WhenUnused
from keyturn.progress import outcome_in_words

Severity = Literal[
    "compromised", "overdue", "disagreement", "due", "waived", "attention", "undecided", "unusable", "unowned"
]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
# The outcomes of keys that are due by the gate.
DUE = frozenset({"eligible", "started", "job_created", "waiting", "disagreement", "job_exists", "job_failed"})
UNDECIDED = frozenset({"failed", "rejected", "not_specified", "not_asked"})
_NEXT: Mapping[str, str] = {
    "eligible": "Its rotation starts when the run continues.",
    "started": "Its rotation is in progress.",
    "job_exists": "Its job under another policy line goes on.",
    "waiting": "It waits for an approver or operator: keyturn parked.",
    "disagreement": "An approver reads rule and model beside the wording: keyturn approve or keyturn deny.",
    "failed": "Run the same `keyturn bulk` again: it asks about what is open.",
    "not_asked": "Run the same `keyturn bulk` again: it asks about what is open.",
    "rejected": "The model's answer could not be proved: ask again, or let a person decide.",
    "not_specified": "Policy and evidence do not decide it: add what is not known of the key.",
    "waived": "It is due again when its waiver ends: keyturn waivers.",
    "attention": "Read the summary, and decide what to do with the account.",
    "bad_row": "Correct the row in the inventory, and judge it again.",
}
_UNOWNED_NEXT = "Name its owner: in the inventory, in the key map, or in the file of KEYTURN_OWNERS."


@dataclass(frozen=True)
class Finding:
    """A key that somebody should know of.

    `overdue_days` is by how many whole days its date has passed, None if it has not, or its job is closed.
    """

    severity: Severity
    line: int  # of the inventory
    account_id: str | None
    key_id: str | None
    policy_lines: tuple[str, ...]
    rotate_by: datetime | None
    overdue_days: int | None
    evidence: str
    done: str
    following: str
    owner: str | None = None
    since: Literal["new", "unchanged"] | None = None  # an earlier run, if the two are compared

    @property
    def order(self) -> tuple[int, int, float, int]:
        """The worst first: by severity, days overdue, date, and place in the inventory."""
        due = self.rotate_by.timestamp() if self.rotate_by is not None else float("inf")
        return SEVERITIES.index(self.severity), -(self.overdue_days or 0), due, self.line


def is_rotated(item: Mapping[str, Any]) -> bool:
    """Return whether an item's key was due, and its job has rotated it since."""
    return item["outcome"] in DUE - {"job_failed"} and item["job_state"] in {"done", "purged"}


def is_due(item: Mapping[str, Any]) -> bool:
    """Return whether an item's key must be rotated."""
    return item["outcome"] in DUE and not is_rotated(item)


def finding_of(item: Mapping[str, Any], now: datetime, *, owners_known: bool = False) -> Finding | None:
    """Return what is found of an item, as `items_of_run` yields it; None if nothing needs a look.

    With `owners_known`, a key without an owner is found, even if nothing else is to be done about it.
    """
    outcome = item["outcome"] or "not_asked"
    job_state = item["job_state"]
    is_late = is_due(item) and item["rotate_by"] is not None and item["rotate_by"] < now
    overdue = (now - item["rotate_by"]).days if is_late else None
    severity = None if is_rotated(item) else _severity(item, outcome, overdue)
    is_unowned = owners_known and item.get("owner") is None and item["key_id"] is not None
    if severity is None and not is_unowned:
        return None
    done = f"job {item['job_id']} {job_state or ''}".strip() if item["job_id"] else outcome_in_words(outcome, 1)
    following = NEXT.get(job_state or "", "") if item["job_id"] else _NEXT.get(outcome, "")
    return Finding(
        severity=severity or "unowned",
        line=item["line"],
        account_id=item["account_id"],
        key_id=item["key_id"],
        policy_lines=tuple(item["policy_lines"] or ()),
        rotate_by=item["rotate_by"],
        overdue_days=overdue,
        evidence=_evidence(item),
        done=done,
        following=following if severity is not None else _UNOWNED_NEXT,
        owner=item.get("owner"),
        since=item.get("since"),
    )


def _severity(item: Mapping[str, Any], outcome: str, overdue: int | None) -> Severity | None:
    if outcome in DUE:
        if item["compromised"]:
            return "compromised"
        if outcome == "disagreement":
            return "disagreement"
        return "overdue" if overdue is not None else "due"
    if outcome in UNDECIDED:
        return "undecided"
    others: Mapping[str, Severity] = {"bad_row": "unusable", "attention": "attention", "waived": "waived"}
    return others.get(outcome)


def _evidence(item: Mapping[str, Any]) -> str:
    says = item["outcome"] not in DUE or item["outcome"] in {"job_exists", "disagreement"}
    parts = [item["explanation"] or (item["reason"] or "").replace("_", " ")] if says else []
    parts += [f"{counted(item['age_days'], 'day')} old"] if item["age_days"] is not None else []
    parts += [f"unused for {counted(item['idle_days'], 'day')}"] if item["idle_days"] is not None else []
    parts += ["exposed"] if item["compromised"] else []
    parts += [f"seen by {item['source']} on {item['observed_at']:%Y-%m-%d}"] if item["observed_at"] else []
    return "; ".join(part for part in parts if part)


@dataclass
class LineCounts:
    """How many items a policy line covers, and what became of them under it. The six add up to all items."""

    due: int = 0
    rotated: int = 0
    not_due: int = 0
    undecided: int = 0
    waived: int = 0
    not_covered: int = 0  # of another kind, or no usable row


@dataclass
class Findings:
    """The findings of a run, the worst of each severity, and its counts; filled item by item.

    Args:
        lines: the policy lines of the run.
        now: by when something is overdue.
        most: how many findings of each severity are stored; the worst are.
        owner_of: who owns a key, by its account, its ID, and its owner by the inventory; None if no one is known to.
        owners_known: whether the owner of any key is known; then a key without one is a finding.
    """

    lines: Sequence[PolicyLine]
    now: datetime
    most: int
    owner_of: Callable[[str, str, str | None], str | None] = lambda account_id, key_id, recorded: recorded
    owners_known: bool = False
    due_by_kind: Counter[CredentialKind] = field(default_factory=Counter)
    due_by_owner: Counter[str] = field(default_factory=Counter)
    owned_by: Counter[str] = field(default_factory=Counter)  # every key, due or not
    figures: Figures = field(default_factory=Figures)
    counts: Counter[Severity] = field(default_factory=Counter)
    by_line: dict[str, LineCounts] = field(default_factory=dict)
    quiet: Counter[tuple[str, str]] = field(default_factory=Counter)  # what needs no look, by outcome and reason
    measured: dict[str, Counter[int]] = field(default_factory=dict)  # whole days, by what a line measures
    due_of: dict[str, Counter[int]] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    longest_overdue: int = 0
    _found: dict[Severity, list[Finding]] = field(default_factory=dict)

    def add(self, item: dict[str, Any]) -> Finding | None:
        """Count an item, and write its `owner` into it; returns what is found of it."""
        self.figures.add(item)
        outcome = item["outcome"] or "not_asked"
        item["owner"] = self.owner_of(item["account_id"] or "", item["key_id"] or "", item.get("owner"))
        if outcome != "bad_row":
            self.owned_by[item["owner"] or UNOWNED] += 1
        if is_due(item):
            self.due_by_kind[item["kind"]] += 1
            self.due_by_owner[item["owner"] or UNOWNED] += 1
        finding = finding_of(item, self.now, owners_known=self.owners_known)
        if item["model"]:
            self.models[item["model"]] += 1
        for line in self.lines:
            self._count_line(line, item, outcome)
        for quantity, days in (("age", item["age_days"]), ("unused", item["idle_days"])):
            if days is not None:
                self.measured.setdefault(quantity, Counter())[days] += 1
                if is_due(item):
                    self.due_of.setdefault(quantity, Counter())[days] += 1
        if finding is None or finding.severity == "unowned":
            self.quiet[("rotated", "") if is_rotated(item) else (outcome, item["reason"] or "")] += 1
        if finding is None:
            return None
        self.counts[finding.severity] += 1
        self.longest_overdue = max(self.longest_overdue, finding.overdue_days or 0)
        found = self._found.setdefault(finding.severity, [])
        found.append(finding)
        if len(found) >= 2 * self.most:  # memory does not grow with the run
            self._found[finding.severity] = self._worst_of(finding.severity)
        return finding

    @property
    def unowned(self) -> int:
        """How many keys no one owns; 0 if no owner of any key is known."""
        return self.owned_by[UNOWNED] if self.owners_known else 0

    @property
    def rotated(self) -> int:
        """How many keys were due, and are rotated."""
        return self.quiet["rotated", ""]

    @property
    def worst(self) -> list[Finding]:
        """The worst findings of each severity, the worst first."""
        return [one for severity in SEVERITIES for one in self._worst_of(severity)]

    @property
    def total(self) -> int:
        """All items."""
        return sum(self.figures.outcomes.values())

    def _worst_of(self, severity: Severity) -> list[Finding]:
        return sorted(self._found.get(severity, ()), key=lambda one: one.order)[: self.most]

    def _count_line(self, line: PolicyLine, item: Mapping[str, Any], outcome: str) -> None:
        counts = self.by_line.setdefault(str(line.ref), LineCounts())
        if item["kind"] not in line.applies_to:
            counts.not_covered += 1
        elif str(line.ref) in (item["policy_lines"] or ()) and outcome in DUE:
            if is_due(item):
                counts.due += 1
            else:
                counts.rotated += 1
        elif str(line.ref) in (item["policy_lines"] or ()) and outcome == "waived":
            counts.waived += 1
        elif outcome in UNDECIDED:
            counts.undecided += 1
        else:
            counts.not_due += 1


def limits_of(lines: Sequence[PolicyLine], quantity: str) -> list[int]:
    """Return the numbers of days that lines allow of what they measure: `age` or `unused`."""
    kind = WhenOlder if quantity == "age" else WhenUnused
    return sorted({line.rule.days for line in lines if isinstance(line.rule, kind)})
