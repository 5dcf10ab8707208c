"""`RotateAccessKeyWorkflow`: executes one rotation job at AWS, one step after the other, for as long as that takes.

What fails for good waits for an operator, or for the fault to be fixed, and is retried by itself: no step that was
started is left half done in silence. An operator may roll back until the old key is deleted. No secret is ever here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.rotate_access_key import RotateAccessKey
    from keyturn.backoff import BASE
    from keyturn.execution.contracts import AccessKeyState, KeyRotationOrder, KeyRotationOutcome, KeyRotationStatus
    from keyturn.jobs.contracts import ClaimedJob
    from keyturn.moments import in_utc
    from keyturn.payload_errors import PayloadMoved
    from keyturn.rotations.contracts import Abandonment, Resumption
    from keyturn.rotations.outcomes import Failed
    from keyturn.workflows.visibility import PARKED
    from keyturn.workflows.waiting import expect_own, refusal

T = TypeVar("T")
# A step is up to eight calls of AWS, 15 s each at the longest, and some short transactions.
STEP_START_TO_CLOSE = timedelta(minutes=3)
# A killed worker is noticed after four missed beats.
STEP_HEARTBEAT = timedelta(seconds=20)
# After so long without success a step counts as blocked: a person can see it, and it is tried seldom.
STEP_WITHIN = timedelta(minutes=30)
STEP_CEILING = timedelta(minutes=1)
# A blocked step is retried by itself after an hour, then two, and so on up to a day: it resumes once the fault in AWS
# is fixed, without an operator's signal, and a month costs some 50 attempts.
BLOCKED_AT_FIRST, BLOCKED_AT_LAST = timedelta(hours=1), timedelta(days=1)
# Half of the longest lease: one renewal may fail.
PROLONG_EVERY = timedelta(hours=12)
# The old key is gone this long before the job's date, so that a step that is blocked for a while is not late at once.
MARGIN = timedelta(hours=6)
# Even a job that is past its date leaves time to read the new secret, and to notice what the old key's end breaks.
LEAST_WAIT = timedelta(hours=1)

# Another holder closed the job or executes it.
_NOT_OURS = {"job_held", "job_closed", "unknown_job", "another_account"}
# Before anything was changed, these fail the job: it cannot be executed as it stands.
# At any step: where there is no user, there are no keys, neither the old one nor the new.
_GONE = "user_gone"
_CANNOT_START = {"account_mismatch", "key_not_found", "key_limit"}


class StepOptions(TypedDict):
    """Keyword arguments of `workflow.execute_activity_method` for a step."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


def step_options() -> StepOptions:
    """Return the options of every step."""
    return {
        "start_to_close_timeout": STEP_START_TO_CLOSE,
        "schedule_to_close_timeout": STEP_WITHIN,
        "heartbeat_timeout": STEP_HEARTBEAT,
        # A failure that the step reports brings its own jittered delay; this is for a killed worker.
        "retry_policy": RetryPolicy(initial_interval=BASE, backoff_coefficient=2.0, maximum_interval=STEP_CEILING),
    }


def execution_id(job_id: str) -> str:
    """Return the id of the workflow that carries a job out."""
    return f"execute:{job_id}"


def waits(order: KeyRotationOrder, *, now: datetime, rotate_by: datetime | None) -> tuple[timedelta, timedelta]:
    """Return how long both keys work, and how long the old one is inactive before it is deleted.

    As ordered, or in proportion less where that would end after the job's date; but never less than an hour each,
    unless less was ordered: what is late already is not made worse by haste.
    """
    whole = order.overlap + order.grace
    share = 1.0 if rotate_by is None or not whole else min(max((rotate_by - MARGIN - now) / whole, 0.0), 1.0)

    def shrink(wait: timedelta) -> timedelta:
        return max(wait * share, min(wait, LEAST_WAIT))

    return shrink(order.overlap), shrink(order.grace)


class _RollBack(Exception):
    """A person asked for it."""


class _Superseded(Exception):
    """Another holder has the job, or it is closed."""


class _CannotStart(Exception):
    """The job cannot be executed: nothing was changed, or nothing is left that was."""


class _Gone(_CannotStart):
    """What was to be rotated does not exist any more."""


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class RotateAccessKeyWorkflow:
    """Rotate the access key of one job. It completes with how that ended; what blocks it is in `status`."""

    def __init__(self) -> None:
        self._resumed = 0
        self._rollback: Abandonment | None = None
        self._last_step = False
        self._state: AccessKeyState | None = None
        self._claim: ClaimedJob | None = None
        self._status = KeyRotationStatus(step="claim_job", since=workflow.now())

    @workflow.run
    async def run(self, order: KeyRotationOrder) -> KeyRotationOutcome:
        """Carry the job out."""
        if not isinstance(order, KeyRotationOrder):
            raise ApplicationError("the workflow's input is not an order", type="invalid_request")
        self._order = order
        try:
            outcome = await self._to_an_end()
        except _Superseded as superseded:  # on the way back, too
            outcome = self._outcome("superseded", str(superseded))
        except (Exception, asyncio.CancelledError):  # and not where a worker that stops drops the workflow
            self._at("ended")
            raise
        self._at("ended")
        return outcome

    async def _to_an_end(self) -> KeyRotationOutcome:
        try:
            return await self._execute()
        except _RollBack:
            return await self._execute_rollback()
        except _CannotStart as refused:
            return await self._refuse(str(refused))

    async def _execute(self) -> KeyRotationOutcome:
        self._claim = await self._step("claim_job", lambda: _do(RotateAccessKey.claim_job, self._order))
        self._state = await self._step("record_keys", lambda: _do(RotateAccessKey.record_keys, self._current_claim()))
        new = await self._step("create_key", lambda: _do(RotateAccessKey.create_key, self._current_keys()))
        self._state = self._current_keys().model_copy(update={"new_key_id": new})
        await self._step("verify_key", lambda: _do(RotateAccessKey.verify_key, self._current_keys()))
        overlap, grace = waits(self._order, now=workflow.now(), rotate_by=self._current_claim().rotate_by)
        await self._wait("overlap", overlap)
        since = await self._step("deactivate_key", lambda: _do(RotateAccessKey.deactivate_key, self._current_keys()))
        self._state = self._current_keys().model_copy(update={"deactivated_at": since})
        await self._wait("grace", grace)
        self._last_step = True
        await self._step("delete_key", lambda: _do(RotateAccessKey.delete_key, self._current_keys()))
        await self._step("close_job", lambda: _do(RotateAccessKey.close_job, self._current_keys()))
        return self._outcome("done")

    async def _execute_rollback(self) -> KeyRotationOutcome:
        asked = self._rollback
        if asked is None:
            raise ValueError("no operator asked to roll back")
        reason = f"rolled back by {asked.operator}: {asked.reason}"[:500]
        self._rollback = None  # it is in progress: from here on, only what blocks it can wait
        self._last_step = True
        # A new claim, so that a step that was frozen and wakes up changes nothing any more.
        await self._step("claim_job", self._reclaim)
        try:
            if self._state is None:  # an earlier run of this job may have created a key
                self._state = await self._step(
                    "record_keys", lambda: _do(RotateAccessKey.record_keys, self._current_claim())
                )
            await self._step("roll_back_key", lambda: _do(RotateAccessKey.roll_back_key, self._current_keys(), reason))
        except _Gone as gone:
            return await self._refuse(str(gone))
        except _CannotStart:
            await self._step("refuse_job", lambda: _do(RotateAccessKey.refuse_job, self._current_claim(), reason))
        return self._outcome("rolled_back", reason)

    async def _refuse(self, why: str) -> KeyRotationOutcome:
        self._rollback = None  # there is nothing to go back from
        self._last_step = True
        await self._step("refuse_job", lambda: _do(RotateAccessKey.refuse_job, self._current_claim(), why))
        return self._outcome("failed", why)

    async def _step(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return what a step returns, however long it is blocked."""
        wait = BLOCKED_AT_FIRST
        while True:
            self._stop_if_asked()
            self._at(name)
            try:
                return await work()
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise  # nothing is undone: the next executor that claims the job resumes here
                cause = error.cause
                kind = (cause.type if isinstance(cause, ApplicationError) else None) or "no_answer"
                if kind in _NOT_OURS:
                    raise _Superseded(kind) from None
                if kind == "stale_claim":
                    await self._step("claim_job", self._reclaim)
                    continue
                if name == "record_keys" and kind in _CANNOT_START:
                    raise _CannotStart(_message_of(cause)) from None
                if kind == _GONE and name not in {"claim_job", "refuse_job"}:
                    raise _Gone(f"{kind}: {_message_of(cause)}"[:500]) from None
                if name == "roll_back_key" and kind == "rollback_impossible":
                    raise _Superseded(kind) from None
                await self._wait_while_blocked(name, kind, _hint_of(cause), wait)
                wait = min(wait * 2, BLOCKED_AT_LAST)

    async def _wait_while_blocked(self, name: str, kind: str, hint: str | None, wait: timedelta) -> None:
        """Wait for a person, or until it is time to try again."""
        resumed, end = self._resumed, workflow.now() + wait
        self._at(name, until=end, blocked=kind, hint=hint)
        workflow.upsert_search_attributes([PARKED.value_set(kind)])
        while (left := end - workflow.now()) > timedelta(0):
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._resumed > resumed or self._rollback is not None,
                    timeout=min(left, PROLONG_EVERY),
                    timeout_summary=f"blocked: {kind}",
                )
                break
            if self._state is not None and end > workflow.now():  # a key may be half changed: no other may start on it
                await self._prolong_claim()
        workflow.upsert_search_attributes([PARKED.value_unset()])

    async def _prolong_claim(self) -> None:
        """Prolong the claim while a step is blocked, if that can be done: what blocks it may be the database."""
        try:
            await _do(RotateAccessKey.prolong_claim, self._current_keys())
        except ActivityError as error:  # the step reports it, when it is retried
            if is_cancelled_exception(error):
                raise

    async def _wait(self, name: str, span: timedelta) -> None:
        """Wait for `span`, keeping the claim; a rollback ends it."""
        end = workflow.now() + span
        while (left := end - workflow.now()) > timedelta(0):
            self._at(name, until=end)
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._rollback is not None, timeout=min(left, PROLONG_EVERY), timeout_summary=name
                )
            self._stop_if_asked()
            if end > workflow.now():
                await self._step("prolong_claim", lambda: _do(RotateAccessKey.prolong_claim, self._current_keys()))

    async def _reclaim(self) -> None:
        self._claim = await _do(RotateAccessKey.claim_job, self._order)
        if self._state is not None:
            self._state = self._state.model_copy(update={"token": self._claim.token})

    def _stop_if_asked(self) -> None:
        if self._rollback is not None:
            raise _RollBack

    def _current_claim(self) -> ClaimedJob:
        if self._claim is None:
            raise ValueError("the job is not claimed")
        return self._claim

    def _current_keys(self) -> AccessKeyState:
        if self._state is None:
            raise ValueError("the keys are not recorded")
        return self._state

    def _at(self, step: str, **more: Any) -> None:
        self._status = KeyRotationStatus(step=step, since=workflow.now(), **self._keys(), **more)
        until = f" until {in_utc(self._status.until)}" if self._status.until else ""
        workflow.set_current_details(step + until + (f", blocked: {more['blocked']}" if "blocked" in more else ""))

    def _outcome(self, status: Any, reason: str | None = None) -> KeyRotationOutcome:
        return KeyRotationOutcome(status=status, job_id=self._order.job_id, reason=reason, **self._keys())

    def _keys(self) -> dict[str, Any]:
        return {} if self._state is None else self._state.model_dump(include={"user", "old_key_id", "new_key_id"})

    # -- queries, updates and signals -------------------------------------------------------------------------------

    @workflow.query
    def status(self) -> KeyRotationStatus:
        """What the rotation is at, and what blocks it."""
        return self._status

    @workflow.update
    def resume(self, resumption: Resumption) -> None:
        """Try a blocked step again now."""
        self._resumed += 1

    @resume.validator
    def _may_resume(self, resumption: Resumption) -> None:
        expect_own(resumption)
        if self._status.blocked is None:
            raise refusal("not_waiting", f"the rotation is not blocked: its step is {self._status.step}")

    @workflow.update
    def roll_back(self, instruction: Abandonment) -> None:
        """Go back to the old key as soon as the step that runs has ended."""
        self._rollback = instruction

    @roll_back.validator
    def _may_roll_back(self, instruction: Abandonment) -> None:
        expect_own(instruction)
        if self._rollback is not None:
            raise refusal("not_waiting", "the rollback was requested already")
        # Blocked, the old key is still there; otherwise its deletion is in progress, or the rollback itself.
        if self._last_step and not (self._status.step == "delete_key" and self._status.blocked):
            raise refusal("rollback_impossible", f"it is too late to roll back: the step is {self._status.step}")


def _do(step: Any, *arguments: Any) -> Any:
    return workflow.execute_activity_method(step, args=list(arguments), **step_options())


def _message_of(cause: BaseException | None) -> str:
    return (cause.message if isinstance(cause, ApplicationError) else "it failed")[:500]


def _hint_of(cause: BaseException | None) -> str | None:
    if isinstance(cause, ApplicationError) and cause.details:
        return Failed.model_validate(cause.details[0]).hint
    return None
