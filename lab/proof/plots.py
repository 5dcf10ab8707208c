"""Plots as SVG, readable on light and on dark ground."""

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BELOW = 360, 150, 46, 24


class Panel(NamedTuple):
    """One figure over time: its name with the unit, and (seconds, value)."""

    name: str
    series: Sequence[tuple[float, float]]


def panels(shown: Sequence[Panel]) -> str:
    """Return the panels, two in a row; each starts at 0."""
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


class Range(NamedTuple):
    """A row of bars: its name, and of each series its middle and its most."""

    name: str
    bars: Sequence[tuple[float, float] | None]


BAR, LABELS, BARS_WIDE = 7, 170, 520
COLOURS = ("#2563eb", "#d97706")


def ranges(shown: Sequence[Range], legend: Sequence[str]) -> str:
    """Return rows of bars, each as long as its middle, with a line to its most; one colour a series, seconds."""
    longest = max((bar[1] for row in shown for bar in row.bars if bar), default=1.0) or 1.0
    wide, high = BARS_WIDE / longest, BAR * len(legend) + 6
    parts = [
        f"<text x='{LABELS + n * 110}' y='12' style='fill:{COLOURS[n]}'>{name}</text>" for n, name in enumerate(legend)
    ]
    for place, row in enumerate(shown):
        y = 24 + place * high
        parts.append(
            f"<text x='{LABELS - 6}' y='{y + BAR * len(legend) / 2 + 3:.0f}' text-anchor='end'>{row.name}</text>"
        )
        for n, bar in enumerate(row.bars):
            if bar is None:
                continue
            top, (middle, most) = y + n * BAR, bar
            parts.append(
                f"<rect x='{LABELS}' y='{top}' width='{middle * wide:.1f}' height='{BAR - 2}' fill='{COLOURS[n]}'/>"
                f"<line x1='{LABELS}' x2='{LABELS + most * wide:.1f}' y1='{top + 2.5}' y2='{top + 2.5}' "
                f"stroke='{COLOURS[n]}'/>"
            )
    base = 24 + len(shown) * high
    for seconds in range(0, int(longest) + 1, 10):
        x = LABELS + seconds * wide
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='20' y2='{base}' stroke='#8883'/>")
        parts.append(f"<text x='{x:.1f}' y='{base + 14}' text-anchor='middle'>{seconds} s</text>")
    style = "<style>text{font:11px sans-serif;fill:#888}</style>"
    view = f"0 0 {LABELS + BARS_WIDE + 20} {base + 20}"
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='{view}'>{style}{''.join(parts)}</svg>\n"
