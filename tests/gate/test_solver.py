"""The edges, shown by z3 for days and spans of any size: the gate's own function is run on symbols, not on examples.

The enumeration (test_exhaustive) tries the edges of the lines that there are. What it cannot say is that the one number
that the gate compares with is the wording's edge for *every* number of days; that is shown here. Decisions over several
lines are finite, and stay with the enumeration.
"""

from typing import Any

import pytest
import z3

from keyturn.policy.applicability import DAY, threshold

DAYS, ELAPSED = z3.Ints("days elapsed")
ANY = z3.And(DAYS >= 1, ELAPSED >= 0)
WHOLE = ELAPSED / DAY  # complete days: z3 divides integers downwards, and both are positive


def holds_for_all(claim: Any) -> bool:
    solver = z3.Solver()
    solver.add(ANY, z3.Not(claim))
    return bool(solver.check() == z3.unsat)


@pytest.mark.parametrize(
    ("operator", "truncation", "wording"),
    [
        (">", "whole_days", WHOLE > DAYS),
        (">=", "whole_days", WHOLE >= DAYS),
        (">", "exact", ELAPSED > DAYS * DAY),
        (">=", "exact", ELAPSED >= DAYS * DAY),
    ],
)
def test_the_edge_is_the_wordings_for_any_number_of_days(operator: Any, truncation: Any, wording: Any) -> None:
    assert holds_for_all((threshold(operator, truncation, DAYS) <= ELAPSED) == wording)


@pytest.mark.parametrize("operator", [">", ">="])
def test_an_edge_that_is_off_by_the_smallest_step_is_found(operator: Any) -> None:
    for step in (-1, 1, DAY):
        claim = (threshold(operator, "exact", DAYS) + step <= ELAPSED) == (
            threshold(operator, "exact", DAYS) <= ELAPSED
        )
        assert not holds_for_all(claim)


@pytest.mark.parametrize("operator", [">", ">="])
@pytest.mark.parametrize("truncation", ["whole_days", "exact"])
def test_a_window_never_ends_before_the_line_began_to_apply(operator: Any, truncation: Any) -> None:
    """However old the key is: its date is `window` days after the edge, and the edge is not after today."""
    window = z3.Int("window")
    edge = threshold(operator, truncation, DAYS)
    began_before_now = ELAPSED - edge  # how long the line has applied
    claim = z3.Implies(z3.And(edge <= ELAPSED, window >= 1), z3.And(began_before_now >= 0, edge + window * DAY > edge))
    assert holds_for_all(claim)
