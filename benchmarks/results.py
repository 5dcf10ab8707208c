"""What a benchmark reports: a ratio of two things measured side by side, and whether it reaches what we promised."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

FILE = Path(__file__).parent / "results.json"
PLOT = Path(__file__).parent / "results.svg"
BAR_AT, BAR, NAME_CHARACTERS = 430, 240, 68
SURE, UNCLEAR = 0.95, "unclear"
# Rounds of the same code differ by a tenth; a fall of a fifth is the code's.
MAY_FALL_TO = 0.8


class Result(NamedTuple):
    """One row of the table and of results.json."""

    name: str
    ratio: float
    target: str
    holds: bool
    detail: str


def compared(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    at: Literal["most", "least"] = "most",
    target: float | None = None,
) -> Result:
    """Return the result of two series taken in turn, as the median of their ratios round by round.

    It holds if the whole 95% interval of the median does; a target that the interval straddles is unclear.

    Args:
        name: what is compared.
        ours: our figure, a round each.
        theirs: the other's figure in the same rounds.
        unit: of the figures.
        at: whether the ratio may be `target` at most or must be it at least.
        target: what we promise; None where we promise nothing and only measure.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio, (low, high, confidence) = statistics.median(ratios), interval_of_median(ratios)
    detail = (
        f"{_spread(ours)} against {_spread(theirs)} {unit}; ratios {min(ratios):.2f}-{max(ratios):.2f}, "
        f"the median's {confidence:.0%} interval {low:.2f}-{high:.2f}"
    )
    if target is None:
        return Result(name, round(ratio, 3), "-", True, detail)
    holds, fails = (high <= target, low > target) if at == "most" else (low >= target, high < target)
    detail = detail if holds or fails else f"{UNCLEAR}: {detail}"
    return Result(name, round(ratio, 3), f"{'<=' if at == 'most' else '>='} {target:g}", holds, detail)


def interval_of_median(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the narrowest interval of order statistics that has the median with 95%, and how sure it is.

    By the sign test, which assumes nothing of the distribution; of fewer than six values even all are less sure.
    Source: H. A. David, H. N. Nagaraja, Order Statistics, section 7.1.
    """
    ordered, count = sorted(values), len(values)

    def confidence(left_out: int) -> float:
        below = sum(math.comb(count, k) for k in range(left_out + 1))
        return float(1 - 2 * below / 2**count)

    left_out = max((k for k in range((count + 1) // 2) if confidence(k) >= SURE), default=0)
    return ordered[left_out], ordered[-1 - left_out], max(confidence(left_out), 0.0)


def _spread(series: Sequence[float]) -> str:
    return f"{statistics.median(series):.4g} ({min(series):.4g}-{max(series):.4g})"


def fallen(results: Sequence[Result], accepted: Mapping[str, float]) -> list[str]:
    """Return what each ratio fell to that is more than a fifth worse than the accepted one."""
    worse = []
    for result in results:
        before = accepted.get(result.name)
        if before is None or not before or not result.ratio or result.target[0] not in "<>":
            continue
        now = result.ratio / before if result.target[0] == ">" else before / result.ratio
        if now < MAY_FALL_TO:
            worse.append(f"{result.name}: {result.ratio:.3f}, and {before:.3f} was accepted")
    return worse


def report(results: Sequence[Result], *, accept: bool, keep_others: bool = False) -> bool:
    """Print the table and write benchmarks/results.json; returns whether no ratio fell by more than a fifth.

    Args:
        results: of this run.
        accept: whether what fell is written too, as the new measure.
        keep_others: whether rows stay there that are not among these.
    """
    width = max(len(result.name) for result in results)
    print(f"\n{'':{width}}  {'ratio':>7}  {'target':>8}  {'holds':7}  detail")
    for result in results:
        holds = "yes" if result.holds else UNCLEAR if result.detail.startswith(UNCLEAR) else "NO"
        print(f"{result.name:{width}}  {result.ratio:7.3f}  {result.target:>8}  {holds:7}  {result.detail}")
    before = {row["name"]: row for row in json.loads(FILE.read_text())} if FILE.exists() else {}
    fell = fallen(results, {name: row["ratio"] for name, row in before.items()})
    for line in fell:
        print(f"fell by more than a fifth: {line}")
    if fell and not accept:
        print("nothing was written; measure again on an idle machine, or accept it: make bench ACCEPT=1")
        return False
    rows = (before if keep_others else {}) | {result.name: result._asdict() for result in results}
    FILE.write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    PLOT.write_text(picture([Result(**row) for row in rows.values()]))
    print(f"\nwritten to {FILE.relative_to(Path.cwd())}, drawn in {PLOT.relative_to(Path.cwd())}")
    return True


def shortened(name: str) -> str:
    """Return a name that fits beside its bar."""
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


def picture(results: Sequence[Result]) -> str:
    """Return what is promised and how much of it is used, as SVG: a bar that ends before the line holds."""
    promised = [result for result in results if result.target[0] in "<>"]
    parts = [f"<line x1='{BAR_AT + BAR}' y1='0' x2='{BAR_AT + BAR}' y2='{len(promised) * 20}' stroke='#888'/>"]
    for row, result in enumerate(promised):
        limit, y = float(result.target[2:]), row * 20
        used = result.ratio / limit if result.target[0] == "<" else limit / max(result.ratio, 1e-9)
        colour = "#059669" if result.holds else "#d97706" if result.detail.startswith(UNCLEAR) else "#dc2626"
        parts += [
            f"<text x='{BAR_AT - 8}' y='{y + 14}' text-anchor='end'>{escape(shortened(result.name))}</text>",
            f"<rect x='{BAR_AT}' y='{y + 4}' width='{min(used, 1.5) * BAR:.0f}' height='12' fill='{colour}'/>",
            f"<text x='{BAR_AT + 1.5 * BAR + 10:.0f}' y='{y + 14}'>{result.ratio:g} ({escape(result.target)})</text>",
        ]
    style = "<style>text{font:12px sans-serif;fill:#888}</style>"
    size = f"0 0 {BAR_AT + 1.5 * BAR + 130:.0f} {len(promised) * 20 + 4}"
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='{size}'>{style}{''.join(parts)}</svg>\n"
