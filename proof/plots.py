"""Small plots as SVG, readable on light and on dark ground."""

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BELOW = 360, 150, 46, 24


class Panel(NamedTuple):
    """One figure over time: its name with the unit, and (seconds, value)."""

    name: str
    series: Sequence[tuple[float, float]]


def panels(shown: Sequence[Panel]) -> str:
    """Return the panels, two in a row; each begins at 0."""
    rows = -(-len(shown) // 2)
    parts = [_panel(panel, (n % 2) * (WIDTH + 30), (n // 2) * (HEIGHT + 40)) for n, panel in enumerate(shown)]
    style = "<style>text{font:12px sans-serif;fill:#888}</style>"
    view = f"0 0 {2 * WIDTH + 30} {rows * (HEIGHT + 40)}"
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='{view}'>{style}{''.join(parts)}</svg>\n"


def _panel(panel: Panel, x: int, y: int) -> str:
    longest = max((at for at, _ in panel.series), default=1.0) or 1.0
    highest = 1.1 * max((value for _, value in panel.series), default=1.0) or 1.0

    def at(seconds: float, value: float) -> str:
        across = x + LEFT + (WIDTH - LEFT) * seconds / longest
        return f"{across:.1f},{y + 20 + (HEIGHT - BELOW - 20) * (1 - value / highest):.1f}"

    points = " ".join(at(seconds, value) for seconds, value in sorted(panel.series))
    base = y + HEIGHT - BELOW
    return (
        f"<text x='{x + LEFT}' y='{y + 12}'>{panel.name}</text>"
        f"<line x1='{x + LEFT}' y1='{base}' x2='{x + WIDTH}' y2='{base}' stroke='#8888'/>"
        f"<text x='{x + LEFT - 6}' y='{y + 32}' text-anchor='end'>{highest / 1.1:.3g}</text>"
        f"<text x='{x + LEFT - 6}' y='{base}' text-anchor='end'>0</text>"
        f"<text x='{x + WIDTH}' y='{base + 16}' text-anchor='end'>{longest / 60:.0f} min</text>"
        f"<polyline points='{points}' fill='none' stroke='#2563eb' stroke-width='1.5'/>"
    )
