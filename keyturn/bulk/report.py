"""The report of a run: figures, and one self-contained page that an auditor can keep."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from typing import Any

from keyturn.bulk.store import PICO, BulkStore, Run
from keyturn.contracts import CredentialFacts
from keyturn.policy.line import PolicyLine
from keyturn.tasks.summarize_scan import ScanSummary

PAGE_OF_ITEMS = 1_000
# A page of a hundred thousand rows opens in no browser; the whole is in the CSV and JSON forms.
ROWS_SHOWN = 5_000
BINS = 24
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
    """What is told of a run as a whole; filled item by item, so that memory does not grow with the run."""

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
            self.reasons[outcome, _said(item["reason"]) if item["reason"] else item["explanation"] or ""] += 1
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
        PayloadError: a summary cannot be opened with the keys that are held here.
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
                # Under this id the call stands in the ledger, and the rotation in its history.
                "trace_id": f"{run.run_id}-{item['ordinal']}" if item["ask"] is not None else None,
                **_summary(item, run, decrypt),
            }


def _summary(item: Mapping[str, Any], run: Run, decrypt: Callable[[str, str], str]) -> dict[str, Any]:
    """What was made of a scan: its summary takes the place of an explanation."""
    if item["outcome"] not in _SUMMARISED:
        return {}
    summary = ScanSummary.model_validate_json(decrypt(run.run_id, item["content"]))
    return {"explanation": summary.summary, "record_ids": list(summary.record_ids)}


async def page_of(store: BulkStore, run: Run, lines: list[PolicyLine], decrypt: Callable[[str, str], str]) -> str:
    """Return the report as one HTML page without anything from elsewhere.

    Keys on which rule and model disagree come first. Then, in the inventory's order: jobs, what waits, rejections,
    failures, and rows that could not be used. Of those for which nothing is due, the figures tell.
    """
    figures, left_out = Figures(), 0
    rows: list[str] = []
    first: list[str] = []  # what nobody may overlook: keys that are due by rule, and that a model would leave
    async for item in items_of_run(store, run, decrypt):
        figures.add(item)
        if item["outcome"] in _QUIET:
            continue
        if item["outcome"] == "disagreement":
            first.append(_row(item))
        elif len(rows) < ROWS_SHOWN:
            rows.append(_row(item))
        else:
            left_out += 1
    total = sum(figures.outcomes.values())
    shown = f"<p>{left_out:,} further rows are in the CSV and JSON forms of this report.</p>" if left_out else ""
    return _PAGE.format(
        title=escape(f"Keyturn run {run.run_id}"),
        run=escape(run.run_id),
        source=escape(run.source),
        digest=escape(run.source_digest),
        by=escape(run.requested_by),
        tenant=escape(run.tenant_id),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        lines="".join(f"<li><b>{escape(str(line.ref))}</b> {escape(line.wording)}</li>" for line in lines),
        tiles="".join(_tile(name, count) for name, count in _tiles(figures, total)),
        plot=_plot(figures, lines),
        outcomes=_table(("outcome", "keys"), [(_said(name), f"{n:,}") for name, n in figures.outcomes.most_common()]),
        decided=_table(
            ("decided by", "keys"), [(_said(name), f"{n:,}") for name, n in figures.decided_by.most_common()]
        ),
        policies=_table(
            ("policy line cited", "outcome", "keys"),
            [(line, _said(name), f"{n:,}") for line, by in sorted(figures.by_line.items()) for name, n in by.items()],
        ),
        reasons=_table(
            ("outcome", "reason", "keys"),
            [(_said(outcome), why, f"{n:,}") for (outcome, why), n in figures.reasons.most_common(100)],
        ),
        rows="".join(first + rows),
        left_out=shown,
    )


_QUIET = {"nothing_due", "not_eligible", "summarized"}


def _tiles(figures: Figures, total: int) -> list[tuple[str, str]]:
    by_rule = figures.decided_by["rule"]
    return [
        ("keys and rows", f"{total:,}"),
        ("jobs", f"{figures.outcomes['job_created']:,}"),
        ("needed no model", f"{by_rule / total:.0%}" if total else "-"),
        ("disagreements of rule and model", f"{figures.outcomes['disagreement']:,}"),
        ("wait for an approver", f"{figures.outcomes['waiting']:,}"),
        ("rows not used", f"{figures.outcomes['bad_row']:,}"),
        ("cost of calls", f"${figures.cost_usd:,.4f}"),
    ]


def _tile(name: str, value: str) -> str:
    return f"<div class='tile'><b>{escape(value)}</b><span>{escape(name)}</span></div>"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(item: Mapping[str, Any]) -> str:
    due = f"{item['rotate_by']:%Y-%m-%d}" if item["rotate_by"] else ""
    age = "" if item["age_days"] is None else str(item["age_days"])
    why = item["explanation"] or _said(item["reason"] or "")
    seen = "" if item["observed_at"] is None else f"{item['source']}, {item['observed_at']:%Y-%m-%d %H:%M}Z"
    cells = (
        str(item["line"]),
        item["account_id"] or "",
        item["key_id"] or "",
        age,
        _said(item["outcome"] or "not_asked"),
        ", ".join(item["policy_lines"] or ()),
        due,
        item["job_id"] or "",
        why,
        " ".join(part for part in (seen, item["trace_id"] or "") if part),
    )
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _said(name: str) -> str:
    return name.replace("_", " ")


def _plot(figures: Figures, lines: list[PolicyLine]) -> str:
    """Ages of keys as bars, those with a job darker, and each line's window as a rule across them."""
    if not figures.ages:
        return "<p>No key of this run has a known age.</p>"
    windows = sorted({line.window_days for line in lines if line.window_days})
    longest = max([*figures.ages, *windows]) + 1
    width = max(1, -(-longest // BINS))
    bins = [
        (
            sum(figures.ages[day] for day in range(at * width, (at + 1) * width)),
            sum(figures.ages_with_job[day] for day in range(at * width, (at + 1) * width)),
        )
        for at in range(-(-longest // width))
    ]
    most = max(count for count, _ in bins) or 1
    left, bottom, high, step = 56, 210, 180, 760 / len(bins)
    parts = [f"<line x1='{left}' y1='{bottom}' x2='{left + 760}' y2='{bottom}' class='axis'/>"]
    for at, (count, with_job) in enumerate(bins):
        for number, kind in ((count, "bar"), (with_job, "bar job")):
            tall = high * number / most
            title = f"{at * width} to {(at + 1) * width - 1} days: {count:,} keys, {with_job:,} with a job"
            parts.append(
                f"<rect class='{kind}' x='{left + at * step + 1:.1f}' y='{bottom - tall:.1f}' "
                f"width='{max(step - 2, 1):.1f}' height='{tall:.1f}'><title>{title}</title></rect>"
            )
        if at % max(1, len(bins) // 8) == 0:
            parts.append(f"<text x='{left + at * step:.1f}' y='{bottom + 18}'>{at * width}</text>")
    parts += [
        f"<text class='left' x='{left - 8}' y='{bottom - high * share + 4:.1f}'>{round(most * share):,}</text>"
        for share in (0, 0.5, 1)
    ]
    for window in windows:
        x = left + window / width * step
        parts.append(f"<line class='window' x1='{x:.1f}' y1='14' x2='{x:.1f}' y2='{bottom}'/>")
        parts.append(f"<text class='window' x='{x + 4:.1f}' y='24'>{window} days</text>")
    parts.append(
        f"<text x='{left + 380}' y='{bottom + 38}' class='mid'>age of the key in days, when it was observed</text>"
    )
    label = "Ages of keys: how many keys there are of each age, how many of them have a job, and the windows"
    return f"<svg viewBox='0 0 840 256' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #5b6470; --rule: #d5dae0; --bar: #9db8d9; --job: #1f5fa8; --win: #b3261e; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8eaed; --paper: #14171a; --soft: #a3abb5; --rule: #363c43; --bar: #3f5f85; --job: #8ab8f0; --win: #ff8a80; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }} .soft, dt {{ color: var(--soft); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }}
.tile {{ border: 1px solid var(--rule); border-radius: .5rem; padding: .75rem; }} .tile b {{ display: block; font-size: 1.5rem; }} .tile span {{ color: var(--soft); }}
.side {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem; align-items: start; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }}
th {{ text-align: left; border-bottom: 2px solid var(--rule); }} td, th {{ padding: .25rem .75rem .25rem 0; vertical-align: top; }}
td {{ border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }} svg {{ width: 100%; height: auto; }} svg text {{ font-size: 12px; fill: var(--soft); }}
.left {{ text-anchor: end; }} .mid {{ text-anchor: middle; }} .axis {{ stroke: var(--rule); }} .bar {{ fill: var(--bar); }} .bar.job {{ fill: var(--job); }}
line.window {{ stroke: var(--win); stroke-dasharray: 5 4; }} svg text.window {{ fill: var(--win); }}
</style></head><body>
<h1>Key rotation report</h1><p class="soft">Run {run}, written {made} UTC by Keyturn</p>
<dl><dt>inventory</dt><dd>{source}</dd><dt>its digest</dt><dd>{digest}</dd><dt>asked by</dt><dd>{by}, tenant {tenant}</dd></dl>
<div class="tiles">{tiles}</div>
<h2>Judged under</h2><ul>{lines}</ul>
<h2>Ages against windows</h2>{plot}<p class="soft">Light: all keys of known age. Dark: those that have a job. Dashed: a policy line's window.</p>
<div class="side"><div><h2>Outcomes</h2>{outcomes}</div><div><h2>By rule and by model</h2>{decided}</div></div>
<div class="side"><div><h2>By policy line</h2>{policies}</div><div><h2>Reasons</h2>{reasons}</div></div>
<h2>Keys with a job, or that need a look</h2><div class="wide"><table><thead><tr><th scope="col">line</th><th scope="col">account</th><th scope="col">key</th>
<th scope="col">days</th><th scope="col">outcome</th><th scope="col">policy line</th><th scope="col">due</th><th scope="col">job</th><th scope="col">why</th><th scope="col">evidence</th></tr></thead>
<tbody>{rows}</tbody></table></div>{left_out}
</body></html>
"""
