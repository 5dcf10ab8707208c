"""Microsoft Entra ID: client secrets and certificates of a tenant's applications, a page of applications at once.

Graph lists them in a chain: each page has the link to the next, at which a fetch that was killed goes on. Owners come
with the page, by a tag `owner:NAME`, or else the first of the users who own the application. When a secret was last
used is in a report that is beta; of a secret that it has no row of, nothing is known.

https://learn.microsoft.com/graph/api/application-list
https://learn.microsoft.com/graph/api/reportroot-list-appcredentialsigninactivities (beta)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudRefused
from keyturn.snapshots.attempts import Places, repeated
from keyturn.snapshots.errors import CursorInvalid
from keyturn.snapshots.fetcher import Fetcher, Page, Part
from keyturn.snapshots.rows import Rows, owner_in, owner_tags

if TYPE_CHECKING:
    from keyturn.azure.calls import Reply, TokenProvider

SOURCE = "microsoft-graph"
# Graph's own size where `$expand` is asked for; an application has some kilobytes, and one in a thousand a megabyte.
APPLICATIONS_A_PAGE = 100
MOST_BYTES = 32 << 20
# Where the report is not there, or may not be read: as the executor has it.
_NO_REPORT = {400, 403, 404, 501}
# What a link that is too old is answered with.
_EXPIRED_LINK = {"Directory_ExpiredPageToken", "Directory_PageTokenExpired", "ExpiredPageToken"}


class EntraCloud:
    """The client secrets and certificates of the applications of one tenant.

    Args:
        token: where access tokens come from; azure-identity's chain, unless given.
    """

    def __init__(self, token: TokenProvider | None = None) -> None:
        from keyturn.azure.calls import AzureCalls, default_tokens
        from keyturn.azure.settings import azure_settings

        self._settings = azure_settings()
        self._calls = AzureCalls(token or default_tokens(), MOST_BYTES)
        self._scope = f"{self._settings.graph_url}/.default"
        self._reading = asyncio.Lock()
        self._uses: Mapping[str, datetime] | None = None  # by the secrets' IDs; None before the report was read
        self._notes: list[str] = []  # of the report

    async def parts(self) -> Sequence[Part]:
        """Return the tenant."""
        return [Part(await self._tenant())]

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return a page of applications; its cursor is the link that the page before had."""
        if part.name != await self._tenant():
            raise CloudRefused("the credentials are of another tenant than when this fetch was started")
        if cursor:
            self._expect_own(cursor)
            reply = await self._ask("applications", cursor, None)
        else:
            select = "id,appId,tags,passwordCredentials,keyCredentials"
            params = {"$select": select, "$expand": "owners($select=id,userPrincipalName)"}
            params |= {"$top": str(APPLICATIONS_A_PAGE)}
            reply = await self._ask("applications", f"{self._settings.graph_url}/v1.0/applications", params)
        if cursor and (reply.status == 410 or reply.code in _EXPIRED_LINK):
            raise CursorInvalid(f"applications: {reply.status} {reply.code}")
        uses = await self._uses_of_secrets()
        rows = Rows(observed_at, SOURCE)
        if not cursor:
            rows.notes += self._notes
        applications, link = _listed(reply)
        for application in applications:
            _add(rows, application, uses, observed_at)
        return Page(rows, link)

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def _tenant(self) -> str:
        from keyturn.executors.entra.forms import tenant_in

        tenant = tenant_in(await repeated(lambda: self._calls.token(self._scope))) or self._settings.tenant_id
        if tenant is None:
            raise CloudRefused("AZURE_TENANT_ID is not set, and the token names no tenant")
        return tenant

    async def _uses_of_secrets(self) -> Mapping[str, datetime]:
        """Return the last sign-in by each secret; the report is read once a process."""
        async with self._reading:
            if self._uses is None:
                is_on = self._settings.sign_in_report == "on"
                self._uses = await self._read_report() if is_on else {}
            return self._uses

    async def _read_report(self) -> Mapping[str, datetime]:
        from keyturn.executors.entra.forms import moment_of

        found: dict[str, datetime] = {}
        link = f"{self._settings.graph_url}/beta/reports/appCredentialSignInActivities"
        places = Places()
        while link:
            self._expect_own(places.pass_by(link))
            reply = await self._ask("sign-in report", link, None)
            if reply.status in _NO_REPORT:
                self._notes.append(f"the last use of secrets is not known: sign-in report: {reply.status} {reply.code}")
                return {}
            rows, link = _listed(reply)
            for row in rows:  # a row for each resource that the secret was used for
                activity = row.get("signInActivity")
                moment = moment_of(activity.get("lastSignInDateTime")) if isinstance(activity, dict) else None
                if moment is not None:
                    key_id = str(row.get("keyId"))
                    found[key_id] = max(moment, found.get(key_id, moment))
        return found

    async def _ask(self, operation: str, url: str, params: Mapping[str, str] | None) -> Reply:
        async def once() -> Reply:
            reply = await self._calls.ask(operation, "GET", url, scope=self._scope, params=params)
            if reply.status not in _NO_REPORT | {410}:  # which the callers understand
                reply.expect(200)
                if not isinstance(reply.body, dict) or not isinstance(reply.body.get("value"), list):
                    raise reply.unreadable()
            return reply

        return await repeated(once)

    def _expect_own(self, link: str) -> None:
        """Raise CloudRefused if a link leads elsewhere: the token is for Graph alone."""
        if not link.startswith(f"{self._settings.graph_url}/"):
            raise CloudRefused("a page's link leads to another host than KEYTURN_GRAPH_URL")


def _listed(reply: Reply) -> tuple[list[Mapping[str, Any]], str]:
    """Return the entries of a page, and the link to the next, which is empty behind the last."""
    body = reply.expect(200)
    return _dicts(body["value"]), str(body.get("@odata.nextLink") or "")


def _add(rows: Rows, application: Mapping[str, Any], uses: Mapping[str, datetime], observed_at: datetime) -> None:
    from keyturn.executors.entra.forms import moment_of

    # A certificate is a key as a secret is: who has its private half signs in as the application.
    for credential in _dicts(application.get("passwordCredentials")) + _dicts(application.get("keyCredentials")):
        expires_at, key_id = moment_of(credential.get("endDateTime")), str(credential.get("keyId"))
        starts_at = moment_of(credential.get("startDateTime"))
        if starts_at is not None and starts_at > datetime.now(UTC):
            starts_at = observed_at  # it is there, and valid from a later day on
        rows.add(
            str(application.get("appId")),
            key_id,
            created_at=starts_at,
            last_used_at=uses.get(key_id),
            is_active=expires_at is None or expires_at > observed_at,
            owner=_owner_of(application),
        )


def _owner_of(application: Mapping[str, Any]) -> str:
    tagged = owner_in(dict(_tags_in(application.get("tags"))))
    names = [one.get("userPrincipalName") for one in _dicts(application.get("owners"))]
    return tagged or min((name for name in names if isinstance(name, str)), default="")


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _tags_in(tags: object) -> Iterator[tuple[str, str]]:
    """Yield an application's tags that have a value: they are texts, such as `owner:payments`."""
    for tag in tags if isinstance(tags, list) else ():
        name, colon, value = str(tag).partition(":")
        if colon and name.lower() in owner_tags():
            yield name, value


def _settings() -> type[BaseSettings]:
    from keyturn.azure.settings import AzureSettings

    return AzureSettings


FETCHER = Fetcher("entra", part="tenant", open=EntraCloud, settings=_settings, extra="azure")
