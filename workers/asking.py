"""One question of any task, asked once and without a workflow."""

import uuid

from pydantic import ValidationError

from keyturn.contracts import ModelTask
from keyturn.errors import InvalidRequest
from keyturn.faults import faults_of
from keyturn.foreign_json import read_json
from keyturn.llm.boundary import JudgedAnswer
from keyturn.tasks.errors import UnknownTask
from keyturn.tasks.registry import load_tasks
from keyturn.workers.settings import Settings
from keyturn.workers.wiring import open_boundary


def request_of(task: str, text: str) -> ModelTask:
    """Return the request of `task` in `text`, which is JSON.

    Raises:
        UnknownTask: there is no such task; the message names those that there are.
        InvalidRequest: the text is not its request; the message names the field and repeats no value.
    """
    tasks = load_tasks()
    if task not in tasks:
        raise UnknownTask(f"there is no task {task[:48]!r}; tasks: {', '.join(sorted(tasks))}")
    try:
        fields = read_json(text)
    except ValueError:
        raise InvalidRequest("the request is not JSON") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the request is not a JSON object")
    try:
        request: ModelTask = tasks[task].request.model_validate({"trace_id": f"trace_{uuid.uuid4().hex}", **fields})
    except ValidationError as error:
        raise InvalidRequest(faults=[(field or "request", reason) for field, reason in faults_of(error)]) from None
    return request


async def ask_once(settings: Settings, request: ModelTask) -> JudgedAnswer:
    """Ask `request` with a worker's settings; raises what `ModelBoundary.answer` raises."""
    async with open_boundary(settings) as wired:
        return await wired.boundary.answer(request)
