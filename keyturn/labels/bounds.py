"""How high a rate may be, given what was counted: the upper bound of Clopper and Pearson.

Clopper and Pearson (Biometrika 26, 1934, 404-413) give an exact bound: whatever the true rate is, at least 95 of 100
such bounds lie above it. Wilson's, which is closed, holds so often on average only (Thulin, 2013, arXiv:1303.1288), and
less often where a release gate asks: with 1,000 cases and a rate of 0.27%, in 93.3 of 100. The bound is one-sided,
because the gate asks one question: it is the rate at which so few faults, or fewer, come once in twenty times.
"""

import math

CONFIDENCE = 0.95
_HALVINGS = 60  # more than a float distinguishes


def upper_bound(count: int, of: int, *, confidence: float = CONFIDENCE) -> float:
    """Return the rate that `count` faults in `of` cases do not exceed, at this confidence; 1 if there is no case."""
    if not 0 <= count <= of:
        raise ValueError(f"{count} of {of}")
    if count == of:
        return 1.0
    logs = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(count + 1)]
    low, high = count / of, 1.0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        if _at_most(logs, of, rate) > 1 - confidence:
            low = rate
        else:
            high = rate
    return round(high, 12)  # a float is no finer: exactly enough cases are enough


def cases_needed(rate: float, *, confidence: float = CONFIDENCE) -> int:
    """Return how many cases without one fault bring the bound down to `rate`: some three divided by it."""
    if rate >= 1:
        return 0
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate)) if rate > 0 else 0


def _at_most(logs: list[float], of: int, rate: float) -> float:
    """Return how likely at most `len(logs) - 1` faults are; by logarithms, for the powers are too small for floats."""
    if rate >= 1:
        return 0.0
    yes, no = math.log(rate), math.log1p(-rate)
    return math.fsum(math.exp(log + k * yes + (of - k) * no) for k, log in enumerate(logs))
