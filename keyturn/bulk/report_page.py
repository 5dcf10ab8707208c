"""The report of a run as one self-contained page: for the manager, the one who acts, and the auditor who keeps it."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from keyturn.bulk.comparison import Comparison
from keyturn.bulk.findings import SEVERITIES, Finding, Findings, limits_of
from keyturn.bulk.store import Run
from keyturn.console import counted
from keyturn.contracts import PolicyRef
from keyturn.keyless import KEYLESS
from keyturn.moments import in_utc
from keyturn.policy.line import PolicyLine

# Of each severity. A row is up to 700 bytes, with the names that Google gives: the page stays under 2 MB and opens at
# once. The files have all of them.
ROWS_SHOWN = 250
OPEN_ROWS = 20  # of a group, before the rest is folded
BINS = 24
TITLES = {
    "compromised": "Compromised",
    "overdue": "Overdue",
    "disagreement": "Rule and model disagree",
    "due": "Due",
    "waived": "Due, and waived",
    "attention": "Summaries that need attention",
    "undecided": "Not decided",
    "unusable": "Rows that could not be used",
    "unowned": "Without an owner",
}
_QUANTITIES = {"age": "Age of the keys in days", "unused": "Days since the keys were last used"}


def render_page(
    run: Run,
    findings: Findings,
    *,
    facts: Sequence[tuple[str, str]],
    comparison: Comparison | None = None,
) -> str:
    """Return the report as one HTML page without anything from elsewhere.

    Args:
        run: the run.
        findings: of all its items.
        facts: how it was made, a name and a value each: files, digests, model, prompt, code, people.
        comparison: with an earlier run, if one was named.
    """
    groups = [
        (severity, TITLES[severity], findings.counts[severity], _by_line(list(found), findings.lines))
        for severity, found in groupby(findings.worst, key=lambda one: one.severity)
    ]
    shown = sum(len(rows) for *_, lines in groups for _, _, rows in lines)
    return (
        _templates()
        .get_template("report.html")
        .render(
            run=run,
            findings=findings,
            summary=summary_of(findings, comparison),
            severities=SEVERITIES,
            titles=TITLES,
            groups=groups,
            left_out=sum(findings.counts.values()) - shown,
            open_rows=OPEN_ROWS,
            charts=[
                (title, Markup(_chart(findings, quantity)))  # noqa: S704 - numbers and fixed words
                for quantity, title in _QUANTITIES.items()
                if limits_of(findings.lines, quantity) and findings.measured.get(quantity)
            ],
            owners=findings.due_by_owner.most_common() if findings.owners_known else [],
            keyless=[(KEYLESS[kind], count) for kind, count in findings.due_by_kind.most_common()],
            facts=facts,
            comparison=comparison,
            changes="" if comparison is None else _changes(comparison),
            written=in_utc(datetime.now(UTC)),
        )
    )


def summary_of(findings: Findings, comparison: Comparison | None) -> str:
    """Return the run in some sentences for somebody who decides, and reads no table."""
    counts, total = findings.counts, findings.total
    due = sum(counts[name] for name in ("compromised", "overdue", "disagreement", "due"))
    sentences = [f"Of {total:,} {_plural(total, 'key')} in the inventory, {due:,} must be rotated."]
    if counts["compromised"]:
        sentences.append(f"{counts['compromised']:,} {_are(counts['compromised'])} compromised.")
    if counts["overdue"]:
        longest = f"{findings.longest_overdue:,} {_plural(findings.longest_overdue, 'day')}"
        sentences.append(f"{counts['overdue']:,} {_are(counts['overdue'])} past the date, the longest by {longest}.")
    if rotated := findings.rotated:
        sentences.append(f"{rotated:,} {_are(rotated)} rotated already.")
    jobs = findings.figures.outcomes["job_created"]
    sentences.append(f"{jobs:,} {_plural(jobs, 'job')} {_was(jobs)} created.")
    if failed := findings.figures.outcomes["job_failed"]:
        have = "has" if failed == 1 else "have"
        sentences.append(f"{failed:,} {have} a job that failed or was cancelled: ask again.")
    if waived := counts["waived"]:
        sentences.append(f"{waived:,} {_are(waived)} due and exempt by a waiver.")
    waiting = findings.figures.outcomes["waiting"] + findings.figures.outcomes["disagreement"]
    if waiting:
        sentences.append(f"{waiting:,} {'waits' if waiting == 1 else 'wait'} for a person's decision.")
    not_asked = findings.figures.outcomes["not_asked"]
    if not_asked:
        sentences.append(f"{not_asked:,} {_was(not_asked)} not asked about yet.")
    open_ones = counts["undecided"] - not_asked + counts["unusable"]
    if open_ones:
        sentences.append(f"{open_ones:,} could not be decided or read.")
    if unowned := findings.unowned:
        sentences.append(f"{unowned:,} {'has' if unowned == 1 else 'have'} no owner.")
    if not findings.owners_known:
        sentences.append("Of no key it is known who owns it.")
    return " ".join([*sentences, *([] if comparison is None else [_changes(comparison)])])


def _changes(comparison: Comparison) -> str:
    new, gone = len(comparison.new), len(comparison.gone)
    parts = [f"{new:,} {_are(new)} new", f"{gone:,} gone", f"{len(comparison.still_due):,} still due"]
    parts += [f"{comparison.waived:,} exempt"] if comparison.waived else []
    parts += [f"{comparison.undecided:,} not decided this time"] if comparison.undecided else []
    return f"Since run {comparison.run_id}, {', '.join(parts[:-1])}, and {parts[-1]}."


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("keyturn.bulk"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _by_line(found: list[Finding], lines: Sequence[PolicyLine]) -> list[tuple[str, str, list[Finding]]]:
    """Return findings of one severity by the lines under which they are due: lines, wordings and findings."""
    wordings = {str(line.ref): line.wording for line in lines}
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for one in found:
        groups.setdefault(one.policy_lines, []).append(one)
    return [(", ".join(refs), " ".join(wordings.get(ref, "") for ref in refs), rows) for refs, rows in groups.items()]


def _chart(findings: Findings, quantity: str) -> str:
    """What a line measures as bars, keys that are due darker, and what each line allows as a rule across them."""
    measured, due = findings.measured[quantity], findings.due_of.get(quantity, Counter())
    limits = limits_of(findings.lines, quantity)
    longest = max([*measured, *limits]) + 1
    width = max(1, -(-longest // BINS))
    bins = [
        (
            sum(measured[day] for day in range(at * width, (at + 1) * width)),
            sum(due[day] for day in range(at * width, (at + 1) * width)),
        )
        for at in range(-(-longest // width))
    ]
    most = max(count for count, _ in bins) or 1
    left, bottom, high, step = 56, 210, 180, 760 / len(bins)
    parts = [f"<line x1='{left}' y1='{bottom}' x2='{left + 760}' y2='{bottom}' class='axis'/>"]
    for at, (count, of_these) in enumerate(bins):
        for number, kind in ((count, "bar"), (of_these, "bar due")):
            tall = high * number / most
            title = f"{at * width} to {(at + 1) * width - 1} days: {counted(count, 'key')}, {of_these:,} due"
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
    for limit in limits:
        x = left + limit / width * step
        parts.append(f"<line class='limit' x1='{x:.1f}' y1='14' x2='{x:.1f}' y2='{bottom}'/>")
        parts.append(f"<text class='limit' x='{x + 4:.1f}' y='24'>{counted(limit, 'day')}</text>")
    title = _QUANTITIES[quantity]
    parts.append(
        f"<text x='{left + 380}' y='{bottom + 38}' class='mid'>{title.lower()}, when they were observed</text>"
    )
    label = f"{title}: how many keys there are of each, how many of them are due, and what the policy lines allow"
    return f"<svg viewBox='0 0 840 256' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


def method_of(run: Run, findings: Findings) -> list[tuple[str, str]]:
    """Return how a run was made, a name and a value each: as it is on record, and not by what writes the report."""
    models = ", ".join(f"{name} ({count:,})" for name, count in findings.models.most_common()) or "none was asked"
    by_rule = findings.figures.decided_by["rule"]
    refs: Sequence[PolicyRef] = run.policy_lines
    return [
        ("Run", run.run_id),
        ("Inventory", run.source),
        ("Digest of inventory and question", run.source_digest),
        ("Policy lines", ", ".join(map(str, refs)) or "none"),
        ("Digest of the policy lines", run.policy_digest or "not recorded"),
        ("Decided by", "rule alone" if run.decide_by == "rule" else "rule and model, which must agree"),
        ("Decided without a model", f"{by_rule:,} of {findings.total:,}"),
        ("Models", models),
        ("Prompt", run.prompt_version or "not recorded"),
        ("Cost of the calls", f"${findings.figures.cost_usd:,.4f}"),
        ("Ordered by", f"{run.requested_by}, tenant {run.tenant_id}"),
        ("Ordered", in_utc(run.created_at) if run.created_at else "not recorded"),
        ("Completed", in_utc(run.ended_at) if run.ended_at else "not yet"),
        ("Program", f"Keyturn {run.code_version}" if run.code_version else "not recorded"),
    ]
