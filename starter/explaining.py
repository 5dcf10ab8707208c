"""`keyturn explain`: from a rotation's own history, what was asked, what came back, and why it was accepted or not.

Nothing is asked, looked up or judged again: what is told was recorded then, whatever prompts, policies and models
are today. It takes the keys that encrypted the history.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import click
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.exceptions import FailureError

from keyturn.console import printable
from keyturn.contracts import Assessment, RotationJob, RotationRequest
from starter.following import handle_of
from starter.outcomes import fate_of
from workflows.encryption import reader_of

Step = dict[str, Any]


@dataclass
class _Story:
    """What a history tells, step by step."""

    client: Client
    workflow_id: str
    steps: list[Step] = field(default_factory=list)
    scheduled: dict[int, str] = field(default_factory=dict)
    attempts: dict[int, tuple[int, Failure | None]] = field(default_factory=dict)

    async def take(self, event: HistoryEvent) -> None:
        """Add what one event tells."""
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
                await self._completed(event)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
                failed = event.activity_task_failed_event_attributes
                await self._failed(event, failed.scheduled_event_id, failed.failure)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
                timed_out = event.activity_task_timed_out_event_attributes
                await self._failed(event, timed_out.scheduled_event_id, timed_out.failure)
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

    async def _completed(self, event: HistoryEvent) -> None:
        completed = event.activity_task_completed_event_attributes
        name = self.scheduled[completed.scheduled_event_id]
        if name == "decide":
            assessment = await self._one(completed.result, Assessment, name)
            fields = assessment.model_dump(mode="json")
            self._add(event, "decided", **await self._tries(completed.scheduled_event_id), **fields)
        elif name == "create_rotation_job":
            job = await self._one(completed.result, RotationJob, name)
            self._add(event, "job", **await self._tries(completed.scheduled_event_id), **job.model_dump(mode="json"))

    async def _failed(self, event: HistoryEvent, scheduled: int, failure: Failure) -> None:
        tries, name = await self._tries(scheduled), self.scheduled[scheduled]
        self._add(event, "failed", activity=name, **tries, **await self._failure_fields(failure, name))

    async def _tries(self, scheduled: int) -> Step:
        """How many attempts a step took, and how the last but one ended: history keeps no more of them."""
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


def last_asked(steps: Sequence[Step]) -> Step | None:
    """Return the request that a rotation goes by: the first, or the last that was made of it since."""
    return next((step["request"] for step in reversed(steps) if step["step"] == "asked"), None)


@click.command()
@click.argument("workflow_id")
@click.option("--run-id", help="Run ID of the workflow.  [default: the last run]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def explain(workflow_id: str, run_id: str | None, as_json: bool) -> None:
    """Say from the record what was asked and answered, under which prompt, policy and model, and why it ended so.

    The questions and answers that it prints are what is encrypted elsewhere: mind who sees the screen.

    \b
    Example:
      keyturn explain rotate:default:acct_10234:key_01:P-7@1
    """
    from workflows.connection import connect, map_refusals

    async def run() -> tuple[str, list[Step]]:
        with map_refusals():
            return await story_of(await connect(), workflow_id, run_id)

    stored, steps = asyncio.run(run())
    if as_json:
        click.echo(json.dumps({"workflow_id": stored, "steps": steps}))
        return
    click.echo(f"workflow {stored}")
    for step in steps:
        click.echo("\n".join(map(printable, _lines(step))))


def _lines(step: Step) -> list[str]:
    fields = {"asked": _asked, "decided": _decided, "job": _job, "failed": _failed, "word": _word, "ended": _ended}
    first, *others = fields[step["step"]](step)
    return [f"\n{step['at']}  {first}", *(f"  {line}" for line in others)]


def _asked(step: Step) -> list[str]:
    request = step["request"]
    facts = {name: value for name, value in request["credential"].items() if value not in (None, False)}
    lines = ", ".join(f"{line['id']}@{line['version']}" for line in request["policy_lines"])
    return [
        f"asked by {request['user_id']} for {request['tenant_id']}, trace {request['trace_id']}",
        f"question  {request['question']}",
        f"account   {request['account_id']}",
        f"evidence  {', '.join(f'{name}={value}' for name, value in facts.items())}",
        f"under     {lines}",
    ]


def _decided(step: Step) -> list[str]:
    call, verdict, exchange = step["call"], step["verdict"], step["exchange"]
    kept = ", a cached response" if call["cache_hit"] else ""
    cost = "price unknown" if call["cost_usd"] is None else f"${call['cost_usd']}"
    lines = [f"decide: {call['provider']} {call['model']} answered{kept}", *_tries(step)]
    lines += [f"passed over  {one['provider']} {one['model']}: {one['failure']}" for one in call["passed_over"]]
    lines += [
        f"prompt    {call['prompt_version']}, catalogue {step['catalogue_version']}",
        f"took      {call['latency_ms']:.0f} ms, {call['input_tokens']} tokens in, {call['output_tokens']} out, {cost}",
        f"every call of this question: keyturn calls --trace-id {call['trace_id']}",
    ]
    if step["first_call"] is not None:
        first, before = step["first_call"], step["first_exchange"] or {"answer": ""}
        lines.append(f"before    {first['provider']} {first['model']} contradicted the evidence: {before['answer']}")
    if exchange is not None:
        for name in ("instructions", "document", "answer"):
            lines += [f"--- {name} ---", *exchange[name].splitlines()]
        lines.append("---")
    if verdict["verdict"] == "rejected":
        return [*lines, f"rejected, {verdict['reason']}: {verdict['explanation']}"]
    if verdict["verdict"] == "disagreement":
        said = [
            f"by model  {one['provider']} {one['model']}: {one['decision'] or 'no decision'} ({one['reason']})"
            for one in verdict["readings"]
        ]
        return [*lines, "disagreement: the key is due by rule, and the model says otherwise", *said,
                *_supported("by rule   ", verdict["supported"])]  # fmt: skip
    return [*lines, *_supported("accepted: ", verdict)]


def _supported(label: str, decision: Mapping[str, Any]) -> list[str]:
    bears = ", ".join(f"{line['id']}@{line['version']}" for line in decision["source_lines"]) or "no line"
    cited = ", ".join(f"{line['id']}@{line['version']}" for line in decision["cited_lines"]) or "none"
    window = f", window {decision['rotation_window_days']} days" if decision["rotation_window_days"] else ""
    return [
        f"{label}{decision['decision']} under {bears}{window}, by {decision['basis'].replace('_', ' ')}",
        f"because   {decision['explanation']}",
        f"cited     {cited}",
        *(f"quoted    {one['line_id']}: {one['wording']!r}, as {one['evidence']!r}" for one in decision["quotes"]),
        f"digest    {decision['digest']}",
    ]


def _tries(step: Step) -> Sequence[str]:
    if step["attempts"] == 1:
        return []
    before = step["attempt_before"]
    return [f"attempts  {step['attempts']}; the one before ended as {before['kind']}: {before['message']}"]


def _job(step: Step) -> list[str]:
    return [f"job {step['job_id']} {fate_of(created=step['created'], tightened=step['tightened'])}", *_tries(step)]


def _failed(step: Step) -> list[str]:
    return [f"{step['activity']} failed, {step['kind']}: {step['message']}", *_tries(step)]


def _word(step: Step) -> list[str]:
    said = step["said"] if isinstance(step["said"], dict) else {}
    shown = {name: value for name, value in said.items() if name in {"operator", "approver", "reason", "digest"}}
    return [f"{step['name']}  " + "  ".join(f"{name}={value}" for name, value in shown.items())]


def _ended(step: Step) -> list[str]:
    return ["ended: " + ", ".join(str(step[name]) for name in ("status", "reason", "explanation") if step.get(name))]
