"""A run's work begins in steps while people wait, and as fast as it can otherwise."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from keyturn.workers.people_first import (
    BETWEEN_TASKS,
    LINGERS_SECONDS,
    OF_PEOPLE,
    NotesPeople,
    Pace,
    PacedPermits,
    PeoplesWork,
    Slots,
)
from tests.support.clocks import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes by sleeping, at once."""
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr("keyturn.workers.people_first.asyncio.sleep", sleep)
    return clock


async def test_work_begins_in_steps_while_a_person_waits_and_a_moment_longer(clock: Clock) -> None:
    people = PeoplesWork(clock)
    pace = Pace(people, 0.5, clock)

    async def seconds_of(works: int) -> float:
        began = clock.now
        for _ in range(works):
            await pace.wait()
        return clock.now - began

    assert await seconds_of(100) == 0
    with people.one(), people.one():
        assert await seconds_of(10) == pytest.approx(5)
    assert people.is_under_way
    assert 0 < await seconds_of(100) <= LINGERS_SECONDS + 0.5, "whoever has asked may ask again"
    assert not people.is_under_way


async def test_permits_for_calls_are_paced_too(clock: Clock) -> None:
    class Permits:
        async def acquire(self) -> Any:
            return lambda: None

    people = PeoplesWork(clock)
    turns = PacedPermits(Permits(), Pace(people, 0.5, clock))
    with people.one():
        for _ in range(3):
            (await turns.acquire())()
    assert clock.now == pytest.approx(1_001)


async def test_a_run_has_so_many_slots_and_one_that_is_given_back_is_given_to_who_waits() -> None:
    context: Any = None
    slots = Slots(PeoplesWork(), 2)
    await slots.reserve_slot(context)
    assert slots.try_reserve_slot(context) is not None
    assert slots.try_reserve_slot(context) is None
    waiting = asyncio.create_task(slots.reserve_slot(context))
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(slots.release_slot, context)  # as the SDK does, in a thread of its own
    await asyncio.wait_for(waiting, 5)


async def test_nothing_of_a_run_follows_at_once_while_a_person_waits() -> None:
    people = PeoplesWork()
    slots, context = Slots(people, 2), None
    with people.one():
        assert slots.try_reserve_slot(context) is None  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(2):
            await slots.reserve_slot(context)  # type: ignore[arg-type]
        assert loop.time() - began >= BETWEEN_TASKS / 2


@pytest.mark.parametrize(
    ("name", "is_noted"), [("decide", True), ("create_rotation_job", True), ("deliver_job", False)]
)
async def test_what_a_person_waits_for_is_noted_and_a_delivery_is_not(name: str, is_noted: bool) -> None:
    people, noted = PeoplesWork(), []

    class Activity(ActivityInboundInterceptor):
        def __init__(self) -> None:
            pass

        async def execute_activity(self, _input: ExecuteActivityInput) -> str:
            noted.append(people.is_under_way)
            return "done"

    environment = ActivityEnvironment()
    environment.info = replace(environment.info, activity_type=name)
    given = ExecuteActivityInput(fn=lambda: None, args=(), executor=None, headers={})
    intercepted = NotesPeople(people, OF_PEOPLE).intercept_activity(Activity())
    assert await environment.run(intercepted.execute_activity, given) == "done"
    assert noted == [is_noted]
    assert people.is_under_way == is_noted, "and a moment longer"
