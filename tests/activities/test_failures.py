"""The one table from the core's errors to Temporal's."""

import importlib
import pkgutil
from collections import Counter
from datetime import timedelta

import pytest
import time_machine
from temporalio.exceptions import ApplicationErrorCategory

import keyturn
from keyturn.activities.failures import application_error
from keyturn.call_errors import TokenLimitReached
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.execution.errors import CloudUnavailable
from keyturn.llm.errors import ProviderError, RateLimited
from keyturn.rotations.outcomes import Failed
from tests.support.cases import NOW

LATER = NOW + timedelta(minutes=10)


# Modules that only run within a tool.
TOOLS = ("keyturn.migrations.", "keyturn.lab.documentation.", "keyturn.lab.evals.")


def every_error(root: type[KeyturnError] = KeyturnError) -> list[type[KeyturnError]]:
    """Every class of the program below `root`."""
    return [
        kind
        for child in root.__subclasses__()
        if child.__module__.startswith("keyturn.")
        for kind in (child, *every_error(child))
    ]


def import_all() -> None:
    for module in pkgutil.walk_packages(keyturn.__path__, "keyturn."):
        if not module.name.endswith("__main__") and not module.name.startswith(TOOLS):
            importlib.import_module(module.name)


import_all()


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_says_whether_to_retry_and_what_mends_it(kind: type[KeyturnError]) -> None:
    """Type, retryability and the outcome for a person come from the class alone."""
    error = kind("something", retry_at=LATER) if kind is TokenLimitReached else kind("something")
    with time_machine.travel(NOW, tick=False):
        failure = application_error(error, attempt=1, remaining=timedelta(seconds=60))
    assert failure.type == kind.kind
    assert failure.non_retryable is not kind.retryable
    assert (failure.next_retry_delay is not None) is kind.retryable
    assert failure.details[0] == Failed(
        kind=kind.kind,
        next_step=kind.next_step,
        hint=error.hint,
        retry_at=getattr(error, "retry_at", None),
        retry_in=600 if kind is TokenLimitReached else None,
        parks=kind.parks,
    )
    assert (failure.category is ApplicationErrorCategory.BENIGN) is kind.retryable


def test_every_kind_is_its_own() -> None:
    """Two errors of the whole program never share a name: it says whether a retry is worth it, and what to do."""
    kinds = Counter(kind.kind for kind in every_error())
    assert [kind for kind, count in kinds.items() if count > 1] == []


def test_what_may_be_tried_for_a_day_is_tried_some_hundred_times() -> None:
    """Each attempt is billed; a person who waits is asked for within half a minute."""
    error = JobStoreUnavailable("down")
    day, soon = (
        [application_error(error, attempt=50, remaining=left).next_retry_delay or timedelta(0) for _ in range(200)]
        for left in (timedelta(days=1), timedelta(minutes=9))
    )
    assert timedelta(minutes=4) < sum(day, timedelta(0)) / 200 < timedelta(minutes=6)
    assert max(soon) <= timedelta(seconds=30)


def test_an_executor_waits_as_long_as_a_cloud_asks() -> None:
    """And its own jitter on top, so that many jobs do not come back in step."""
    error = CloudUnavailable("GitHub answered 403", retry_after=timedelta(minutes=20))
    waits = [application_error(error, attempt=3, remaining=None).next_retry_delay or timedelta(0) for _ in range(50)]
    assert timedelta(minutes=20) <= min(waits) < max(waits) <= timedelta(minutes=20, seconds=4)


def test_a_cloud_that_says_nothing_is_asked_again_within_a_minute() -> None:
    """However long it is away: a key that is half rotated does not wait for minutes."""
    day = timedelta(days=1)
    error = CloudUnavailable("no answer")
    waits = [application_error(error, attempt=20, remaining=day).next_retry_delay or day for _ in range(200)]
    assert timedelta(seconds=50) < max(waits) <= timedelta(minutes=1)


def test_the_wait_of_a_provider_is_clamped_to_the_deadline() -> None:
    """Retry-After beyond what is left would end the activity instead of repeating it."""
    error: ProviderError = RateLimited("x", retry_after=timedelta(hours=1))
    failure = application_error(error, attempt=1, remaining=timedelta(seconds=20))
    assert failure.next_retry_delay == timedelta(seconds=20)
    late = application_error(error, attempt=1, remaining=timedelta(seconds=-3))
    assert late.next_retry_delay == timedelta(0)
