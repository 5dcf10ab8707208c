"""What rotations need of a Temporal namespace: its search attributes, and workers that poll."""

from collections.abc import Iterable
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from keyturn.workflows.visibility import SEARCH_ATTRIBUTES


async def missing_search_attributes(client: Client) -> list[SearchAttributeKey[Any]]:
    """Return those that the client's namespace does not have."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return [key for key in SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]


async def add_search_attributes(client: Client, keys: Iterable[SearchAttributeKey[Any]] = SEARCH_ATTRIBUTES) -> None:
    """Add search attributes to the namespace of `client`. Temporal Cloud has its own tools for that."""
    wanted = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in keys}
    if wanted:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
        )


async def pollers(client: Client, task_queue: str) -> list[str]:
    """Return the identities of the workers that have polled a task queue in the last minutes."""
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    return [one.identity for one in described.pollers]
