"""Contracts refuse at the edge what would hurt further in."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter, ValidationError

from keyturn.contracts import CredentialFacts
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.outcomes import Failed, RotationOutcome, TimedOut
from tests.support.cases import NOW, facts, request


@pytest.mark.parametrize(
    "account",
    [
        "",
        " ",
        "a b",
        "a\nb",
        "../etc",
        "a;DROP TABLE x",
        'a"b',
        "{a}",
        "\u0430cct",
        "a" * 257,
        "\x00",
        "<script>",
        "-x",
        7,
        None,
    ],
)
def test_a_hostile_account_id_is_refused(account: Any) -> None:
    """An id is one printable word: it stands in workflow ids, prompts and pages."""
    with pytest.raises(ValidationError):
        RotationRequest.model_validate({**request().model_dump(), "account_id": account})


@pytest.mark.parametrize(
    "account", ["acct_10234", "arn:aws:iam::123456789012:user/ci", "svc@p.iam.gserviceaccount.com"]
)
def test_real_account_ids_are_accepted(account: str) -> None:
    """The ids that the big providers use fit."""
    assert request(account_id=account).account_id == account


@pytest.mark.parametrize(
    "changed",
    [
        {"question": ""},
        {"question": "x" * 4_001},
        {"policy_lines": ()},
        {"policy_lines": [{"id": "P-7", "version": 1}] * 2},
        {"policy_lines": [{"id": f"P-{n}", "version": 1} for n in range(9)]},
        {"policy_lines": [{"id": "P-7", "version": 0}]},
        {"timeout_seconds": 0},
        {"timeout_seconds": 121},
        {"timeout_seconds": float("nan")},
        {"max_retries": -1},
        {"max_retries": 11},
        {"task": "draft_reply"},
        {"grant": "admin"},
    ],
)
def test_everything_in_a_request_is_bounded(changed: dict[str, Any]) -> None:
    """No field is unlimited, and an unknown field is an error."""
    with pytest.raises(ValidationError):
        RotationRequest.model_validate({**request().model_dump(), **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"last_rotated_at": NOW},  # with age_days
        {"age_days": None, "last_rotated_at": NOW + timedelta(seconds=1)},
        {"last_used_at": NOW + timedelta(seconds=1)},
        {"last_used_at": NOW, "never_used": True},
        {"observed_at": datetime(2026, 11, 21)},  # noqa: DTZ001
        {"age_days": -1},
    ],
)
def test_facts_that_contradict_each_other_are_refused(changed: dict[str, Any]) -> None:
    """Evidence that cannot be true is not judged."""
    with pytest.raises(ValidationError):
        facts(**changed)


def test_contracts_are_immutable() -> None:
    """What was judged is what is acted upon."""
    asked = request()
    with pytest.raises(ValidationError):
        asked.account_id = "acct_2"  # type: ignore[misc]


def test_age_comes_from_days_or_from_timestamps() -> None:
    """Both ways of stating an age mean the same."""
    by_time = CredentialFacts(key_id="k", observed_at=NOW, last_rotated_at=NOW - timedelta(days=12))
    assert by_time.age == facts(age_days=12).age == timedelta(days=12)
    assert facts(age_days=None).age is None


def test_outcomes_are_told_apart_by_their_status() -> None:
    """An outcome read back from history is of the type that it was written as."""
    adapter: TypeAdapter[RotationOutcome] = TypeAdapter(RotationOutcome)
    for outcome in (TimedOut(), Failed(kind="quota_exhausted", next_step="fail_and_fix_quota", hint="Pay.")):
        assert adapter.validate_json(adapter.dump_json(outcome)) == outcome
    with pytest.raises(ValidationError):
        adapter.validate_python({"status": "done"})


@pytest.mark.parametrize("zero", ["1970-01-01T00:00:00Z", "1970-01-01T02:00:00Z", "1970-01-01T00:00:01Z"])
def test_the_zero_of_a_clock_is_no_date_in_any_time_zone(zero: str) -> None:
    with pytest.raises(ValidationError, match="the zero of computers' clocks"):
        facts(age_days=None, last_rotated_at=zero)


def test_an_age_does_not_change_with_the_clocks() -> None:
    """Python subtracts moments of one zone by its clock: 90 days in spring would be an hour more."""
    zone = ZoneInfo("Europe/Berlin")
    seen = datetime(2026, 4, 10, 9, 0, tzinfo=zone)
    key = facts(age_days=None, observed_at=seen, last_rotated_at=datetime(2026, 1, 10, 8, 30, tzinfo=zone))
    assert key.age == timedelta(days=89, hours=23, minutes=30)
    assert CredentialFacts.model_validate_json(key.model_dump_json()).age == key.age
