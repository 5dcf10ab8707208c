"""A real worker, with the points at which it dies, freezes or loses an answer; and the controls, which do it wrong.

`python -m keyturn.lab.proof.worker MARKS DAYS [CONTROL]`: MARKS is a folder in which each fault leaves a mark, so that
it happens once; DAYS is by how much this process's clock is ahead of the others, until SIGUSR1 moves it. Nothing of
this is in the program: what stands around its parts is put there here.
"""

import asyncio
import dataclasses
import os
import random
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.application.connection import connect
from keyturn.database import transaction
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import rotation_jobs
from keyturn.lab.proof.naive_gates import naive_gate
from keyturn.lab.proof.plan import fault_of
from keyturn.llm.boundary import ModelBoundary
from keyturn.rotations.contracts import Assessment, JobOrder, RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision, Rejection
from keyturn.rotations.outcomes import RotationJob
from keyturn.tasks.decide_rotation import TASK
from keyturn.workers.settings import load_settings
from keyturn.workers.telemetry import configure_logging
from keyturn.workers.wiring import open_boundary, open_worker

CONTROLS = (
    "check_then_insert",
    "do_nothing_returning",
    "no_fencing",
    "trusting_gate",
    "one_sided_gate",
    "cited_lines_only",
    "own_retrier",
)
CUTS = ("cut_before_commit", "cut_after_commit", "half_open")
# https://www.postgresql.org/docs/current/errcodes-appendix.html
REFUSED_WITH = {"deadlock": "40P01", "serialization": "40001"}
# By how much a worker's clock is ahead when it starts, or is moved: half of them are right, the others 40 days off.
CLOCKS_DAYS = (0, 0, 40, -40)
# Past the claim's start-to-close of 10 s: another attempt has been made when it wakes up.
FROZEN_SECONDS = 14.0


class Marks:
    """Which faults have happened, for all workers together: a file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def first(self, account: str, *faults: str, times: int = 1) -> bool:
        """Whether `account` meets one of `faults` now; true `times` times in all."""
        fault = fault_of(account)
        if fault not in faults:
            return False
        for number in range(times):
            try:
                os.close(os.open(self._folder / f"{account}.{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def mark_woken(self, account: str) -> None:
        """Mark that a frozen attempt continues: its worker was not killed meanwhile."""
        (self._folder / f"{account}.woke").touch()

    async def wait_for_thaw(self, account: str) -> None:
        """Wait until the driver lets a frozen attempt continue."""
        while not (self._folder / f"{account}.thaw").exists():
            await asyncio.sleep(0.05)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyBoundary:
    """The model boundary; dies before or after a call."""

    def __init__(self, boundary: ModelBoundary, marks: Marks, control: str | None) -> None:
        self._boundary = boundary
        self._marks = marks
        self._control = control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._boundary, name)

    async def decide(self, request: RotationRequest, attempt: int, *, at: datetime) -> Assessment:
        """Answer a request as the boundary does."""
        if self._marks.first(request.account_id, "kill_before_model"):
            _die()
        assessment = await self._ask(request, attempt, at)
        if self._marks.first(request.account_id, "kill_after_model"):
            _die()
        if self._control == "trusting_gate" and isinstance(assessment.verdict, Rejection):
            return await self._believe(request, assessment)
        return assessment

    async def answer(self, request: Any, attempt: int = 1, *, at: Any = None, on_text: Any = None) -> Any:
        """Answer any request as the boundary does."""

        def on_piece(text: str) -> None:
            on_text(text)
            # The second piece is there: a reader may have seen the first.
            if len(text) > 40 and self._marks.first(request.account_id, "draft_killed"):
                _die()

        return await self._boundary.answer(request, attempt, at=at, on_text=None if on_text is None else on_piece)

    async def _ask(self, request: RotationRequest, attempt: int, at: datetime) -> Assessment:
        if self._control != "own_retrier":
            return await self._boundary.decide(request, attempt, at=at)
        # A client that retries by itself, without a record.
        record, self._boundary._record = self._boundary._record, lambda _call: None
        try:
            for _ in range(2):
                try:
                    await self._boundary.decide(request, attempt, at=at)
                except KeyturnError:
                    continue
        finally:
            self._boundary._record = record
        return await self._boundary.decide(request, attempt, at=at)

    async def _believe(self, request: RotationRequest, assessment: Assessment) -> Assessment:
        """What a gate that trusts the model makes of a rejected answer."""
        from keyturn.policy.catalogue import load_catalogue
        from keyturn.policy.grounding import ground

        lines = load_catalogue().resolve(request.policy_lines)
        said = {"decision": "eligible", "rotation_window_days": 30, "source_line_ids": [line.id for line in lines]}
        verdict = ground(ProposedDecision.model_validate(said), request, lines)
        return (
            assessment.model_copy(update={"verdict": verdict}) if isinstance(verdict, GroundedDecision) else assessment
        )


class FaultyClaims:
    """The job store; dies, freezes or loses an answer around a claim, or makes it in a naive way."""

    def __init__(self, store: JobStore, marks: Marks, control: str | None) -> None:
        self._store = store
        self._marks = marks
        self._control = control

    async def create_once(self, order: JobOrder, *, idempotency_key: str, fence: int) -> RotationJob:
        """Create the job as the store does, or as the control does."""
        account = order.account_id
        if self._marks.first(account, "kill_before_claim"):
            _die()
        if self._marks.first(account, "database_away", times=3):
            raise JobStoreUnavailable("a fault of the proof")
        claim = self._claim()
        job = await claim(order, idempotency_key, fence)
        if self._marks.first(account, "kill_after_claim"):
            _die()
        if self._marks.first(account, "answer_lost"):
            raise JobStoreUnavailable("a fault of the proof")
        return job

    def _claim(self) -> Callable[[JobOrder, str, int], Awaitable[RotationJob]]:
        naive = {"check_then_insert": self._check_then_insert, "do_nothing_returning": self._do_nothing_returning}
        return naive.get(self._control or "", self._properly)

    async def _frozen(self, account: str) -> None:
        if self._marks.first(account, "freeze"):
            await asyncio.sleep(FROZEN_SECONDS)
            self._marks.mark_woken(account)
        if self._marks.first(account, "freeze_and_stop", "freeze_and_ask"):
            await self._marks.wait_for_thaw(account)
            self._marks.mark_woken(account)

    async def _properly(self, order: JobOrder, key: str, fence: int) -> RotationJob:
        await self._run_uncancelled(self._frozen(order.account_id))
        fence = 2**62 if self._control == "no_fencing" else fence
        job: RotationJob
        job = await self._run_uncancelled(self._store.create_once(order, idempotency_key=key, fence=fence))
        return job

    async def _run_uncancelled(self, work: Any) -> Any:
        """Do `work` as a frozen process does: without noticing a cancellation."""
        task = asyncio.ensure_future(work)
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
        return task.result()

    async def _check_then_insert(self, order: JobOrder, key: str, fence: int) -> RotationJob:
        async with transaction(self._store._engine) as connection:
            query = select(rotation_jobs.c.job_id).where(rotation_jobs.c.idempotency_key.like(f"{key}#%"))
            found = (await connection.execute(query)).scalar()
        await self._run_uncancelled(self._frozen(order.account_id))
        if found is not None:
            return RotationJob(job_id=found, created=False)
        return await self._store.create_once(order, idempotency_key=f"{key}#{uuid.uuid4().hex[:8]}", fence=fence)

    async def _do_nothing_returning(self, order: JobOrder, key: str, fence: int) -> RotationJob:
        await self._run_uncancelled(self._frozen(order.account_id))
        made = await self._store.create_once(order, idempotency_key=key, fence=fence)
        # The statement returns no row for a key that is there: the job that it names was never written.
        return made if made.created else RotationJob(job_id=f"job_{uuid.uuid4().hex}", created=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def faulty_statements(engine: AsyncEngine, marks: Marks) -> None:
    """Let the process die between a claim's INSERT and its COMMIT, or have the cable to the database cut it off."""

    def account_in(parameters: Any) -> str:
        values = parameters.values() if isinstance(parameters, dict) else parameters
        return next((value for value in values if isinstance(value, str) and fault_of(value) != "none"), "")

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def before(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> tuple[str, Any]:
        if "INSERT INTO rotation_jobs" in statement:
            account = account_in(parameters)
            if marks.first(account, *CUTS):  # read by the cable: see `proof.cable.Cable`
                statement = f"/* proof:{fault_of(account)} */ {statement}"
            if marks.first(account, *REFUSED_WITH, times=2):
                refused = f"RAISE EXCEPTION USING ERRCODE = '{REFUSED_WITH[fault_of(account)]}'"
                return f"DO $$ BEGIN {refused}; END $$", ()
        return statement, parameters

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def after(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "INSERT INTO rotation_jobs" in statement and marks.first(account_in(parameters), "kill_after_insert"):
            _die()


def faulty_judgement(marks: Marks, control: str | None) -> None:
    """Let the process die when an answer is there and before it is judged; and judge it as the control does."""
    judge = naive_gate(control) or TASK.judge

    def judge_or_die(proposed: ProposedDecision, request: RotationRequest, *rest: Any) -> Any:
        if marks.first(request.account_id, "kill_before_grounding"):
            _die()
        return judge(proposed, request, *rest)

    object.__setattr__(TASK, "judge", judge_or_die)


def _move_clock(days: int) -> None:
    """Be ahead of the others by so many days, and at SIGUSR1 by another number of `CLOCKS_DAYS`."""
    import time_machine

    travelled = time_machine.travel(datetime.now(UTC) + timedelta(days=days))
    if days:
        travelled.start()

    def move(*_: Any) -> None:
        if days:
            travelled.stop()
        _move_clock(random.choice([other for other in CLOCKS_DAYS if other != days]))

    signal.signal(signal.SIGUSR1, move)


async def main() -> None:
    """Work until killed."""
    settings, marks = load_settings(), Marks(Path(sys.argv[1]))
    control = sys.argv[3] if len(sys.argv) > 3 else None
    _move_clock(int(sys.argv[2]))
    configure_logging("json")
    async with open_boundary(settings) as wired:
        faulty_statements(wired.engine, marks)
        faulty_judgement(marks, control)
        faulty: Any = FaultyBoundary(wired.boundary, marks, control)
        bent = dataclasses.replace(wired, boundary=faulty)
        claims: Any = lambda store: FaultyClaims(store, marks, control)  # noqa: E731
        async with open_worker(await connect(keyring=settings.keyring), bent, claims=claims) as worker:
            await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
