"""`RotateKeyWorkflow`: executes one rotation job at a cloud, one step after the other, for as long as that takes.

What fails for good waits for an operator, or for the fault to be fixed, and is retried by itself: no step that was
started is left half done in silence. The old key goes only when nothing needs it any more, whatever the job's date. An
operator may roll back until the old key is deleted. No secret is ever here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypedDict, TypeVar

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from keyturn.activities.rotate_key import NOT_YET, RotateKey
    from keyturn.backoff import BASE
    from keyturn.execution.contracts import (
        EXECUTION,
        ROLLED_BACK,
        KeyRotationOrder,
        KeyRotationOutcome,
        KeyRotationStatus,
        KeyState,
        Need,
    )
    from keyturn.execution.plans import USED_IN_GRACE, hint_for, late_until
    from keyturn.jobs.contracts import ClaimedJob
    from keyturn.moments import in_utc
    from keyturn.payload_errors import PayloadMoved
    from keyturn.rotations.contracts import Abandonment, Resumption
    from keyturn.rotations.outcomes import Failed
    from keyturn.workflows.visibility import PARKED
    from keyturn.workflows.waiting import expect_own, refusal

T = TypeVar("T")
# A step is up to eight calls of a cloud, 15 s each at the longest, and some short transactions; one that creates a key
# waits until its cloud knows that, at Google for up to eight minutes. A worker that dies is noticed by its heartbeat.
STEP_START_TO_CLOSE = timedelta(minutes=12)
# A killed worker is noticed after four missed beats.
STEP_HEARTBEAT = timedelta(seconds=20)
# After so long without success a step counts as blocked: a person can see it, and it is tried seldom.
STEP_WITHIN = timedelta(minutes=30)
STEP_CEILING = timedelta(minutes=1)
# A blocked step is retried by itself after an hour, then two, and so on up to a day: it resumes once the fault is
# fixed, without an operator's signal, and a month costs some 50 attempts.
BLOCKED_AT_FIRST, BLOCKED_AT_LAST = timedelta(hours=1), timedelta(days=1)
# A wait for consumers has no end of its own: so long is one activity of it, which keeps each within a few events a day.
WATCH_FOR = timedelta(days=1)

# Another holder closed the job or executes it.
_NOT_OURS = {"job_held", "job_closed", "unknown_job", "another_account"}
# At any step: where there is no user, there are no keys, neither the old one nor the new.
_GONE = "user_gone"
# Before anything was changed, these fail the job: it cannot be executed as it stands.
_CANNOT_START = {"account_mismatch", "key_not_found", "key_limit"}
# A rotation that waits with this has cut a consumer off for a moment: it counts as a failure, other waits do not.
USED_AGAIN = "old_key_used_again"
# What an operator may end a wait for, who knows more than the provider does. A key that is in use is none of it.
_MAY_BE_ADVANCED = {"new_key_not_seen", "key_use_unknown", "consumers_not_moved"}


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
    """Return the ID of the workflow that executes a job."""
    return EXECUTION + job_id


def watch_options(left: timedelta) -> StepOptions:
    """Return the options of a wait that has `left` until its end: its attempts say themselves when the next one is."""
    return step_options() | {"schedule_to_close_timeout": max(left, timedelta(0)) + WATCH_FOR}


class _RollBack(Exception):
    """A person asked for it."""


class _Superseded(Exception):
    """Another holder has the job, or it is closed."""


class _Advanced(Exception):
    """An operator ended the wait."""


class _UsedAgain(Exception):
    """The old key was used just before it would have been deleted."""


class _CannotStart(Exception):
    """The job cannot be executed: nothing was changed, or nothing is left that was."""


class _Gone(_CannotStart):
    """What was to be rotated does not exist any more."""


@workflow.defn(failure_exception_types=[ValidationError, PayloadMoved])
class RotateKeyWorkflow:
    """Rotate the key of one job. It completes with how that ended; what blocks it is in `status`."""

    def __init__(self) -> None:
        self._resumed = 0
        self._rollback: Abandonment | None = None
        self._advance: Abandonment | None = None
        self._need: Need | None = None
        self._last_step = False
        self._state: KeyState | None = None
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
        self._claim = await self._step("claim_job", lambda: _do(RotateKey.claim_job, self._order))
        self._state = await self._step("record_keys", self._record)
        new = await self._step("create_key", lambda: _do(RotateKey.create_key, self._current_keys()))
        self._update(new_key_id=new)
        verified = await self._step("verify_key", lambda: _do(RotateKey.verify_key, self._current_keys()))
        self._update(verified_at=verified)
        end = workflow.now() + self._current_keys().waits.overlap
        while True:
            if self._current_keys().deactivated_at is None:  # by an earlier run of the job
                await self._await_consumers(end)
                try:
                    since = await self._step(
                        "deactivate_key", lambda: _do(RotateKey.deactivate_key, self._current_keys())
                    )
                except _UsedAgain:
                    end = workflow.now()
                    # The new key was tried once more before that was found: a use of now is our own.
                    self._update(verified_at=end)
                    continue
                # It was verified once more: only a later use of the new key is a consumer's.
                self._update(deactivated_at=since, verified_at=since)
            if await self._is_unused():
                break
            self._update(deactivated_at=None)
            end = workflow.now()
        await self._step("close_job", lambda: _do(RotateKey.close_job, self._current_keys()))
        return self._outcome("done")

    async def _record(self) -> KeyState:
        state: KeyState = await _do(RotateKey.record_keys, self._order, self._current_claim())
        return state

    async def _report(self, need: Need) -> None:
        await self._step("report_blocked", lambda: _do(RotateKey.report_blocked, self._current_keys(), need))

    async def _await_consumers(self, end: datetime) -> None:
        """Wait until `end` at least, and until nothing needs the old key any more, or an operator says so."""
        self._need = None
        self._advance = None
        while True:
            left = (end if self._need is None else workflow.now()) - workflow.now()
            try:
                need = await self._step(
                    "overlap",
                    partial(self._watch, RotateKey.await_consumers, end, self._need, left=left),
                    until=end if self._need is None else None,
                    need=self._need,
                )
            except _Advanced:
                break
            if need is None:
                break
            if self._need is None or need.kind != self._need.kind:
                await self._report(need)
            self._need = need
            workflow.upsert_search_attributes([PARKED.value_set(need.kind)])
        if self._need is not None:
            workflow.upsert_search_attributes([PARKED.value_unset()])
        self._need = None
        await self._record_advance()

    async def _is_unused(self) -> bool:
        """Wait for the grace to end, and delete the old key; False if it was used and works again."""
        end = workflow.now() + self._current_keys().waits.grace
        need = None
        with suppress(_Advanced):
            need = await self._step(
                "grace", lambda: self._watch(RotateKey.await_grace, end, left=end - workflow.now()), until=end
            )
        await self._record_advance()
        while need is None:
            self._last_step = True
            try:
                await self._step("delete_key", lambda: _do(RotateKey.delete_key, self._current_keys()))
                return True
            except _UsedAgain:
                self._last_step = False
                check = partial(_do, RotateKey.await_grace, self._current_keys(), workflow.now())
                need = await self._step("grace", check)
        await self._report(need)
        # A consumer came back after the key was quiet: only an operator knows whether that has ended.
        kind, hint = (USED_AGAIN, USED_IN_GRACE) if need.kind == "old_key_in_use" else (need.kind, hint_for(need))
        await self._wait_while_blocked("grace", kind, hint, None, need=need)
        return False

    async def _record_advance(self) -> None:
        """Write down that an operator has ended the wait, if one has."""
        if (advance := self._advance) is not None:
            self._update(was_advanced=True)
            await self._step("record_advance", lambda: _do(RotateKey.record_advance, self._current_keys(), advance))
            self._advance = None

    async def _watch(self, wait: Any, *arguments: Any, left: timedelta) -> Any:
        """Return what a waiting activity returns; an operator's instruction ends it."""
        while True:
            handed = [self._current_keys(), *arguments]
            handle = workflow.start_activity_method(wait, args=handed, **watch_options(left))
            await workflow.wait_condition(partial(self._may_stop_waiting, handle, self._resumed))
            if handle.done():
                return await handle
            handle.cancel()
            with suppress(ActivityError, asyncio.CancelledError):
                await handle
            self._stop_if_asked()
            if self._advance is not None:
                raise _Advanced

    def _may_stop_waiting(self, handle: "asyncio.Task[Any]", resumed: int) -> bool:
        instructed = self._rollback is not None or self._advance is not None
        return handle.done() or instructed or self._resumed > resumed

    async def _execute_rollback(self) -> KeyRotationOutcome:
        asked = self._rollback
        if asked is None:
            raise ValueError("no operator asked to roll back")
        reason = f"{ROLLED_BACK}{asked.operator}: {asked.reason}"[:500]
        self._rollback = None  # it is in progress: from here on, only what blocks it can wait
        self._last_step = True
        # A new claim, so that a step that was frozen and wakes up changes nothing any more.
        await self._step("claim_job", self._reclaim)
        try:
            if self._state is None:  # an earlier run of this job may have created a key
                self._state = await self._step("record_keys", lambda: _do(RotateKey.record_keys, self._current_claim()))
            await self._step("roll_back_key", lambda: _do(RotateKey.roll_back_key, self._current_keys(), reason))
        except _Gone as gone:
            return await self._refuse(str(gone))
        except _CannotStart:
            await self._step("refuse_job", lambda: _do(RotateKey.refuse_job, self._current_claim(), reason))
        return self._outcome("rolled_back", reason)

    async def _refuse(self, why: str) -> KeyRotationOutcome:
        self._rollback = None  # there is nothing to go back from
        self._last_step = True
        await self._step("refuse_job", lambda: _do(RotateKey.refuse_job, self._current_claim(), why))
        return self._outcome("failed", why)

    async def _step(  # noqa: PLR0912 - one table of what each failure leads to
        self,
        name: str,
        work: Callable[[], Awaitable[T]],
        *,
        until: datetime | None = None,
        need: Need | None = None,
    ) -> T:
        """Return what a step returns, however long it is blocked."""
        wait = BLOCKED_AT_FIRST
        while True:
            self._stop_if_asked()
            if need is None:
                self._at(name, until=until)
            else:
                self._at(name, blocked=need.kind, blocked_by=need.by, hint=hint_for(need))
            try:
                return await work()
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise  # nothing is undone: the next executor that claims the job resumes here
                cause = error.cause
                kind = (cause.type if isinstance(cause, ApplicationError) else None) or "no_answer"
                if kind == NOT_YET:
                    continue  # its activity ended before the wait
                if kind in _NOT_OURS:
                    raise _Superseded(kind) from None
                if kind == "stale_claim":
                    await self._step("claim_job", self._reclaim)
                    continue
                if name == "record_keys" and kind in _CANNOT_START:
                    raise _CannotStart(_message_of(cause)) from None
                if kind == _GONE and name not in {"claim_job", "refuse_job"}:
                    raise _Gone(f"{kind}: {_message_of(cause)}{self._keys_in_words()}"[:500]) from None
                if kind == "frozen" and self._state is not None:
                    await self._await_thaw(name, _message_of(cause))
                    continue
                if name in {"deactivate_key", "delete_key"} and kind == "old_key_in_use":
                    raise _UsedAgain from None
                if name == "roll_back_key" and kind == "rollback_impossible":
                    raise _Superseded(kind) from None
                await self._wait_while_blocked(name, kind, _hint_of(cause), wait, because=_message_of(cause))
                wait = min(wait * 2, BLOCKED_AT_LAST)

    def _keys_in_words(self) -> str:
        """What may still work, should the user only have been renamed, or be restored."""
        if self._state is None or self._state.new_key_id is None:
            return ""
        return f"; renamed or restored, it has two keys: {self._state.old_key_id} and {self._state.new_key_id}"

    async def _wait_while_blocked(
        self,
        name: str,
        kind: str,
        hint: str | None,
        wait: timedelta | None,
        *,
        need: Need | None = None,
        because: str | None = None,
    ) -> None:
        """Wait for a person, or until it is time to try again; None: for a person alone."""
        resumed = self._resumed
        end = None if wait is None else workflow.now() + wait
        by = () if need is None else need.by
        self._at(name, until=end, blocked=kind, because=because, hint=hint, blocked_by=by)
        workflow.upsert_search_attributes([PARKED.value_set(kind)])
        while end is None or workflow.now() < end:
            left = WATCH_FOR if end is None else end - workflow.now()
            if await self._is_answered(kind, left, resumed):
                break
        workflow.upsert_search_attributes([PARKED.value_unset()])

    async def _await_thaw(self, name: str, why: str) -> None:
        """Wait until changes are allowed again; a freeze never delays a rollback."""
        self._at(name, blocked="frozen", hint=why)
        workflow.upsert_search_attributes([PARKED.value_set("frozen")])
        try:
            while True:
                with suppress(_Advanced):
                    await self._watch(RotateKey.await_thaw, left=timedelta(0))
                    return
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise  # what else failed is found by the step itself, which is tried again
        finally:
            workflow.upsert_search_attributes([PARKED.value_unset()])

    async def _is_answered(self, kind: str, span: timedelta, resumed: int) -> bool:
        """Wait for `span` while the claim is held, or for an operator; returns whether one has answered.

        A key may be half changed: no other executor may start on it. What blocks may be the database itself.
        """

        def is_answered() -> bool:
            return self._resumed > resumed or self._rollback is not None

        end = workflow.now() + span
        if self._state is not None:
            handle = workflow.start_activity_method(
                RotateKey.hold_claim, args=[self._state, end], **watch_options(span)
            )
            await workflow.wait_condition(lambda: handle.done() or is_answered())
            if not handle.done():
                handle.cancel()
            with suppress(ActivityError, asyncio.CancelledError):
                await handle
        if not is_answered() and (left := end - workflow.now()) > timedelta(0):
            with suppress(TimeoutError):
                await workflow.wait_condition(is_answered, timeout=left, timeout_summary=f"blocked: {kind}")
        return is_answered()

    async def _reclaim(self) -> None:
        self._claim = await _do(RotateKey.claim_job, self._order)
        if self._state is not None:
            self._state = self._state.model_copy(update={"token": self._claim.token})

    def _stop_if_asked(self) -> None:
        if self._rollback is not None:
            raise _RollBack

    def _update(self, **changes: Any) -> None:
        self._state = self._current_keys().model_copy(update=changes)

    def _current_claim(self) -> ClaimedJob:
        if self._claim is None:
            raise ValueError("the job is not claimed")
        return self._claim

    def _current_keys(self) -> KeyState:
        if self._state is None:
            raise ValueError("the keys are not recorded")
        return self._state

    def _at(self, step: str, **more: Any) -> None:
        since = workflow.now()
        late = (
            None
            if self._state is None
            else late_until(self._state.waits, rotate_by=self._state.rotate_by, now=self._state.recorded_at)
        )
        self._status = KeyRotationStatus(step=step, since=since, late_until=late, **self._keys(), **more)
        until = f" until {in_utc(self._status.until)}" if self._status.until else ""
        workflow.set_current_details(step + until + (f", blocked: {more['blocked']}" if more.get("blocked") else ""))

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
    def advance(self, instruction: Abandonment) -> None:
        """End the wait that runs: an operator knows that nothing needs the old key, or that it is compromised."""
        self._advance = instruction

    @advance.validator
    def _may_advance(self, instruction: Abandonment) -> None:
        expect_own(instruction)
        at = self._status.step
        if at not in {"overlap", "grace"} or self._state is None:
            raise refusal("not_waiting", f"the rotation does not wait: its step is {at}")
        if self._advance is not None:
            raise refusal("not_waiting", "the wait was ended already")
        if self._status.blocked == USED_AGAIN:
            raise refusal(USED_AGAIN, "the old key was used and works again: resume, or roll back")
        if self._status.blocked == "old_key_in_use" and not self._state.is_compromised:
            raise refusal("old_key_in_use", "the old key is in use: move its users first, or roll back")
        if not self._state.is_compromised and self._status.blocked not in _MAY_BE_ADVANCED:
            raise refusal("wait_protects", "only the waits of a compromised key may be cut short")

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
