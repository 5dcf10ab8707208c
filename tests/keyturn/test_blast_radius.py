"""How many rotations may be started: a canary first, and never more at once than the limits say."""

from datetime import UTC, datetime, timedelta
from typing import Any

from keyturn.execution.limits import Admission, BlastRadius, Group
from keyturn.jobs.in_flight import JobRow

NOW = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
WIDE = {
    "most": 1_000,
    "most_percent": 100,
    "most_per_owner": 1_000,
    "most_per_target": 1_000,
    "canaries": 0,
    "stop_after_failures": 0,
}


def job(number: int, *, owner: str = "payments", state: str = "open", urgent: bool = False) -> JobRow:
    closed = NOW - timedelta(hours=1) if state in {"done", "failed"} else None
    return JobRow(f"job_{number}", owner, f"AKIA{number}", state, closed, urgent)


def admission(
    jobs: list[JobRow], *, blocked: tuple[str, ...] = (), waived: dict[str, str] | None = None, **limits: Any
) -> Admission:
    return Admission(
        BlastRadius(**WIDE | limits),
        jobs,
        lambda row: Group(row.account_id, ("vault",)),
        blocked=blocked,
        now=NOW,
        waived=waived,
    )


def admitted(jobs: list[JobRow], **more: Any) -> int:
    looked = admission(jobs, **more)
    return sum(looked.refuse(one.job_id) is None for one in jobs if one.state == "open")


def test_each_limit_holds_jobs_back() -> None:
    jobs = [job(number) for number in range(40)]
    assert admitted(jobs) == 40
    assert admitted(jobs, most=7) == 7
    assert admitted(jobs, most_per_owner=8) == 8
    assert admitted(jobs, most_per_target=9) == 9
    assert admitted(jobs, most_percent=10) == 4
    assert admitted(jobs[:3], most_percent=10) == 1, "of few, one may always be rotated"


def test_a_waived_job_is_left_alone_and_takes_no_place() -> None:
    jobs = [job(0), job(1)]
    looked = admission(jobs, most=1, waived={"job_0": "waiver_1 of omar exempts the key"})
    assert looked.refuse("job_0") == "waiver_1 of omar exempts the key"
    assert looked.refuse("job_1") is None


def test_what_is_in_flight_counts() -> None:
    jobs = [job(0, state="claimed"), job(1, state="rotating"), job(2, state="grace"), job(3, state="done"), job(4)]
    assert admitted(jobs, most=3) == 0
    assert admitted(jobs, most=4) == 1


def test_a_canary_of_each_owner_goes_first() -> None:
    jobs = [job(number, owner=owner) for number, owner in enumerate(["pay", "pay", "pay", "ship", "ship"])]
    assert admitted(jobs, canaries=1) == 2
    assert admitted([*jobs, job(9, owner="pay", state="verifying")], canaries=1) == 1
    assert admitted([*jobs, job(9, owner="pay", state="grace")], canaries=1) == 4
    assert admitted([*jobs, job(9, owner="pay", state="done")], canaries=1) == 4
    assert admitted([*jobs, job(9, owner="pay", state="failed")], canaries=1) == 2, "a failure shows nothing"


def test_failures_and_blocks_stop_new_rotations() -> None:
    jobs = [job(0, state="failed"), job(1, state="failed"), job(2)]
    assert admitted(jobs, stop_after_failures=3) == 1
    assert admitted(jobs, stop_after_failures=3, blocked=("job_9",)) == 0
    assert admitted(jobs, stop_after_failures=2) == 0
    old = job(0, state="failed")._replace(closed_at=NOW - timedelta(days=2))
    assert admitted([old, jobs[1], jobs[2]], stop_after_failures=2) == 1


def test_a_canary_whose_old_key_was_used_after_its_deactivation_shows_nothing() -> None:
    jobs = [job(0, state="grace"), job(1), job(2)]
    assert admitted(jobs, canaries=1) == 2
    assert admitted(jobs, canaries=1, blocked=("job_0",)) == 0


def test_a_compromised_key_is_delayed_by_no_limit() -> None:
    others = [job(0, state="failed"), job(1, state="verifying")]
    urgent = job(2, urgent=True)
    assert admitted([*others, urgent], canaries=1, most_per_owner=1, stop_after_failures=1) == 1
    assert admitted([*others, urgent], most=1) == 1


def test_the_reason_names_the_limit() -> None:
    running = job(0, state="verifying")
    assert admission([running, job(1)], canaries=1).refuse("job_1") == (
        "the first rotation of payments has not shown yet that its consumers moved"
    )
    assert admission([running, job(1)], most=1).refuse("job_1") == "1 rotations of the account are in flight"
    assert admission([], most=1).refuse("job_1") == "it was created since the others were counted"
