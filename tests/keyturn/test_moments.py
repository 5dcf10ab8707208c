"""One form of a moment, wherever a person reads one."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from keyturn.moments import in_utc

EARLY = datetime(2026, 11, 27, 0, 30, 5, 999_999, timezone(timedelta(hours=2)))


@pytest.mark.parametrize("moment", [EARLY, EARLY.astimezone(UTC), EARLY.isoformat(), "2026-11-26T22:30:05Z"])
def test_a_moment_is_written_in_utc_to_the_second_wherever_it_comes_from(moment: datetime | str) -> None:
    assert in_utc(moment) == "2026-11-26 22:30:05Z"
