"""The yardstick: a workflow of two activities that do nothing, with options as ours."""

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def first() -> str:
    return "done"


@activity.defn
async def second() -> str:
    return "done"


@workflow.defn
class BareWorkflow:
    @workflow.run
    async def run(self) -> str:
        await workflow.execute_activity(first, start_to_close_timeout=timedelta(seconds=25))
        return await workflow.execute_activity(second, start_to_close_timeout=timedelta(seconds=10))


@workflow.defn
class BareDelivery:
    """One activity that does nothing."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(first, start_to_close_timeout=timedelta(seconds=10))
