"""ServiceNow's Table API on loopback, as far as incidents and assignment groups go.

Written from published documents alone: servicenow.com/docs, Table API; Encoded query strings; Incident management (the
states, and that a resolved incident has a resolution code and notes). What an instance does in silence it does here,
too: it truncates long texts, drops references to what is not there, and ignores a query's unknown fields. No real
ServiceNow was called, and no code of it is in here.
"""

import base64
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.rest_faults import RestFaults, json_of

MAX_LENGTHS = {"short_description": 160, "description": 4_000, "correlation_id": 100, "close_notes": 4_000}
MAX_JOURNAL = 4_000
CLOSE_CODES = {"Solution provided", "Workaround provided", "No resolution provided", "Resolved by caller", "Duplicate"}
_FIELDS = {
    "sys_id", "number", "state", "short_description", "description", "correlation_id", "correlation_display",
    "assignment_group", "close_code", "close_notes", "work_notes",
}  # fmt: skip


@dataclass
class ServiceNowSimulator:
    """The state of one instance.

    Attributes:
        account: user and password.
        groups: assignment groups, by their sys_id.
        incidents: their fields, by sys_id, the oldest first.
        notes: the work notes of each incident.
        resolved: how often each incident was resolved.
        read_only: fields that the user may not write; they are left out in silence.
        hidden: fields that the user may not read.
    """

    account: tuple[str, str] = ("keyturn", "servicenow_password")
    groups: dict[str, str] = field(default_factory=lambda: {"a" * 32: "Service Desk"})
    incidents: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    resolved: dict[str, int] = field(default_factory=dict)
    read_only: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    faults: RestFaults = field(default_factory=RestFaults)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this instance."""
        application = web.Application(middlewares=[self.faults.middleware(), self._authenticate])
        router = application.router
        router.add_get("/api/now/table/sys_user_group", self._list_groups)
        router.add_get("/api/now/table/incident", self._list)
        router.add_post("/api/now/table/incident", self._create)
        router.add_get("/api/now/table/incident/{id}", self._show)
        router.add_patch("/api/now/table/incident/{id}", self._change)
        return application

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        wanted = base64.b64encode(":".join(self.account).encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            return _refusal(401, "User Not Authenticated", "Required to provide Auth information")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _list_groups(self, request: web.Request) -> web.Response:
        rows = [{"sys_id": one, "name": name} for one, name in self.groups.items()]
        return web.json_response({"result": _chosen(rows, request.query["sysparm_query"], {"sys_id", "name"})})

    async def _list(self, request: web.Request) -> web.Response:
        rows = _chosen(list(self.incidents.values()), request.query["sysparm_query"], _FIELDS)
        return web.json_response({"result": [self._shown(row, request) for row in rows]})

    async def _create(self, request: web.Request) -> web.Response:
        row = {"sys_id": uuid.uuid4().hex, "number": f"INC{len(self.incidents) + 1:07}", "state": "1"}
        self.incidents[row["sys_id"]], self.notes[row["sys_id"]] = row, []
        self._write(row, await json_of(request))
        return web.json_response({"result": self._shown(row, request)}, status=201)

    async def _show(self, request: web.Request) -> web.Response:
        row = self.incidents.get(request.match_info["id"])
        return _gone() if row is None else web.json_response({"result": self._shown(row, request)})

    async def _change(self, request: web.Request) -> web.Response:
        row, body = self.incidents.get(request.match_info["id"]), await json_of(request)
        if row is None:
            return _gone()
        if body.get("state") == "6" and not (body.get("close_code") in CLOSE_CODES and body.get("close_notes")):
            detail = "Data Policy Exception: The following fields are mandatory: Resolution code, Resolution notes"
            return _refusal(403, "Operation Failed", detail)
        self._write(row, body)
        return web.json_response({"result": self._shown(row, request)})

    def _write(self, row: dict[str, str], body: dict[str, Any]) -> None:
        for name, value in body.items():
            if name not in _FIELDS or name in self.read_only:
                continue
            if name == "work_notes":
                self.notes[row["sys_id"]].append(str(value)[:MAX_JOURNAL])
            elif name != "assignment_group" or value in self.groups:
                row[name] = str(value)[: MAX_LENGTHS.get(name, 40)]
        if body.get("state") == row["state"] == "6":
            self.resolved[row["sys_id"]] = self.resolved.get(row["sys_id"], 0) + 1

    def _shown(self, row: dict[str, str], request: web.Request) -> dict[str, str]:
        """Return the fields that were asked for; of a journal, the newest entry first, and only its display value."""
        notes = "".join(
            f"2026-11-27 09:00:00 - Keyturn (Work notes)\n{text}\n\n" for text in reversed(self.notes[row["sys_id"]])
        )
        displayed = request.query.get("sysparm_display_value") == "true"
        whole = dict.fromkeys(_FIELDS, "") | row | {"work_notes": notes if displayed else ""}
        wanted = request.query.get("sysparm_fields")
        names = _FIELDS if wanted is None else set(wanted.split(","))
        return {name: whole[name] for name in names & _FIELDS - self.hidden}


def _chosen(rows: list[dict[str, str]], query: str, fields: set[str]) -> list[dict[str, str]]:
    """Return the rows of an encoded query: its parts are separated by `^`, and one of an unknown field is ignored."""
    for part in query.split("^"):
        name, _, value = part.partition("=")
        if name in fields:
            rows = [row for row in rows if row.get(name, "").casefold() == value.casefold()]
    return rows


def _gone() -> web.Response:
    return _refusal(404, "No Record found", "Record doesn't exist or ACL restricts the record retrieval")


def _refusal(status: int, message: str, detail: str) -> web.Response:
    return web.json_response({"error": {"message": message, "detail": detail}, "status": "failure"}, status=status)
