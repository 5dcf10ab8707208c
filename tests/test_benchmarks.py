"""What `make bench` makes of its figures."""

import pytest

from benchmarks import fetches
from benchmarks.results import Result, compared, fallen


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
    result = compared("x", [1.0, 20.0, 3.0], [2.0, 20.0, 4.0], unit="s", at="least", target=0.6)
    assert (result.ratio, result.holds) == (0.75, True)


def test_a_target_that_the_spread_straddles_does_not_hold() -> None:
    """The middle half of the rounds: a single round that was disturbed says nothing."""
    ones = [1.0] * 5
    assert compared("x", [0.9, 1.0, 1.01, 1.02, 9.0], ones, unit="s", target=1.05).holds
    assert not compared("x", [0.9, 1.0, 1.01, 1.2, 1.2], ones, unit="s", target=1.05).holds
    assert not compared("x", [0.9, 0.9, 1.01, 1.2, 1.2], ones, unit="s", at="least", target=1.0).holds
    assert compared("x", [1.0], [1.0], unit="s", target=1.05).holds


@pytest.mark.alone
async def test_a_fetch_takes_the_time_that_the_apis_take() -> None:
    """A short form of the row: 2,000 keys, of which the start of the process is a part; and killed twice, no less."""
    speed, same = await fetches.measure(accounts=8, keys=2_000)
    assert speed.ratio < 2, speed.detail
    assert same.holds, same.detail
