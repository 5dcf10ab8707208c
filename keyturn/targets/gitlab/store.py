"""CI/CD variables of a GitLab project.

Source: docs.gitlab.com, Project-level CI/CD variables API, and Mask a CI/CD variable.

GitLab has no versions, and a rollback days later needs the secret before. It is stored in a second variable of the
project, KEY_PREVIOUS, in the environment scope `keyturn-previous/SCOPE`, which no job is deployed to: GitLab hands it
to no job, and those who read it through the API could read the secret itself until then. The copy is overwritten by
the next rotation, deleted by a rollback, and is a dead key's as soon as the old key is deleted. Without it, each
rollback would wait for a person who still has the old secret.
"""

import json
import re
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl, quote

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.rest import Answer, RestApi, is_passing, settings_from_environment
from keyturn.foreign_json import read_json
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Key, secure_url

EVERY_ENVIRONMENT = "*"
PREVIOUS_SCOPE = "keyturn-previous/"
NONE_BEFORE = "keyturn:no-value-before"  # the value of KEY_PREVIOUS where the variable is new
# What GitLab masks in a variable that is not expanded: one line of at least 8 characters without white space.
_MASKABLE = re.compile(r"\S{8,}")
_PROJECT = re.compile(r"[0-9]+|[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+")
_KEY = re.compile(r"[A-Za-z0-9_]{1,246}")  # 255, with _PREVIOUS
_SCOPE = re.compile(r"[A-Za-z0-9_/${}. *-]{1,238}")  # 255, with the scope of the previous value before it


class GitLabSettings(BaseSettings):
    """Which GitLab, and by which token."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    token: Key = Field(
        alias="GITLAB_TOKEN", description="An access token of the executor: scope api, role Maintainer of the project."
    )
    url: Annotated[str, AfterValidator(secure_url)] = Field(
        default="https://gitlab.com", alias="GITLAB_URL", description="GitLab: https, or http on loopback."
    )


class Place(NamedTuple):
    """A variable of a project in one environment scope."""

    project: str
    key: str
    scope: str

    @property
    def previous(self) -> "Place":
        """The variable of the value before."""
        return Place(self.project, f"{self.key}_PREVIOUS", f"{PREVIOUS_SCOPE}{self.scope}")


class ProjectVariables:
    """CI/CD variables, not expanded, so that a `$` in a secret stays one.

    A variable is masked where GitLab can mask its value, for which white space between the members of a JSON object
    is left out. A new one is protected; an existing one stays protected or not, as it is.
    """

    def __init__(self, settings: GitLabSettings | None = None) -> None:
        settings = settings or settings_from_environment(GitLabSettings)
        self._token = settings.token
        self._api = RestApi("GitLab", f"{settings.url}/api/v4", headers=self._headers, passing=_is_passing)

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the value of a variable, having stored the one before.

        Raises:
            TargetUnusable: the path is none.
            CloudRefused: the token has no right to it, the variable is hidden, or it is masked and GitLab cannot mask
                the new value; nothing was stored.
            CloudUnavailable: call again.
        """
        place, value = place_in(name), _compact(secret.get_secret_value())
        now = await self._read(place)
        if now is not None and now["value"] == value:
            return
        if now is not None and now.get("masked") and not _MASKABLE.fullmatch(value):
            raise CloudRefused("the variable is masked, and GitLab masks no value with white space: unmask it first")
        await self._write(
            place.previous, NONE_BEFORE if now is None else now["value"], now=await self._read(place.previous)
        )
        await self._write(place, value, now=now)

    async def current(self, name: str) -> SecretStr | None:
        """Return the value of a variable; None if there is none. Raises CloudRefused if it is hidden."""
        found = await self._read(place_in(name))
        return SecretStr(found["value"]) if found is not None and found["value"] else None

    async def restore(self, name: str) -> None:
        """Write the value before again, or delete the variable if there was none; and delete the copy.

        Raises SecretNotStored where there is no copy: the variable was written by hand, or the copy deleted.
        """
        place = place_in(name)
        now = await self._read(place)
        if now is None:
            return
        before = await self._read(place.previous)
        if before is None:
            raise SecretNotStored(f"{place.previous.key} is deleted: write the old secret into {place.key} by hand")
        if before["value"] == NONE_BEFORE:
            await self._delete(place)
        else:
            await self._write(place, before["value"], now=now)
        await self._delete(place.previous)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _read(self, place: Place) -> dict[str, Any] | None:
        answer = await self._api.ask("GET", _path(place), params=_filter(place), accept=(200, 404))
        if answer.status == 404:
            _expect_only_the_variable_missing(answer)
            return None
        found = answer.body
        if not isinstance(found, dict):
            raise CloudUnavailable("GitLab returned no variable")
        if found.get("hidden") or not isinstance(found.get("value"), str):
            raise CloudRefused(
                f"{place.key} is masked and hidden, so that it cannot be read back: create it anew, masked only"
            )
        return found

    async def _write(self, place: Place, value: str, *, now: dict[str, Any] | None) -> None:
        """Set a variable's value, creating it if there was none now; nothing happens if it has this one."""
        if now is not None and now["value"] == value:
            return
        body = {"value": value, "raw": True, "masked": _MASKABLE.fullmatch(value) is not None}
        if now is None:
            body |= {"key": place.key, "environment_scope": place.scope, "protected": True}
            path = f"/projects/{quote(place.project, safe='')}/variables"
            await self._api.ask("POST", path, body=body, accept=(200, 201))
        else:
            answer = await self._api.ask("PUT", _path(place), params=_filter(place), body=body, accept=(200, 404))
            if answer.status == 404:
                raise CloudUnavailable("the variable was deleted since it was read")
        # A replica may be behind, and the next step reads: better wait here than find the old secret there.
        shown = await self._read(place)
        if shown is None or shown["value"] != value:
            raise CloudUnavailable("GitLab does not show the new value yet")

    async def _delete(self, place: Place) -> None:
        answer = await self._api.ask("DELETE", _path(place), params=_filter(place), accept=(200, 202, 204, 404))
        if answer.status == 404:
            _expect_only_the_variable_missing(answer)

    def _headers(self) -> dict[str, str]:
        return {"PRIVATE-TOKEN": self._token.get_secret_value()}


def _is_passing(answer: Answer) -> bool:
    # Another attempt has created the variable since it was read: the next one looks.
    taken = answer.status == 400 and "has already been taken" in json.dumps(answer.member("message"))
    return taken or is_passing(answer)


def _expect_only_the_variable_missing(answer: Answer) -> None:
    # A project that the token may not see answers 404, too, with another word.
    if "Variable" not in str(answer.member("message")):
        raise CloudRefused("GitLab answered 404: no such project, or the token may not see it")


def _path(place: Place) -> str:
    return f"/projects/{quote(place.project, safe='')}/variables/{place.key}"


def _filter(place: Place) -> dict[str, str]:
    return {"filter[environment_scope]": place.scope}


def place_in(name: str) -> Place:
    """Return where the variable of a path is; raises TargetUnusable."""
    path, _, query = name.partition("?")
    project, _, key = path.rpartition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    scope = options.pop("environment_scope", EVERY_ENVIRONMENT)
    known = _PROJECT.fullmatch(project) and _KEY.fullmatch(key) and _SCOPE.fullmatch(scope)
    if not known or options or {".", ".."} & set(project.split("/")):
        raise TargetUnusable("a GitLab variable is named PROJECT_ID_OR_PATH/KEY or …/KEY?environment_scope=SCOPE")
    return Place(project, key, scope)


def _compact(text: str) -> str:
    """Return a JSON object's text without white space between its members, and any other text as it is."""
    try:
        value = read_json(text)
    except ValueError:
        return text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, dict) else text
