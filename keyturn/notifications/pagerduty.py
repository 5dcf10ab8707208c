"""PagerDuty: incidents for jobs that need a person, change events for the rest (Events API v2).

https://developer.pagerduty.com/docs/events-api-v2-overview. An incident is opened once for a job, by its `dedup_key`,
however often it is sent, and resolved when the job is done or cancelled. What no job's end closes is a change event,
which pages no one.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from keyturn.jobs.channel import Channel
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.contracts import CLOSING, Notice, NoticeMessage
from keyturn.notices.http import address_in, addresses_of, call, named_keys
from keyturn.notices.wording import link, sentence
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, secure_url

MAX_SUMMARY, MAX_DEDUP_KEY = 1_024, 255  # of the API
_SEVERITIES = {"urgent": "critical", "warning": "warning", "info": "info"}
SETTING = "KEYTURN_PAGERDUTY_KEYS"
Action = Literal["trigger", "resolve", "change"]


class PagerDuty:
    """The services behind routing keys, by the names that settings give them."""

    def __init__(self, http: httpx.AsyncClient, keys: Mapping[str, str], url: str) -> None:
        self._http = http
        self._keys = keys
        self._url = url

    async def send(self, address: str, message: NoticeMessage, *, desk: str | None) -> str:
        """Send the message's one notice; see `Notifier`."""
        key = address_in(self._keys, address, setting=SETTING)
        for notice in message.notices:
            for path, body in _requests(notice, desk):
                whole = body | {"routing_key": key}
                await call(self._http, "POST", f"{self._url}{path}", service="PagerDuty", json=whole)
        return "taken"

    def preview(self, address: str, message: NoticeMessage, *, desk: str | None) -> Mapping[str, Any]:
        """Return the bodies by path, without the routing key."""
        return {path: body for notice in message.notices for path, body in _requests(notice, desk)}


def _requests(notice: Notice, desk: str | None) -> list[tuple[str, dict[str, Any]]]:
    summary = sentence(notice)[:MAX_SUMMARY]
    links = [{"href": url, "text": "Keyturn's desk"}] if (url := link(notice, desk)) is not None else []
    if notice.topic in CLOSING:  # of an incident that was never opened, PagerDuty ignores it
        return [("/v2/enqueue", {"event_action": "resolve", "dedup_key": dedup_key(notice)})]
    # An incident that nothing resolves would stay open: only a job's end closes one.
    if notice.severity == "info" or notice.job_id is None:
        return _change(notice, summary, links)
    payload = {
        "summary": summary,
        "source": f"keyturn/{notice.tenant_id}",
        "severity": _SEVERITIES[notice.severity],
        "timestamp": notice.at.isoformat(),
        "component": notice.account_id or "keyturn",
        "group": notice.owner or "unowned",
        "class": notice.topic,
    }
    body = {"event_action": "trigger", "dedup_key": dedup_key(notice), "payload": payload, "links": links}
    return [("/v2/enqueue", body)]


def _change(notice: Notice, summary: str, links: list[dict[str, str]]) -> list[tuple[str, dict[str, Any]]]:
    payload = {"summary": summary, "source": f"keyturn/{notice.tenant_id}", "timestamp": notice.at.isoformat()}
    return [("/v2/change/enqueue", {"payload": payload, "links": links})]


def dedup_key(notice: Notice) -> str:
    """Return what names the incident: the job."""
    about = notice.job_id or notice.event_id
    key = f"keyturn/{notice.tenant_id}/{about}"
    return key if len(key) <= MAX_DEDUP_KEY else f"keyturn/{hashlib.sha256(key.encode()).hexdigest()}"


class PagerDutySettings(BaseSettings):
    """Services of PagerDuty."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    keys: Annotated[SecretStr, AfterValidator(named_keys)] | None = Field(
        default=None,
        alias="KEYTURN_PAGERDUTY_KEYS",
        description="Integration keys of PagerDuty services (Events API v2): NAME:KEY, separated by commas; "
        "routes name them as pagerduty:NAME.",
    )
    url: Annotated[str, AfterValidator(secure_url)] = Field(
        default="https://events.pagerduty.com",
        alias="KEYTURN_PAGERDUTY_URL",
        description="The address of the Events API; https://events.eu.pagerduty.com for the region EU.",
    )


@asynccontextmanager
async def _open(settings: PagerDutySettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    async with http_client(context.most_at_once) as http:
        yield PagerDuty(http, addresses_of(settings.keys), settings.url)


CHANNEL = Channel(
    "pagerduty",
    PagerDutySettings,
    is_on=lambda settings: settings.keys is not None,
    notify=_open,
    addresses=lambda settings: addresses_of(settings.keys),
    alone=True,
    closes=True,
)
