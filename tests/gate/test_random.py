"""Gate and oracle agree on random lines, keys and answers: windows and days of any size, up to eight lines at once.

`make prove-gate` compares ten million; here it is 50,000, of another seed each day of the year.
"""

import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn.policy.line import PolicyLine
from tests.gate.comparison import whole_differences
from tests.gate.oracle import Key, expected, first_moment
from tests.gate.partition import KINDS, NOW, SHIPPED, dumped, line, passed

CASES = int(os.environ.get("GATE_CASES", "50000"))
PARTS = 4
SEED = int(os.environ.get("GATE_SEED", str(datetime.now(UTC).toordinal())))
PEOPLE = ("luna", "noor", "omar", "priya")


def random_line(chance: random.Random, number: int) -> PolicyLine:
    when = chance.choice(("age", "age", "unused", "unused", "stale", "compromised", "never"))
    rule: dict[str, Any] = {"when": when}
    if when in {"age", "unused"}:
        days = chance.choice((1, 45, 90, chance.randint(1, 36_500)))
        rule = passed(when, chance.choice((">", ">=")), days, chance.choice(("whole_days", "exact")))
    approvers = chance.sample(PEOPLE, chance.randint(0, 3)) if chance.random() < 0.4 else []
    return line(
        f"R-{number}",
        rule,
        applies_to=chance.sample(KINDS, chance.randint(1, 4)),
        window_days=chance.choice((None, 1, 30, chance.randint(1, 36_500))),
        due=chance.choice(("within_window", "at_once")),
        decide=chance.choice(("rule_and_model", "rule_and_model", "person")),
        evidence_days=chance.choice((1, 7, 30, 3_650)),
        approval="required" if approvers else "none",
        approvers=approvers,
    )


def random_key(chance: random.Random, lines: Sequence[PolicyLine]) -> Key:
    age = chance.choice((0, 1, 7, 30, chance.randint(0, 4_000)))
    seen = NOW - timedelta(days=age) + timedelta(microseconds=chance.choice((-1, 0, 1))) * chance.choice((1, 10**6))
    edges = [first_moment(one, NOW) - NOW for one in map(dumped, lines) if one["rule"]["when"] in {"age", "unused"}]

    def moment() -> datetime:
        near = chance.choice(edges) if edges and chance.random() < 0.7 else timedelta(days=chance.randint(0, 20_000))
        step = chance.choice((timedelta(0), timedelta(microseconds=1), timedelta(seconds=1), timedelta(days=1)))
        return min(seen, max(seen - near + chance.choice((-1, 0, 1)) * step, datetime(1970, 1, 2, tzinfo=UTC)))

    used = moment() if chance.random() < 0.5 else None
    return Key(
        kind=chance.choice(lines).applies_to[0] if chance.random() < 0.8 else chance.choice(KINDS),
        seen=seen,
        stale=chance.choice((True, False, None)),
        exposed=chance.choice((True, False, None)),
        rotated=moment() if chance.random() < 0.8 else None,
        used=used,
        never_used=used is None and chance.random() < 0.5,
    )


def random_answer(chance: random.Random, lines: Sequence[PolicyLine], key: Key) -> dict[str, Any]:
    """Often the right one, or nearly: what is far off is refused by any gate."""
    right = expected([dumped(one) for one in lines], key, NOW)
    names = [one.id for one in lines]
    decision: Any = right.decision
    window: Any = right.window
    cited: Any = sorted(right.binding)
    if chance.random() < 0.3:
        decision = chance.choice(("eligible", "not_eligible", "not_specified", "Eligible", None, 1))
    if chance.random() < 0.3:
        windows = [one.window_days for one in lines]
        window = chance.choice((None, 0, -1, True, 30.0, "30", *windows))
    if chance.random() < 0.4:
        cited = chance.choice((chance.sample(names, chance.randint(0, len(names))), [*names, "P-999"], None, "A", [1]))
    return {"decision": decision, "rotation_window_days": window, "source_line_ids": cited, "quotes": []}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_cases_are_decided_as_the_oracle_decides_them(part: int, counted: Any) -> None:
    chance = random.Random(f"{SEED}/{part}")
    pool: list[PolicyLine] = []
    for number in range(CASES // PARTS):
        if number % 500 == 0:  # lines are made anew now and then: validating one costs as much as ten cases
            pool = [random_line(chance, each) for each in range(30)] + list(SHIPPED)
        lines = tuple(chance.sample(pool, chance.randint(1, 8)))
        key = random_key(chance, lines)
        answer = random_answer(chance, lines, key)
        found = list(whole_differences(lines, key, answer))
        assert found == [], f"GATE_SEED={SEED}: {lines} {key} {answer}"
    counted("random cases", CASES // PARTS)
