"""Slack: notices by incoming webhooks, in Block Kit (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).

An incoming webhook knows no idempotency key: where its answer was lost, a message may stand twice in the channel.
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
from keyturn.notices.contracts import Notice, NoticeMessage
from keyturn.notices.http import address_in, addresses_of, call, named_urls
from keyturn.notices.wording import headline, left_out, link, sentence
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT

# https://docs.slack.dev/reference/block-kit/blocks: a header has 150 letters, a message 50 blocks; and beyond some
# 11,000 letters in all, Slack answers msg_blocks_too_long (slackapi/bolt-js#2509).
MAX_HEADER, MAX_SENTENCE, MAX_LETTERS = 150, 600, 10_000
_EMOJI = {"urgent": "rotating_light", "warning": "warning"}
SETTING = "KEYTURN_SLACK_WEBHOOKS"


class Slack:
    """The channels behind incoming webhooks, by the names that settings give them."""

    def __init__(self, http: httpx.AsyncClient, webhooks: Mapping[str, str]) -> None:
        self._http = http
        self._webhooks = webhooks

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send `message` once; see `Notifier`."""
        url = address_in(self._webhooks, address, setting=SETTING)
        await call(self._http, "POST", url, service="Slack", json=self.preview(address, message, desk=desk))
        return "taken"

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return the body; of one that would be too large, the last notices are only counted."""
        body = _body(message, desk)
        if len(json.dumps(body, ensure_ascii=False)) <= MAX_LETTERS or len(message.notices) <= 1:
            return body
        shorter = message._replace(notices=message.notices[: len(message.notices) // 2])
        return self.preview(address, shorter, desk=desk)


def _body(message: NoticeMessage, desk: str | None) -> dict[str, Any]:
    title = headline(message)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title[:MAX_HEADER], "emoji": False}},
        *(_block(one, desk) for one in message.notices),
    ]
    if (more := left_out(message)) is not None:
        blocks.append({"type": "context", "elements": [{"type": "plain_text", "text": more}]})
    return {"text": escape(title), "blocks": blocks}


def escape(text: str) -> str:
    """Return text in which nothing is a mention or a link (https://docs.slack.dev/messaging/formatting-message-text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _block(notice: Notice, desk: str | None) -> dict[str, Any]:
    """Rich text, whose text is only text: nothing in a name or reason mentions anyone, links or formats."""
    emoji = _EMOJI.get(notice.severity)
    parts: list[dict[str, Any]] = [] if emoji is None else [{"type": "emoji", "name": emoji}]
    parts.append({"type": "text", "text": f" {sentence(notice)[:MAX_SENTENCE]} "})
    if (url := link(notice, desk)) is not None:
        parts.append({"type": "link", "url": url, "text": "Open"})
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": parts}]}


class SlackSettings(BaseSettings):
    """Slack's incoming webhooks."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    webhooks: Annotated[SecretStr, AfterValidator(named_urls)] | None = Field(
        default=None,
        alias="KEYTURN_SLACK_WEBHOOKS",
        description="Slack's incoming webhooks: NAME:URL, separated by commas; routes name them as slack:NAME.",
    )


@asynccontextmanager
async def _open(settings: SlackSettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    async with http_client(context.most_at_once) as http:
        yield Slack(http, addresses_of(settings.webhooks))


CHANNEL = Channel(
    "slack",
    SlackSettings,
    is_on=lambda settings: settings.webhooks is not None,
    notify=_open,
    addresses=lambda settings: addresses_of(settings.webhooks),
)
