"""Messages of notices: sent by the channels of their destinations, each by a workflow of its own."""

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from keyturn.jobs.errors import EarlierDelivery
from keyturn.notices.contracts import NoticeDelivery
from keyturn.notices.errors import RoutesInvalid
from keyturn.notices.store import NoticeStore
from keyturn.workers.notices import Notifications
from keyturn.workflows.delivery import NoticeWorkflow, notice_delivery_id


class SentNotices:
    """Sends messages of notices by the channels of their destinations."""

    def __init__(self, store: NoticeStore, notifications: Notifications) -> None:
        self._store = store
        self._notifications = notifications

    async def deliver(self, message_id: str) -> str:
        """Send a message, after earlier ones about the same key; returns the answer, `known` if it was sent."""
        message = await self._store.message(message_id)
        if message.is_sent:
            return "known"
        if message.waits_for is not None:
            raise EarlierDelivery(f"the message {message.waits_for} must be delivered first")
        name, _, address = message.destination.partition(":")
        notifier = self._notifications.notifiers.get(name)
        if notifier is None:
            raise RoutesInvalid(f"the channel {name} is not set up here any more")
        answer = await notifier.send(address, message, desk=self._notifications.routes.desk)
        await self._store.mark_sent(message_id)
        return answer

    async def give_up(self, message_id: str, *, failure: str) -> None:
        """Put a message among the dead letters."""
        await self._store.mark_dead(message_id, failure=failure)


class NoticeStarts:
    """Starts the workflows that deliver messages of notices: one a message, however often it is asked to."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue

    async def start(self, message_id: str) -> None:
        """Start the workflow of a message, unless it runs; raises RPCError."""
        await self._client.start_workflow(
            NoticeWorkflow.run,
            NoticeDelivery(message_id=message_id),
            id=notice_delivery_id(message_id),
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # One that ended while its message waits was terminated, or an operator resends a dead letter.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"notify {message_id}",
        )
