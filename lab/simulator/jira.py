"""Jira Cloud's REST API v3 on loopback, as far as issues that are opened, commented, searched and moved go.

Written from published documents alone: developer.atlassian.com, The Jira Cloud platform REST API v3 (Issues, Issue
comments, Issue search), Atlassian Document Format (its nodes doc, paragraph and text, its mark link), Search and
reconcile. No real Jira was called, and no code of it is in here.
"""

import base64
import re
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.rest_faults import RestFaults, json_of

# A workflow as Jira's "simplified" one, but that an issue is started before it can be done.
STATUSES = {"To Do": "new", "In Progress": "indeterminate", "Done": "done", "Won't Do": "done"}
WORKFLOW = {
    "To Do": [("11", "Start", "In Progress"), ("21", "Drop", "Won't Do"), ("31", "Finish", "Done")],
    "In Progress": [("21", "Drop", "Won't Do"), ("31", "Finish", "Done")],
    "Done": [("41", "Reopen", "To Do")],
    "Won't Do": [("41", "Reopen", "To Do")],
}
# A query as far as this simulator reads JQL; every string is quoted.
_JQL = re.compile(r'project = "([^"\\]*)" AND labels = "([^"\\]*)" ORDER BY created ASC')


@dataclass
class JiraIssue:
    """An issue, and when the search shows it."""

    issue_id: str
    key: str
    fields: dict[str, Any]
    indexed_at: float
    status: str = "To Do"
    comments: list[Any] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)


@dataclass
class JiraSimulator:
    """The state of one site.

    Attributes:
        account: user and token.
        projects: their keys.
        issue_types: their names, in every project.
        lag: how many seconds after its creation the search shows an issue.
        workflow: of each status, the transitions from it: ID, name, and the status that it leads to.
        required: fields that an issue must have beside those of Jira's own.
        on_screen: fields that the screen of a transition requires, by the transition's ID.
        issues: by their IDs, the oldest first.
        deleted: issues that were.
    """

    account: tuple[str, str] = ("bot@example.org", "jira_token")
    projects: set[str] = field(default_factory=lambda: {"OPS"})
    issue_types: set[str] = field(default_factory=lambda: {"Task", "Bug"})
    lag: float = 0.0
    workflow: dict[str, list[tuple[str, str, str]]] = field(default_factory=lambda: dict(WORKFLOW))
    required: set[str] = field(default_factory=set)
    on_screen: dict[str, str] = field(default_factory=dict)
    issues: dict[str, JiraIssue] = field(default_factory=dict)
    deleted: list[JiraIssue] = field(default_factory=list)
    faults: RestFaults = field(default_factory=RestFaults)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this site."""
        application = web.Application(middlewares=[self.faults.middleware(), self._authenticate])
        router = application.router
        router.add_post("/rest/api/3/issue", self._create)
        router.add_post("/rest/api/3/search/jql", self._search)
        router.add_get("/rest/api/3/issue/{id}", self._show)
        router.add_get("/rest/api/3/issue/{id}/comment", self._comments)
        router.add_post("/rest/api/3/issue/{id}/comment", self._comment)
        router.add_get("/rest/api/3/issue/{id}/transitions", self._transitions)
        router.add_post("/rest/api/3/issue/{id}/transitions", self._move)
        return application

    def delete(self, issue_id: str) -> None:
        """Delete an issue, as a user may."""
        self.deleted.append(self.issues.pop(issue_id))

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        wanted = base64.b64encode(":".join(self.account).encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            return _refusal(401, "Client must be authenticated to access this resource.")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _create(self, request: web.Request) -> web.Response:
        fields = (await json_of(request)).get("fields") or {}
        faults = {name: f"{name} is required." for name in self.required if not fields.get(name)}
        if (fields.get("project") or {}).get("key") not in self.projects:
            faults["project"] = "valid project is required"
        if (fields.get("issuetype") or {}).get("name") not in self.issue_types:
            faults["issuetype"] = "The issue type selected is invalid."
        summary, labels = fields.get("summary"), fields.get("labels", [])
        if not isinstance(summary, str) or not summary.strip() or "\n" in summary or len(summary) > 255:
            faults["summary"] = "You must specify a summary of the issue, of one line and at most 255 characters."
        if "description" in fields and (fault := document_fault(fields["description"])) is not None:
            faults["description"] = f"Operation value must be an Atlassian Document: {fault}"
        if any(not isinstance(label, str) or re.search(r"\s", label) or len(label) > 255 for label in labels):
            faults["labels"] = "The label contains spaces which is invalid."
        if faults:
            return _refusal(400, **faults)
        number = 1 + len(self.issues) + len(self.deleted)
        issue = JiraIssue(str(10_000 + number), f"OPS-{number}", fields, time.monotonic() + self.lag)
        self.issues[issue.issue_id] = issue
        return web.json_response({"id": issue.issue_id, "key": issue.key}, status=201)

    async def _search(self, request: web.Request) -> web.Response:
        body = await json_of(request)
        query = _JQL.fullmatch(body.get("jql", ""))
        if query is None:
            return _refusal(400, "Error in the JQL Query")
        now, (project, label) = time.monotonic(), query.groups()
        found = [
            {"id": one.issue_id, "key": one.key, "fields": {"labels": one.fields.get("labels", [])}}
            for one in self.issues.values()
            if one.indexed_at <= now and one.fields["project"]["key"] == project and label in one.fields["labels"]
        ]
        return web.json_response({"issues": found[: body.get("maxResults", 50)], "isLast": True})

    async def _show(self, request: web.Request) -> web.Response:
        if (issue := self._of(request)) is None:
            return _gone()
        return web.json_response({"id": issue.issue_id, "key": issue.key, "fields": {"status": _status(issue.status)}})

    async def _comments(self, request: web.Request) -> web.Response:
        if (issue := self._of(request)) is None:
            return _gone()
        start, most = int(request.query.get("startAt", "0")), min(int(request.query.get("maxResults", "50")), 100)
        shown = issue.comments[::-1] if request.query.get("orderBy") == "-created" else issue.comments
        page = [{"id": str(number), "body": body} for number, body in enumerate(shown, 1)][start : start + most]
        answer = {"comments": page, "startAt": start, "maxResults": most, "total": len(issue.comments)}
        return web.json_response(answer)

    async def _comment(self, request: web.Request) -> web.Response:
        if (issue := self._of(request)) is None:
            return _gone()
        body = (await json_of(request)).get("body")
        if document_fault(body) is not None:
            return _refusal(400, comment="Comment body is not valid!")
        issue.comments.append(body)
        return web.json_response({"id": str(20_000 + len(issue.comments)), "body": body}, status=201)

    async def _transitions(self, request: web.Request) -> web.Response:
        if (issue := self._of(request)) is None:
            return _gone()
        found = [{"id": one, "name": name, "to": _status(to)} for one, name, to in self.workflow[issue.status]]
        return web.json_response({"expand": "transitions", "transitions": found})

    async def _move(self, request: web.Request) -> web.Response:
        if (issue := self._of(request)) is None:
            return _gone()
        body = await json_of(request)
        wanted = (body.get("transition") or {}).get("id")
        leads = {one: to for one, _, to in self.workflow[issue.status]}
        if wanted not in leads:
            return _refusal(400, f"Transition id '{wanted}' is not valid for this issue.")
        if (needed := self.on_screen.get(wanted)) is not None and needed not in (body.get("fields") or {}):
            return _refusal(400, **{needed: f"{needed} is required."})
        issue.status = leads[wanted]
        issue.moves.append(issue.status)
        return web.Response(status=204)

    def _of(self, request: web.Request) -> JiraIssue | None:
        wanted = request.match_info["id"]
        return self.issues.get(wanted) or next((one for one in self.issues.values() if one.key == wanted), None)


def document_fault(body: Any) -> str | None:
    """Return what is wrong with a document in the Atlassian Document Format of paragraphs; None if nothing is."""
    if not isinstance(body, dict) or (body.get("type"), body.get("version")) != ("doc", 1):
        return "no document of version 1"
    if set(body) != {"type", "version", "content"} or not isinstance(body["content"], list):
        return "a document without content"
    for node in body["content"]:
        if node.get("type") != "paragraph" or set(node) > {"type", "content"}:
            return "a node that is no paragraph"
        for part in node["content"]:
            text, marks = part.get("text"), part.get("marks", [])
            if part.get("type") != "text" or not isinstance(text, str) or not text:
                return "a text node without text"
            if any(mark["type"] != "link" or not mark["attrs"]["href"] for mark in marks):
                return "a mark that is no link"
    return None


def _status(name: str) -> dict[str, Any]:
    return {"name": name, "statusCategory": {"key": STATUSES[name]}}


def _gone() -> web.Response:
    return _refusal(404, "Issue does not exist or you do not have permission to see it.")


def _refusal(status: int, *messages: str, **errors: str) -> web.Response:
    return web.json_response({"errorMessages": list(messages), "errors": errors}, status=status)
