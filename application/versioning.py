"""Worker versions: a rotation stays with the build that started it, however long it waits for a person.

`PINNED`: a new build never replays what an older one started, so it may be changed freely.
docs/how-to/run-in-production.md says how builds are promoted, drained and rolled back.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.enums.v1 import VersionDrainageStatus
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import WorkerDeploymentConfig

# Set by Temporal's Worker Controller on Kubernetes, which names deployment and builds itself
# (https://github.com/temporalio/temporal-worker-controller).
DEPLOYMENT_VARIABLE, BUILD_VARIABLE = "TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID"
# A worker that has just started polls its task queues one after the other, and the server knows of each a moment later.
QUEUES_KNOWN_WITHIN = 15.0


@dataclass(frozen=True)
class Build:
    """One build of the deployment: whether new rotations start on it, and whether old ones still run there.

    `share` is the percentage of the new rotations that start on it while it is tried beside the current build.
    """

    build_id: str
    current: bool
    drainage: str
    created_at: datetime
    share: float | None = None


def deployment_name() -> str:
    """Return the name of the deployment that the builds are of: `keyturn`, or the controller's."""
    return os.environ.get(DEPLOYMENT_VARIABLE) or "keyturn"


def pinned_to(build_id: str) -> WorkerDeploymentConfig:
    """Return the configuration that makes a worker one of `build_id`, whose rotations stay with it."""
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=deployment_name(), build_id=build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


# A worker whose rotations any other worker may continue. Named, because the SDK would read the code of every imported
# module to make a name of its own: a tenth of a worker's start.
UNPINNED = WorkerDeploymentConfig(
    version=WorkerDeploymentVersion(deployment_name="keyturn", build_id="unpinned"), use_worker_versioning=False
)


async def builds(client: Client) -> list[Build]:
    """Return the builds that the namespace knows, the newest first; empty if no worker has a build id."""
    request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=deployment_name())
    try:
        described = await client.workflow_service.describe_worker_deployment(request)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and "namespace" not in error.message.lower():
            return []
        raise
    info = described.worker_deployment_info
    routing = info.routing_config
    current, tried = routing.current_deployment_version.build_id, routing.ramping_deployment_version.build_id
    found = [
        Build(
            summary.deployment_version.build_id,
            summary.deployment_version.build_id == current,
            VersionDrainageStatus.Name(summary.drainage_info.status).removeprefix("VERSION_DRAINAGE_STATUS_").lower(),
            summary.create_time.ToDatetime(UTC),
            routing.ramping_version_percentage if tried == summary.deployment_version.build_id else None,
        )
        for summary in info.version_summaries
    ]
    return sorted(found, key=lambda build: build.created_at, reverse=True)


async def promote(client: Client, build_id: str) -> None:
    """Let new rotations start on `build_id`, all of them; those that run stay where they are.

    Raises:
        RPCError: the server does not know the build, or its workers do not poll all the task queues of the current one.
    """
    wanted = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=deployment_name(), build_id=build_id, identity=client.identity
    )
    await _once_polled(lambda: client.workflow_service.set_worker_deployment_current_version(wanted))
    # The server ends a ramp only if it was this build's: a broken one would keep its share after a rollback.
    if any(build.share is not None for build in await builds(client) if build.build_id != build_id):
        await ramp(client, build_id, 0)


async def ramp(client: Client, build_id: str, percentage: float) -> None:
    """Let `percentage` of the new rotations start on `build_id`, and the others on the current build.

    0 ends it, whichever build has a share: all start on the current build again. `promote` ends it, too.

    Raises:
        RPCError: see `promote`.
    """
    wanted = SetWorkerDeploymentRampingVersionRequest(
        namespace=client.namespace,
        deployment_name=deployment_name(),
        build_id=build_id if percentage else "",
        percentage=percentage,
        identity=client.identity,
    )
    await _once_polled(lambda: client.workflow_service.set_worker_deployment_ramping_version(wanted))


async def _once_polled(change: Callable[[], Awaitable[object]]) -> None:
    until = time.monotonic() + QUEUES_KNOWN_WITHIN
    while True:
        try:
            await change()
            return
        except RPCError as error:
            if "missing active task queues" not in error.message or time.monotonic() > until:
                raise
        await asyncio.sleep(0.2)
