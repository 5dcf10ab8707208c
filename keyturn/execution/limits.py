"""How many rotations may run at once, so that a mistake in one reaches few consumers. Pure."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from keyturn.contracts import Contract
from keyturn.jobs.in_flight import JobRow

# What an operator who looks once a day has not looked at yet.
FAILURES_COUNT_FOR = timedelta(days=1)


class BlastRadius(Contract):
    """The limits of an executor in one cloud account.

    Attributes:
        most: rotations of the account at once.
        most_percent: of an owner's jobs at once, in per cent of those that are open; at least one.
        most_per_owner: rotations of an owner at once.
        most_per_target: rotations at once that store in one target, such as `vault`.
        canaries: how many rotations of an owner must have deactivated their old key before another one is started.
        stop_after_failures: failures and blocks within a day after which none is started.
    """

    most: int
    most_percent: int
    most_per_owner: int
    most_per_target: int
    canaries: int
    stop_after_failures: int


class Group(NamedTuple):
    """What a job belongs to: its owner, or the cloud account where no owner is known, and its targets."""

    owner: str
    targets: tuple[str, ...]


# Since its old key was deactivated, a rotation has shown that its consumers moved.
_PROVEN = {"grace", "done"}
_STARTED = {"claimed", "rotating", "verifying", "grace"}


class Admission:
    """Which free jobs may be started now.

    Args:
        limits: the limits.
        jobs: the account's jobs that are open, and those that were closed lately.
        group_of: what a job belongs to.
        waived: why jobs are left alone whose keys are exempt, by job ID.
        blocked: the jobs whose rotations are blocked now, such as one whose old key was used after its deactivation.
        now: the present moment.
    """

    def __init__(
        self,
        limits: BlastRadius,
        jobs: Iterable[JobRow],
        group_of: Callable[[JobRow], Group],
        *,
        blocked: Collection[str],
        now: datetime,
        waived: Mapping[str, str] | None = None,
    ) -> None:
        self._waived = waived or {}
        self._limits = limits
        self._group_of = group_of
        self._in_flight = 0
        self._failures = len(blocked)
        self._open: Counter[str] = Counter()
        self._of_owner: Counter[str] = Counter()
        self._proven: Counter[str] = Counter()
        self._of_target: Counter[str] = Counter()
        self._jobs = {job.job_id: job for job in jobs}
        for job in self._jobs.values():
            group = group_of(job)
            self._proven[group.owner] += job.state in _PROVEN and job.job_id not in blocked
            if job.state == "failed" and job.closed_at is not None and job.closed_at > now - FAILURES_COUNT_FOR:
                self._failures += 1
            if job.closed_at is None:
                self._open[group.owner] += 1
            if job.state in _STARTED:
                self._add(group)

    def refuse(self, job_id: str) -> str | None:
        """Return why a job may not be started now; None if it may, and then it counts as started."""
        job = self._jobs.get(job_id)
        if job is None:
            return "it was created since the others were counted"
        if job_id in self._waived:
            return self._waived[job_id]
        reason = self._reason(self._group_of(job), is_urgent=job.is_urgent)
        if reason is None:
            self._add(self._group_of(job))
        return reason

    def _reason(self, group: Group, *, is_urgent: bool) -> str | None:  # noqa: PLR0911 - a limit each
        limits = self._limits
        if is_urgent:  # what is compromised harms more each hour than what a rotation may break
            return None
        if self._in_flight >= limits.most:
            return f"{self._in_flight} rotations of the account are in flight"
        if limits.stop_after_failures and self._failures >= limits.stop_after_failures:
            return f"{self._failures} rotations failed or are blocked: resume, roll back or fix them first"
        running = self._of_owner[group.owner]
        share = max(1, self._open[group.owner] * limits.most_percent // 100)
        if running >= min(limits.most_per_owner, share):
            return f"{running} rotations of {group.owner} are in flight"
        if limits.canaries and self._proven[group.owner] < limits.canaries <= running:
            return f"the first rotation of {group.owner} has not shown yet that its consumers moved"
        for target in group.targets:
            if self._of_target[target] >= limits.most_per_target:
                return f"{self._of_target[target]} rotations that store in {target} are in flight"
        return None

    def _add(self, group: Group) -> None:
        self._in_flight += 1
        self._of_owner[group.owner] += 1
        self._of_target.update(group.targets)


# Makes what says which free jobs may be started now.
Admit = Callable[[], Awaitable[Admission]]


def target_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the targets that paths name, each once."""
    return tuple(sorted({path.partition(":")[0] for path in paths}))
