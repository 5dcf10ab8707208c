"""Gate and oracle agree on every case of the finite partition: not a sample of them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyturn.policy.line import PolicyLine
from keyturn.policy.support import support_of
from tests.gate.comparison import differences, unlike, whole_differences, wrong_verdicts
from tests.gate.oracle import Key
from tests.gate.partition import GENERATED, NOW, SHIPPED, answers, facts_of, keys, subsets

PARTS = 4  # for as many processes
# What one part has compared with every answer, the others of its process need not: see the test's own words.
_judged: set[tuple[Any, ...]] = set()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("lines", [SHIPPED, GENERATED], ids=["shipped", "generated"])
def test_every_subset_of_lines_supports_what_the_oracle_says_for_every_key_and_no_other_answer_passes(
    lines: Sequence[PolicyLine], part: int, counted: Any
) -> None:
    """Each kind, each fact known, unknown, met and not met, each edge from both sides; then every answer to it.

    The verdict on an answer is a function of what is supported: of each line's status and window, in their order, and
    not of its name. So each distinct such support is compared with every answer once.
    """
    cases = judged = 0
    for number, subset in enumerate(subsets(lines)):
        if number % PARTS != part:
            continue
        for key in keys(subset):
            cases += 1
            found = support_of(subset, facts_of(key), NOW)
            assert list(unlike(subset, key, found)) == [], (subset, key)
            mark = (lines is SHIPPED, *((one.status, one.line.window_days, one.cause) for one in found.readings))
            if mark not in _judged:
                assert list(wrong_verdicts(subset, key)) == [], (subset, key)
                _judged.add(mark)
                judged += sum(1 for _ in answers(subset))
    assert cases > 5_000
    counted("keys under subsets of lines", cases)
    counted("answers to them", judged)


@pytest.mark.parametrize("lines", [SHIPPED, GENERATED], ids=["shipped", "generated"])
def test_the_whole_gate_agrees_too_from_the_raw_answer_to_the_recorded_decision(
    lines: Sequence[PolicyLine], counted: Any
) -> None:
    """Parsing, citations, window, date, approvers and digest, for every pair of lines and every support that it has."""
    judged = 0
    for subset in subsets(lines):
        if len(subset) > 2 or any(one.rule.when == "prose" for one in subset):
            continue
        seen = set()
        for key in keys(subset):
            mark = tuple((one.line.id, one.status) for one in support_of(subset, facts_of(key), NOW).readings)
            if mark in seen:
                continue
            seen.add(mark)
            for decision, window, cited in answers(subset):
                answer = {"decision": decision, "rotation_window_days": window, "source_line_ids": list(cited)}
                assert list(whole_differences(subset, key, answer | {"quotes": []})) == [], (subset, key)
                judged += 1
    assert judged > 2_000
    counted("raw answers through the whole gate", judged)


@pytest.mark.parametrize("lines", [SHIPPED, GENERATED], ids=["shipped", "generated"])
def test_evidence_of_every_age_is_read_as_the_oracle_reads_it(lines: Sequence[PolicyLine]) -> None:
    """Both sides of the age at which evidence stops to count, and of the future that clocks allow."""
    second, month = timedelta(seconds=1), timedelta(days=30)
    for one in lines:
        for age in (-timedelta(minutes=5) - second, -timedelta(minutes=5), timedelta(0), month, month + second):
            for key in keys((one,), observed=NOW - age):
                assert list(differences((one,), key)) == [], (one, key, age)


@pytest.mark.parametrize("lines", [SHIPPED, GENERATED], ids=["shipped", "generated"])
def test_what_became_due_after_it_was_seen_is_read_as_the_oracle_reads_it(lines: Sequence[PolicyLine]) -> None:
    """Both sides of the day that is left to the next inventory, and of each edge as it is now."""
    second, day, month = timedelta(seconds=1), timedelta(days=1), timedelta(days=30)
    for one in lines:
        for age in (day, day + second, month):
            for key in keys((one,), observed=NOW - age):
                later = replace(
                    key,
                    rotated=None if key.rotated is None else key.rotated + age,
                    used=None if key.used is None else key.used + age,
                )
                if max(filter(None, (later.rotated, later.used)), default=key.seen) <= key.seen:
                    assert list(differences((one,), later)) == [], (one, later, age)


def test_facts_that_no_line_reads_change_nothing() -> None:
    """The partition leaves them out, so that they are tried here: every other value of each."""
    for one in (*SHIPPED, *GENERATED):
        for key in keys((one,)):
            mark = [(r.status, r.cause) for r in support_of((one,), facts_of(key), NOW).readings]
            others: dict[str, tuple[Any, ...]] = {"stale": (True, False, None), "exposed": (True, False, None)}
            unread = {"stale": "stale", "exposed": "compromised"}
            for name, values in others.items():
                if one.rule.when != unread[name]:
                    for value in values:
                        other: Key = replace(key, **{name: value})
                        assert [(r.status, r.cause) for r in support_of((one,), facts_of(other), NOW).readings] == mark
