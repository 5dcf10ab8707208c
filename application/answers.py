"""A person's response to a workflow, sent as an update: accepted, or refused by name."""

import asyncio
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from keyturn.contracts import Contract
from keyturn.errors import KeyturnError
from keyturn.execution.contracts import EXECUTION
from keyturn.rotations.contracts import Instruction

InstructionT = TypeVar("InstructionT", bound=Instruction)
# A worker accepts an update in milliseconds; one that starts a replay of a long history needs a second.
UPDATE_TIMEOUT = timedelta(seconds=10)


class AnswerRefused(KeyturnError):
    """The workflow refuses this decision or command; nothing changed."""

    kind = "answer_refused"
    next_step = "fail_and_fix_request"
    hint = "See what it waits for now: `keyturn status ID`."


class NoWorkerAnswers(KeyturnError):
    """No worker confirmed the Update in time: one that starts later may still accept it."""

    kind = "no_worker_answers"
    next_step = "retry_with_backoff"
    hint = "Whether it was accepted is not known: see `keyturn status ID`. If it was not, start `keyturn worker`."


class NoExecutorAnswers(NoWorkerAnswers):
    """No executor confirmed the Update in time: one that starts later may still accept it."""

    kind = "no_executor_answers"
    hint = (
        "Whether it was accepted is not known: see `keyturn jobs show JOB_ID`. If it was not, start the `keyturn "
        "executor` of its cloud account."
    )


async def answer(handle: WorkflowHandle[Any, Any], update: str, argument: Contract) -> None:
    """Send a person's answer to a workflow.

    Args:
        handle: of the workflow.
        update: the name of one of its updates.
        argument: the update's argument.

    Raises:
        AnswerRefused: its validator refused it, by the name in the message; or the rotation has ended.
        NoWorkerAnswers: no worker answered within ten seconds whether it was accepted; of an execution, no executor.
    """
    is_execution = handle.id.startswith(EXECUTION)
    silence, who = (NoExecutorAnswers, "executor") if is_execution else (NoWorkerAnswers, "worker")
    try:
        async with asyncio.timeout(UPDATE_TIMEOUT.total_seconds()):
            if isinstance(argument, Instruction):
                argument = await address_instruction(handle, argument)
            await handle.execute_update(update, argument, rpc_timeout=UPDATE_TIMEOUT)
    except WorkflowUpdateFailedError as failed:
        cause = failed.cause
        kind = cause.type if isinstance(cause, ApplicationError) and cause.type else "unforeseen"
        raise AnswerRefused(f"{update} refused, {kind}: {_message_of(cause)}") from None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise silence(f"no {who} answered the {update} within {UPDATE_TIMEOUT.total_seconds():g} s") from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise AnswerRefused(f"{update} refused, ended: it is closed already") from None
        if error.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
            raise silence(f"no {who} answered the {update} in time") from None
        raise


async def address_instruction(handle: WorkflowHandle[Any, Any], instruction: InstructionT) -> InstructionT:
    """Return the instruction with the workflow that it is for, and no later one of that id; raises RPCError."""
    info = (await handle.describe(rpc_timeout=UPDATE_TIMEOUT)).raw_description.workflow_execution_info
    return instruction.model_copy(update={"workflow_id": handle.id, "first_run_id": info.first_run_id})


def _message_of(cause: BaseException) -> str:
    """What a refusal says, without its name in front."""
    return cause.message if isinstance(cause, ApplicationError) else str(cause)
