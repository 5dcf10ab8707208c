"""A task or a prompt that is not there."""

from keyturn.errors import KeyturnError


class UnknownTask(KeyturnError):
    """This worker has no task of this name."""

    kind = "unknown_task"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Name one of the tasks that the message lists, or deploy the worker that has it."


class TaskInvalid(KeyturnError):
    """A task's folder is not consistent; nothing was started."""

    kind = "task_invalid"
    hint = "Fix the named task; docs/how-to/add-a-task.md says what it needs."


class UnknownPromptVersion(KeyturnError):
    """No prompt file has this version."""

    kind = "unknown_prompt_version"
    parks = True
    next_step = "fail_and_fix_request"
    hint = "Deploy the worker that has this prompt version, then resume or ask again."
