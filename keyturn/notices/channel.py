"""How a notification channel sends notices to people: the part of its `CHANNEL` that this feature needs."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.notices.contracts import NoticeMessage


class NotifierContext(NamedTuple):
    """What a worker gives a channel that sends notices, beside its settings.

    Attributes:
        most_at_once: the most messages sent at once.
        engine: the database, for a channel that must remember what it wrote; connected when it is used.
    """

    most_at_once: int
    engine: AsyncEngine


class Notifier(Protocol):
    """The system behind a channel, ready to be sent notices."""

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send `message` once; returns the receiver's answer in a word, such as `taken`.

        Args:
            address: what the destination names behind its colon; empty if nothing.
            message: what to send. It may be sent again, with the same ID: a receiver that can tells the two apart.
            desk: the address of the desk, for links; None for none.

        Raises:
            ReceiverUnavailable: no answer, or one that asks to wait; it is sent again.
            ReceiverConflict, ReceiverRefused: an operator must look at it.
        """
        ...

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return what would be sent, without secrets."""
        ...


Addresses = Collection[str] | None  # those that the settings name; None if any may be written into a route
