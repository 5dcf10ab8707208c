"""Every case that the rule language can distinguish: kinds, facts, both sides of each edge, subsets of lines, answers.

Why that is all: a rule reads one fact. A truth value has three values. A span of time is compared with one edge, so
between two neighbouring edges nothing changes, and below, at and above each edge is every class that there is. What no
line of a subset reads cannot change its answer; that is tried too, with other values for the unread facts.
`docs/explanation/gate.md` has the argument in full.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import combinations, product
from typing import Any

from keyturn.contracts import CredentialFacts
from keyturn.policy.catalogue import load_catalogue
from keyturn.policy.line import PolicyLine
from tests.gate.oracle import Key, first_moment
from tests.support.cases import GOLDEN_TIME

NOW = GOLDEN_TIME
SECOND, MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)
KINDS = ("service_account_key", "access_key", "user_password", "system_account_password")
# Lines in a subset; `make prove-gate` has all of four, which are four fifths of the cases.
LARGEST = 4 if "GATE_CASES" in os.environ else 3


def line(name: str, rule: dict[str, Any], **changed: Any) -> PolicyLine:
    given = {
        "applies_to": ["access_key"],
        "window_days": 30,
        "rule": rule,
        "id": name,
        "version": 1,
        "wording": "A rule.",
    }
    source = {"benchmark": "The gate's proof", "release": "1", "id": name}
    return PolicyLine.model_validate({**given, "source": source, **changed})


def passed(when: str, operator: str, days: int, truncation: str) -> dict[str, Any]:
    return {"when": when, "operator": operator, "days": days, "truncation": truncation}


GENERATED = (
    line("A-1", passed("age", ">", 60, "whole_days"), window_days=14),
    line("A-2", passed("age", ">=", 60, "exact"), window_days=7, approval="required", approvers=["omar", "priya"]),
    line("A-3", passed("age", ">", 90, "exact"), due="at_once", window_days=90),
    line("A-4", passed("age", ">=", 61, "whole_days"), window_days=None),
    line("U-1", passed("unused", ">=", 45, "whole_days"), window_days=14, approval="required", approvers=["priya"]),
    line("U-2", passed("unused", ">", 45, "exact"), window_days=45, decide="person"),
    line("S-1", {"when": "stale"}, applies_to=["access_key", "service_account_key"]),
    line("S-2", {"when": "stale"}, window_days=5, approval="required", approvers=["noor", "omar"]),
    line("C-1", {"when": "compromised"}, window_days=1, approval="required", approvers=["noor"]),
    line("C-2", {"when": "compromised"}, window_days=None, due="at_once"),
    line("N-1", {"when": "never"}, window_days=None),
    line("K-1", {"when": "stale"}, applies_to=["user_password"], window_days=3),
    line("P-1", {"when": "prose"}, window_days=2, decide="person"),
)
SHIPPED = tuple(load_catalogue())


def subsets(lines: Sequence[PolicyLine]) -> Iterator[tuple[PolicyLine, ...]]:
    """Every set of one to three lines, or to four."""
    for size in range(1, LARGEST + 1):
        yield from combinations(lines, size)


@lru_cache(maxsize=10_000)
def dumped(one: PolicyLine) -> dict[str, Any]:
    """A line as data, which is all that the oracle may see of it."""
    return one.model_dump(mode="json")


def spans(lines: Sequence[PolicyLine], when: str) -> list[timedelta]:
    """Spans of time below, at and above each edge that a line sets, by a second and by the smallest step."""
    found = {timedelta(0)}
    for one in map(dumped, lines):
        if one["rule"]["when"] == when:
            edge = first_moment(one, NOW) - NOW
            found |= {edge - SECOND, edge - MICROSECOND, edge, edge + MICROSECOND, edge + SECOND}
    return sorted(found)


def keys(lines: Sequence[PolicyLine], *, observed: datetime = NOW) -> Iterator[Key]:
    """Every key that these lines can distinguish."""
    for kind in KINDS:
        covering = [one for one in lines if kind in one.applies_to]
        if not covering and kind != KINDS[-1] and any(not set(one.applies_to) - {kind} for one in lines):
            continue
        reads = {one.rule.when for one in covering}
        ages: list[timedelta | None] = [None, timedelta(days=3)]
        uses: list[timedelta | bool | None] = [None]
        if "age" in reads or "unused" in reads:
            ages = [None, *spans(covering, "age"), *(spans(covering, "unused") if "unused" in reads else [])]
        if "unused" in reads:
            uses = [None, True, *spans(covering, "unused")]
        states = (True, False, None)
        for stale, exposed, age, use in product(
            states if "stale" in reads else (True,),
            states if "compromised" in reads else (None,),
            ages if reads & {"age", "unused"} else [None],
            uses,
        ):
            if use is not None and use is not True and "age" not in reads and age is not None:
                continue  # when it was used is known: the age is not read
            if isinstance(use, timedelta) and age is not None and use > age:
                continue  # no key was used before it was there
            yield Key(
                kind=kind,
                seen=observed,
                stale=stale,
                exposed=exposed,
                rotated=None if age is None else observed - age,
                used=observed - use if isinstance(use, timedelta) else None,
                never_used=use is True,
            )


@lru_cache(maxsize=16)  # each comparison of a key asks for them again
def facts_of(key: Key) -> CredentialFacts:
    """A key in the gate's own type."""
    return CredentialFacts.model_construct(
        key_id="key_1",
        kind=key.kind,  # type: ignore[arg-type]
        stale=key.stale,
        compromised=key.exposed,
        age_days=None,
        last_rotated_at=key.rotated,
        last_used_at=key.used,
        never_used=key.never_used,
        observed_at=key.seen,
        source="proof",
        notes=None,
    )


def answers(lines: Sequence[PolicyLine]) -> Iterator[tuple[str, int | None, tuple[str, ...]]]:
    """Every answer of the right form: decision, window (each stated one, none, and another), any set of citations."""
    windows = {None, 17, *(one.window_days for one in lines)}
    names = [one.id for one in lines]
    cited = [subset for size in range(len(names) + 1) for subset in combinations(names, size)]
    yield from product(("eligible", "not_eligible", "not_specified"), sorted(windows, key=str), cited)
