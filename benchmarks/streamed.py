"""The other way of telling a draft while it is written, for the benchmark: Temporal's own workflow streams."""

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.contrib.workflow_streams import WorkflowStream, WorkflowStreamClient

with workflow.unsafe.imports_passed_through():
    from benchmarks.typing_pace import pieces

BATCH = timedelta(milliseconds=50)  # as long as our own writer waits


@activity.defn
async def publish_pieces() -> str:
    """Publish each piece with the moment at which it came."""
    text = ""
    async with WorkflowStreamClient.from_within_activity(batch_interval=BATCH) as stream:
        topic = stream.topic("text", type=str)
        async for piece in pieces():
            topic.publish(piece, force_flush=not text)
            text += piece
    return text


@workflow.defn
class StreamedDraft:
    """A draft whose pieces are kept in its own history."""

    @workflow.init
    def __init__(self) -> None:
        """Open the stream."""
        self.stream = WorkflowStream()

    @workflow.run
    async def run(self) -> str:
        """Return the text."""
        return await workflow.execute_activity(publish_pieces, start_to_close_timeout=timedelta(seconds=60))
