"""A tenant of Entra on loopback, for the simulator: applications, their client secrets, sign-ins and their report.

Written from Microsoft's published documents: Graph's application-get, application-addpassword,
application-removepassword and reportroot-list-appcredentialsigninactivities (learn.microsoft.com/graph/api), and the
sign-in service's reference of error codes. What removePassword answers for an absent secret is as public recordings
of others have it. No real cloud was called.
"""

import base64
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from keyturn.lab.simulator.entra_vault import error_answer


@dataclass
class Password:
    """A client secret. So many reads do not list it yet, and `works` says of its next sign-ins which come through."""

    key_id: str
    secret: str
    display_name: str | None
    start: datetime
    end: datetime
    hidden_for: int = 0
    works: list[bool] = field(default_factory=list)


@dataclass
class Application:
    """An application with its client secrets, oldest first, and those removed ones that a replica still lists.

    `owners` are the users that own it, by their principal names.
    """

    object_id: str
    app_id: str
    passwords: dict[str, Password] = field(default_factory=dict)
    certificates: list[dict[str, Any]] = field(default_factory=list)  # as Graph's keyCredential has them
    lingering: dict[str, tuple[Password, int]] = field(default_factory=dict)
    owners: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


class Directory:
    """One tenant. What is `next_` is of the next secret that is created, or removed."""

    def __init__(self) -> None:
        self.tenant = str(uuid.uuid4())
        self.applications: dict[str, Application] = {}
        self.sign_ins: dict[str, datetime] = {}  # what the report has, by the secret's ID
        self.reports_sign_ins = False  # whether a sign-in is in the report at once
        self.next_hidden_for = 0
        self.next_lingers_for = 0
        self.next_works: list[bool] = []

    def application(self) -> Application:
        """Create an application with one secret that has worked for a hundred days."""
        new = Application(str(uuid.uuid4()), str(uuid.uuid4()))
        self.applications[new.object_id] = new
        self.password(new, "created by hand", days_ago=100)
        return new

    def password(self, application: Application, name: str | None, *, days_ago: int = 0, days: int = 730) -> Password:
        """Create a secret that works at once."""
        start = datetime.now(UTC) - timedelta(days=days_ago)
        new = Password(str(uuid.uuid4()), secrets.token_urlsafe(30), name, start, start + timedelta(days=days))
        application.passwords[new.key_id] = new
        return new

    def find(self, object_id: str | None, app_id: str | None) -> Application | None:
        """Return the application of an object ID, or of an appId; None if there is none."""
        named = (one for one in self.applications.values() if one.app_id == app_id)
        return self.applications.get(object_id) if object_id else next(named, None)

    def graph(self, operation: str, application: Application | None, sent: Any) -> web.Response:
        """Answer what Graph is asked of one application."""
        if application is None:
            return error_answer(404, "Request_ResourceNotFound")
        if operation == "addPassword":
            return self._add_password(application, sent.get("passwordCredential") or {})
        if operation == "removePassword":
            removed = application.passwords.pop(sent["keyId"], None)
            if removed is None:
                return error_answer(400, "Request_BadRequest", message="No credentials found to be removed.")
            application.lingering[removed.key_id] = (removed, self.next_lingers_for)
            self.next_lingers_for = 0
            return web.Response(status=204)
        return web.json_response(
            {
                "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#applications(...)/$entity",
                "id": application.object_id,
                "appId": application.app_id,
                "passwordCredentials": self._listed(application),
            }
        )

    def _listed(self, application: Application) -> list[dict[str, Any]]:
        listed = []
        for password in application.passwords.values():
            if password.hidden_for > 0:
                password.hidden_for -= 1
            else:
                listed.append(_credential(password, secret=None))
        for key_id, (password, reads) in list(application.lingering.items()):
            if reads > 0:
                application.lingering[key_id] = (password, reads - 1)
                listed.append(_credential(password, secret=None))
        return listed

    def _add_password(self, application: Application, wanted: Mapping[str, Any]) -> web.Response:
        new = self.password(application, wanted.get("displayName"))
        if "endDateTime" in wanted:
            new.end = datetime.fromisoformat(wanted["endDateTime"])
        new.hidden_for, self.next_hidden_for = self.next_hidden_for, 0
        new.works, self.next_works = self.next_works, []
        return web.json_response(_credential(new, secret=new.secret))

    def list_page(self, query: Mapping[str, str], url: str) -> web.Response:
        """Answer a page of the applications, by the size that `$top` asks for, with a link to the next."""
        token = query.get("$skiptoken", "0")
        if not token.isdecimal():
            return error_answer(400, "Directory_ExpiredPageToken")
        shown = [
            {
                "id": one.object_id,
                "appId": one.app_id,
                "tags": one.tags,
                "passwordCredentials": self._listed(one),
                "keyCredentials": one.certificates,
                "owners": [{"@odata.type": "#microsoft.graph.user", "userPrincipalName": name} for name in one.owners],
            }
            for one in self.applications.values()
        ]
        return _page(shown, int(query.get("$top", "100")), int(token), url, f"$top={query.get('$top', '100')}")

    def report_page(self, query: Mapping[str, str], url: str) -> web.Response:
        """Answer a page of the whole report of sign-ins by credential."""
        rows = [
            {"keyId": key_id, "signInActivity": {"lastSignInDateTime": _text(moment)}}
            for key_id, moment in self.sign_ins.items()
        ]
        return _page(rows, 100, int(query.get("$skiptoken", "0")), url, "")

    def report(self, query: str) -> web.Response:
        """Answer the report of sign-ins by credential, filtered by one secret's ID."""
        named = re.fullmatch(r"keyId eq '([0-9a-f-]{36})'", query)
        if named is None:
            return error_answer(400, "BadRequest")
        rows = []
        if named[1] in self.sign_ins:
            rows.append(
                {
                    "id": base64.b64encode(named[1].encode()).decode(),
                    "keyId": named[1],
                    "keyType": "clientSecret",
                    "keyUsage": "sign",
                    "credentialOrigin": "application",
                    "resourceId": "a89dc091-a671-4da4-9fcf-3ef06bdf3ac3",
                    "signInActivity": {"lastSignInDateTime": _text(self.sign_ins[named[1]])},
                }
            )
        return web.json_response({"value": rows})

    def sign_in(self, tenant: str, form: Mapping[str, str]) -> web.Response:
        """Answer a request for a token by client credentials."""
        application = self.find(None, form.get("client_id"))
        if tenant != self.tenant:
            return _sign_in_error(90002)
        if application is None:
            return _sign_in_error(700016)
        found = [one for one in application.passwords.values() if one.secret == form.get("client_secret")]
        if not found or (found[0].works and not found[0].works.pop(0)):
            return _sign_in_error(7000215)
        if found[0].end <= datetime.now(UTC):
            return _sign_in_error(7000222)
        if self.reports_sign_ins:
            self.sign_ins[found[0].key_id] = datetime.now(UTC)
        token = secrets.token_urlsafe(30)
        return web.json_response({"token_type": "Bearer", "expires_in": 3599, "access_token": token})


def _page(entries: list[dict[str, Any]], size: int, start: int, url: str, query: str) -> web.Response:
    link = {"@odata.nextLink": f"{url}?{query}&$skiptoken={start + size}"} if start + size < len(entries) else {}
    return web.json_response({"value": entries[start : start + size]} | link)


def _credential(password: Password, *, secret: str | None) -> dict[str, Any]:
    return {
        "customKeyIdentifier": None,
        "displayName": password.display_name,
        "endDateTime": _text(password.end),
        "hint": password.secret[:3],
        "keyId": password.key_id,
        "secretText": secret,
        "startDateTime": _text(password.start),
    }


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}7Z"  # Graph writes tenths of a microsecond


def _sign_in_error(number: int) -> web.Response:
    status, word = (400, "unauthorized_client") if number in {700016, 90002} else (401, "invalid_client")
    body = {"error": word, "error_description": f"AADSTS{number}: a text", "error_codes": [number]}
    return web.json_response(body, status=status)
