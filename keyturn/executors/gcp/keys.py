"""Service-account keys by Google's IAM API, their use by its other APIs, and their test at the token endpoint.

Formats and limits: https://docs.cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys.
The settings are those of `keyturn.gcp.settings`; the credentials those of `keyturn.gcp.api`.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from keyturn.execution.contracts import KeyUse
from keyturn.execution.errors import (
    AccountMismatch,
    CloudRefused,
    CloudUnavailable,
    KeyLimit,
    NewKeyMissing,
    UserGone,
)
from keyturn.execution.protocols import CloudKey
from keyturn.executors.gcp.activity import UNKNOWN, use_in
from keyturn.executors.gcp.authentications import HOUR, is_incomplete, last_authentications, no_use, query_of, use_by
from keyturn.executors.gcp.key_files import decoded, key_file, signed_by
from keyturn.executors.gcp.names import key_id_in, read_account
from keyturn.gcp.api import GoogleCloud
from keyturn.gcp.moments import moment_in
from keyturn.gcp.replies import Reply

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523
# A step lists the keys, and then asks for the use of some: so long it goes by that list.
_LISTED_FOR = 5.0
_NEVER = 9999  # the year in which a key ends that does not
_MOST_PAGES = 5  # an hour each of six weeks is one
_NOT_READABLE = frozenset({403, 404})  # a right is missing, or the API is off: the other may know


class GcpServiceAccountKeys:
    """The keys of one project's service accounts. The user is an email address, or a unique ID.

    Args:
        google_cloud: the APIs; None for those of the environment.
        project: the project's ID; None for the credentials' own.
    """

    most_keys = 10
    # Reads are eventually consistent: Google documents 60 s and more, and its own tests allow for 7 minutes beyond.
    visible_within = state_shown_within = timedelta(minutes=8)
    has_inactive_state = True

    def __init__(self, google_cloud: GoogleCloud | None = None, project: str | None = None) -> None:
        self._google = google_cloud or GoogleCloud()
        self._own = project
        self._listed: tuple[str, float, Sequence[Mapping[str, Any]]] = ("", 0.0, ())

    async def account(self) -> str:
        """Return the ID of the project that is worked on."""
        return self._own or await self._google.project()

    def account_named_in(self, account_id: str) -> str | None:
        """Return the project's ID in an account ID; None for default accounts, whose keys decide, and other names."""
        name = read_account(account_id)
        return None if name is None else name.project

    def user_of(self, account_id: str, own: str) -> str:
        """Return the email address or unique ID in an account ID of the project `own`; raises AccountMismatch."""
        name = read_account(account_id)
        if name is None or name.project not in {None, own}:
            raise AccountMismatch(f"the job's account is no service account of the project {own}")
        return name.user

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the keys that people manage, oldest first; raises UserGone. One that has expired is inactive."""
        identity = await self._google.identity()
        keys = [_key_of(entry, identity) for entry in await self._entries(user)]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Create a key; returns its ID and its key file's JSON, which GOOGLE_APPLICATION_CREDENTIALS may name.

        A key has no room for a job's ID at its creation.

        Raises:
            KeyLimit: there are ten keys: Google refuses an eleventh with a bare 400.
            CloudRefused: a right is missing, or an organization policy forbids keys: its constraint is named.
        """
        self._listed = ("", 0.0, ())
        url = await self._url(user, "")
        reply = await self._google.ask("keys.create", "POST", url, json={}, expected=frozenset({400}))
        if reply.status == 400:
            if reply.code == "FAILED_PRECONDITION" and not reply.constraint:
                raise KeyLimit(f"{reply.in_words('keys.create')}, as at the limit of {self.most_keys} keys")
            raise CloudRefused(reply.in_words("keys.create"))
        key_id = key_id_in(reply.text("name"))
        secret = decoded(reply.text("privateKeyData"))
        if secret is None or self.key_in(secret) != key_id:
            raise CloudUnavailable("keys.create: the answer holds no key file")
        return key_id, secret

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the key's ID in a key file."""
        file = key_file(secret)
        return None if file is None else str(file["private_key_id"])

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Exchange an assertion that the key signs for an access token; returns the account's email address.

        That proves it: the endpoint looks the key up by its ID among those of the address that the assertion is by. To
        ask whose the token is would only return that address, and send the token to one more place.

        Raises:
            NewKeyMissing: the secret is no key file, or another account's.
            CloudUnavailable: Google does not know the key, or not yet, which it answers with invalid_grant for both.
        """
        file = key_file(secret)
        if file is None:
            raise NewKeyMissing("the stored secret is no key file of a service account")
        if user not in (file["client_email"], file.get("client_id")):
            raise NewKeyMissing("the stored key is another service account's")
        assertion = await asyncio.to_thread(signed_by, file)
        if assertion is None:
            raise NewKeyMissing("the stored key cannot sign")
        form = {"grant_type": _GRANT, "assertion": assertion}
        reply = await self._google.exchange(form, expected=frozenset({400}))
        if reply.status == 400:
            passes = reply.code == "invalid_grant"
            raise (CloudUnavailable if passes else CloudRefused)(reply.in_words("token"))
        reply.text("access_token")
        return str(file["client_email"])

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return what Cloud Monitoring knows of a key's use, or Policy Analyzer where that may not be asked.

        See `authentications` and `activity` beside this module. It is unknown where neither may be asked, or has
        anything on the key.
        """
        whose, at, entries = self._listed
        if whose != user or time.monotonic() > at + _LISTED_FOR:
            entries = await self._entries(user)
        entry = next((one for one in entries if key_id_in(str(one.get("name"))) == key_id_in(key_id)), None)
        if entry is None:
            return UNKNOWN
        key, now = _key_of(entry), datetime.now(UTC)
        others = map(_key_of, entries)
        gives_way = key.is_active and any(one.is_active and one.created_at > key.created_at for one in others)
        series = await self._authentications(key.key_id, now)
        if series is not None:
            seen = last_authentications(series, period=HOUR).get(key.key_id)
            return no_use() if seen is None else use_by(seen, gives_way=gives_way, now=now)
        reply = await self._activities(str(entry["name"]))
        for activity in reply.entries("activities"):
            if key_id_in(str(activity.get("fullResourceName"))) == key.key_id:
                return use_in(activity, created_at=key.created_at, gives_way=gives_way, now=now)
        return UNKNOWN

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Enable or disable a key: a disabled one gets no access token, and those that it got live on for an hour."""
        self._listed = ("", 0.0, ())
        verb = "enable" if is_active else "disable"
        url = await self._url(user, f"/{quote(key_id_in(key_id))}:{verb}")
        reply = await self._google.ask(f"keys.{verb}", "POST", url, json={}, expected=frozenset({404}))
        if reply.status == 404:  # the next attempt lists the keys, and sees
            raise CloudUnavailable(f"keys.{verb}: the key was deleted since it was listed, or is not known yet")

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key for ever."""
        url = await self._url(user, f"/{quote(key_id_in(key_id))}")
        reply = await self._google.ask("keys.delete", "DELETE", url, expected=frozenset({400, 404}))
        if reply.status < 300:
            return
        if reply.status == 400 and reply.code != "FAILED_PRECONDITION":
            raise CloudRefused(reply.in_words("keys.delete"))
        # Both are answered for a key that is gone, the 400 by google/create-service-account#21, and a 404 also for one
        # that is not known everywhere yet: the list decides.
        with contextlib.suppress(UserGone):
            if any(key.key_id == key_id_in(key_id) for key in await self.list_keys(user)):
                raise CloudUnavailable(reply.in_words("keys.delete"))

    async def _entries(self, user: str) -> Sequence[Mapping[str, Any]]:
        url = await self._url(user, "")
        params = {"keyTypes": "USER_MANAGED"}  # Google rotates its own
        reply = await self._google.ask("keys.list", "GET", url, params=params, expected=frozenset({404}))
        if reply.status == 404:
            raise UserGone("keys.list: the service account does not exist")
        entries = [entry for entry in reply.entries("keys") if entry.get("keyType") != "SYSTEM_MANAGED"]
        self._listed = (user, time.monotonic(), entries)
        return entries

    async def _activities(self, name: str) -> Reply:
        activities = "locations/global/activityTypes/serviceAccountKeyLastAuthentication/activities:query"
        url = f"{self._google.settings.analyzer_url}/v1/projects/{await self._project()}/{activities}"
        params = {"filter": f'activities.full_resource_name="//iam.googleapis.com/{name}"'}
        return await self._google.ask("activities.query", "GET", url, params=params, expected=_NOT_READABLE)

    async def _authentications(self, key_id: str, now: datetime) -> Sequence[Mapping[str, Any]] | None:
        """Return the key's time series; None where they may not be read. Raises CloudUnavailable for a part of them."""
        url = f"{self._google.settings.monitoring_url}/v3/projects/{await self._project()}/timeSeries"
        params, found = dict(query_of(now=now, period=HOUR, key_id=key_id)), list[Mapping[str, Any]]()
        for _ in range(_MOST_PAGES):
            reply = await self._google.ask("timeSeries.list", "GET", url, params=params, expected=_NOT_READABLE)
            if reply.status != 200:
                return None
            if is_incomplete(reply.body):
                break
            found += reply.entries("timeSeries")
            if not reply.body.get("nextPageToken"):
                return found
            params["pageToken"] = str(reply.body["nextPageToken"])
        raise CloudUnavailable("timeSeries.list: the answer is not whole")

    async def _project(self) -> str:
        return quote(await self.account(), safe=":")  # example.com:project, as Google writes it

    async def _url(self, user: str, rest: str) -> str:
        # With `-` in place of the project, an account that is gone would be answered with 403 instead of 404.
        account = f"projects/{await self._project()}/serviceAccounts/{quote(user, safe='@')}"
        return f"{self._google.settings.iam_url}/v1/{account}/keys{rest}"


def _key_of(entry: Mapping[str, Any], identity: str | None = None) -> CloudKey:
    """Return the key of an entry; `identity` is who asks, as whose own its creator makes it."""
    created_at, expires_at = moment_in(entry, "validAfterTime"), moment_in(entry, "validBeforeTime")
    if created_at is None:
        raise CloudUnavailable("keys.list: a key has no validAfterTime")
    has_expired = expires_at is not None and expires_at <= datetime.now(UTC)
    name = str(entry.get("name"))
    is_active = entry.get("disabled") is not True and not has_expired
    aliases = (name, f"//iam.googleapis.com/{name}")  # as inventories of Google Cloud write it
    is_own = identity is not None and entry.get("creator") in (identity, f"serviceAccount:{identity}")
    ends = None if expires_at is None or expires_at.year >= _NEVER else expires_at
    return CloudKey(key_id_in(name), is_active, created_at, aliases=aliases, is_own=is_own, expires_at=ends)
