"""What a benchmark reports: a ratio of two things measured side by side, and whether it reaches what we promised."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

FILE = Path(__file__).parent / "results.json"


class Result(NamedTuple):
    """One row of the table and of results.json."""

    name: str
    ratio: float
    reach: str
    holds: bool
    detail: str


def compared(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    at: Literal["most", "least"] = "most",
    reach: float | None = None,
) -> Result:
    """Return the result of two series taken in turn, as the median of their ratios round by round.

    Args:
        name: what is compared.
        ours: our figure, a round each.
        theirs: the other's figure in the same rounds.
        unit: of the figures.
        at: whether the ratio may be `reach` at most or must be it at least.
        reach: what we promise; None where we promise nothing and only measure.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    detail = f"{_spread(ours)} against {_spread(theirs)} {unit}; ratios {min(ratios):.2f}-{max(ratios):.2f}"
    if reach is None:
        return Result(name, round(ratio, 3), "-", True, detail)
    holds = ratio <= reach if at == "most" else ratio >= reach
    return Result(name, round(ratio, 3), f"{'<=' if at == 'most' else '>='} {reach:g}", holds, detail)


def _spread(series: Sequence[float]) -> str:
    return f"{statistics.median(series):.4g} ({min(series):.4g}-{max(series):.4g})"


def report(results: Sequence[Result], *, keep_others: bool = False) -> None:
    """Print the table and write benchmarks/results.json; `keep_others` leaves rows there that are not among these."""
    width = max(len(result.name) for result in results)
    print(f"\n{'':{width}}  {'ratio':>7}  {'reach':>8}  holds  detail")
    for result in results:
        holds = "yes" if result.holds else "NO"
        print(f"{result.name:{width}}  {result.ratio:7.3f}  {result.reach:>8}  {holds:5}  {result.detail}")
    rows = {row["name"]: row for row in json.loads(FILE.read_text())} if keep_others else {}
    rows |= {result.name: result._asdict() for result in results}
    FILE.write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    print(f"\nwritten to {FILE.relative_to(Path.cwd())}")
