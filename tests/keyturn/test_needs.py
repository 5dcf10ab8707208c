"""What an old key is still needed for, by what is known of its use."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn.execution.contracts import KeyState, KeyUse, KeyWaits
from keyturn.execution.waits import need_of

NOW = datetime.now(UTC)
NEVER, UNKNOWN = KeyUse(), KeyUse(is_known=False)
NOT_SEEN = KeyUse(is_whole=False)  # Google's Policy Analyzer sees Cloud APIs alone


def used(days_ago: float) -> KeyUse:
    return KeyUse(last_used_at=NOW - timedelta(days=days_ago), by=("pay-api",))


def state(**changed: Any) -> KeyState:
    given: dict[str, Any] = {
        "job_id": "job_1", "tenant_id": "default", "token": 1, "cloud_account": "1", "user": "svc", "old_key_id": "old",
        "keys_before": ("old",), "targets": ("vault:a/b",), "waits": KeyWaits(), "recorded_at": NOW - timedelta(days=1),
        "old_created_at": NOW - timedelta(days=400), "new_key_id": "new", "verified_at": NOW - timedelta(hours=23),
    }  # fmt: skip
    return KeyState(**given | changed)


@pytest.mark.parametrize(
    ("old", "new", "changed", "need"),
    [
        (used(0.1), used(0), {}, "old_key_in_use"),
        (used(3), NEVER, {}, "new_key_not_seen"),
        (used(3), used(0), {}, None),
        (used(100), NEVER, {}, None),
        (NEVER, NEVER, {}, None),
        (NEVER, NEVER, {"old_created_at": NOW - timedelta(days=10)}, "new_key_not_seen"),
        (NEVER, used(0), {"old_created_at": NOW - timedelta(days=10)}, None),
        (NEVER, NEVER, {"old_created_at": None}, "new_key_not_seen"),
        (UNKNOWN, NEVER, {}, "key_use_unknown"),
        (UNKNOWN, NEVER, {"consumers": ("pay-api",)}, None),
        (NOT_SEEN, NOT_SEEN, {}, "new_key_not_seen"),
        (used(100).model_copy(update={"is_whole": False}), NEVER, {}, "new_key_not_seen"),
        (NOT_SEEN, used(0), {}, None),
        (NOT_SEEN, NOT_SEEN, {"consumers": ("pay-api",)}, None),
        # PostgreSQL, of a session that was seen and is not open any more.
        (used(0.1).model_copy(update={"is_known": False}), NEVER, {"consumers": ("pay-api",)}, "old_key_in_use"),
        (used(3).model_copy(update={"is_known": False}), used(0), {}, "key_use_unknown"),
        (NEVER, NEVER, {"old_created_at": NOW - timedelta(days=10), "consumers": ("pay-api",)}, None),
    ],
)
def test_the_old_key_goes_only_if_nothing_that_is_known_speaks_against_it(
    old: KeyUse, new: KeyUse, changed: dict[str, Any], need: str | None
) -> None:
    """A key that was never used says nothing while it is young: what was to use it may be installed next week."""
    found = need_of(state(**changed), old=old, new=new, missing=(), own_use_within=timedelta(minutes=5), now=NOW)
    assert (None if found is None else found.kind) == need


def test_a_use_counts_before_a_consumer_that_has_not_reported() -> None:
    """Who has not reported may be ended by an operator, and a use may not."""
    rotation = state(consumers=("monthly",))
    found = need_of(rotation, old=used(0), new=NEVER, missing=["monthly"], own_use_within=timedelta(0), now=NOW)
    assert found is not None
    assert (found.kind, found.by) == ("old_key_in_use", ("pay-api",))
