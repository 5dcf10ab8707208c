"""What a rotation's own history says, step by step: what was asked, answered and decided.

Nothing is asked, looked up or judged again: it was all recorded then, whatever prompts, policies and models are
today. It needs the keys that encrypted the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.exceptions import FailureError

from keyturn.application.encryption import reader_of
from keyturn.application.following import handle_of
from keyturn.rotations.contracts import Assessment, RotationRequest
from keyturn.rotations.outcomes import RotationJob

Step = dict[str, Any]


@dataclass
class _Story:
    """The steps of a history."""

    client: Client
    workflow_id: str
    steps: list[Step] = field(default_factory=list)
    scheduled: dict[int, str] = field(default_factory=dict)
    attempts: dict[int, tuple[int, Failure | None]] = field(default_factory=dict)

    async def take(self, event: HistoryEvent) -> None:
        """Add the step of one event, if it has one."""
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                request = await self._one(event.workflow_execution_started_event_attributes.input, RotationRequest)
                self._add(event, "asked", request=request.model_dump(mode="json"))
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                self.scheduled[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            case EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                started = event.activity_task_started_event_attributes
                last = started.last_failure if started.HasField("last_failure") else None
                self.attempts[started.scheduled_event_id] = (started.attempt, last)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                await self._add_completed(event)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
                failed = event.activity_task_failed_event_attributes
                await self._add_failed(event, failed.scheduled_event_id, failed.failure)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
                timed_out = event.activity_task_timed_out_event_attributes
                await self._add_failed(event, timed_out.scheduled_event_id, timed_out.failure)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                word = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
                if word.name == "restate":  # the same rotation, asked for on other evidence
                    request = await self._one(word.args, RotationRequest)
                    self._add(event, "asked", request=request.model_dump(mode="json"))
                    return
                [said] = await self._reader().decode(word.args.payloads)
                self._add(event, "word", name=word.name, said=said)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                [ended] = await self._reader().decode(
                    event.workflow_execution_completed_event_attributes.result.payloads
                )
                self._add(event, "ended", status=ended.get("status"), reason=ended.get("reason"))
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
                cause = await self._failure_fields(event.workflow_execution_failed_event_attributes.failure)
                self._add(event, "ended", status="failed", reason=cause["kind"], explanation=cause["message"])
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED | EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
                self._add(event, "ended", status="terminated or cancelled", reason=None)

    async def _add_completed(self, event: HistoryEvent) -> None:
        completed = event.activity_task_completed_event_attributes
        name = self.scheduled[completed.scheduled_event_id]
        if name == "decide":
            assessment = await self._one(completed.result, Assessment, name)
            fields = assessment.model_dump(mode="json")
            self._add(event, "decided", **await self._tries(completed.scheduled_event_id), **fields)
        elif name == "create_rotation_job":
            job = await self._one(completed.result, RotationJob, name)
            self._add(event, "job", **await self._tries(completed.scheduled_event_id), **job.model_dump(mode="json"))

    async def _add_failed(self, event: HistoryEvent, scheduled: int, failure: Failure) -> None:
        tries, name = await self._tries(scheduled), self.scheduled[scheduled]
        self._add(event, "failed", activity=name, **tries, **await self._failure_fields(failure, name))

    async def _tries(self, scheduled: int) -> Step:
        """Return how many attempts a step took, and how the last but one ended: history has no more of them."""
        attempt, last = self.attempts.get(scheduled, (1, None))
        return {
            "attempts": attempt,
            "attempt_before": None if last is None else await self._failure_fields(last, self.scheduled[scheduled]),
        }

    async def _failure_fields(self, failure: Failure, activity: str | None = None) -> Step:
        error = await self._reader(activity).decode_failure(failure)
        kind = failure.application_failure_info.type or "timeout"
        return {"kind": kind, "message": error.message if isinstance(error, FailureError) else str(error)}

    async def _one(self, payloads: Any, kind: type[Any], activity: str | None = None) -> Any:
        [value] = await self._reader(activity).decode(payloads.payloads, [kind])
        return value

    def _reader(self, activity: str | None = None) -> DataConverter:
        return reader_of(self.client, self.workflow_id, activity=activity)

    def _add(self, event: HistoryEvent, step: str, **fields: Any) -> None:
        self.steps.append(
            {"at": event.event_time.ToDatetime(UTC).isoformat(timespec="seconds"), "step": step, **fields}
        )


async def story_of(client: Client, workflow_id: str, run_id: str | None = None) -> tuple[str, list[Step]]:
    """Return a rotation's id as Temporal has it, and the steps of its history, oldest first.

    Args:
        client: with the keys that encrypted it.
        workflow_id: of the rotation, by names or as Temporal has it.
        run_id: of an earlier run; None for the last.

    Raises:
        NoSuchWorkflow: there is none.
        PayloadError: the keys here do not open it.
    """
    handle = await handle_of(client, workflow_id)
    if run_id is not None:
        handle = client.get_workflow_handle(handle.id, run_id=run_id)
    story = _Story(client, handle.id)
    async for event in handle.fetch_history_events():
        await story.take(event)
    return handle.id, story.steps


def last_request(steps: Sequence[Step]) -> Step | None:
    """Return the request that a rotation decides: the first, or the last that restated it."""
    return next((step["request"] for step in reversed(steps) if step["step"] == "asked"), None)
