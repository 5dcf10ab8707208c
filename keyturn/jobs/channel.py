"""A notification channel: a way by which messages reach those who wait for them.

Receivers of jobs are systems: each job's message, at once. Notices are for people: by routes, in digests.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic_settings import BaseSettings

from keyturn.jobs.outbox import Message
from keyturn.notices.channel import Addresses, Notifier, NotifierContext

S = TypeVar("S", bound=BaseSettings)


class Receiver(Protocol):
    """The system behind a channel, ready to be sent messages."""

    async def send(self, message: Message) -> str:
        """Send `message` once; returns the receiver's answer in a word, such as `taken`.

        It may be sent again with the same content: the receiver must process it once in effect.

        Raises:
            ReceiverUnavailable: no answer, or one that asks to wait; it is sent again.
            ReceiverConflict, ReceiverRefused: an operator must look at it.
        """
        ...


@dataclass(frozen=True)
class Channel(Generic[S]):
    """A notification channel, as settings, workers, `doctor` and the documentation need it.

    Attributes:
        name: unique; audit rows and dead letters name it.
        settings: its settings: pydantic-settings, each field's alias the name of its environment variable.
        is_on: whether its settings switch it on.
        open: makes its receiver of jobs' messages, for as long as the worker runs, of its settings and the most
            messages sent at once; None if it sends none.
        notify: makes what sends notices to people, of its settings and what the worker gives it; None if it sends none.
        addresses: the addresses that its settings name, which routes use as NAME:ADDRESS; None if it takes any.
        fault_of: what is wrong with an address, where the settings name none; None if nothing is.
        alone: whether each notice is a message of its own, as where it opens an incident.
        closes: whether it closes what it opened for a job, and so must hear how the job ends.
    """

    name: str
    settings: type[S]
    is_on: Callable[[S], bool]
    open: Callable[[S, int], AbstractAsyncContextManager[Receiver]] | None = None
    notify: Callable[[S, NotifierContext], AbstractAsyncContextManager[Notifier]] | None = None
    addresses: Callable[[S], Addresses] = lambda _settings: ("",)
    fault_of: Callable[[str], str | None] = lambda _address: None
    alone: bool = False
    closes: bool = False


AnyChannel = Channel[Any]
