"""Notices by the webhook of jobs: a CloudEvent each."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from keyturn.notices.contracts import NoticeMessage
from keyturn.notifications.webhook.signing import notice_envelope


class Poster(Protocol):
    """Sends an event's body under its idempotency key once."""

    async def post(self, body: bytes, key: str) -> str:
        """Return the receiver's answer; raises a DeliveryError."""
        ...


class NoticeWebhook:
    """The same receiver, for notices: a CloudEvent each, under the notice's own idempotency key."""

    def __init__(self, webhook: Poster) -> None:
        self._webhook = webhook

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send the message's one notice; see `Notifier`."""
        said = "known"
        for notice in message.notices:
            said = await self._webhook.post(notice_envelope(notice), notice.event_id)
        return said

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return the body of the first notice."""
        body: Mapping[str, Any] = json.loads(notice_envelope(message.notices[0]))
        return body
