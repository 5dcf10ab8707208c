"""Judging a page: ask about each open item, write each verdict as it comes, start a rotation where one is due.

A page may be judged any number of times: what has an outcome is not asked about again, and an accepted answer that was
not stored any more is in the response cache. A rotation is started only after its verdict is written, and under
its own id, so that starting it twice is starting it once.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, Protocol

from keyturn.bulk.contracts import HALTED, BulkPage, PageResult, RunResult
from keyturn.bulk.errors import MaxUsdReached, PriceUnknown
from keyturn.bulk.store import OPEN, PICO, WAITING, BulkStore, Run
from keyturn.calls import CallRecord
from keyturn.contracts import CredentialFacts, ModelTask
from keyturn.errors import KeyturnError
from keyturn.llm.budget import Budget
from keyturn.llm.errors import AuthenticationFailed, QuotaExhausted
from keyturn.payload_errors import PayloadError
from keyturn.policy.errors import PolicyError
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Disagreement, GroundedDecision, Rejection
from keyturn.tasks.summarize_scan import ScanRequest

# Twenty failures in a row are not the items' fault: the run stops before it burns through the rest.
FAILURES_IN_A_ROW = 20
# What no other item could escape stops the run at once. Another refusal may be one item's own, such as a scan that is
# too long for the model: it is that item's failure, and stops the run when it comes twenty times in a row.
_STOPS_AT_ONCE = (QuotaExhausted, AuthenticationFailed, PolicyError, PayloadError, MaxUsdReached, PriceUnknown)
# Written together: a verdict that is lost with a killed worker is found in the cache of answers.
WRITTEN_AT_ONCE = 10
LOOKED_AT_ONCE = 20
# A page that waits for a permit, perhaps for half a minute, notices this soon that another of its calls has stopped it.
LOOK_UP_SECONDS = 1.0
LOOKED_UP_AT_ONCE = 500


class JudgedAnswer(Protocol):
    """An answer that was checked, or why there is none; and what the call cost."""

    @property
    def verdict(self) -> Any: ...  # noqa: D102

    @property
    def call(self) -> CallRecord: ...  # noqa: D102

    @property
    def first(self) -> "JudgedAnswer | None": ...  # noqa: D102


class Decider(Protocol):
    """Answers a request of any task; see `keyturn.llm.boundary.ModelBoundary.answer`."""

    async def answer(  # noqa: D102
        self, request: ModelTask, attempt: int = 1, *, at: datetime | None = None
    ) -> JudgedAnswer: ...


class Permits(Protocol):
    """Limits how many calls are made at once; see `keyturn.llm.concurrency.ConcurrencyLimit`."""

    async def acquire(self) -> Callable[[], None]: ...  # noqa: D102


class Encryption(Protocol):
    """What hides a run's texts in the database."""

    def encrypt(self, run_id: str, text: str) -> str: ...  # noqa: D102
    def decrypt(self, run_id: str, encrypted: str) -> str: ...  # noqa: D102


class RotationEnd(NamedTuple):
    """What became of a rotation that a run started: an outcome of items, and why."""

    outcome: str
    reason: str | None = None
    explanation: str | None = None
    job_id: str | None = None


class Rotations(Protocol):
    """Starts rotations and looks up their status."""

    async def start(self, request: RotationRequest) -> str:
        """Start the rotation of `request`, unless it runs; returns its workflow id. Raises a KeyturnError."""
        ...

    async def look(self, workflow_id: str) -> RotationEnd | None:
        """Return how a rotation ended, one of WAITING if it waits for a person, None if it is in progress."""
        ...


class BulkJudge:
    """Judges the pages of runs.

    Args:
        store: of the runs.
        decider: whom to ask.
        rotations: where due rotations are started.
        encryption: of the run's texts.
        permits_of: from a task to the permits of the model that is asked for it.
    """

    def __init__(
        self,
        store: BulkStore,
        decider: Decider,
        rotations: Rotations,
        encryption: Encryption,
        permits_of: Callable[[str], Permits],
    ) -> None:
        self.permits_of = permits_of
        self.store = store
        self.decider = decider
        self.rotations = rotations
        self.encryption = encryption

    async def judge(
        self,
        page: BulkPage,
        *,
        attempt: int,
        last_attempt: bool,
        at: datetime | None = None,
        stop: asyncio.Event | None = None,
    ) -> PageResult:
        """Judge what is open of a page; returns what became of the page.

        Args:
            page: which items.
            attempt: counted from 1, for the records.
            last_attempt: whether items that a passing failure left open are now written down as failed.
            at: when it is decided; None for now.
            stop: once it is set, nothing more is asked; what is under way ends.

        Raises:
            KeyturnError: a passing failure left items open, and it is not the last attempt; or the database is away.
        """
        run = await self.store.run(page.run_id, tenant_id=page.tenant_id)
        budget = None
        if page.max_usd is not None:
            before = await self.store.progress(page.run_id, first=page.first, last=page.last)
            budget = Budget(page.max_usd - before.cost_usd, page.dearest_usd, may_exceed=page.may_exceed)
        judging = _Page(self, run, attempt, at, budget, stop or asyncio.Event())
        stopped = await judging.all(await self.store.open_items(page.run_id, page.first, page.last), last_attempt)
        progress = await self.store.progress(page.run_id, first=page.first, last=page.last)
        kind, hint = (None, None) if stopped is None else (stopped.kind, stopped.hint)
        if kind is None and stop is not None and stop.is_set():
            kind = HALTED
        dearest = None if budget is None else budget.dearest
        return PageResult(progress=progress, stopped=kind, hint=hint, dearest_usd=dearest)

    async def update_outcomes(self, run_id: str, *, tenant_id: str) -> RunResult:
        """Look up the status of the rotations that were started; returns how many are in progress.

        Those that waited for a person at the last look are looked up once more, when no other is left.
        """
        found = await self.store.update_job_outcomes(run_id, tenant_id=tenant_id)
        if found:
            # While jobs come, those that end without one can wait: Temporal is asked about each of them.
            progress = await self.store.progress(run_id)
            if left := progress.outcomes.get("started", 0):
                return RunResult(progress=progress, left=left)
        left = await self._record_outcomes(run_id, "started")
        for outcome in () if left else WAITING:
            await self._record_outcomes(run_id, outcome)
        return RunResult(progress=await self.store.progress(run_id), left=left)

    async def _record_outcomes(self, run_id: str, outcome: str) -> int:
        """Write down how those of an outcome ended; returns how many have not."""
        left, after = 0, 0
        while rows := await self.store.started_items(run_id, outcome, after=after, limit=LOOKED_UP_AT_ONCE):
            after = rows[-1]["ordinal"]
            turns = asyncio.Semaphore(LOOKED_AT_ONCE)

            async def look(row: Mapping[str, Any], turns: asyncio.Semaphore = turns) -> tuple[int, RotationEnd | None]:
                async with turns:
                    return row["ordinal"], await self.rotations.look(row["workflow_id"])

            looked = await asyncio.gather(*map(look, rows))
            ended = [
                {"ordinal": at, **end._asdict()} for at, end in looked if end is not None and end.outcome != outcome
            ]
            await self.store.store_verdicts(run_id, ended, over=[outcome])
            left += len(looked) - len(ended)
        return left


def request_of(run: Run, item: Mapping[str, Any], encryption: Encryption) -> ModelTask:
    """Return what is asked about an item of a run; raises PayloadError if its texts cannot be decrypted."""
    whose = {"tenant_id": run.tenant_id, "user_id": run.requested_by}
    whose |= {"account_id": item["account_id"], "trace_id": f"{run.run_id}-{item['ordinal']}"}
    if run.task == "summarize_scan":
        return ScanRequest(records=json.loads(encryption.decrypt(run.run_id, item["content"])), **whose)
    return RotationRequest(
        policy_lines=run.policy_lines,
        question="" if run.question is None else encryption.decrypt(run.run_id, run.question),
        credential=CredentialFacts.model_validate(item["facts"]),
        decide_by=run.decide_by,
        again=run.again,
        owner=item["owner"],
        policy_digest=run.policy_digest,
        **whose,
    )


class _Page:
    """One attempt at a page."""

    def __init__(
        self,
        judge: BulkJudge,
        run: Run,
        attempt: int,
        at: datetime | None,
        budget: Budget | None,
        stop: asyncio.Event,
    ) -> None:
        self._stop = stop
        self._budget = budget
        self._judge = judge
        self._run = run
        self._attempt = attempt
        self._at = at
        self._streak: list[tuple[Mapping[str, Any], KeyturnError]] = []  # failures in a row, the last ones
        self._failed: list[tuple[Mapping[str, Any], KeyturnError]] = []
        self._verdicts: list[dict[str, Any]] = []
        self._stopped: KeyturnError | None = None
        self._broken: KeyturnError | None = None  # the database is away, or Temporal
        self._writing = asyncio.Lock()

    async def all(self, items: Sequence[Mapping[str, Any]], last_attempt: bool) -> KeyturnError | None:
        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    release = await self._acquire()
                    if release is None:
                        break
                    # A task that is cancelled before it begins does not release its permit itself.
                    group.create_task(self._one(item, release)).add_done_callback(partial(_release, release))
        finally:
            await self._write()
        if self._broken is not None:
            raise self._broken
        passing = next((error for _, error in [*self._failed, *self._streak] if error.retryable), None)
        quota = isinstance(self._stopped, _STOPS_AT_ONCE)
        stays_open = quota or self._stop.is_set()  # what is judged again is not written down as failed
        if passing is not None and not last_attempt and not stays_open:
            raise passing
        if self._stopped is None:  # what failed is not the whole world's fault: it is written down as failed
            self._failed += self._streak
        failures = [_failure(item, error) for item, error in self._failed if not (stays_open and error.retryable)]
        await self._judge.store.store_verdicts(self._run.run_id, failures, over=OPEN)
        return self._stopped

    async def _acquire(self) -> Callable[[], None] | None:
        """Wait for a permit; returns what releases it, or None if nothing more is to be asked."""
        taking = asyncio.ensure_future(self._judge.permits_of(self._run.task).acquire())
        stopping = asyncio.ensure_future(self._stop.wait())
        taken = None
        try:
            while not (taking.done() or self._is_over()):
                await asyncio.wait({taking, stopping}, timeout=LOOK_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_over():
                taken = taking.result()
        finally:
            stopping.cancel()
            taking.cancel()
            if taken is None:
                taking.add_done_callback(_release_if_acquired)
        return taken

    def _is_over(self) -> bool:
        """Whether nothing more of the page is to be asked."""
        return self._stopped is not None or self._broken is not None or self._stop.is_set()

    async def _one(self, item: Mapping[str, Any], release: Callable[[], None]) -> None:
        try:
            request = request_of(self._run, item, self._judge.encryption)
            # An eligible one has its verdict: the worker was killed before it started the rotation.
            row = None if item["outcome"] == "eligible" else await self._ask(item, request)
            release()
            if row is not None:
                self._verdicts.append(row)
            if (item if row is None else row)["outcome"] == "eligible":
                await self._write()
                await self._start(item, request)
            elif len(self._verdicts) >= WRITTEN_AT_ONCE:
                await self._write()
        except KeyturnError as error:  # calls in progress are paid for, and end
            self._broken = self._broken or error

    async def _ask(self, item: Mapping[str, Any], request: ModelTask) -> dict[str, Any] | None:
        """Return the row of an item's verdict; None if there is none."""
        if self._budget is not None and not await self._budget.admit():
            self._stopped = self._stopped or MaxUsdReached("the run has cost what its limit allows")
            return None
        if self._budget is not None and self._is_over():  # while it waited for the cost of the first call
            await self._budget.close([])
            return None
        calls: list[CallRecord] = []
        try:
            judged = await self._judge.decider.answer(request, self._attempt, at=self._at)
            calls = [one.call for one in (judged, judged.first) if one is not None]
            if self._budget is not None and any(call.cost_usd is None for call in calls):
                self._stopped = self._stopped or PriceUnknown(f"the price of {judged.call.model} is unknown")
        except KeyturnError as error:
            if isinstance(error, _STOPS_AT_ONCE):  # this item stays open
                self._stopped = error
                return None
            self._streak.append((item, error))
            if len(self._streak) >= FAILURES_IN_A_ROW:
                self._stopped = self._stopped or error
            return None
        finally:
            if self._budget is not None:
                await self._budget.close(calls)
        if self._stopped is None:
            self._failed += self._streak
            self._streak = []
        return self._row(item, judged)

    async def _write(self) -> None:
        async with self._writing:  # a rotation is started only once its verdict is written, by whichever task
            verdicts, self._verdicts = self._verdicts, []
            try:
                await self._judge.store.store_verdicts(self._run.run_id, verdicts, over=OPEN)
            except BaseException:
                self._verdicts = verdicts + self._verdicts  # they are paid for: written before the page ends
                raise

    async def _start(self, item: Mapping[str, Any], request: ModelTask) -> None:
        if not isinstance(request, RotationRequest):
            raise TypeError("only a rotation can be started")
        workflow_id = await self._judge.rotations.start(request)
        begun = {"ordinal": item["ordinal"], "outcome": "started", "workflow_id": workflow_id}
        await self._judge.store.store_verdicts(self._run.run_id, [begun], over=["eligible"])

    def _row(self, item: Mapping[str, Any], judged: JudgedAnswer) -> dict[str, Any]:
        """The columns of a verdict: the same ones for each, so that many are written by one statement."""
        row, verdict = _empty(item) | _cost_of(judged), judged.verdict
        if isinstance(verdict, Rejection):
            return row | {"outcome": "rejected", "reason": verdict.reason, "explanation": verdict.explanation}
        if isinstance(verdict, Disagreement):  # the key is due: its rotation waits for a person's decision
            said = ", ".join(map(str, verdict.readings))
            row |= {
                "reason": "contradicts_evidence",
                "explanation": f"The key is due by rule; models said {said}."[:1000],
            }
            verdict = verdict.supported
        if isinstance(verdict, GroundedDecision):
            lines = [str(line) for line in verdict.source_lines]
            row |= {"outcome": verdict.decision, "policy_lines": lines, "window_days": verdict.rotation_window_days}
            if verdict.decision == "not_specified":
                row |= {"explanation": verdict.explanation}
            row |= {"decided_by": "rule" if verdict.basis == "rule" else "model"}
            return row | {"rotate_by": verdict.rotate_by}
        encrypted = self._judge.encryption.encrypt(self._run.run_id, verdict.model_dump_json())
        return row | {"outcome": "attention" if verdict.needs_attention else "summarized", "content": encrypted}


def _release_if_acquired(taking: "asyncio.Future[Callable[[], None]]") -> None:
    if not taking.cancelled():
        taking.result()()


def _release(release: Callable[[], None], _task: asyncio.Task[None]) -> None:
    release()


def _failure(item: Mapping[str, Any], error: KeyturnError) -> dict[str, Any]:
    return _empty(item) | {"outcome": "failed", "reason": error.kind, "explanation": str(error)[:1000]}


def _cost_of(judged: JudgedAnswer) -> dict[str, Any]:
    """The model that answered last, and what all answers cost; none, if the price of one is unknown."""
    costs = [one.call.cost_usd for one in (judged, judged.first) if one is not None]
    known = [cost for cost in costs if cost is not None]
    spent = int(sum(known, Decimal(0)) * PICO) if len(known) == len(costs) else None
    return {"model": judged.call.model, "cost_picodollars": spent}


def _empty(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ordinal": item["ordinal"],
        "decided_by": "model",
        "outcome": None,
        "reason": None,
        "explanation": None,
        "policy_lines": None,
        "window_days": None,
        "rotate_by": None,
        "content": item["content"],
        "model": None,
        "cost_picodollars": None,
        "judged_at": datetime.now(UTC),
    }
