"""Deliveries: the outbox and the receivers put together, started with each job, and swept up after."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from keyturn.background import is_cancelled
from keyturn.errors import JobStoreUnavailable, KeyturnError
from keyturn.jobs.channel import Receiver
from keyturn.jobs.contracts import Delivery
from keyturn.jobs.errors import EarlierDelivery
from keyturn.jobs.outbox import Message, Outbox
from keyturn.workers.settings import Settings
from keyturn.workflows.delivery import DeliveryWorkflow, delivery_id

_log = structlog.get_logger("keyturn.worker")
# The rotation waits this long; a server that does not accept the start leaves the job to the sweeper.
ANNOUNCE_SECONDS = 2.0
SWEEP_SECONDS = 60.0
# What is younger is being announced at this moment.
SWEEP_AFTER = timedelta(minutes=1)
# A delivery is tried for a day, and found by a sweep within a minute of any worker's life: what is older than two days
# was written while there was no channel.
OLD = timedelta(days=2)
# Where nothing was ever delivered, there was none until now, but for a first worker that died within its first hour.
OLD_AT_FIRST = timedelta(hours=1)
SWEEP_AT_ONCE = 200  # starts a sweep: some seconds of a server's time, and the oldest come first


class ReceiverDeliveries:
    """Sends the outbox's messages to the receiver of every channel that is on.

    Args:
        outbox: the messages.
        receivers: by the names of their channels.
    """

    def __init__(self, outbox: Outbox, receivers: Mapping[str, Receiver]) -> None:
        self._outbox = outbox
        self._receivers = receivers

    async def deliver(self, job_id: str) -> str:
        """Deliver a job's messages, after the earlier ones of its credential; returns the last answer, or `known`."""
        answer = "known"
        while (message := await self._outbox.message(job_id)).delivered_at is None:
            if message.waits_for is not None:
                raise EarlierDelivery(f"the message of {message.waits_for} must be delivered first")
            answer = await self._send(message)
            await self._outbox.mark_delivered(message, answer=answer)
        return answer

    async def _send(self, message: Message) -> str:
        """Send a message by each channel that it has not come through yet; one that fails does not delay another."""
        answers, failures = dict(message.delivered_by), list[KeyturnError]()
        for name, receiver in self._receivers.items():
            if name in answers:
                continue
            try:
                answers[name] = await receiver.send(message)
            except KeyturnError as error:
                failures.append(error)
        if failures:
            if answers.keys() != message.delivered_by.keys():  # else the next attempt would send these again
                await self._outbox.note_answers(message, answers)
            # A failure that may pass by itself counts first: an abandoned delivery is abandoned for every receiver.
            raise next((error for error in failures if error.retryable), failures[0])
        if len(answers) == 1:
            return next(iter(answers.values()))
        return ", ".join(f"{name}: {answer}" for name, answer in answers.items())

    async def give_up(self, job_id: str, *, failure: str) -> None:
        """Put a job's message among the dead letters."""
        await self._outbox.mark_dead(job_id, failure=failure)


class DeliveryStarts:
    """Starts delivery workflows: one a job, however often it is asked to."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue

    async def announce(self, job_id: str, *, urgent: bool = False) -> None:
        """Start to deliver a job; a failure is logged and left to the sweeper."""
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                await self.start(job_id, urgent=urgent)
        except (RPCError, TimeoutError) as error:
            _log.warning("delivery_not_started", job_id=job_id, cause=type(error).__name__)

    async def start(self, job_id: str, *, urgent: bool = False) -> None:
        """Start the workflow of a job, unless it runs, an urgent one before others; raises RPCError."""
        await self._client.start_workflow(
            DeliveryWorkflow.run,
            Delivery(job_id=job_id),
            id=delivery_id(job_id),
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # One that ended while its message still waits was terminated, or a person sends a dead letter again.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"deliver {job_id}",
            priority=Priority(priority_key=1 if urgent else None),
        )


async def abandon_old_deliveries(outbox: Outbox) -> None:
    """Abandon what was written before there was a channel: only `keyturn deliveries resend` sends it."""
    with contextlib.suppress(JobStoreUnavailable):  # the next start looks again
        if count := await outbox.set_aside(at_first=OLD_AT_FIRST, later=OLD):
            hint = "`keyturn deliveries` lists them, `keyturn deliveries resend --all` resends them."
            _log.warning("deliveries_set_aside", count=count, hint=hint)


async def sweep(outbox: Outbox, starts: DeliveryStarts, *, every: float = SWEEP_SECONDS) -> None:
    """Start the deliveries of messages that wait for longer than it takes to announce one, for ever."""
    while not is_cancelled():
        with contextlib.suppress(JobStoreUnavailable):
            for job_id in await outbox.waiting(older_than=SWEEP_AFTER, limit=SWEEP_AT_ONCE):
                await starts.announce(job_id)
        await asyncio.sleep(every)


@asynccontextmanager
async def open_receivers(settings: Settings) -> AsyncIterator[Mapping[str, Receiver]]:
    """Yield the receiver of every channel that the settings switch on, by the channel's name; perhaps none."""
    async with AsyncExitStack() as parts:
        yield {
            name: await parts.enter_async_context(channel.open(own, settings.max_concurrent_activities))
            for name, (channel, own) in settings.channels.items()
            if channel.open is not None
        }
