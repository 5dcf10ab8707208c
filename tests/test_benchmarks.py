"""What `make bench` makes of its figures."""

from typing import Any

import pytest

from benchmarks import fetches
from benchmarks.results import Result, compared, fallen, interval_of_median


def row(name: str, ratio: float, target: str) -> Result:
    return Result(name, ratio, target, True, "")


def test_a_ratio_that_fell_by_more_than_a_fifth_is_reported() -> None:
    """In the direction in which it is promised; what is not promised cannot fall, and a new row has nothing to."""
    accepted = {"speed": 1.0, "memory": 1.0, "look": 1.0}
    fell = [row("speed", 0.79, ">= 0.5"), row("memory", 1.26, "<= 2"), row("look", 0.1, "-"), row("new", 0.1, ">= 1")]
    assert [line.partition(":")[0] for line in fallen(fell, accepted)] == ["speed", "memory"]
    assert fallen([row("speed", 0.81, ">= 0.5"), row("memory", 1.24, "<= 2")], accepted) == []
    assert fallen([row("speed", 1.9, ">= 0.5"), row("memory", 0.2, "<= 2")], accepted) == []


def test_series_are_compared_round_by_round() -> None:
    """The median of the ratios, and not the ratio of the medians."""
    result = compared("x", [1.0, 20.0, 3.0], [2.0, 20.0, 4.0], unit="s", at="least", target=0.5)
    assert (result.ratio, result.holds) == (0.75, True)


def test_a_target_that_the_spread_straddles_is_unclear_and_does_not_hold() -> None:
    def compare(ratios: list[float], **more: Any) -> tuple[bool, bool]:
        result = compared("x", ratios, [1.0] * len(ratios), unit="s", **{"target": 1.05} | more)
        return result.holds, result.detail.startswith("unclear")

    assert compare([0.9, 1.0, 1.01, 1.02, 1.03, 1.04]) == (True, False)
    assert compare([0.9, 1.0, 1.01, 1.02, 1.03, 9.0]) == (False, True)
    assert compare([1.06, 1.1, 1.1, 1.2, 1.2, 9.0]) == (False, False)
    assert compare([0.9, 1.0, 1.0, 1.0, 1.0, 1.0], at="least", target=1.0) == (False, True)
    nine = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]
    assert compare(nine) == (True, False), "of nine, a single round that was disturbed says nothing"


@pytest.mark.parametrize(
    ("count", "left_out", "sure"), [(1, 0, 0.0), (5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609375), (20, 5, 0.9586)]
)
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, left_out: int, sure: float) -> None:
    """David and Nagaraja, section 7.1; for 20 values from the 6th to the 15th."""
    low, high, confidence = interval_of_median([float(number) for number in range(count)])
    assert (low, high) == (left_out, count - 1 - left_out)
    assert confidence == pytest.approx(sure, abs=1e-4)


@pytest.mark.alone
async def test_a_fetch_takes_the_time_that_the_apis_take() -> None:
    """A short form of the row: 2,000 keys, of which the start of the process is a part; and killed twice, no less."""
    speed, same = await fetches.measure(accounts=8, keys=2_000)
    assert speed.ratio < 2, speed.detail
    assert same.holds, same.detail
