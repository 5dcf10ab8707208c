"""A worker in this process, on a scripted provider or a real one, for tests that need to look inside."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from temporalio.client import Client
from temporalio.worker import Worker

from keyturn.activities.create_rotation_job import CreateRotationJob, JobClaims
from keyturn.activities.decide import Decide, WaiverOf, no_waiver
from keyturn.activities.record_event import AuditTrail, RecordEvent
from keyturn.activities.withdraw_claim import ClaimWithdrawals, WithdrawClaim
from keyturn.application.encryption import names_of
from keyturn.application.versioning import pinned_to
from keyturn.call_errors import TokenLimitReached
from keyturn.calls import CallRecord
from keyturn.jobs.store import JobStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.guard import Guard
from keyturn.llm.routing import ModelClient
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.tasks.definition import Prompt
from keyturn.workflows.identity import Names, plain, rotation_ids_of
from keyturn.workflows.rotation import RotationWorkflow
from tests.support.boundaries import guarded

ELIGIBLE = '{"decision":"eligible","rotation_window_days":30,"source_line_ids":["P-7"]}'
APPROVERS = ("omar", "priya")
Said = str | BaseException | Callable[[], BaseException]


class Script:
    """A provider that says or raises one thing after the other; the last one for ever."""

    name = "scripted"
    model = "m-1"
    passes_quota_on = False

    def __init__(self, *said: str | BaseException) -> None:
        self._said: Sequence[str | BaseException] = said
        self.calls = 0

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        said = self._said[min(self.calls, len(self._said) - 1)]
        self.calls += 1
        if isinstance(said, BaseException):
            raise said
        return Completion(said, "complete", "stop", "m-1", Usage(250, 80))


class Limit:
    """A token limit that refuses so many times."""

    def __init__(self, times: int, wait: timedelta = timedelta(minutes=40)) -> None:
        self.until = datetime.now(UTC) + wait
        self.refusals = times

    async def reserve(self, user: str, tokens: int) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise TokenLimitReached("used up", retry_at=self.until)

    async def give_back(self, receipt: object, user: str, tokens: int) -> None: ...


def with_approval(*, window_days: int = 30, approvers: Sequence[str] = APPROVERS) -> Catalogue:
    """The shipped catalogue, in which P-7 asks for an approval."""
    changed = {"approval": "required", "approvers": tuple(approvers), "window_days": window_days}
    return Catalogue(line.model_copy(update=changed) if line.id == "P-7" else line for line in load_catalogue())


class ChangedForTheJob(Catalogue):
    """The catalogue that `create_rotation_job` sees differs from the one that `decide` saw, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(load_catalogue())
        self._changes, self._resolved = times, 0

    def resolve(self, refs: Any) -> Any:
        self._resolved += 1
        lines = super().resolve(refs)
        if self._resolved % 2 or self._resolved > 2 * self._changes:
            return lines
        return tuple(line.model_copy(update={"window_days": 31}) for line in lines)


class Claims(JobClaims, ClaimWithdrawals, AuditTrail, Protocol):
    """What a job store is to the activities."""


@asynccontextmanager
async def worker_on(
    client: Client,
    task_queue: str,
    provider: ModelClient,
    claims: Claims,
    *,
    catalogue: Catalogue | None = None,
    records: list[CallRecord] | None = None,
    guard: Guard | None = None,
    build_id: str | None = None,
    waiver_of: WaiverOf = no_waiver,
) -> AsyncIterator[Worker]:
    """Run the real workflow and activities on `provider` and `claims`, sandbox on."""
    catalogue = catalogue or load_catalogue()
    kept = records if records is not None else []
    boundary = ModelBoundary({"*": [provider]}, catalogue, guard=guard or guarded(), record=kept.append)
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[RotationWorkflow],
        activities=rotation_activities(boundary, claims, catalogue, names_of(client), waiver_of),
        deployment_config=None if build_id is None else pinned_to(build_id),
    ) as worker:
        yield worker


def rotation_activities(
    boundary: ModelBoundary,
    claims: Claims,
    catalogue: Catalogue,
    names: Names = plain,
    waiver_of: WaiverOf = no_waiver,
) -> list[Callable[..., Any]]:
    """The activities of a rotation, as a worker has them."""
    state_of = claims.state_of if type(claims) is JobStore else None
    own = partial(rotation_ids_of, names=names)
    return [
        Decide(boundary, waiver_of).decide,
        CreateRotationJob(
            claims, catalogue, rotation_ids=own, state_of=state_of, waiver_of=waiver_of
        ).create_rotation_job,
        WithdrawClaim(claims, state_of=state_of).withdraw_claim,
        RecordEvent(claims).record_event,
    ]
