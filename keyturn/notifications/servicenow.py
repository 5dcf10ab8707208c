"""ServiceNow: an incident for each job, opened once, with its work notes, and resolved with it (Table API).

https://www.servicenow.com/docs/r/api-reference/rest-apis/c_TableAPI.html. An incident's `correlation_id` names its job,
and is looked up before one is created; the table is exact, so a lost answer is found out by the next attempt.
Encoded queries are separated by `^`, and one that names no field of the table returns every row: what is looked up
holds no `^`, and what comes back is compared.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlencode

import httpx
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.jobs.channel import Channel
from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.errors import IssueGone
from keyturn.notices.http import basic_user, call
from keyturn.notices.issues import IssueNotifier, IssueText, Lags
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, secure_url

# The table is exact; but a request whose connection broke may still be under way, for a minute at most: that is the
# quota rule `REST Table API request timeout`, after which ServiceNow cancels a transaction.
LAGS = Lags(issue=timedelta(seconds=60), note=timedelta(seconds=60))
# Of an incident's work notes, all in one field: some thousand of them.
MAX_NOTES_BYTES = 16 * 1024 * 1024
RESOLVED = "6"
_CLOSED = {RESOLVED, "7", "8"}  # resolved, closed, canceled
ANY_GROUP = "default"
_SYS_ID = re.compile("[0-9a-f]{32}")
_GROUP = re.compile(r"[^\^\x00-\x1f]{1,80}")  # a group's name has 80 letters
Row = Mapping[str, Any]


class ServiceNow:
    """The incidents of an instance; see `Tracker`."""

    service = "ServiceNow"
    looks_first = True

    def __init__(self, http: httpx.AsyncClient, url: str, *, close_code: str) -> None:
        self._http, self._url = http, url
        self._close_code = close_code
        self._groups: dict[str, str] = {}

    async def find(self, address: str, about: str) -> str | None:
        """Return the oldest incident with the correlation ID of `about`."""
        wanted = _correlation_id(address, about)
        query = f"correlation_id={wanted}^ORDERBYsys_created_on"
        rows = await self._rows("incident", query, "sys_id,correlation_id")
        known = [str(row["sys_id"]) for row in rows if row.get("correlation_id") == wanted and row.get("sys_id")]
        return known[0] if known else None

    async def open(self, address: str, about: str, text: IssueText) -> str:
        """Create an incident, for the group that the address names."""
        body = {**self.preview(address, about, text)}
        if (group := await self._group(address)) is not None:
            body["assignment_group"] = group
        made = await self._call("POST", "/incident?sysparm_fields=sys_id", body)
        if not isinstance(made, Mapping) or not made.get("sys_id"):
            raise ReceiverUnavailable("ServiceNow answered a creation without an incident")
        return str(made["sys_id"])

    async def has_note(self, issue_id: str, marker: str) -> bool:
        """Whether a line of the incident's work notes is the marker."""
        query = "?sysparm_fields=work_notes&sysparm_display_value=true"
        found = await self._of_incident("GET", issue_id, query)
        if not isinstance(found.get("work_notes"), str):
            raise ReceiverRefused("ServiceNow does not show work notes to Keyturn's user: it needs to read them")
        return marker in {line.strip() for line in found["work_notes"].split("\n")}

    async def add_note(self, issue_id: str, text: IssueText) -> None:
        """Add a work note."""
        await self._of_incident("PATCH", issue_id, "?sysparm_fields=sys_id", {"work_notes": written(text)})

    async def close(self, issue_id: str, text: IssueText) -> None:
        """Resolve the incident, unless it is resolved, closed or canceled."""
        found = await self._of_incident("GET", issue_id, "?sysparm_fields=state")
        if str(found.get("state")) in _CLOSED:
            return
        body = {"state": RESOLVED, "close_code": self._close_code, "close_notes": written(text)}
        changed = await self._of_incident("PATCH", issue_id, "?sysparm_fields=state", body)
        if str(changed.get("state")) not in _CLOSED:  # a field that the user may not write is left out in silence
            raise ReceiverRefused("ServiceNow did not resolve the incident: Keyturn's user may not write its state")

    def preview(self, address: str, about: str, text: IssueText) -> Row:
        """Return the body that creates an incident, without the group's ID."""
        return {
            "short_description": text.title,
            "description": written(text),
            "correlation_id": _correlation_id(address, about),
            "correlation_display": "Keyturn",
        }

    async def _group(self, address: str) -> str | None:
        """Return the sys_id of the address's group: a name that no group has would be dropped in silence."""
        name = unquote(address)
        if name == ANY_GROUP or _SYS_ID.fullmatch(name):
            return None if name == ANY_GROUP else name
        if (fault := fault_of_group(address)) is not None:  # by a route that another worker has read
            raise ReceiverRefused(f"the destination {fault}")
        if name not in self._groups:
            rows = await self._rows("sys_user_group", f"name={name}", "sys_id,name")
            known = [str(row["sys_id"]) for row in rows if row.get("name") == name and row.get("sys_id")]
            if not known:
                raise ReceiverRefused("ServiceNow knows no assignment group of the destination's name")
            self._groups[name] = known[0]
        return self._groups[name]

    async def _rows(self, table: str, query: str, fields: str) -> list[Row]:
        words = urlencode({"sysparm_query": query, "sysparm_fields": fields, "sysparm_limit": "10"})
        rows = await self._call("GET", f"/{table}?{words}")
        if not isinstance(rows, list):
            raise ReceiverUnavailable("ServiceNow answered a query with something else")
        return [row for row in rows if isinstance(row, Mapping)]

    async def _of_incident(self, method: str, issue_id: str, query: str, json: Any = None) -> Row:
        row = await self._call(method, f"/incident/{quote(issue_id, safe='')}{query}", json, of_incident=True)
        if not isinstance(row, Mapping):
            raise ReceiverUnavailable("ServiceNow's answer has no incident")
        return row

    async def _call(self, method: str, path: str, json: Any = None, *, of_incident: bool = False) -> Any:
        url, accepts = f"{self._url}/api/now/table{path}", frozenset({404} if of_incident else ())
        words: dict[str, Any] = {"service": self.service, "json": json, "most_bytes": MAX_NOTES_BYTES}
        headers = {"Accept": "application/json"}
        answer = await call(self._http, method, url, headers=headers, accepts=accepts, **words)
        if answer.status == 404:
            raise IssueGone("ServiceNow does not know the incident any more, or does not show it")
        return answer.body.get("result") if isinstance(answer.body, Mapping) else None


def fault_of_group(address: str) -> str | None:
    """Return what is wrong with an address; None if it can be a group's name or ID."""
    name = unquote(address)
    if _GROUP.fullmatch(name) and not name.startswith("javascript:"):  # which an encoded query would evaluate
        return None
    return "names no group: it is servicenow:GROUP, or servicenow:default"


def _correlation_id(address: str, about: str) -> str:
    """Of each group that a job's notices go to another one: a group must not find the incident of another group."""
    group = "" if address == ANY_GROUP else f":{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return f"keyturn:{about}{group}"


def written(text: IssueText) -> str:
    """Return a text as fields have it, its marker the last line. Between [code] tags, a note would be shown as HTML."""
    lines = [*text.lines, *([] if text.url is None else [text.url])]
    plain = [re.sub(r"\[(?=/?code)", "[ ", line, flags=re.IGNORECASE) for line in lines]
    return "\n".join([*plain, text.marker])


class ServiceNowSettings(BaseSettings):
    """An instance of ServiceNow."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    url: Annotated[str, AfterValidator(secure_url)] | None = Field(
        default=None,
        alias="KEYTURN_SERVICENOW_URL",
        description="The instance of ServiceNow, such as https://example.service-now.com; routes name assignment "
        "groups as servicenow:GROUP (a blank as %20), or write servicenow:default.",
    )
    user: Annotated[str, AfterValidator(basic_user)] | None = Field(
        default=None, alias="KEYTURN_SERVICENOW_USER", description="The user that opens incidents."
    )
    password: SecretStr | None = Field(
        default=None, alias="KEYTURN_SERVICENOW_PASSWORD", description="The password of that user."
    )
    close_code: str = Field(
        default="Solution provided",
        max_length=40,
        alias="KEYTURN_SERVICENOW_CLOSE_CODE",
        description="The resolution code of incidents that are closed with their jobs: one of the instance's own.",
    )

    @model_validator(mode="after")
    def _has_a_user(self) -> "ServiceNowSettings":
        if self.url is not None and (self.user is None or self.password is None):
            raise ValueError(
                "KEYTURN_SERVICENOW_USER or KEYTURN_SERVICENOW_PASSWORD is not set: KEYTURN_SERVICENOW_URL needs both"
            )
        return self


@asynccontextmanager
async def _open(settings: ServiceNowSettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    if settings.url is None or settings.user is None or settings.password is None:
        raise SettingsInvalid("KEYTURN_SERVICENOW_URL is not set")
    async with http_client(context.most_at_once) as http:
        http.auth = httpx.BasicAuth(settings.user, settings.password.get_secret_value())
        service_now = ServiceNow(http, settings.url, close_code=settings.close_code)
        yield IssueNotifier("servicenow", service_now, context.engine, LAGS)


CHANNEL = Channel(
    "servicenow",
    ServiceNowSettings,
    is_on=lambda settings: settings.url is not None,
    notify=_open,
    addresses=lambda _settings: None,
    fault_of=fault_of_group,
    alone=True,
    closes=True,
)
