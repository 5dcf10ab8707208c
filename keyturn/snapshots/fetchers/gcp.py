"""Google Cloud: the keys of each project's service accounts that people manage.

- the projects: KEYTURN_GCP_PROJECTS, or those of a folder or organization by Cloud Asset Inventory, which also has the
  label that names their owner
- serviceAccounts.list by hundreds, and keys.list of each account: Cloud Asset Inventory lists the keys of a project at
  once, and some minutes late, and a snapshot has one time
- the last use of all keys of a project by Policy Analyzer, a thousand at once, and by Cloud Monitoring, which has six
  weeks of every API; unknown where neither may be asked

https://docs.cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/list
https://docs.cloud.google.com/asset-inventory/docs/reference/rest/v1/TopLevel/searchAllResources
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudUnavailable
from keyturn.inventory.sources.gcloud import is_exposed
from keyturn.snapshots.attempts import Places, all_of, repeated
from keyturn.snapshots.fetcher import Fetcher, Page, Part
from keyturn.snapshots.rows import Rows, owner_in

if TYPE_CHECKING:
    from keyturn.executors.gcp.authentications import Authentications
    from keyturn.gcp.replies import Reply

SOURCE = "gcp-iam"
# IAM allows 6,000 reads a minute of a project: four at once, of a twentieth of a second each, stay below.
CALLS_AT_ONCE = 4
ACCOUNTS_A_PAGE, ACTIVITIES_A_PAGE, ASSETS_A_PAGE = 100, 1_000, 500  # the most that each takes
POINTS_A_PAGE = 10_000  # of 100,000 at most, which are 15 MB
# Where Policy Analyzer or Cloud Monitoring is off or may not be asked.
_NOT_READABLE = frozenset({403, 404})
_NOTHING: frozenset[int] = frozenset()


class GcpCloud:
    """The service-account keys of the projects that the settings name."""

    def __init__(self) -> None:
        from keyturn.gcp.api import GoogleCloud

        self._google = GoogleCloud()
        self._settings = self._google.settings

    async def parts(self) -> Sequence[Part]:
        """Return the projects, by their IDs."""
        if self._settings.scope is not None:
            return sorted([part async for part in self._searched(self._settings.scope)])
        named = (self._settings.projects or "").split() or [await repeated(self._google.project)]
        at_once = asyncio.Semaphore(CALLS_AT_ONCE)

        async def part(project: str) -> Part:
            async with at_once:
                found = [one async for one in self._searched(f"projects/{quote(project, safe=':')}")]
            return Part(project, next((one.owner for one in found if one.name == project), ""))

        return await all_of(map(part, sorted(named)))

    async def read(self, part: Part, cursor: str, observed_at: datetime) -> Page:
        """Return all keys of a project."""
        rows = Rows(observed_at, SOURCE, part.owner)
        project = f"{self._settings.iam_url}/v1/projects/{quote(part.name, safe=':')}"
        accounts = await self._accounts(project)
        activities = await self._activities(part.name, rows) if accounts else {}
        counted = await self._authentications(part.name, rows, observed_at) if accounts else {}
        at_once = asyncio.Semaphore(CALLS_AT_ONCE)

        async def add(account: Mapping[str, Any]) -> None:
            url = f"{project}/serviceAccounts/{quote(str(account['email']), safe='@')}/keys"
            async with at_once:
                reply = await self._ask("keys.list", url, {"keyTypes": "USER_MANAGED"}, expected=frozenset({404}))
            for key in reply.entries("keys"):  # none of an account that was deleted since it was listed
                key_id = _key_id(key.get("name"))
                _add(rows, account, key, _Seen(activities.get(key_id), counted.get(key_id)), observed_at)

        await all_of(map(add, accounts))
        return Page(rows)

    async def close(self) -> None:
        """Close the connections."""
        await self._google.close()

    async def _searched(self, scope: str) -> AsyncIterator[Part]:
        url = f"{self._settings.asset_url}/v1/{scope}:searchAllResources"
        params = {"assetTypes": "cloudresourcemanager.googleapis.com/Project", "pageSize": str(ASSETS_A_PAGE)}
        # Of a project that was named, its owner alone is not known where the search is off or may not be asked.
        expected = _NOT_READABLE if scope.startswith("projects/") else _NOTHING
        async for reply in self._pages("searchAllResources", url, params, expected=expected):
            for project in reply.entries("results"):
                if project.get("state", "ACTIVE") != "ACTIVE":
                    continue
                more, labels = project.get("additionalAttributes"), project.get("labels")
                named = more.get("projectId") if isinstance(more, dict) else None
                name = str(named or project.get("name", "")).rpartition("/")[2]
                yield Part(name, owner_in(labels) if isinstance(labels, dict) else "")

    async def _accounts(self, project: str) -> list[Mapping[str, Any]]:
        params = {"pageSize": str(ACCOUNTS_A_PAGE)}
        pages = self._pages("serviceAccounts.list", f"{project}/serviceAccounts", params)
        return [account async for reply in pages for account in reply.entries("accounts") if account.get("email")]

    async def _activities(self, project: str, rows: Rows) -> Mapping[str, Mapping[str, Any]]:
        """Return what Policy Analyzer has of the project's keys, by their IDs; notes if it has nothing to say."""
        kind = "locations/global/activityTypes/serviceAccountKeyLastAuthentication/activities:query"
        url = f"{self._settings.analyzer_url}/v1/projects/{quote(project, safe=':')}/{kind}"
        found: dict[str, Mapping[str, Any]] = {}
        params = {"pageSize": str(ACTIVITIES_A_PAGE)}
        async for reply in self._pages("activities.query", url, params, expected=_NOT_READABLE):
            if reply.status != 200:
                rows.notes.append(f"the last use of keys is not known: {reply.in_words('activities.query')}")
                return {}
            found |= {_key_id(one.get("fullResourceName")): one for one in reply.entries("activities")}
        return found

    async def _authentications(self, project: str, rows: Rows, observed_at: datetime) -> Mapping[str, Authentications]:
        """Return the days on which the project's keys last authenticated, by their IDs; notes if that is not to be had.

        A project of a thousand keys that are used each day has five pages.
        """
        from keyturn.executors.gcp.authentications import DAY, is_incomplete, last_authentications, query_of

        url = f"{self._settings.monitoring_url}/v3/projects/{quote(project, safe=':')}/timeSeries"
        params = {**query_of(now=observed_at, period=DAY), "pageSize": str(POINTS_A_PAGE)}
        found: dict[str, Authentications] = {}
        async for reply in self._pages("timeSeries.list", url, params, expected=_NOT_READABLE):
            if reply.status != 200:
                rows.notes.append(f"only the use of Cloud APIs is known: {reply.in_words('timeSeries.list')}")
                return {}
            if is_incomplete(reply.body):
                rows.notes.append("only the use of Cloud APIs is known: timeSeries.list: the answer is not whole")
                return {}
            # The newest days come first: what a later page has of a key is older.
            found = {**last_authentications(reply.entries("timeSeries"), period=DAY), **found}
        return found

    async def _pages(
        self, call: str, url: str, params: Mapping[str, str], *, expected: frozenset[int] = _NOTHING
    ) -> AsyncIterator[Reply]:
        token, places = "", Places()
        while True:
            reply = await self._ask(call, url, {**params} | ({"pageToken": token} if token else {}), expected=expected)
            yield reply
            following = str(reply.body.get("nextPageToken") or "")
            if not following:
                return
            token = places.pass_by(following)

    async def _ask(self, call: str, url: str, params: Mapping[str, str], *, expected: frozenset[int]) -> Reply:
        return await repeated(lambda: self._google.ask(call, "GET", url, params=params, expected=expected))


class _Seen(NamedTuple):
    """What Policy Analyzer and Cloud Monitoring have of a key."""

    activity: Mapping[str, Any] | None
    authentications: Authentications | None


def _add(rows: Rows, account: Mapping[str, Any], key: Mapping[str, Any], seen: _Seen, observed_at: datetime) -> None:
    from keyturn.executors.gcp.activity import UNKNOWN, use_in
    from keyturn.gcp.moments import moment_in

    created_at, expires_at = moment_in(key, "validAfterTime"), moment_in(key, "validBeforeTime")
    if key.get("keyType") == "SYSTEM_MANAGED":  # Google rotates its own
        return
    if created_at is None:
        raise CloudUnavailable("keys.list: a key has no validAfterTime")
    use, covers_its_life = UNKNOWN, False
    if (activity := seen.activity) is not None:
        # As of a key that gives way to another one: its use is the latest that the days allow.
        use = use_in(activity, created_at=created_at, gives_way=True, now=observed_at)
        began = moment_in(activity.get("observationPeriod"), "startTime")
        covers_its_life = began is not None and began <= created_at
    counted = None if seen.authentications is None else min(seen.authentications.until, observed_at)
    has_expired = expires_at is not None and expires_at <= observed_at
    rows.add(
        str(account["email"]),
        _key_id(key.get("name")),
        created_at=created_at,
        last_used_at=max(filter(None, (use.last_used_at, counted)), default=None),
        # By Cloud APIs, and for six weeks by all: an unused key is rotated, and the executor asks who uses it.
        never_used=use.is_known and use.last_used_at is None and counted is None and covers_its_life,
        compromised=is_exposed(key),
        is_active=not (key.get("disabled") is True or account.get("disabled") is True or has_expired),
    )


def _key_id(name: object) -> str:
    return str(name).rpartition("/")[2]


def _settings() -> type[BaseSettings]:
    from keyturn.gcp.settings import GcpSettings

    return GcpSettings


FETCHER = Fetcher("gcp", part="project", open=GcpCloud, settings=_settings, extra="gcp")
