"""The report of a run as one self-contained page that an auditor can keep."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from keyturn.bulk.report import Figures, in_words, items_of_run
from keyturn.bulk.store import BulkStore, Run
from keyturn.moments import in_utc
from keyturn.policy.line import PolicyLine

# A page of a hundred thousand rows opens in no browser; the whole is in the CSV and JSON forms.
ROWS_SHOWN = 5_000
BINS = 24


async def page_of(store: BulkStore, run: Run, lines: list[PolicyLine], decrypt: Callable[[str, str], str]) -> str:
    """Return the report as one HTML page without anything from elsewhere.

    Keys on which rule and model disagree come first. Then, in the inventory's order: jobs, what waits, rejections,
    failures, and rows that could not be used. Keys for which nothing is due are only counted.
    """
    figures, left_out = Figures(), 0
    rows: list[tuple[str, ...]] = []
    first: list[
        tuple[str, ...]
    ] = []  # what no reader may overlook: keys that are due by rule, and that a model would leave
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
    return (
        _templates()
        .get_template("report.html")
        .render(
            run=run,
            lines=lines,
            written=in_utc(datetime.now(UTC)),
            tiles=_tiles(figures),
            plot=Markup(_plot(figures, lines)),  # noqa: S704 - numbers and fixed words
            outcomes=(("outcome", "keys"), _counts(figures.outcomes)),
            decided=(("decided by", "keys"), _counts(figures.decided_by)),
            policies=(
                ("policy line cited", "outcome", "keys"),
                [
                    (line, in_words(name), f"{n:,}")
                    for line, by in sorted(figures.by_line.items())
                    for name, n in by.items()
                ],
            ),
            reasons=(
                ("outcome", "reason", "keys"),
                [(in_words(outcome), why, f"{n:,}") for (outcome, why), n in figures.reasons.most_common(100)],
            ),
            rows=first + rows,
            left_out=left_out,
        )
    )


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("keyturn.bulk"), autoescape=True, undefined=StrictUndefined)


def _counts(counter: Counter[str]) -> list[tuple[str, str]]:
    return [(in_words(name), f"{n:,}") for name, n in counter.most_common()]


_QUIET = {"nothing_due", "not_eligible", "summarized"}


def _tiles(figures: Figures) -> list[tuple[str, str]]:
    total = sum(figures.outcomes.values())
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


def _row(item: Mapping[str, Any]) -> tuple[str, ...]:
    due = f"{item['rotate_by']:%Y-%m-%d}" if item["rotate_by"] else ""
    age = "" if item["age_days"] is None else str(item["age_days"])
    why = item["explanation"] or in_words(item["reason"] or "")
    seen = "" if item["observed_at"] is None else f"{item['source']}, {in_utc(item['observed_at'])}"
    return (
        str(item["line"]),
        item["account_id"] or "",
        item["key_id"] or "",
        age,
        in_words(item["outcome"] or "not_asked"),
        ", ".join(item["policy_lines"] or ()),
        due,
        item["job_id"] or "",
        why,
        " ".join(part for part in (seen, item["trace_id"] or "") if part),
    )


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
