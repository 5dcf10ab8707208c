"""Microsoft Teams: notices by a Workflows webhook, as an Adaptive Card.

The envelope is that of "Post to a channel when a webhook request is received", which took the place of connectors in
2026 (https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook). A
workflow knows no idempotency key: where its answer was lost, a card may stand twice in the channel.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from keyturn.jobs.channel import Channel
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.contracts import NoticeMessage
from keyturn.notices.http import address_in, addresses_of, call, named_urls
from keyturn.notices.wording import headline, left_out, link, sentence
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT

# Teams refuses messages above 28 KB: https://learn.microsoft.com/microsoftteams/limits-specifications-teams
MAX_BYTES = 26_000
MAX_LINE = 600
_COLOURS = {"urgent": "attention", "warning": "warning", "info": "default"}
SETTING = "KEYTURN_TEAMS_WEBHOOKS"


class Teams:
    """The channels behind Workflows webhooks, by the names that settings give them."""

    def __init__(self, http: httpx.AsyncClient, webhooks: Mapping[str, str]) -> None:
        self._http = http
        self._webhooks = webhooks

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send `message` once; see `Notifier`."""
        url = address_in(self._webhooks, address, setting=SETTING)
        await call(self._http, "POST", url, service="Teams", json=self.preview(address, message, desk=desk))
        return "taken"

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return the body; of a card that would be too large, the last notices are only counted."""
        body = _envelope(message, desk)
        if len(json.dumps(body).encode()) <= MAX_BYTES or len(message.notices) <= 1:
            return body
        shorter = message._replace(notices=message.notices[: len(message.notices) // 2])
        return self.preview(address, shorter, desk=desk)


def _envelope(message: NoticeMessage, desk: str | None) -> dict[str, Any]:
    title = {"type": "TextBlock", "text": escape(headline(message)), "weight": "bolder", "wrap": True}
    lines: list[dict[str, Any]] = [title]
    for notice in message.notices:
        url = link(notice, desk)
        text = escape(sentence(notice)[:MAX_LINE]) + ("" if url is None else f" [Open]({url})")
        lines.append({"type": "TextBlock", "text": text, "wrap": True, "color": _COLOURS[notice.severity]})
    if (more := left_out(message)) is not None:
        lines.append({"type": "TextBlock", "text": more, "isSubtle": True})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": lines,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def escape(text: str) -> str:
    """Return text in which nothing is Markdown, of which a TextBlock knows a part."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("://", ":\u200b//")  # no address becomes a link
    return "".join(f"\\{letter}" if letter in "\\`*_~![]()#" else letter for letter in plain)


class TeamsSettings(BaseSettings):
    """Workflows webhooks of Microsoft Teams."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    webhooks: Annotated[SecretStr, AfterValidator(named_urls)] | None = Field(
        default=None,
        alias="KEYTURN_TEAMS_WEBHOOKS",
        description="Workflows webhooks of Microsoft Teams: NAME:URL, separated by commas; routes say teams:NAME.",
    )


@asynccontextmanager
async def _open(settings: TeamsSettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    async with http_client(context.most_at_once) as http:
        yield Teams(http, addresses_of(settings.webhooks))


CHANNEL = Channel(
    "teams",
    TeamsSettings,
    is_on=lambda settings: settings.webhooks is not None,
    notify=_open,
    addresses=lambda settings: addresses_of(settings.webhooks),
)
