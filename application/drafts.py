"""Drafts from the outside: start one, and stop it."""

import uuid

from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from keyturn.drafts.contracts import DraftResult
from keyturn.tasks.draft_reply import DraftRequest
from keyturn.workflows.draft import DraftWorkflow
from keyturn.workflows.visibility import TENANT

Handle = WorkflowHandle[DraftWorkflow, DraftResult]


def new_draft_id(tenant_id: str) -> str:
    """Return an id for a new draft's workflow."""
    return f"draft:{tenant_id}:{uuid.uuid4().hex}"


async def start_draft(client: Client, draft_id: str, request: DraftRequest, *, task_queue: str) -> Handle:
    """Start writing a draft, or attach to the one of this id that is being written.

    Raises:
        WorkflowAlreadyStartedError: the one of this id has ended; it is not written twice.
    """
    return await client.start_workflow(
        DraftWorkflow.run,
        request,
        id=draft_id,
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        search_attributes=TypedSearchAttributes([SearchAttributePair(TENANT, request.tenant_id)]),
        static_summary="draft of a reply",
    )


async def stop_draft(client: Client, draft_id: str) -> None:
    """Cancel a draft, its activity and its provider's connection; nothing happens to one that has ended."""
    await client.get_workflow_handle_for(DraftWorkflow.run, draft_id).cancel()
