"""Jira Cloud: an issue for each job, opened once, commented and closed with it (REST API v3).

https://developer.atlassian.com/cloud/jira/platform/rest/v3/intro/. Text is in the Atlassian Document Format, in whose
text nodes nothing is markup. Jira's search lags behind (/cloud/jira/platform/search-and-reconcile): after a lost answer
it is asked only when an issue would be there, by the label that the issue got when it was created.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings

from keyturn.errors import SettingsInvalid
from keyturn.jobs.channel import Channel
from keyturn.jobs.errors import ReceiverRefused, ReceiverUnavailable
from keyturn.llm.http import http_client
from keyturn.notices.channel import Notifier, NotifierContext
from keyturn.notices.errors import IssueGone
from keyturn.notices.http import basic_user, call
from keyturn.notices.issues import IssueNotifier, IssueText, Lags
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Key, secure_url

# The search shows most changes "within seconds", some after minutes. A comment is in its issue at once: half a minute
# is for a request that is still under way when its connection breaks.
LAGS = Lags(issue=timedelta(minutes=4), note=timedelta(seconds=30))
LABEL = "keyturn"  # of every issue; the other one says what it is about
COMMENTS_A_PAGE = 100  # the most that Jira returns
# Of a page of comments, each of which may have 32,767 letters, as a document of many nodes.
MAX_COMMENTS_BYTES = 16 * 1024 * 1024
_PROJECT = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Jira:
    """A site of Jira Cloud; see `Tracker`."""

    service = "Jira"
    looks_first = False

    def __init__(self, http: httpx.AsyncClient, url: str, *, issue_type: str = "Task", done: str | None = None) -> None:
        self._http, self._url = http, url
        self._issue_type, self._done = issue_type, done

    async def find(self, address: str, about: str) -> str | None:
        """Return the oldest issue of a project with the label `about`, as far as the search shows it."""
        jql = f'project = "{_project(address)}" AND labels = "{about}" ORDER BY created ASC'
        body = {"jql": jql, "fields": ["labels"], "maxResults": 10}
        found = await self._call("POST", "/search/jql", body)
        try:
            known = [str(one["id"]) for one in found["issues"] if {LABEL, about} <= set(one["fields"]["labels"])]
        except (KeyError, TypeError):
            raise ReceiverUnavailable("Jira answered a search with something else") from None
        return known[0] if known else None

    async def open(self, address: str, about: str, text: IssueText) -> str:
        """Create an issue with the label `about`."""
        made = await self._call("POST", "/issue", self.preview(address, about, text))
        if not isinstance(made, Mapping) or not made.get("id"):
            raise ReceiverUnavailable("Jira answered a creation without an issue")
        return str(made["id"])

    async def has_note(self, issue_id: str, marker: str) -> bool:
        """Whether one of the issue's comments has a paragraph that is the marker; the newest are read first."""
        start, total = 0, 1
        while start < total:
            page = f"?orderBy=-created&startAt={start}&maxResults={COMMENTS_A_PAGE}"
            found = await self._of_issue("GET", issue_id, f"/comment{page}")
            try:
                bodies, total = [one.get("body") for one in found["comments"]], int(found["total"])
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ReceiverUnavailable("Jira's answer has no comments") from None
            if any(marker in paragraphs(body) for body in bodies):
                return True
            start += max(len(bodies), 1)
        return False

    async def add_note(self, issue_id: str, text: IssueText) -> None:
        """Add a comment."""
        await self._of_issue("POST", issue_id, "/comment", {"body": document(text)})

    async def close(self, issue_id: str, text: IssueText) -> None:
        """Move the issue to a status that is done, unless it has one."""
        issue = await self._of_issue("GET", issue_id, "?fields=status")
        try:
            if _is_done(issue["fields"]["status"], self._done):
                return
            found = await self._of_issue("GET", issue_id, "/transitions")
            named = [one for one in found["transitions"] if self._leads_to_done(one)]
        except (KeyError, TypeError):
            raise ReceiverUnavailable("Jira's answer has no status or no transitions") from None
        if not named:
            wanted = "that KEYTURN_JIRA_DONE names" if self._done else "to a status that is done: set KEYTURN_JIRA_DONE"
            raise ReceiverRefused(f"Jira's workflow offers the issue {issue_id} no transition {wanted}")
        await self._of_issue("POST", issue_id, "/transitions", {"transition": {"id": str(named[0]["id"])}})

    def preview(self, address: str, about: str, text: IssueText) -> Mapping[str, Any]:
        """Return the body that creates an issue."""
        fields = {
            "project": {"key": _project(address)},
            "issuetype": {"name": self._issue_type},
            "summary": text.title,
            "description": document(text),
            "labels": [LABEL, about],
        }
        return {"fields": fields}

    def _leads_to_done(self, transition: Mapping[str, Any]) -> bool:
        if self._done is None:
            return _is_done(transition["to"], None)
        return self._done.casefold() in {str(transition["name"]).casefold(), str(transition["to"]["name"]).casefold()}

    async def _of_issue(self, method: str, issue_id: str, path: str, json: Any = None) -> Any:
        return await self._call(method, f"/issue/{quote(issue_id, safe='')}{path}", json, of_issue=True)

    async def _call(self, method: str, path: str, json: Any = None, *, of_issue: bool = False) -> Any:
        url, accepts = f"{self._url}/rest/api/3{path}", frozenset({400, 404} if of_issue else {400})
        words: dict[str, Any] = {"service": self.service, "json": json, "most_bytes": MAX_COMMENTS_BYTES}
        answer = await call(self._http, method, url, accepts=accepts, **words)
        if answer.status == 404:
            raise IssueGone("Jira does not know the issue any more, or does not show it")
        if answer.status == 400:
            raise ReceiverRefused(f"Jira answered 400{_fields_of(answer.body)}")
        if answer.body is None and answer.status != 204:  # a page of a proxy, or of a site that sleeps
            raise ReceiverUnavailable("Jira's answer is no JSON")
        return answer.body


def fault_of_project(address: str) -> str | None:
    """Return what is wrong with an address; None if it can be a project's key."""
    return None if _PROJECT.fullmatch(address) else "names no project: it is jira:PROJECTKEY, such as jira:OPS"


def _project(address: str) -> str:
    if (fault := fault_of_project(address)) is not None:  # by a route that another worker has read
        raise ReceiverRefused(f"the destination {fault}")
    return address


def _is_done(status: Mapping[str, Any], name: str | None) -> bool:
    is_named = name is not None and str(status["name"]).casefold() == name.casefold()
    return is_named or status["statusCategory"]["key"] == "done"


def _fields_of(body: Any) -> str:
    """Return which fields Jira refuses, by their IDs; what it says of them may repeat what was written."""
    errors = body.get("errors") if isinstance(body, Mapping) else None
    names = [name for name in errors if re.fullmatch("[A-Za-z0-9_]{1,40}", name)] if isinstance(errors, Mapping) else []
    return f" to the fields {', '.join(names[:5])}" if names else ""


def document(text: IssueText) -> Mapping[str, Any]:
    """Return a text as a document: a paragraph a line, the last one its marker."""
    content = [_paragraph(line) for line in text.lines]
    if text.url is not None:
        content.append(_paragraph("Open in Keyturn", marks=[{"type": "link", "attrs": {"href": text.url}}]))
    return {"type": "doc", "version": 1, "content": [*content, _paragraph(text.marker)]}


def _paragraph(line: str, **more: Any) -> dict[str, Any]:
    return {"type": "paragraph", "content": [{"type": "text", "text": line, **more}]}


def paragraphs(body: Any) -> set[str]:
    """Return the texts of a document's paragraphs, of whatever a comment has."""
    found = set()
    for node in body.get("content") or () if isinstance(body, Mapping) else ():
        parts = node.get("content") if isinstance(node, Mapping) and node.get("type") == "paragraph" else None
        found.add("".join(str(part.get("text", "")) for part in parts or () if isinstance(part, Mapping)))
    return found


class JiraSettings(BaseSettings):
    """A site of Jira Cloud."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    url: Annotated[str, AfterValidator(secure_url)] | None = Field(
        default=None,
        alias="KEYTURN_JIRA_URL",
        description="The site of Jira Cloud, such as https://example.atlassian.net; routes name projects as "
        "jira:PROJECTKEY.",
    )
    user: Annotated[str, AfterValidator(basic_user)] | None = Field(
        default=None, alias="KEYTURN_JIRA_USER", description="The e-mail address of the account that opens issues."
    )
    token: Key | None = Field(default=None, alias="KEYTURN_JIRA_TOKEN", description="An API token of that account.")
    issue_type: str = Field(default="Task", alias="KEYTURN_JIRA_ISSUE_TYPE", description="The type of its issues.")
    done: str | None = Field(
        default=None,
        alias="KEYTURN_JIRA_DONE",
        description="The transition, or its status, that closes an issue. Without it, the first one to a status of the "
        "category done.",
    )

    @model_validator(mode="after")
    def _has_an_account(self) -> "JiraSettings":
        if self.url is not None and (self.user is None or self.token is None):
            raise ValueError("KEYTURN_JIRA_USER or KEYTURN_JIRA_TOKEN is not set: KEYTURN_JIRA_URL needs both")
        return self


@asynccontextmanager
async def _open(settings: JiraSettings, context: NotifierContext) -> AsyncIterator[Notifier]:
    if settings.url is None or settings.user is None or settings.token is None:
        raise SettingsInvalid("KEYTURN_JIRA_URL is not set")
    async with http_client(context.most_at_once) as http:
        http.auth = httpx.BasicAuth(settings.user, settings.token.get_secret_value())
        jira = Jira(http, settings.url, issue_type=settings.issue_type, done=settings.done)
        yield IssueNotifier("jira", jira, context.engine, LAGS)


CHANNEL = Channel(
    "jira",
    JiraSettings,
    is_on=lambda settings: settings.url is not None,
    notify=_open,
    addresses=lambda _settings: None,
    fault_of=fault_of_project,
    alone=True,
    closes=True,
)
