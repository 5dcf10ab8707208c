"""Labelled cases from histories: the question, its evidence and what was answered, for what a person then said."""

from collections.abc import AsyncIterator, Sequence

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from keyturn.application.following import NoSuchWorkflow
from keyturn.application.stories import Step, story_of
from keyturn.labels.contracts import LabelledCase, LabelSource, PersonsAnswer
from keyturn.rotations.contracts import Assessment
from keyturn.rotations.decisions import Disagreement, GroundedDecision

# Runs of one rotation that are looked through for a job's: it was asked again since the job was created.
_MOST_RUNS = 20
_UPDATES = {"approved": "approve", "denied": "deny"}


async def case_of(client: Client, answer: PersonsAnswer) -> LabelledCase | None:
    """Return the case of a person's answer; None if its history, or the decision in it, is gone.

    Raises:
        PayloadError: the keys here do not open the history.
        RPCError: Temporal did not answer.
    """
    async for run_id in _runs(client, answer):
        steps = await _steps(client, answer.workflow_id, run_id)
        case = _case_in(steps, answer)
        if case is not None:
            return case
    return None


async def _runs(client: Client, answer: PersonsAnswer) -> AsyncIterator[str | None]:
    """Yield the runs in which an answer may be: the one that its event names, or those of a job's rotation."""
    if answer.job_id is None:
        yield answer.event_id.partition(":")[0]
        return
    yield None  # the last one, before visibility is asked, which may lag behind
    named = answer.workflow_id.replace("\\", "\\\\").replace("'", "\\'")
    async for row in client.list_workflows(f"WorkflowId = '{named}'", limit=_MOST_RUNS):
        yield row.run_id


async def _steps(client: Client, workflow_id: str, run_id: str | None) -> Sequence[Step]:
    try:
        return (await story_of(client, workflow_id, run_id))[1]
    except NoSuchWorkflow:
        return []
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return []
        raise


def _case_in(steps: Sequence[Step], answer: PersonsAnswer) -> LabelledCase | None:
    """Return the case, if the answer and what it is about are among the steps: the last decision before it."""
    request: Step | None = None
    decided: Step | None = None
    for step in steps:
        if step["step"] == "asked":
            request = step["request"]
        elif step["step"] == "decided":
            decided = step
        elif decided is not None and _is_answer(step, decided, answer):
            return _case(request, decided, answer)
    return None


def _is_answer(step: Step, decided: Step, answer: PersonsAnswer) -> bool:
    """Return True for the person's Update about the decision, or the job that was rolled back.

    The Update is encrypted, and the row of the audit trail is not: who can only write to the database gives no label.
    """
    if answer.job_id is not None:
        return bool(step["step"] == "job" and step["job_id"] == answer.job_id)
    said = step.get("said")
    if step["step"] != "word" or step["name"] != _UPDATES.get(answer.kind) or not isinstance(said, dict):
        return False
    agrees = (said.get("digest"), said.get("approver")) == (answer.digest, answer.by)
    return agrees and said.get("reason") == answer.reason and _digest_of(decided) == answer.digest


def _digest_of(step: Step) -> str | None:
    verdict = step["verdict"]
    digest: str | None = verdict.get("digest") or verdict.get("supported", {}).get("digest")
    return digest


def _case(request: Step | None, step: Step, answer: PersonsAnswer) -> LabelledCase | None:
    assessment = Assessment.model_validate({name: step[name] for name in Assessment.model_fields})
    verdict = assessment.verdict
    if request is None or not isinstance(verdict, GroundedDecision | Disagreement):
        return None
    return LabelledCase.model_validate(
        {
            "tenant_id": answer.tenant_id,
            "workflow_id": answer.workflow_id,
            "event_id": answer.event_id,
            "label": answer.label,
            "source": _source_of(answer, verdict),
            "labelled_by": answer.by,
            "labelled_at": answer.at,
            "reason": answer.reason,
            "request": request,
            "verdict": verdict,
            "model": f"{assessment.call.provider}:{assessment.call.model}",
            "answer": "" if assessment.exchange is None else assessment.exchange.answer,
        }
    )


def _source_of(answer: PersonsAnswer, verdict: GroundedDecision | Disagreement) -> LabelSource:
    if answer.kind == "rolled_back":
        return "roll_back"
    if isinstance(verdict, Disagreement):
        return "disagreement"
    return "approval" if answer.kind == "approved" else "denial"
