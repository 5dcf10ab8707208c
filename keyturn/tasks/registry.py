"""All tasks: every folder of this package that defines a TASK."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

import keyturn.tasks
from keyturn.tasks.definition import Task
from keyturn.tasks.errors import TaskInvalid


@cache
def load_tasks() -> Mapping[str, Task[Any, Any, Any]]:
    """Return every task by its name; raises TaskInvalid if a folder's definition contradicts itself."""
    found: dict[str, Task[Any, Any, Any]] = {}
    for module in pkgutil.iter_modules(keyturn.tasks.__path__):
        if not module.ispkg:
            continue
        task = getattr(importlib.import_module(f"keyturn.tasks.{module.name}"), "TASK", None)
        if not isinstance(task, Task):
            raise TaskInvalid(f"keyturn/tasks/{module.name} defines no TASK")
        found[module.name] = _sound(task, module.name)
    return found


def _sound(task: Task[Any, Any, Any], folder: str) -> Task[Any, Any, Any]:
    asked = task.request.model_fields["task"].default
    if not task.name == folder == asked:
        raise TaskInvalid(f"keyturn/tasks/{folder}: the task is called {task.name!r} and its request says {asked!r}")
    if task.default_prompt_version not in task.prompts:
        raise TaskInvalid(f"keyturn/tasks/{folder}: there is no prompt file {task.default_prompt_version}.md")
    if (task.schema is None) != (task.proposal is None):
        raise TaskInvalid(f"keyturn/tasks/{folder}: schema and proposal go together; plain text has neither")
    return task
