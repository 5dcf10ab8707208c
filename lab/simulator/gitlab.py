"""GitLab's REST API on loopback, as far as CI/CD variables of projects go.

Written from published documents alone: docs.gitlab.com, Project-level CI/CD variables API, Mask a CI/CD variable, Hide
a CI/CD variable, Limit the environment scope of a CI/CD variable, and REST API (status codes). No real GitLab was
called, and no code of it is in here.
"""

import re
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.rest_faults import RestFaults, json_of

_EXPANDED = re.compile(r"[a-zA-Z0-9_+=/@:.~-]{8,}")
_RAW = re.compile(r"\S{8,}")


@dataclass
class Variable:
    """A variable; `hidden` can be set when it is created, and never be unset."""

    key: str
    value: str
    environment_scope: str = "*"
    protected: bool = False
    masked: bool = False
    hidden: bool = False
    raw: bool = False
    variable_type: str = "env_var"
    description: str | None = None

    def shown(self) -> dict[str, Any]:
        """Return what the API answers: no value of a hidden one."""
        return asdict(self) | ({"value": None} if self.hidden else {})

    @property
    def is_valid(self) -> bool:
        """Whether GitLab can mask the value, where it is to be masked."""
        return not self.masked or (_RAW if self.raw else _EXPANDED).fullmatch(self.value) is not None


@dataclass
class GitLabSimulator:
    """The state of one GitLab.

    Attributes:
        tokens: by the token, the project that it is a maintainer of, or `developer` for one that is less.
        projects: by their paths or numbers, their variables.
        lag: how many reads after each change a replica answers, which lacks it.
        stale_reads: how many of the next reads such a replica answers.
        writes: how many variables were created, changed or deleted.
    """

    tokens: dict[str, str] = field(default_factory=dict)
    projects: dict[str, list[Variable]] = field(default_factory=dict)
    lag: int = 0
    stale_reads: int = 0
    writes: int = 0
    faults: RestFaults = field(default_factory=RestFaults)
    _before: dict[tuple[str, str, str], Variable | None] = field(default_factory=dict)

    def application(self) -> web.Application:
        """Return the aiohttp application that serves this GitLab."""
        application = web.Application(middlewares=[self.faults.middleware()])
        router = application.router
        router.add_post("/api/v4/projects/{project}/variables", self._create)
        router.add_get("/api/v4/projects/{project}/variables/{key}", self._show)
        router.add_put("/api/v4/projects/{project}/variables/{key}", self._change)
        router.add_delete("/api/v4/projects/{project}/variables/{key}", self._delete)
        return application

    def variable(self, project: str, key: str, scope: str = "*") -> Variable | None:
        """Return a variable, as it is."""
        found = [one for one in self.projects[project] if (one.key, one.environment_scope) == (key, scope)]
        return found[0] if found else None

    def job_variables(self, project: str, environment: str | None) -> dict[str, str]:
        """Return the variables that a job of a protected branch gets, deployed to an environment or to none."""
        given: dict[str, str] = {}
        for one in sorted(self.projects[project], key=lambda one: len(one.environment_scope)):
            every = one.environment_scope == "*"
            if every or (environment is not None and fnmatchcase(environment, one.environment_scope)):
                given[one.key] = one.value
        return given

    def _refusal(self, request: web.Request) -> web.Response | None:
        project = request.match_info["project"]
        of = self.tokens.get(request.headers.get("PRIVATE-TOKEN", ""))
        if of is None:
            return _message(401, "401 Unauthorized")
        if project not in self.projects or of not in {project, "developer"}:
            return _message(404, "404 Project Not Found")
        return _message(403, "403 Forbidden") if of == "developer" else None

    def _find(self, request: web.Request) -> Variable | web.Response:
        project, key = request.match_info["project"], request.match_info["key"]
        found = [one for one in self.projects[project] if one.key == key]
        scope = request.query.get("filter[environment_scope]")
        if scope is not None:
            found = [one for one in found if one.environment_scope == scope]
        if len(found) > 1:
            text = "There are multiple variables with provided parameters. Please use 'filter[environment_scope]'"
            return _message(409, text)
        return found[0] if found else _message(404, "404 Variable Not Found")

    async def _show(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        found: Variable | web.Response | None = self._find(request)
        place = _place(request)
        if self.stale_reads > 0 and place in self._before:
            self.stale_reads -= 1
            found = self._before[place]
        if found is None:
            return _message(404, "404 Variable Not Found")
        return found if isinstance(found, web.Response) else web.json_response(found.shown())

    async def _create(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body, project = await json_of(request), request.match_info["project"]
        hidden = bool(body.pop("masked_and_hidden", False))
        one = Variable(**body, hidden=hidden) if not hidden else Variable(**(body | {"masked": True}), hidden=True)
        if self.variable(project, one.key, one.environment_scope) is not None:
            return _message(400, {"key": [f"({one.key}) has already been taken"]})
        if not one.is_valid:
            return _message(400, {"value": ["is invalid"]})
        self._note((project, one.key, one.environment_scope), None)
        self.projects[project].append(one)
        return web.json_response(one.shown(), status=201)

    async def _change(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        fields = asdict(found) | {name: value for name, value in (await json_of(request)).items() if name != "key"}
        changed = Variable(**fields)
        if not changed.is_valid:
            return _message(400, {"value": ["is invalid"]})
        project = request.match_info["project"]
        self._note(_place(request), found)
        self.projects[project] = [changed if one is found else one for one in self.projects[project]]
        return web.json_response(changed.shown())

    async def _delete(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        self._note(_place(request), found)
        self.projects[request.match_info["project"]].remove(found)
        return web.Response(status=204)

    def _note(self, place: tuple[str, str, str], before: Variable | None) -> None:
        self.writes += 1
        self.stale_reads = self.lag
        self._before[place] = before


def _place(request: web.Request) -> tuple[str, str, str]:
    scope = request.query.get("filter[environment_scope]", "*")
    return request.match_info["project"], request.match_info["key"], scope


def _message(status: int, message: Any) -> web.Response:
    return web.json_response({"message": message}, status=status)
